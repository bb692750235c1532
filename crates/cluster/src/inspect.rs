//! What operators ask about sessions and retained messages, and do to them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use magpie_codec::{Message, QoS, Text, TopicFilter, TopicName};
use magpie_state::partition::{PartitionState, SessionSummary, StoredSession};
use magpie_state::{
    ClientId, Epoch, Incarnation, NodeId, PartitionId, Position, Publish, Record, StreamId,
};
use tonic::{Request, Status};

use crate::groups::{Groups, group_of};
use crate::handle::Cluster;
use crate::rpc::MESSAGE_BYTES_MAX;
use crate::stream::Done;
use crate::{Attach, Error, Fetch, Fetched, TailItem, proto};

/// Rows of one answer.
const ROWS_MAX: usize = 1000;
/// More messages or bytes that wait for a session are not counted.
const WAITING_MESSAGES_MAX: u64 = 100_000;
const WAITING_BYTES_MAX: u64 = 64 << 20;
/// A leader that does not answer in this time is not waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What waits for a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WaitingMessages {
    /// Messages that are not done, those in flight included.
    pub messages: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// False: there are more, too many to be counted.
    pub is_complete: bool,
}

impl Cluster {
    /// The first `limit` (at most 1000) sessions of the cluster behind `after`, ordered by client, as some replica of each partition knows
    /// them.
    ///
    /// # Errors
    /// [`Error::NotProposed`] when the sessions of a partition cannot be learned.
    pub async fn sessions(
        &self,
        after: Option<&ClientId>,
        limit: usize,
    ) -> Result<Vec<SessionSummary>, Error> {
        let limit = limit.min(ROWS_MAX);
        let partitions = (0..self.partitions()).map(PartitionId);
        let asked = partitions.map(|partition| self.sessions_of(partition, after, limit));
        let mut all: Vec<SessionSummary> = futures::future::try_join_all(asked)
            .await?
            .into_iter()
            .flatten()
            .collect();
        all.sort_unstable_by(|a, b| a.client.cmp(&b.client));
        all.truncate(limit);
        Ok(all)
    }

    async fn sessions_of(
        &self,
        partition: PartitionId,
        after: Option<&ClientId>,
        limit: usize,
    ) -> Result<Vec<SessionSummary>, Error> {
        if let Some(group) = self.inner.groups.partition(partition) {
            return Ok(
                group.with_state(|state: &PartitionState| state.sessions_after(after, limit))
            );
        }
        let unknown = || Error::NotProposed("a partition does not tell its sessions");
        let leader = self.inner.leaders.leader(group_of(partition));
        let channel = self.inner.channels.forwarding(leader.ok_or_else(unknown)?);
        let mut sessions = proto::sessions_client::SessionsClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut request = Request::new(proto::ListRequest {
            partition: u32::from(partition.0),
            after: after.map(ToString::to_string),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        });
        request.set_timeout(ANSWER_WITHIN);
        let reply = sessions.list(request).await.map_err(|_| unknown())?;
        let rows = reply.into_inner().sessions.into_iter();
        rows.map(|row| summary(row).ok_or_else(unknown)).collect()
    }

    /// The session of a client, if there is one, as some replica of its partition knows it.
    ///
    /// # Errors
    /// [`Error::Unknown`] when no replica tells, [`Error::Stopping`].
    pub async fn session(&self, client: &ClientId) -> Result<Option<Box<StoredSession>>, Error> {
        self.parts().takeover.look_up(client).await
    }

