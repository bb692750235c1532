//! Snapshots on the wire: the rows of a checkpoint, in chunks, with a checksum over all of them.
//!
//! The sender holds its checkpoint still while it sends; the receiver writes what comes to its staging area. Neither has more than a few
//! chunks in memory.

use std::io;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use magpie_state::{Row, RowValue};
use openraft::raft::SnapshotResponse;
use tokio::sync::{OwnedMutexGuard, OwnedRwLockReadGuard, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use super::checkpoint::{self, Checkpoint, Staging};
use super::entry::{SnapshotMeta, Types, Vote};
use super::proto::snapshot_part::Part;
use super::proto::{SnapshotHead, SnapshotPart, SnapshotRows, SnapshotTail};
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
pub(super) async fn send(
    mut client: Client,
    request: impl FnOnce(ReceiverStream<SnapshotPart>) -> Request<ReceiverStream<SnapshotPart>>,
    checkpoint: checkpoint::Shared,
    vote: Vote,
    progress_within: Duration,
) -> Result<SnapshotResponse<Types>, Status> {
    let checkpoint = checkpoint.read_owned().await;
    let (parts, outgoing) = mpsc::channel(CHUNKS_AHEAD);
    let feed = feed(checkpoint, vote, parts, progress_within);
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

async fn feed(
    mut checkpoint: OwnedRwLockReadGuard<Checkpoint>,
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
    let mut after: Option<Vec<u8>> = None;
    let mut count = 0;
    let mut crc = crc32fast::Hasher::new();
    loop {
        let rows;
        (checkpoint, rows) = tokio::task::spawn_blocking(move || {
            let rows = checkpoint.rows_after(after.as_deref(), CHUNK_BYTES);
            (checkpoint, rows)
        })
        .await
        .map_err(|error| Status::internal(error.to_string()))?;
        let rows = rows.map_err(|error| Status::internal(error.to_string()))?;
        let Some((last, _)) = rows.last() else {
            break;
        };
        after = Some(last.clone());
        count += rows.len() as u64;
        let rows = encode(&rows);
        crc.update(&rows);
        send(Part::Rows(SnapshotRows { rows })).await?;
    }
    send(Part::Tail(SnapshotTail {
        rows: count,
        crc: crc.finalize(),
    }))
    .await
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

fn encode(rows: &[(Vec<u8>, Bytes)]) -> Bytes {
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

fn decode(mut bytes: Bytes) -> Option<Vec<Row>> {
    let take = |bytes: &mut Bytes| {
        let length = bytes.try_get_u32_le().ok()? as usize;
        (length <= bytes.len()).then(|| bytes.split_to(length).to_vec())
    };
    let mut rows = Vec::new();
    while bytes.has_remaining() {
        let key = take(&mut bytes)?;
        let value = Some(RowValue::Bytes(take(&mut bytes)?));
        rows.push(Row { key, value });
    }
    Some(rows)
}
