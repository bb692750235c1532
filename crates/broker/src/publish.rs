//! The publish path: what happens to a message that a client published, and when it counts as accepted.
//!
//! This file alone decides that. The **direct** class (QoS 0, and topics that the operator lists) goes to the local subscribers at
//! once and to other nodes by link, and is accepted when they have received it. The **replicated** class goes to the partition of its
//! topic, is accepted when it is committed there, and comes back to local subscribers through the tail; it is never delivered from here.
//! Which of the two is chosen by topic and QoS, never by who listens.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use magpie_cluster::{Cluster, Direct, DirectOutcome, Submission, Submitted};
use magpie_codec::{Message, PacketId, QoS, ReasonCode};
use magpie_session::{Answer, Ticket};
use magpie_state::{ClientId, Dedup, Epoch, PartitionId, PublishHead, encode_publish};

use crate::buffers::SLICE_BYTES_MIN;
use crate::clock;
use crate::deliver::{Deliverer, Published};
use crate::handle::Handle;
use crate::mailbox::{Mailbox, Post};
use crate::newest_retained::{Kept, NewestRetained};
use crate::subscribers::Found;

/// Records of one submission; a burst with more of them makes several.
const SUBMISSION_BYTES_MAX: usize = 256 * 1024;

/// Publishes for one attached connection. Messages are collected while a read burst is decoded, and sent at its end.
#[derive(Debug)]
pub(crate) struct Publisher {
    client: ClientId,
    epoch: Epoch,
    mailbox: Arc<Mailbox>,
    pub(crate) deliverer: Deliverer,
    /// Wall clock of the burst.
    published_ms: u64,
    /// Its incarnation, of a session that outlives its connection: by it, a repeat on a later connection is known at QoS 2.
    session: Option<Epoch>,
    replicated: Vec<Group>,
    direct: DirectGroup,
    /// QoS 0, which nobody waits for.
    at_most_once: Vec<Direct>,
    /// What is to be retained of QoS 0.
    newest: NewestRetained,
    /// Packet ids of QoS 2 messages that the client has not released, of a session that outlives its connection, and where they are.
    unreleased: Vec<(PacketId, PartitionId)>,
    /// Tickets that are answered twice, and of which one success is still to come.
    twice: Vec<Ticket>,
}

/// The replicated messages of one burst for one partition.
#[derive(Debug)]
struct Group {
    partition: PartitionId,
    records: BytesMut,
    count: u32,
    /// Whether the partition has to look at the records.
    must_read: bool,
    tickets: Vec<Ticket>,
}

/// The direct messages of one burst at QoS 1 and 2.
#[derive(Debug, Default)]
struct DirectGroup {
    messages: Vec<Direct>,
    tickets: Vec<Ticket>,
}

/// A message from the session.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// `None`: nobody waits for its acceptance.
    pub(crate) ticket: Option<Ticket>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// At QoS 2.
    pub(crate) packet_id: Option<PacketId>,
    pub(crate) message: Arc<Message>,
}