    /// Counts what waits for a session, by reading it; up to a limit.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub async fn waiting(&self, session: &StoredSession) -> Result<WaitingMessages, Error> {
        let mut waiting = WaitingMessages {
            is_complete: true,
            ..WaitingMessages::default()
        };
        for partition in (0..self.partitions()).map(PartitionId) {
            self.count_waiting(session, partition, &mut waiting).await?;
        }
        Ok(waiting)
    }

    async fn count_waiting(
        &self,
        session: &StoredSession,
        partition: PartitionId,
        waiting: &mut WaitingMessages,
    ) -> Result<(), Error> {
        let since: Vec<(&TopicFilter, Position)> = session
            .subscriptions
            .iter()
            .filter(|it| it.options.qos > QoS::AtMostOnce && !it.filter.is_shared())
            .filter(|it| self.partitions_of(&it.filter).contains(&partition))
            .map(|it| {
                let here = it.since.iter().find(|(of, _)| *of == partition);
                (
                    &it.filter,
                    here.map_or(Position::START, |(_, since)| *since),
                )
            })
            .collect();
        let Some(lowest) = since.iter().map(|(_, since)| *since).min() else {
            return Ok(());
        };
        let cursor = session.cursors.iter().find(|it| it.partition == partition);
        let mut fetch = Fetch {
            filters: since.iter().map(|(filter, _)| (*filter).clone()).collect(),
            after: lowest.max(cursor.map_or(Position::START, |cursor| cursor.floor)),
            bytes_max: usize::MAX,
        };
        loop {
            let Fetched { items, upto, .. } = self.fetch(partition, &fetch).await?;
            let is_last = items.is_empty();
            for item in items {
                let belongs = item.qos > QoS::AtMostOnce
                    && cursor.is_none_or(|cursor| !cursor.is_done(item.position))
                    && since.iter().any(|(filter, since)| {
                        *since < item.position && filter.matches(&item.message.topic)
                    });
                if belongs {
                    waiting.messages += 1;
                    waiting.bytes += item.message.payload.len() as u64;
                }
                fetch.after = fetch.after.max(item.position);
            }
            if is_last || upto <= fetch.after {
                return Ok(());
            }
            if waiting.messages >= WAITING_MESSAGES_MAX || waiting.bytes >= WAITING_BYTES_MAX {
                waiting.is_complete = false;
                return Ok(());
            }
        }
    }

    /// Ends the session of a client, and its connection, if there is one: as a connection with Clean Start would that goes at once. False if
    /// there was none.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub async fn end_session(&self, client: &ClientId) -> Result<bool, Error> {
        let Some(session) = self.session(client).await? else {
            return Ok(false);
        };
        let attach = Attach {
            client: client.clone(),
            clean_start: true,
            session_expiry_s: 0,
            will: None,
            owner: session.owner,
        };
        let attached = self.attach(attach).await?;
        self.detach(attached.undo(client.clone()));
        Ok(true)
    }

    /// The first retained messages of the cluster whose topics match `filter` and are behind `after`, at most `limit` (and 1000) of them,
    /// ordered by topic; with whether there may be more.
    ///
    /// # Errors
    /// As [`retained`](Self::retained).
    pub async fn retained_list(
        &self,
        filter: &TopicFilter,
        after: Option<&TopicName>,
        limit: usize,
    ) -> Result<(Vec<TailItem>, bool), Error> {
        let limit = limit.clamp(1, ROWS_MAX);
        let partitions = self.partitions_of(filter).into_iter();
        let asked = partitions.map(|partition| self.retained_of(partition, filter, after, limit));
        let mut all = Vec::new();
        let mut more = false;
        for (items, has_more) in futures::future::try_join_all(asked).await? {
            all.extend(items);
            more |= has_more;
        }
        all.sort_unstable_by(|a, b| a.message.topic.cmp(&b.message.topic));
        more |= all.len() > limit;
        all.truncate(limit);
        Ok((all, more))
    }

    async fn retained_of(
        &self,
        partition: PartitionId,
        filter: &TopicFilter,
        after: Option<&TopicName>,
        limit: usize,
    ) -> Result<(Vec<TailItem>, bool), Error> {
        let (mut items, mut after) = (Vec::new(), after.cloned());
        loop {
            let page = self.retained(partition, filter, 0, after.as_ref()).await?;
            items.extend(page.items);
            after = page.next;
            if after.is_none() || items.len() >= limit {
                return Ok((items, after.is_some()));
            }
        }
    }

    /// Removes the retained message of a topic.
    ///
    /// # Errors
    /// [`Error::NotProposed`], [`Error::Unknown`], [`Error::Stopping`].
    pub async fn clear_retained(&self, topic: &TopicName) -> Result<(), Error> {
        let publish = Publish {
            client: ClientId(Text::from_static("")),
            epoch: Epoch::default(),
            qos: QoS::AtMostOnce,
            retain: true,
            published_ms: 0,
            dedup: None,
            retain_only: true,
            // [MQTT-3.3.1-6]: that removes it.
            message: Arc::new(Message {
                topic: topic.clone(),
                payload: Bytes::new(),
                properties: None,
            }),
        };
        let stream = self.stream(self.partition_of(topic));
        let done = stream.commit(&[Record::Publish(publish)]).await;
        match done.map_err(|_| Error::Stopping)? {
            Done::Taken { .. } => Ok(()),
            Done::NotProposed => Err(Error::NotProposed("the topic's partition has no leader")),
            Done::Unknown => Err(Error::Unknown("the topic's partition did not answer")),
        }
    }
}

/// Answers another node from a replica of this one.
pub(crate) fn serve_list(
    groups: &Groups,
    request: proto::ListRequest,
) -> Result<proto::ListReply, Status> {
    let partition = u16::try_from(request.partition)
        .map_err(|_| Status::invalid_argument("no such partition"))?;
    let after = request.after.map(Text::try_from).transpose();
    let after = after.map_err(|_| Status::invalid_argument("not a client id"))?;
    let group = groups
        .partition(PartitionId(partition))
        .ok_or_else(|| Status::failed_precondition("no replica lives here"))?;
    let limit = (request.limit as usize).min(ROWS_MAX);
    let sessions = group.with_state(|state: &PartitionState| {
        state.sessions_after(after.map(ClientId).as_ref(), limit)
    });
    Ok(proto::ListReply {
        sessions: sessions.into_iter().map(row).collect(),
    })
}

fn row(session: SessionSummary) -> proto::SessionRow {
    let attached = session.attached.map(|(epoch, holder)| proto::Attachment {
        epoch: epoch.0,
        node: holder.node.0,
        counter: holder.incarnation.counter,
        nonce: holder.incarnation.nonce,
    });
    proto::SessionRow {
        client: session.client.to_string(),
        session: session.session.0,
        attached,
        session_expiry_s: session.session_expiry_s,
        subscriptions: u64::try_from(session.subscriptions).unwrap_or(u64::MAX),
        owner: session
            .owner
            .map_or_else(String::new, |owner| owner.to_string()),
    }
}

fn summary(row: proto::SessionRow) -> Option<SessionSummary> {
    let attached = row.attached.map(|attachment| {
        let holder = StreamId {
            node: NodeId(attachment.node),
            incarnation: Incarnation {
                counter: attachment.counter,
                nonce: attachment.nonce,
            },
        };
        (Epoch(attachment.epoch), holder)
    });
    Some(SessionSummary {
        client: ClientId(Text::try_from(row.client).ok()?),
        session: Epoch(row.session),
        attached,
        session_expiry_s: row.session_expiry_s,
        subscriptions: usize::try_from(row.subscriptions).ok()?,
        owner: match row.owner.as_str() {
            "" => None,
            _ => Some(Text::try_from(row.owner).ok()?),
        },
    })
}
