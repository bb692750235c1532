//! Reading retained messages of a partition, as of an index of its log.

use std::time::{Duration, UNIX_EPOCH};

use bytes::BytesMut;
use magpie_codec::{TopicFilter, TopicName};
use magpie_state::partition::{PartitionState, Retained};
use magpie_state::{PartitionId, Position, Publish, Record};
use tonic::{Request, Status};

use crate::groups::{Groups, group_of};
use crate::handle::Cluster;
use crate::rpc::MESSAGE_BYTES_MAX;
use crate::{Error, TailItem, proto};

/// A page ends after so many messages ...
const PAGE_MESSAGES: usize = 256;
/// ... or when it has so many bytes, with the message that reaches it.
const PAGE_BYTES: usize = 1 << 20;
/// A replica of this node that is not that far by then lags: the leader is asked.
const LOCAL_WITHIN: Duration = Duration::from_millis(200);
/// A node whose replica is not that far by then is asked no longer.
const APPLIED_WITHIN: Duration = Duration::from_secs(2);
/// Pause before somebody is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(30);

/// Retained messages, ordered by topic.
pub struct RetainedPage {
    /// With `retain` set.
    pub items: Vec<TailItem>,
    /// Where the next page begins; `None`: there is none.
    pub next: Option<TopicName>,
}

impl Cluster {
    /// Retained messages of `partition` that match a filter and have not expired by this node's wall clock: those behind the topic
    /// `after`, a page of them. They are read at an index of the partition's log at or above `at_least`; each page possibly at a later one.
    /// A message that was replaced meanwhile is there with its newer position.
    ///
    /// # Errors
    /// [`Error::NotProposed`] when no replica that is so far answers within the deadline; [`Error::Stopping`].
    pub async fn retained(
        &self,
        partition: PartitionId,
        filter: &TopicFilter,
        at_least: u64,
        after: Option<&TopicName>,
    ) -> Result<RetainedPage, Error> {
        let inner = &self.inner;
        let mut leaders = inner.leaders.changes();
        let reading = async {
            loop {
                let here = read(
                    &inner.groups,
                    partition,
                    filter,
                    at_least,
                    after,
                    LOCAL_WITHIN,
                );
                if let Some(page) = here.await {
                    return page;
                }
                if let Some(page) = self.ask_leader(partition, filter, at_least, after).await {
                    return page;
                }
                tokio::select! {
                    () = leaders.next() => {}
                    () = tokio::time::sleep(RETRY_AFTER) => {}
                }
            }
        };
        let page = tokio::select! {
            () = inner.stop.cancelled() => return Err(Error::Stopping),
            page = tokio::time::timeout(inner.publish_deadline, reading) => page,
        };
        page.map(Page::into_items).map_err(|_| {
            Error::NotProposed("no replica of a partition tells its retained messages")
        })
    }

    async fn ask_leader(
        &self,
        partition: PartitionId,
        filter: &TopicFilter,
        at_least: u64,
        after: Option<&TopicName>,
    ) -> Option<Page> {
        let leader = self.inner.leaders.leader(group_of(partition))?;
        if leader == self.inner.stream.node {
            return None;
        }
        let channel = self.inner.channels.forwarding(leader);
        let mut partitions = proto::partitions_client::PartitionsClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut request = Request::new(proto::RetainedRequest {
            partition: u32::from(partition.0),
            filter: filter.as_str().to_owned(),
            at_least,
            after: after.map(|topic| topic.as_str().to_owned()),
        });
        request.set_timeout(APPLIED_WITHIN);
        let reply = partitions.retained(request).await.ok()?.into_inner();
        Page::from_reply(reply)
    }
}

/// Answers another node from a replica of this one.
pub(crate) async fn serve(
    groups: &Groups,
    partition: PartitionId,
    request: proto::RetainedRequest,
) -> Result<proto::RetainedReply, Status> {
    let filter = TopicFilter::try_from(request.filter)
        .map_err(|_| Status::invalid_argument("not a topic filter"))?;
    let after = request.after.map(TopicName::try_from).transpose();
    let after = after.map_err(|_| Status::invalid_argument("not a topic name"))?;
    read(
        groups,
        partition,
        &filter,
        request.at_least,
        after.as_ref(),
        APPLIED_WITHIN,
    )
    .await
    .map(Page::into_reply)
    .ok_or_else(|| Status::unavailable("no replica here, or not yet that far"))
}

/// From a replica of this node, as soon as it has applied `at_least`; `None` if there is none, or if it lags.
async fn read(
    groups: &Groups,
    partition: PartitionId,
    filter: &TopicFilter,
    at_least: u64,
    after: Option<&TopicName>,
    within: Duration,
) -> Option<Page> {
    let group = groups.partition(partition)?;
    let applied = group.wait_applied(at_least);
    tokio::time::timeout(within, applied).await.ok()?.ok()?;
    let found = group
        .with_state(|state: &PartitionState| state.retained_matching(filter, after, PAGE_MESSAGES));
    Some(Page::cut(found))
}