/// Submissions on their way into the cluster's queues, which are bounded: while this is pending, the client is not read.
pub(crate) type Submitting = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Publisher {
    pub(crate) fn new(
        client: ClientId,
        epoch: Epoch,
        session: Option<Epoch>,
        handle: &Handle,
        deliverer: Deliverer,
    ) -> Self {
        Self {
            client,
            epoch,
            session,
            mailbox: Arc::clone(&handle.mailbox),
            deliverer,
            published_ms: 0,
            replicated: Vec::new(),
            direct: DirectGroup::default(),
            at_most_once: Vec::new(),
            newest: NewestRetained::default(),
            unreleased: Vec::new(),
            twice: Vec::new(),
        }
    }

    /// The client releases a packet id: the partition that knows it.
    pub(crate) fn forget(&mut self, packet_id: PacketId) -> Option<PartitionId> {
        let at = self
            .unreleased
            .iter()
            .position(|(id, _)| *id == packet_id)?;
        Some(self.unreleased.swap_remove(at).1)
    }

    /// Whether an answer is to be passed on: of two successes, the second one.
    pub(crate) fn is_last_answer(&mut self, ticket: Ticket, answer: &Answer) -> bool {
        let Some(at) = self.twice.iter().position(|it| *it == ticket) else {
            return true;
        };
        self.twice.swap_remove(at);
        !matches!(answer, Answer::Published(Ok(_)))
    }

    /// Takes a message into the burst. One of the direct class is delivered on this node at once.
    pub(crate) fn publish(&mut self, cluster: &Cluster, outgoing: Outgoing) {
        if self.published_ms == 0 {
            self.published_ms = clock::wall_ms();
        }
        let is_direct =
            outgoing.qos == QoS::AtMostOnce || cluster.is_direct(&outgoing.message.topic);
        if !is_direct {
            let partition = cluster.partition_of(&outgoing.message.topic);
            return self.publish_replicated(partition, &outgoing, false);
        }
        if outgoing.retain {
            // What is retained is the partition's.
            let partition = cluster.partition_of(&outgoing.message.topic);
            if outgoing.qos == QoS::AtMostOnce {
                self.keep_newest(partition, &outgoing);
            } else {
                // Accepted when it is committed there and received by the other nodes.
                self.publish_replicated(partition, &outgoing, true);
                self.twice.extend(outgoing.ticket);
            }
        }
        self.publish_direct(cluster, outgoing);
    }

    fn publish_direct(&mut self, cluster: &Cluster, outgoing: Outgoing) {
        let Outgoing {
            ticket,
            qos,
            retain,
            packet_id: _,
            mut message,
        } = outgoing;
        let found = self.deliverer.find(&message.topic);
        compact(&mut message, &found);
        let published = Published::new(&self.client, qos, retain, self.published_ms, &message);
        self.deliverer.deliver_to(&found, published);
        let mut elsewhere = cluster.choose_direct_shares(&message.topic);
        let this_node = cluster.node_id();
        let here = elsewhere.extract_if(.., |share| share.node == this_node);
        for share in here {
            self.deliverer
                .deliver_to_any_member(&share.filter, published);
        }
        let direct = Direct {
            publisher: self.client.clone(),
            qos,
            retain,
            published_ms: self.published_ms,
            message,
            plain: true,
            shares: elsewhere,
        };
        if qos == QoS::AtMostOnce {
            self.at_most_once.push(direct);
        } else {
            self.direct.messages.push(direct);
            self.direct.tickets.extend(ticket);
        }
    }

    /// Of a message that nobody waits for, the partition gets to know what is to be retained, a moment later.
    fn keep_newest(&mut self, partition: PartitionId, outgoing: &Outgoing) {
        let head = PublishHead {
            client: &self.client,
            epoch: self.epoch,
            qos: outgoing.qos,
            retain: true,
            retain_only: true,
            dedup: None,
            published_ms: self.published_ms,
        };
        let mut record = BytesMut::new();
        encode_publish(&head, &outgoing.message, &mut record);
        if self.newest.put(&outgoing.message.topic, partition, record) {
            self.deliverer.metrics().retained_replaced.increment(1);
        }
    }

    /// Some of what is to be retained was answered.
    pub(crate) const fn kept(&mut self) {
        self.newest.came_back();
    }

    /// `retain_only`: it is not delivered from the log.
    fn publish_replicated(
        &mut self,
        partition: PartitionId,
        outgoing: &Outgoing,
        retain_only: bool,
    ) {
        if outgoing.retain {
            self.newest.forget(&outgoing.message.topic);
        }
        let dedup = match (self.session, outgoing.packet_id) {
            (Some(session), Some(packet_id)) => Some(Dedup { session, packet_id }),
            _ => None,
        };
        if let Some(Dedup { packet_id, .. }) = dedup {
            // An id that is used anew without a release is that of a message which was not taken.
            self.forget(packet_id);
            self.unreleased.push((packet_id, partition));
        }
        let group = match self
            .replicated
            .iter_mut()
            .rposition(|it| it.has_room_for(partition))
        {
            Some(at) => &mut self.replicated[at],
            None => self.replicated.push_mut(Group::new(partition)),
        };
        // Copied into the record here: a slice of the read buffer is not kept.
        let head = PublishHead {
            client: &self.client,
            epoch: self.epoch,
            qos: outgoing.qos,
            retain: outgoing.retain,
            retain_only,
            dedup,
            published_ms: self.published_ms,
        };
        encode_publish(&head, &outgoing.message, &mut group.records);
        group.must_read |= outgoing.retain || dedup.is_some();
        group.count += 1;
        group.tickets.extend(outgoing.ticket);
    }

    /// Ends a burst: wakes the local receivers and sends what was collected. The future, if any, must be driven to its end before
    /// the next burst begins; dropping it drops what was not queued yet.
    pub(crate) fn end_burst(&mut self, cluster: &Cluster) -> Option<Submitting> {
        let keeps = self.newest.is_due();
        if self.published_ms == 0 && !keeps {
            return None;
        }
        self.published_ms = 0;
        self.deliverer.flush();
        self.forward(cluster);
        let groups = self.replicated.drain(..);
        let mut submissions: Vec<_> = groups
            .map(|group| group.into_submission(&self.client, &self.mailbox))
            .collect();
        if keeps {
            self.submit_newest(&mut submissions);
        }
        submit_all(cluster, submissions)
    }

    /// The connection ends: what is still to be retained.
    pub(crate) fn take_rest(&mut self, cluster: &Cluster) -> Option<Submitting> {
        let mut submissions = Vec::new();
        self.submit_newest(&mut submissions);
        submit_all(cluster, submissions)
    }

    fn submit_newest(&mut self, submissions: &mut Vec<(PartitionId, Submission)>) {
        for Kept {
            partition,
            records,
            count,
        } in self.newest.take()
        {
            let append = self.mailbox.begin_append();
            let mailbox = Arc::clone(&self.mailbox);
            let done = move |submitted| {
                // The connection may be gone: then nobody waits.
                let _ = mailbox.post(Post::Kept);
                append.answer(submitted);
            };
            let submission = Submission {
                records: records.freeze(),
                count,
                must_read: true,
                client: self.client.clone(),
                done: Box::new(done),
            };
            submissions.push((partition, submission));
        }
    }

    fn forward(&mut self, cluster: &Cluster) {
        if !self.at_most_once.is_empty() {
            cluster.forward(std::mem::take(&mut self.at_most_once), None);
        }
        if !self.direct.messages.is_empty() {
            let DirectGroup { messages, tickets } = std::mem::take(&mut self.direct);
            let mailbox = Arc::clone(&self.mailbox);
            let done = move |outcome| {
                // The connection may be gone: then nobody waits.
                let _ = mailbox.post(Post::Forwarded { tickets, outcome });
            };
            cluster.forward(messages, Some(Box::new(done)));
        }
    }
}

