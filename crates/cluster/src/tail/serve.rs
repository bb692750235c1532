//! The leader's end of a remote tail: reads the local replica, keeps what the other node has subscribers for, sends.

use std::sync::Arc;

use bytes::BytesMut;
use magpie_codec::{TopicFilter, TopicName};
use magpie_router::FilterMap;
use magpie_state::partition::{Append, PartitionCommand, PartitionState};
use magpie_state::{PartitionId, Record};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::feed::{Feed, Feeds};
use super::reader::{Entry, Read, Reader};
use crate::proto;
use crate::raft::RaftGroup;

/// Chunks on the way to a reader.
const CHUNKS: usize = 16;

type Chunks = mpsc::Sender<Result<proto::TailChunk, Status>>;

/// One node's tail of one partition, on the serving side.
struct Served {
    reader: Reader,
    /// `None`: everything.
    interest: Option<FilterMap<()>>,
    chunks: Chunks,
}

impl Feeds {
    /// Serves a tail until either side leaves.
    pub(crate) fn serve(
        &self,
        partition: PartitionId,
        group: RaftGroup<PartitionState>,
        first: proto::TailRequest,
        requests: Streaming<proto::TailRequest>,
        stop: CancellationToken,
    ) -> mpsc::Receiver<Result<proto::TailChunk, Status>> {
        let (chunks, sent) = mpsc::channel(CHUNKS);
        let feed: Arc<Feed> = self.of(partition);
        let position = if first.from == 0 {
            group.applied()
        } else {
            first.from - 1
        };
        let interest = (!first.everything).then(FilterMap::new);
        let served = Served {
            reader: Reader::new(group, feed, position),
            interest,
            chunks,
        };
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                _ = served.run(first, requests) => {}
            }
        });
        sent
    }
}

impl Served {
    /// `None` when the other side is gone, or must ask again.
    async fn run(
        mut self,
        first: proto::TailRequest,
        mut requests: Streaming<proto::TailRequest>,
    ) -> Option<()> {
        self.change_interest(first).await?;
        loop {
            tokio::select! {
                biased;
                request = requests.message() => self.change_interest(request.ok()??).await?,
                read = self.reader.next() => self.send(read).await?,
            }
        }
    }

    async fn change_interest(&mut self, request: proto::TailRequest) -> Option<()> {
        if let Some(interest) = &mut self.interest {
            for proto::InterestChange { filter, remove } in request.changes {
                let Ok(filter) = TopicFilter::try_from(filter) else {
                    continue;
                };
                if remove {
                    interest.remove(&filter);
                } else if interest.insert(&filter, ()).is_err() {
                    // Too many filters to keep apart: send everything, which is never wrong.
                    self.interest = None;
                    break;
                }
            }
        }
        let upto = self.reader.position();
        let chunk = proto::TailChunk {
            upto,
            ticket: request.ticket,
            ..Default::default()
        };
        self.chunks.send(Ok(chunk)).await.ok()
    }

    async fn send(&mut self, read: Read) -> Option<()> {
        let chunk = match read {
            Read::Entries { entries, upto } => {
                let entries = entries
                    .into_iter()
                    .filter_map(|entry| self.thin_out(entry))
                    .collect();
                proto::TailChunk {
                    upto,
                    entries,
                    ..Default::default()
                }
            }
            Read::Gap { upto } => {
                self.reader.pass_over(upto);
                proto::TailChunk {
                    upto,
                    lost: true,
                    ..Default::default()
                }
            }
            // Nothing is lost: the other side asks elsewhere.
            Read::Stopped => return None,
        };
        self.chunks.send(Ok(chunk)).await.ok()
    }

    /// The entry with only those records that the other node wants; `None` if there is none.
    fn thin_out(&self, entry: Entry) -> Option<proto::TailEntry> {
        let Ok(PartitionCommand::Append(append)) = PartitionCommand::decode(&entry.command) else {
            return None;
        };
        let mut records = BytesMut::new();
        let (mut kept, mut ordinals) = (0, Vec::new());
        for (ordinal, record) in (0..).zip(append.records()) {
            let Record::Publish(publish) = record else {
                continue;
            };
            if entry.refused.0.contains(&ordinal) || publish.retain_only {
                continue;
            }
            if self.wants(&publish.message.topic) {
                publish.encode(&mut records);
                kept += 1;
                ordinals.push(ordinal);
            }
        }
        let thinned = Append {
            count: kept,
            has_control: false,
            records: records.freeze(),
            ..append
        };
        (kept > 0).then(|| proto::TailEntry {
            index: entry.index,
            command: PartitionCommand::Append(thinned).encode(),
            ordinals,
        })
    }

    fn wants(&self, topic: &TopicName) -> bool {
        self.interest
            .as_ref()
            .is_none_or(|interest| interest.any_match(topic))
    }
}
