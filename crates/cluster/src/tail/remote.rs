//! The tail of a partition that has no replica here, or whose replica has a gap: read from the leader.

use magpie_state::PartitionId;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::interest::Interest;
use super::reader::{Entry, Refused};
use crate::proto;
use crate::rpc::{MESSAGE_BYTES_MAX, PeerChannel};

/// A call is opened within this time, or tried again.
const OPEN_WITHIN: std::time::Duration = std::time::Duration::from_secs(2);

/// An open tail.
pub(super) struct RemoteTail {
    partition: PartitionId,
    requests: mpsc::Sender<proto::TailRequest>,
    chunks: Streaming<proto::TailChunk>,
    interest: Interest,
    changed: watch::Receiver<u64>,
    /// Version of the interest that was sent; `None`: everything is wanted.
    sent: Option<u64>,
}

/// What arrived.
pub(super) struct Chunk {
    pub(super) entries: Vec<Entry>,
    pub(super) upto: u64,
    pub(super) lost: bool,
}

impl RemoteTail {
    /// Opens a tail from an index on (0: from where the leader stands).
    pub(super) async fn open(
        channel: PeerChannel,
        partition: PartitionId,
        from: u64,
        everything: bool,
        interest: Interest,
    ) -> Option<Self> {
        let (requests, sent_requests) = mpsc::channel(16);
        let mut changed = interest.watch();
        changed.mark_unchanged();
        let (changes, _, version) = if everything {
            (Vec::new(), true, 0)
        } else {
            interest.since(None)
        };
        let first = proto::TailRequest {
            partition: u32::from(partition.0),
            from,
            everything,
            changes,
            ticket: version,
        };
        requests.send(first).await.ok()?;
        let mut client = proto::partitions_client::PartitionsClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let call = client.tail(ReceiverStream::new(sent_requests));
        let response = tokio::time::timeout(OPEN_WITHIN, call).await.ok()?.ok()?;
        let sent = (!everything).then_some(version);
        Some(Self {
            partition,
            requests,
            chunks: response.into_inner(),
            interest,
            changed,
            sent,
        })
    }

    /// The next chunk; `None` when the tail must be opened again.
    pub(super) async fn next(&mut self) -> Option<Chunk> {
        loop {
            tokio::select! {
                changed = self.changed.changed(), if self.sent.is_some() => {
                    changed.ok()?;
                    let (changes, whole, version) = self.interest.since(self.sent);
                    if whole {
                        return None;
                    }
                    let request = proto::TailRequest { changes, ticket: version, ..Default::default() };
                    self.requests.send(request).await.ok()?;
                    self.sent = Some(version);
                }
                chunk = self.chunks.message() => {
                    let proto::TailChunk { upto, entries, ticket, lost } = chunk.ok()??;
                    if ticket > 0 {
                        self.interest.set_remote(self.partition, Some(ticket));
                    }
                    let entries = entries.into_iter();
                    let entries = entries.map(|proto::TailEntry { index, command, ordinals }| Entry {
                        index,
                        command,
                        refused: Refused::default(),
                        ordinals: Some(ordinals),
                    });
                    return Some(Chunk { entries: entries.collect(), upto, lost });
                }
            }
        }
    }
}
