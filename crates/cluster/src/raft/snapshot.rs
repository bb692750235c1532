//! Snapshots on the wire: the rows of a checkpoint, and those that the state carries out of the log, in chunks, with a checksum over all of
//! them.
//!
//! The sender holds its checkpoint still while it sends; the receiver writes what comes to its staging area. Neither has more than a few
//! chunks in memory.

use std::io;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use magpie_state::Carry;
use openraft::raft::SnapshotResponse;
use tokio::sync::{OwnedMutexGuard, OwnedRwLockReadGuard, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use super::checkpoint::{self, Checkpoint, Staging};
use super::entry::{self, SnapshotMeta, Types, Vote};
use super::log_store::LogStore;
use super::proto::snapshot_part::Part;
use super::proto::{SnapshotHead, SnapshotPart, SnapshotRows, SnapshotTail};
use super::stored::StoredRow;
use super::transport::Client;
use super::wire;

/// Rows in one message, about.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks read ahead of the network.
const CHUNKS_AHEAD: usize = 4;
/// The receiver loads the state before it answers: so many times the progress deadline.
const INSTALL_FACTOR: u32 = 12;

/// What stands for a snapshot inside this process.
pub(super) enum SnapshotBody {
    /// This node's checkpoint, from which one can be sent.
    Checkpoint(checkpoint::Shared),
    /// One that was received whole, with the right to install it.
    Staged(Box<(Staging, OwnedMutexGuard<()>)>),
}

/// Sends the checkpoint as it is now. It may be newer than when the library asked.
pub(super) async fn send<C: Carry>(
    mut client: Client,
    request: impl FnOnce(ReceiverStream<SnapshotPart>) -> Request<ReceiverStream<SnapshotPart>>,
    checkpoint: checkpoint::Shared,
    log: LogStore,
    vote: Vote,
    progress_within: Duration,
) -> Result<SnapshotResponse<Types>, Status> {
    let checkpoint = checkpoint.read_owned().await;
    let (parts, outgoing) = mpsc::channel(CHUNKS_AHEAD);
    let feed = feed::<C>(checkpoint, log, vote, parts, progress_within);
    let answer = client.snapshot(request(ReceiverStream::new(outgoing)));
    tokio::pin!(feed, answer);
    // The answer may come first, as a refusal.
    let answer = tokio::select! {
        answer = &mut answer => answer?,
        fed = &mut feed => {
            fed?;
            tokio::time::timeout(progress_within * INSTALL_FACTOR, answer)
                .await
                .map_err(|_| Status::deadline_exceeded("the snapshot was not installed in time"))??
        }
    };
    Ok(SnapshotResponse::new(wire::to_vote(
        answer.into_inner().vote,
    )?))
}

async fn feed<C: Carry>(
    checkpoint: OwnedRwLockReadGuard<Checkpoint>,
    log: LogStore,
    vote: Vote,
    parts: mpsc::Sender<SnapshotPart>,
    progress_within: Duration,
) -> Result<(), Status> {
    let send = async |part| {
        tokio::time::timeout(
            progress_within,
            parts.send(SnapshotPart { part: Some(part) }),
        )
        .await
        .map_err(|_| Status::deadline_exceeded("the snapshot is not taken"))?
        .map_err(|_| Status::aborted("the snapshot is refused"))
    };
    let meta = wire::snapshot_meta(checkpoint.meta());
    send(Part::Head(SnapshotHead {
        vote: Some(wire::vote(&vote)),
        meta: Some(meta),
    }))
    .await?;
    let mut rows = AllRows::<C>::new(checkpoint, log);
    let mut count = 0;
    let mut crc = crc32fast::Hasher::new();
    loop {
        let chunk;
        (rows, chunk) = blocking(move || rows.next().map(|chunk| (rows, chunk))).await?;
        let Some(chunk) = chunk else {
            break;
        };
        if chunk.is_empty() {
            continue;
        }
        count += chunk.len() as u64;
        let rows = encode(&chunk);
        crc.update(&rows);
        send(Part::Rows(SnapshotRows { rows })).await?;
    }
    send(Part::Tail(SnapshotTail {
        rows: count,
        crc: crc.finalize(),
    }))
    .await
}

/// The rows of a snapshot, chunk by chunk: those of the checkpoint, then what is carried out of the log up to the checkpoint's index.
struct AllRows<C> {
    checkpoint: OwnedRwLockReadGuard<Checkpoint>,
    log: LogStore,
    carry: C,
    place: Place,
}

enum Place {
    After(Option<Vec<u8>>),
    Log(std::ops::Range<u64>),
}

impl<C: Carry> AllRows<C> {
    fn new(checkpoint: OwnedRwLockReadGuard<Checkpoint>, log: LogStore) -> Self {
        Self {
            checkpoint,
            log,
            carry: C::default(),
            place: Place::After(None),
        }
    }

    /// The next rows, perhaps none; `None`: that was all. Blocks.
    fn next(&mut self) -> io::Result<Option<Vec<StoredRow>>> {
        match &mut self.place {
            Place::After(after) => {
                let rows = self.checkpoint.rows_after(after.as_deref(), CHUNK_BYTES)?;
                for (key, value) in &rows {
                    self.carry.see(key, value).map_err(io::Error::other)?;
                }
                self.place = match rows.last() {
                    Some((last, _)) => Place::After(Some(last.clone())),
                    None => {
                        let last = self.checkpoint.meta().last_log_id;
                        let end = last.map_or(0, |last| last.index + 1);
                        Place::Log(self.carry.from().unwrap_or(end)..end)
                    }
                };
                Ok(Some(rows))
            }
            Place::Log(range) => {
                // While the checkpoint is held still, nothing that is carried can be purged. What the log does not have although it should
                // came here by a snapshot, too, and is a row of the checkpoint.
                range.start = range.start.max(self.log.range().start);
                let entries = self.log.read_blocking(range.clone(), CHUNK_BYTES)?;
                let Some(last) = entries.last() else {
                    return Ok(None);
                };
                range.start = last.index + 1;
                let commands = entries.iter();
                let commands = commands.filter(|entry| entry::is_command(entry.term));
                let rows = commands.flat_map(|entry| self.carry.rows(entry.index, &entry.payload));
                Ok(Some(rows.collect()))
            }
        }
    }
}

/// A snapshot that came whole.
pub(super) struct Received {
    pub(super) vote: Vote,
    pub(super) meta: SnapshotMeta,
    pub(super) body: SnapshotBody,
}

/// Receives a snapshot into the staging area.
pub(super) async fn receive(
    mut incoming: Streaming<SnapshotPart>,
    checkpoint: checkpoint::Shared,
    receiving: OwnedMutexGuard<()>,
    progress_within: Duration,
) -> Result<Received, Status> {
    let mut next = async || {
        tokio::time::timeout(progress_within, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the snapshot does not go on"))??
            .and_then(|part| part.part)
            .ok_or_else(|| Status::aborted("the snapshot ended early"))
    };
    let Part::Head(head) = next().await? else {
        return Err(Status::invalid_argument("a snapshot begins with its head"));
    };
    let vote = wire::to_vote(head.vote)?;
    let meta = head
        .meta
        .and_then(wire::to_snapshot_meta)
        .ok_or_else(|| Status::invalid_argument("the snapshot does not say what it is"))?;
    let mut staging = {
        let checkpoint = checkpoint.read_owned().await;
        blocking(move || checkpoint.stage()).await?
    };
    let mut count = 0;
    let mut crc = crc32fast::Hasher::new();
    let tail = loop {
        match next().await? {
            Part::Rows(SnapshotRows { rows }) => {
                crc.update(&rows);
                let rows =
                    decode(rows).ok_or_else(|| Status::invalid_argument("a row is cut off"))?;
                count += rows.len() as u64;
                staging = blocking(move || staging.put(rows).map(|()| staging)).await?;
            }
            Part::Tail(tail) => break tail,
            Part::Head(_) => return Err(Status::invalid_argument("a second head")),
        }
    };
    if (tail.rows, tail.crc) != (count, crc.finalize()) {
        return Err(Status::data_loss("the snapshot was damaged on its way"));
    }
    let finished = meta.clone();
    let staging = blocking(move || staging.finish(finished).map(|()| staging)).await?;
    Ok(Received {
        vote,
        meta,
        body: SnapshotBody::Staged(Box::new((staging, receiving))),
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Status> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Status::internal(error.to_string()))?
        .map_err(|error| Status::internal(error.to_string()))
}

fn encode(rows: &[StoredRow]) -> Bytes {
    let bytes = rows.iter().map(|(key, value)| key.len() + value.len() + 8);
    let mut buffer = BytesMut::with_capacity(bytes.sum());
    for (key, value) in rows {
        for part in [&key[..], &value[..]] {
            buffer.put_u32_le(u32::try_from(part.len()).expect("rows are far below 4 GiB"));
            buffer.put(part);
        }
    }
    buffer.freeze()
}

fn decode(mut bytes: Bytes) -> Option<Vec<StoredRow>> {
    let take = |bytes: &mut Bytes| {
        let length = bytes.try_get_u32_le().ok()? as usize;
        (length <= bytes.len()).then(|| bytes.split_to(length))
    };
    let mut rows = Vec::new();
    while bytes.has_remaining() {
        let key = take(&mut bytes)?.to_vec();
        rows.push((key, take(&mut bytes)?));
    }
    Some(rows)
}