/// Puts submissions into the cluster's queues, one after the other.
fn submit_all(
    cluster: &Cluster,
    submissions: Vec<(PartitionId, Submission)>,
) -> Option<Submitting> {
    if submissions.is_empty() {
        return None;
    }
    let cluster = cluster.clone();
    Some(Box::pin(async move {
        for (partition, submission) in submissions {
            // A stopping node answers nothing; the dropped submission tells its tickets so.
            if cluster.submit(partition, submission).await.is_err() {
                return;
            }
        }
    }))
}

impl Group {
    fn new(partition: PartitionId) -> Self {
        Self {
            partition,
            records: BytesMut::new(),
            count: 0,
            must_read: false,
            tickets: Vec::new(),
        }
    }

    fn has_room_for(&self, partition: PartitionId) -> bool {
        self.partition == partition && self.records.len() < SUBMISSION_BYTES_MAX
    }

    fn into_submission(
        self,
        client: &ClientId,
        mailbox: &Arc<Mailbox>,
    ) -> (PartitionId, Submission) {
        let append = mailbox.begin_append().with_tickets(self.tickets);
        let submission = Submission {
            records: self.records.freeze(),
            count: self.count,
            must_read: self.must_read,
            client: client.clone(),
            done: Box::new(move |submitted| append.answer(submitted)),
        };
        (self.partition, submission)
    }
}

/// What the session is told of a submission, per ticket, in order. `None`: the client has a newer connection, and this one must end.
pub(crate) fn answer_to_submitted(submitted: &Submitted, ordinal: usize) -> Option<Answer> {
    match submitted {
        Submitted::Committed { refused, .. } => {
            let is_refused = refused.iter().any(|it| *it as usize == ordinal);
            (!is_refused).then_some(Answer::Published(Ok(ReasonCode::Success)))
        }
        Submitted::Full { refused, full, .. } => {
            let is_in = |ordinals: &[u32]| ordinals.iter().any(|it| *it as usize == ordinal);
            let answer = match is_in(full) {
                true => Err(ReasonCode::QuotaExceeded),
                false => Ok(ReasonCode::Success),
            };
            (!is_in(refused)).then_some(Answer::Published(answer))
        }
        // Valid, but this node is not able to take it: the table of PUBACK's reason codes has 0x83 for that.
        // Until somebody has fetched what waits, or the operator has made room.
        Submitted::NoRoom => Some(Answer::Published(Err(ReasonCode::QuotaExceeded))),
        Submitted::NotProposed => Some(Answer::Published(Err(
            ReasonCode::ImplementationSpecificError,
        ))),
        Submitted::Unknown => Some(Answer::PublishUnknown),
    }
}

/// What the session is told of a message of the direct class.
pub(crate) const fn answer_to_forwarded(outcome: DirectOutcome) -> Answer {
    match outcome {
        DirectOutcome::Received => Answer::Published(Ok(ReasonCode::Success)),
        DirectOutcome::Unknown => Answer::PublishUnknown,
    }
}

