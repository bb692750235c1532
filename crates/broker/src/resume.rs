//! A session that goes on: from what is stored of it to a conversation.

use std::collections::{BTreeMap, HashMap};

use magpie_cluster::TailItem;
use magpie_codec::{PacketId, QoS, TopicFilter};
use magpie_session::{
    Published, Restored, RestoredStage, Session, SubscriptionState, Token, Unacknowledged,
};
use magpie_state::partition::StoredSession;
use magpie_state::{Inflight, PartitionId, Position, SessionProgress, Stage, StoredSubscription};

use crate::clock;
use crate::deliver::UNTRACKED;
use crate::lanes::Lanes;
use crate::positions::Positions;
use crate::read::{Reading, grant_again, is_kept};
use crate::retained::{Retained, is_in_no_log};
use crate::shared::{Place, SharedMessages, is_shared};
use crate::subscribe::WantedFilter;

/// What the connection task makes of a stored session.
pub(crate) struct Resume {
    pub(crate) session: Box<Session>,
    pub(crate) lanes: Lanes,
    pub(crate) reading: Reading,
    pub(crate) retained: Option<Box<Retained>>,
    /// To be watched, so that messages come.
    pub(crate) filters: Vec<WantedFilter>,
    /// What it has of share groups at QoS 2.
    pub(crate) shared: Option<SharedMessages>,
}

/// `messages` are those that were sent and not acknowledged.
pub(crate) fn resume(
    stored: &StoredSession,
    messages: &HashMap<(PartitionId, Position), TailItem>,
    positions: &Positions,
    ahead_max: usize,
) -> Resume {
    let subscriptions: Vec<_> = stored.subscriptions.iter().map(subscription).collect();
    let inflight = stored.inflight.iter();
    let mut shared = SharedMessages::default();
    let restored = inflight.filter_map(|it| restored(it, messages, &subscriptions, &mut shared));
    let restored: Vec<_> = restored.collect();
    let inflight = restored.iter().filter_map(|restored| {
        let Token {
            partition,
            position,
        } = restored.token;
        let is_in_lane = !is_in_no_log(partition) && !is_shared(restored.token);
        is_in_lane.then_some((PartitionId(partition), Position(position)))
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
    let lanes = Lanes::resume(&stored.cursors, &since, inflight.collect(), ahead_max);
    Resume {
        filters: subscriptions
            .iter()
            .map(|(filter, state)| (filter.clone(), state.options.qos))
            .collect(),
        session: Box::new(Session::restore(
            stored.session_expiry_s,
            subscriptions,
            restored,
        )),
        lanes,
        reading,
        retained: Retained::resume(stored),
        shared: stored
            .inflight
            .iter()
            .any(|it| it.share.is_some())
            .then_some(shared),
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
    shared: &mut SharedMessages,
) -> Option<Restored> {
    let shared = match inflight.share {
        None => None,
        Some(membership) => {
            let place = (inflight.partition, membership, inflight.position);
            Some(shared.restore(place, inflight.stage == Stage::Done)?)
        }
    };
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
        // It is in no log, or a limit has removed it. The client may have it, and then waits for PUBREL under its id.
        (Stage::Published, None) if inflight.qos == QoS::ExactlyOnce => RestoredStage::Released,
        (Stage::Published, None) => return None,
        (Stage::Released, _) => RestoredStage::Released,
        (Stage::Done, _) => return None,
    };
    let partition = inflight.partition.0;
    let token = if let Some(shared) = shared {
        shared
    } else if is_in_no_log(partition) {
        UNTRACKED
    } else {
        Token {
            partition,
            position: inflight.position.0,
        }
    };
    Some(Restored {
        packet_id: inflight.packet_id,
        token,
        stage,
    })
}

/// What is to be kept of a session whose connection ends.
pub(crate) fn progress_at_end(
    session: &Session,
    lanes: &Lanes,
    shared: Option<&SharedMessages>,
    positions: &[Position],
) -> SessionProgress {
    let passed = |partition: PartitionId| {
        let passed = positions.get(usize::from(partition.0));
        passed.copied().unwrap_or(Position::START)
    };
    SessionProgress {
        cursors: lanes.cursors(passed),
        inflight: session
            .inflight()
            .filter_map(|sent| match shared {
                Some(shared) if is_shared(sent.token) => stored_shared(&sent, shared),
                _ => stored_inflight(&sent),
            })
            .chain(
                shared
                    .into_iter()
                    .flat_map(SharedMessages::unsettled)
                    .map(done),
            )
            .collect(),
    }
}

/// What the client has at QoS 1, and has not acknowledged. At QoS 2 it is bound to its packet id anyway; what a share group
/// has dealt returns to it.
pub(crate) fn at_least_once(session: &Session) -> Vec<Inflight> {
    let sent = session
        .inflight()
        .filter(|sent| sent.qos == QoS::AtLeastOnce && !is_shared(sent.token));
    sent.filter_map(|sent| stored_inflight(&sent)).collect()
}

/// At QoS 1 it returns to its group.
fn stored_shared(sent: &Unacknowledged, shared: &SharedMessages) -> Option<Inflight> {
    let (partition, membership, position) = shared.place(sent.token)?;
    (sent.qos == QoS::ExactlyOnce).then(|| Inflight {
        packet_id: sent.packet_id,
        partition,
        position,
        qos: sent.qos,
        stage: stage(sent.stage),
        share: Some(membership),
    })
}

/// Its group may not know yet. It has no packet id any more.
fn done((partition, membership, position): Place) -> Inflight {
    Inflight {
        packet_id: PacketId::MIN,
        partition,
        position,
        qos: QoS::ExactlyOnce,
        stage: Stage::Done,
        share: Some(membership),
    }
}

const fn stage(stage: magpie_session::Stage) -> Stage {
    match stage {
        magpie_session::Stage::Published => Stage::Published,
        magpie_session::Stage::Released => Stage::Released,
    }
}

fn stored_inflight(sent: &Unacknowledged) -> Option<Inflight> {
    if is_in_no_log(sent.token.partition) {
        // It is not sent again under this id. At QoS 2 the client may know the id, and must let go of it before it stands for another
        // message.
        return (sent.qos == QoS::ExactlyOnce).then(|| Inflight {
            packet_id: sent.packet_id,
            partition: PartitionId(UNTRACKED.partition),
            position: Position(u64::from(sent.packet_id.number())),
            qos: sent.qos,
            stage: Stage::Released,
            share: None,
        });
    }
    Some(Inflight {
        packet_id: sent.packet_id,
        partition: PartitionId(sent.token.partition),
        position: Position(sent.token.position),
        qos: sent.qos,
        stage: stage(sent.stage),
        share: None,
    })
}
