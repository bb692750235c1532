//! Reading the log for a session that was away, or whose mailbox was full.
//!
//! The connection task decides what is read next and takes what came; the read itself goes on beside it. One read of a connection is under
//! way at a time, and only while its mailbox has room, so that a slow client costs no memory: its messages stay in the log.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use magpie_cluster::{Cluster, Fetch, Fetched, TailItem};
use magpie_codec::{QoS, TopicFilter, TopicName};
use magpie_session::{Delivery, Session, SubscriptionState, Token};
use magpie_state::{ClientId, PartitionId, Position};
use smallvec::SmallVec;
use tracing::debug;

use crate::clock;
use crate::handle::Handle;
use crate::lanes::Lanes;
use crate::mailbox::Post;
use crate::positions::Positions;
use crate::subscribers::Grant;

/// Payload and topic bytes of one read, about.
const READ_BYTES: usize = 256 << 10;
/// A read waits for this much room in the mailbox ...
const ROOM_BYTES: usize = 2 * READ_BYTES;
/// ... and for as many messages, or half of the mailbox.
const ROOM_MESSAGES: usize = 1024;
/// Pause after a read that brought nothing.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// What the connection task knows of its reads.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    is_under_way: bool,
    /// Changes with the subscriptions, so that a read for other ones is not taken for complete.
    version: u64,
    /// From where on a subscription counts, where the lane has not passed that yet.
    young: HashMap<TopicFilter, Vec<(PartitionId, Position)>>,
}

/// A read that came back.
pub(crate) struct Read {
    partition: PartitionId,
    version: u64,
    /// `None`: it cannot be read now.
    fetched: Option<Fetched>,
}

impl fmt::Debug for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fetched = self.fetched.as_ref();
        f.debug_struct("Read")
            .field("partition", &self.partition)
            .field("upto", &fetched.map(|fetched| fetched.upto))
            .field("messages", &fetched.map(|fetched| fetched.items.len()))
            .finish_non_exhaustive()
    }
}

impl Reading {
    /// The subscriptions of the session have changed.
    pub(crate) fn subscriptions_changed(&mut self) {
        self.version += 1;
    }

    /// Of the messages that are read, this subscription gets those above `since`.
    pub(crate) fn note_since(&mut self, filter: &TopicFilter, since: Vec<(PartitionId, Position)>) {
        // A subscription that is replaced loses nothing [MQTT-3.8.4-4].
        self.young.entry(filter.clone()).or_insert(since);
    }

    /// The subscription is gone.
    pub(crate) fn forget_since(&mut self, filter: &TopicFilter) {
        self.young.remove(filter);
    }

    /// Starts the next read, if one is wanted and there is room. False if nothing is to be read.
    pub(crate) fn start(
        &mut self,
        cluster: &Cluster,
        positions: &Positions,
        handle: &Arc<Handle>,
        session: &Session,
    ) -> bool {
        if self.is_under_way {
            return true;
        }
        let room = handle.mailbox.room();
        let wanted_messages = ROOM_MESSAGES.min(handle.mailbox.messages_max() / 2).max(1);
        if room.bytes < ROOM_BYTES.min(handle.mailbox.bytes_max() / 2)
            || room.messages < wanted_messages
        {
            return true;
        }
        let Some((partition, after)) = handle.mailbox.with_lanes(Lanes::next_to_read).flatten()
        else {
            self.shrink(positions, handle);
            return false;
        };
        let concerned = session.subscriptions().filter(|(filter, state)| {
            is_kept(filter, state) && positions.concerned(filter).any(|it| it == partition)
        });
        let fetch = Fetch {
            filters: concerned.map(|(filter, _)| filter.clone()).collect(),
            after,
            bytes_max: READ_BYTES,
        };
        self.is_under_way = true;
        let version = self.version;
        crate::task::spawn(run(
            cluster.clone(),
            Arc::clone(handle),
            partition,
            fetch,
            version,
        ));
        true
    }

