//! A session that goes on: from what is stored of it to a conversation.

use std::collections::{BTreeMap, HashMap};

use magpie_cluster::TailItem;
use magpie_codec::TopicFilter;
use magpie_session::{
    Published, Restored, RestoredStage, Session, SubscriptionState, Token, Unacknowledged,
};
use magpie_state::partition::StoredSession;
use magpie_state::{Inflight, PartitionId, Position, SessionProgress, Stage, StoredSubscription};

use crate::clock;
use crate::lanes::Lanes;
use crate::positions::Positions;
use crate::read::{Reading, grant_again, is_kept};

/// What the connection task makes of a stored session.
pub(crate) struct Resume {
    pub(crate) session: Box<Session>,
    pub(crate) lanes: Lanes,
    pub(crate) reading: Reading,
    /// To be watched, so that messages come.
    pub(crate) filters: Vec<TopicFilter>,
}

/// `messages` are those that were sent and not acknowledged.
pub(crate) fn resume(
    stored: &StoredSession,
    messages: &HashMap<(PartitionId, Position), TailItem>,
    positions: &Positions,
) -> Resume {
    let subscriptions: Vec<_> = stored.subscriptions.iter().map(subscription).collect();
    let inflight = stored.inflight.iter();
    let restored = inflight.filter_map(|inflight| restored(inflight, messages, &subscriptions));
    let restored: Vec<_> = restored.collect();
    let inflight = restored.iter().map(|restored| {
        let Token {
            partition,
            position,
        } = restored.token;
        (PartitionId(partition), Position(position))
    });
    let mut reading = Reading::default();
    let mut since = BTreeMap::new();
    for subscription in &stored.subscriptions {
        let state = state_of(subscription);
        if !is_kept(&subscription.filter, &state) {
            continue;
        }
        for partition in positions.concerned(&subscription.filter) {
            let mut listed = subscription.since.iter();
            let listed = listed.find(|(of, _)| *of == partition);
            let begins = listed.map_or(Position::START, |(_, position)| *position);
            let first = since.entry(partition).or_insert(begins);
            *first = begins.min(*first);
        }
        reading.note_since(&subscription.filter, subscription.since.clone());
    }
    // Before these there is nothing for the session.
    let since: Vec<_> = since.into_iter().collect();
    let lanes = Lanes::resume(&stored.cursors, &since, inflight.collect());
    Resume {
        filters: subscriptions
            .iter()
            .map(|(filter, _)| filter.clone())
            .collect(),
        session: Box::new(Session::restore(
            stored.session_expiry_s,
            subscriptions,
            restored,
        )),
        lanes,
        reading,
    }
}

fn subscription(stored: &StoredSubscription) -> (TopicFilter, SubscriptionState) {
    (stored.filter.clone(), state_of(stored))
}

fn state_of(stored: &StoredSubscription) -> SubscriptionState {
    SubscriptionState {
        options: stored.options,
        id: stored.id,
    }
}

fn restored(
    inflight: &Inflight,
    messages: &HashMap<(PartitionId, Position), TailItem>,
    subscriptions: &[(TopicFilter, SubscriptionState)],
) -> Option<Restored> {
    let message = messages.get(&(inflight.partition, inflight.position));
    let stage = match (inflight.stage, message) {
        (Stage::Published, Some(item)) => {
            let subscriptions = subscriptions.iter().map(|(filter, state)| (filter, state));
            let (retain_as_published, ids) = grant_again(subscriptions, &item.message.topic);
            RestoredStage::Published(Published {
                message: item.message.clone(),
                qos: inflight.qos,
                retain: item.retain && retain_as_published,
                subscription_ids: ids,
                expires_at: clock::expires_at(&item.message, item.published_ms),
            })
        }
        // A limit has removed the message. The client may have it, and then waits for PUBREL under its id.
        (Stage::Published, None) if inflight.qos == magpie_codec::QoS::ExactlyOnce => {
            RestoredStage::Released
        }
        (Stage::Published, None) => return None,
        (Stage::Released, _) => RestoredStage::Released,
    };
    Some(Restored {
        packet_id: inflight.packet_id,
        token: Token {
            partition: inflight.partition.0,
            position: inflight.position.0,
        },
        stage,
    })
}

/// What is to be kept of a session whose connection ends.
pub(crate) fn progress_at_end(
    session: &Session,
    lanes: &Lanes,
    positions: &[Position],
) -> SessionProgress {
    let passed = |partition: PartitionId| {
        let passed = positions.get(usize::from(partition.0));
        passed.copied().unwrap_or(Position::START)
    };
    let inflight = session
        .inflight()
        .filter(|sent| sent.token != crate::deliver::UNTRACKED);
    SessionProgress {
        cursors: lanes.cursors(passed),
        inflight: inflight.map(|sent| stored_inflight(&sent)).collect(),
    }
}

fn stored_inflight(sent: &Unacknowledged) -> Inflight {
    Inflight {
        packet_id: sent.packet_id,
        partition: PartitionId(sent.token.partition),
        position: Position(sent.token.position),
        qos: sent.qos,
        stage: match sent.stage {
            magpie_session::Stage::Published => Stage::Published,
            magpie_session::Stage::Released => Stage::Released,
        },
    }
}