/// Takes a message out of the read buffer before it is kept: a small payload would pin a buffer a thousand times its size.
fn compact(message: &mut Arc<Message>, found: &Found) {
    let Some(message) = Arc::get_mut(message) else {
        // Shared already: a Will, which the session made compact.
        return;
    };
    message.topic = found.topic.clone();
    if message.payload.len() < SLICE_BYTES_MIN {
        message.payload = Bytes::copy_from_slice(&message.payload);
    }
    if let Some(properties) = &mut message.properties {
        **properties = properties.compact();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use magpie_codec::{Text, TopicName};
    use magpie_router::CacheLimits;
    use magpie_state::Record;

    use super::*;
    use crate::MailboxConfig;
    use crate::metrics::Metrics;
    use crate::subscribers::Subscribers;

    fn publisher() -> Publisher {
        let handle = Handle::new(
            1,
            crate::peer::Peer::tcp(([127, 0, 0, 1], 1).into()),
            &MailboxConfig::default(),
        );
        let metrics = Arc::new(Metrics::register());
        let deliverer = Deliverer::new(
            Arc::new(Subscribers::new(8)),
            CacheLimits::default(),
            metrics,
        );
        Publisher::new(
            ClientId(Text::from_static("c")),
            Epoch(7),
            None,
            &handle,
            deliverer,
        )
    }

    fn outgoing(topic: &'static str, payload: &'static [u8]) -> Outgoing {
        Outgoing {
            ticket: None,
            qos: QoS::AtLeastOnce,
            retain: false,
            packet_id: None,
            message: Arc::new(Message {
                topic: TopicName::from_static(topic),
                payload: payload.into(),
                properties: None,
            }),
        }
    }

    #[test]
    fn a_burst_makes_one_submission_per_partition() {
        let mut publisher = publisher();
        let order = [(3, "a"), (5, "b"), (3, "c"), (3, "d")];
        for (partition, topic) in order {
            publisher.publish_replicated(PartitionId(partition), &outgoing(topic, b"x"), false);
        }
        let groups: Vec<_> = publisher
            .replicated
            .iter()
            .map(|it| (it.partition.0, it.count))
            .collect();
        assert_eq!(groups, [(3, 3), (5, 1)]);
        let mut records = publisher.replicated.remove(0).records.freeze();
        for topic in ["a", "c", "d"] {
            let Record::Publish(publish) = Record::decode(&mut records).unwrap() else {
                panic!("not a publish");
            };
            assert_eq!(publish.message.topic.as_str(), topic);
            assert_eq!((publish.epoch, publish.qos), (Epoch(7), QoS::AtLeastOnce));
        }
        assert!(records.is_empty());
    }

    #[test]
    fn a_packet_id_is_released_where_its_last_message_is() {
        let mut publisher = publisher();
        publisher.session = Some(Epoch(7));
        let id = PacketId::new(9).unwrap();
        // The first one was refused, and the client used its id anew.
        for partition in [3, 5] {
            let outgoing = Outgoing {
                qos: QoS::ExactlyOnce,
                packet_id: Some(id),
                ..outgoing("a", b"x")
            };
            publisher.publish_replicated(PartitionId(partition), &outgoing, false);
        }
        assert_eq!(publisher.forget(id), Some(PartitionId(5)));
        assert_eq!(publisher.forget(id), None);
    }

    #[test]
    fn a_large_burst_makes_several_submissions_in_order() {
        let mut publisher = publisher();
        for _ in 0..10 {
            publisher.publish_replicated(PartitionId(0), &outgoing("a", &[0; 100_000]), false);
        }
        let counts: Vec<_> = publisher.replicated.iter().map(|it| it.count).collect();
        assert_eq!(counts, [3, 3, 3, 1]);
    }

    #[test]
    fn a_refused_record_ends_the_connection_and_nothing_else_is_a_success() {
        let success = |answer| matches!(answer, Some(Answer::Published(Ok(ReasonCode::Success))));
        let committed = Submitted::Committed {
            refused: vec![1],
            repeated: vec![2],
        };
        assert!(success(answer_to_submitted(&committed, 0)));
        assert!(answer_to_submitted(&committed, 1).is_none());
        assert!(success(answer_to_submitted(&committed, 2)));
        for submitted in [
            Submitted::NotProposed,
            Submitted::NoRoom,
            Submitted::Unknown,
        ] {
            assert!(!success(answer_to_submitted(&submitted, 0)));
        }
        assert!(!success(Some(answer_to_forwarded(DirectOutcome::Unknown))));
    }

    #[test]
    fn a_kept_message_does_not_pin_the_read_buffer() {
        let mut deliverer = publisher().deliverer;
        let buffer = Bytes::from(vec![b'a'; 64 * 1024]);
        let topic = TopicName::try_from(Text::try_from(buffer.slice(..10)).unwrap()).unwrap();
        let mut message = Arc::new(Message {
            topic: topic.clone(),
            payload: buffer.slice(10..74),
            properties: None,
        });
        let found = deliverer.find(&topic);
        compact(&mut message, &found);
        drop(topic);
        assert_eq!(message.payload, vec![b'a'; 64]);
        assert!(buffer.is_unique());
    }
}