/// A page before it is known which of it has expired: its end depends on the state alone.
struct Page {
    messages: Vec<(Position, Publish)>,
    next: Option<TopicName>,
}

impl Page {
    fn cut(found: Vec<Retained>) -> Self {
        let is_full = found.len() == PAGE_MESSAGES;
        let mut page = Self {
            messages: Vec::with_capacity(found.len()),
            next: None,
        };
        let (mut bytes, mut found) = (0, found.into_iter().peekable());
        while let Some(Retained {
            topic,
            position,
            publish,
        }) = found.next()
        {
            bytes += publish.message.bytes();
            page.messages.push((position, publish));
            if bytes >= PAGE_BYTES || (is_full && found.peek().is_none()) {
                page.next = Some(topic);
                break;
            }
        }
        page
    }

    fn into_items(self) -> RetainedPage {
        let now_ms = magpie_failpoint::wall_clock()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        let messages = self.messages.into_iter();
        let alive = messages.filter(|(_, publish)| !has_expired(publish, now_ms));
        RetainedPage {
            items: alive
                .map(|(position, publish)| TailItem {
                    position,
                    publisher: publish.client,
                    qos: publish.qos,
                    retain: true,
                    published_ms: publish.published_ms,
                    message: publish.message,
                })
                .collect(),
            next: self.next,
        }
    }

    fn into_reply(self) -> proto::RetainedReply {
        let mut records = BytesMut::new();
        let positions = self.messages.iter().map(|(position, publish)| {
            publish.encode(&mut records);
            position.0
        });
        proto::RetainedReply {
            positions: positions.collect(),
            records: records.freeze(),
            next: self.next.map(|topic| topic.as_str().to_owned()),
        }
    }

    fn from_reply(reply: proto::RetainedReply) -> Option<Self> {
        let mut records = reply.records;
        let messages = reply.positions.into_iter().map(|position| {
            match Record::decode(&mut records).ok()? {
                Record::Publish(publish) => Some((Position(position), publish)),
                _ => None,
            }
        });
        Some(Self {
            messages: messages.collect::<Option<_>>()?,
            next: match reply.next {
                None => None,
                Some(topic) => Some(TopicName::try_from(topic).ok()?),
            },
        })
    }
}

/// Whether the Message Expiry Interval has passed [MQTT-3.3.2-5].
fn has_expired(publish: &Publish, now_ms: u64) -> bool {
    let properties = publish.message.properties.as_ref();
    let expiry_s = properties.and_then(|properties| properties.expiry_interval_s);
    expiry_s.is_some_and(|seconds| publish.published_ms + u64::from(seconds) * 1000 <= now_ms)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::Arc;

    use magpie_codec::{Message, MessageProperties, QoS};
    use magpie_state::{ClientId, Epoch};

    use super::*;

    fn retained(number: usize, payload_bytes: usize, expiry_s: Option<u32>) -> Retained {
        let topic = TopicName::try_from(format!("t/{number:04}")).unwrap();
        let properties = MessageProperties {
            expiry_interval_s: expiry_s,
            ..MessageProperties::default()
        };
        let publish = Publish {
            client: ClientId("c".try_into().unwrap()),
            epoch: Epoch(1),
            qos: QoS::AtLeastOnce,
            retain: true,
            published_ms: 1,
            dedup: None,
            retain_only: false,
            message: Arc::new(Message {
                topic: topic.clone(),
                payload: vec![0; payload_bytes].into(),
                properties: Some(Box::new(properties)),
            }),
        };
        Retained {
            topic,
            position: Position::at(number as u64, 0),
            publish,
        }
    }

    #[test]
    fn a_page_ends_by_count_or_bytes_and_says_where_it_goes_on() {
        let few = Page::cut((0..3).map(|number| retained(number, 1, None)).collect());
        assert_eq!((few.messages.len(), few.next), (3, None));
        let many = (0..PAGE_MESSAGES).map(|number| retained(number, 1, None));
        let many = Page::cut(many.collect());
        assert_eq!(many.messages.len(), PAGE_MESSAGES);
        assert_eq!(many.next.unwrap().as_str(), "t/0255");
        let large = (0..9).map(|number| retained(number, 300_000, None));
        let large = Page::cut(large.collect());
        assert_eq!(large.messages.len(), 4);
        assert_eq!(large.next.unwrap().as_str(), "t/0003");
    }

    #[test]
    fn a_page_survives_the_way_between_nodes_and_leaves_out_what_has_expired() {
        let found = vec![
            retained(1, 1, None),
            retained(2, 1, Some(1)),
            retained(3, 1, Some(u32::MAX)),
        ];
        let page = Page::from_reply(Page::cut(found).into_reply()).unwrap();
        let page = page.into_items();
        let items = page.items.iter();
        let topics: Vec<_> = items.map(|item| item.message.topic.as_str()).collect();
        // The second was published in 1970.
        assert_eq!(topics[0], "t/0001");
        assert!(!topics.contains(&"t/0002"));
        assert!(page.items.iter().all(|item| item.retain));
        assert_eq!(page.items[0].position, Position::at(1, 0));
    }
}