    /// Takes what was read into the mailbox.
    pub(crate) fn take(&mut self, read: Read, handle: &Handle, session: &Session) {
        self.is_under_way = false;
        let Read {
            partition,
            version,
            fetched,
        } = read;
        let Some(fetched) = fetched.filter(|_| version == self.version) else {
            // A subscription that came meanwhile was not asked for: once more.
            return;
        };
        let Some(client) = handle.client() else {
            return;
        };
        let subscriptions = session.subscriptions();
        // The others are found by their topic.
        let wild: Vec<_> = subscriptions
            .filter(|(filter, state)| is_kept(filter, state) && !filter.is_exact())
            .collect();
        let deliveries = fetched.items.iter().filter_map(|item| {
            let exact = TopicFilter::try_from(item.message.topic.as_str()).ok();
            let exact = exact
                .as_ref()
                .and_then(|filter| Some((filter, session.subscription(filter)?)));
            let candidates = wild.iter().copied().chain(exact);
            let grant = self.grant(candidates, client, partition, item)?;
            Some(delivery(partition, item, &grant))
        });
        let deliveries: Vec<_> = deliveries.collect();
        let is_end = fetched.items.is_empty();
        handle
            .mailbox
            .put_read(partition, deliveries.into_iter(), fetched.upto, is_end);
    }

    /// Forgets where subscriptions begin that the lanes have passed.
    pub(crate) fn shrink(&mut self, positions: &Positions, handle: &Handle) {
        if self.young.is_empty() {
            return;
        }
        handle.mailbox.with_lanes(|lanes| {
            let passed = |partition| positions.passed(partition);
            self.young.retain(|_, since| !lanes.are_past(since, passed));
        });
        self.young.shrink_to_fit();
    }

    /// How the session gets a message of the log; `None` if it does not wait for it.
    fn grant<'a>(
        &self,
        candidates: impl Iterator<Item = (&'a TopicFilter, &'a SubscriptionState)>,
        client: &ClientId,
        partition: PartitionId,
        item: &TailItem,
    ) -> Option<Grant> {
        let counts = |filter: &TopicFilter, state: &SubscriptionState| {
            is_kept(filter, state)
                && !(state.options.no_local && item.publisher == *client)
                && filter.matches(&item.message.topic)
                && self.since(filter, partition) < item.position
        };
        let matching = candidates
            .filter(|(filter, state)| counts(filter, state))
            .map(|(_, state)| state);
        Grant::of(matching).filter(|grant| grant.qos.min(item.qos) > QoS::AtMostOnce)
    }

    fn since(&self, filter: &TopicFilter, partition: PartitionId) -> Position {
        let young = self.young.get(filter);
        let since = young.and_then(|since| since.iter().find(|(of, _)| *of == partition));
        since.map_or(Position(0), |(_, position)| *position)
    }
}

/// Whether messages for this subscription wait while the client is away.
pub(crate) fn is_kept(filter: &TopicFilter, state: &SubscriptionState) -> bool {
    !filter.is_shared() && state.options.qos > QoS::AtMostOnce
}

/// How a session that goes on gets a message that was sent to it before: by the subscriptions that it has now.
pub(crate) fn grant_again<'a>(
    subscriptions: impl Iterator<Item = (&'a TopicFilter, &'a SubscriptionState)>,
    topic: &TopicName,
) -> (bool, SmallVec<[u32; 1]>) {
    let matching = subscriptions
        .filter(|(filter, state)| is_kept(filter, state) && filter.matches(topic))
        .map(|(_, state)| state);
    match Grant::of(matching) {
        Some(grant) => (grant.retain_as_published, grant.ids),
        None => (false, SmallVec::new()),
    }
}

fn delivery(partition: PartitionId, item: &TailItem, grant: &Grant) -> Delivery {
    Delivery {
        message: Arc::clone(&item.message),
        // [MQTT-3.8.4-8]
        qos: item.qos.min(grant.qos),
        // [MQTT-3.3.1-12], [MQTT-3.3.1-13]
        retain: item.retain && grant.retain_as_published,
        subscription_ids: grant.ids.clone(),
        token: Token {
            partition: partition.0,
            position: item.position.0,
        },
        expires_at: clock::expires_at(&item.message, item.published_ms),
    }
}

async fn run(
    cluster: Cluster,
    handle: Arc<Handle>,
    partition: PartitionId,
    fetch: Fetch,
    version: u64,
) {
    let fetched = match cluster.fetch(partition, &fetch).await {
        Ok(fetched) => Some(fetched),
        Err(error) => {
            debug!(%partition, %error, "the log cannot be read now");
            None
        }
    };
    let got_on = |fetched: &Fetched| !fetched.items.is_empty() || fetched.upto > fetch.after;
    if !fetched.as_ref().is_some_and(got_on) {
        // Whoever answers is not as far as the tail was, or nobody does. Other partitions have their turn.
        tokio::time::sleep(RETRY_AFTER).await;
    }
    // Not taken by a connection that is gone: the session's place in the log has not moved.
    let _ = handle.mailbox.post(Post::Read(Box::new(Read {
        partition,
        version,
        fetched,
    })));
}
