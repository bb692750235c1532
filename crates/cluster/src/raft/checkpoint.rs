//! Applied state on disk: incremental checkpoints, and where a snapshot is put together.
//!
//! ```text
//! tree "raft"                 group (u32)        -> slot: 0 or 1      the slot that counts
//! tree "raft-<group>-<slot>"  'm'                -> SnapshotMeta      applied index and membership
//!                             'r' key            -> 0 value | 1 parts (u32)
//!                             'p' key part (u32) -> part of a long value
//!                             'd' number (u32)   -> piece of a redo record
//!                             'e'                -> redo record: pieces, SnapshotMeta
//! ```
//! **A checkpoint is atomic.** A small one is one batch: rows and `'m'` together. A big one does not fit into a batch, and rows of a
//! later index must never be found under an earlier `'m'`: replaying the log over them would apply commands twice. So it is written as
//! redo pieces first and made durable; then one batch sets `'e'`; from then on the checkpoint has happened, whatever fails. Then the
//! rows are put into place, `'m'` is set and `'e'` removed in a last batch. Opening finishes what a crash left: with `'e'` there, the
//! pieces are put into place again (they are values, not changes, so that once more does no harm); without it they are removed.
//!
//! **A snapshot is installed atomically.** It is written to the slot that does not count, made durable, and then the slot is switched
//! by one key. A crash leaves the old state or the new one.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use magpie_state::{Position, Row, RowValue};
use magpie_storage::{Batch, GroupId, KeyValue, Tree};
use prost::Message as _;

use super::entry::SnapshotMeta;
use super::stored::StoredRow;
use super::{proto, wire};

const SLOTS: &str = "raft";
const META: u8 = b'm';
const ROW: u8 = b'r';
const PART: u8 = b'p';
const REDO: u8 = b'd';
const REDO_END: u8 = b'e';
/// Values above this are kept in parts, and redo pieces are this long.
const PART_BYTES: usize = 60 << 10;
/// A batch holds at most this many bytes of values.
const BATCH_BYTES: usize = 2 << 20;

/// Reads a record back from the log, for a row that is a copy of it; `None` if there is no such record.
pub(super) type ReadBack<'a> = &'a mut dyn FnMut(Position) -> io::Result<Option<Bytes>>;

/// The checkpoint of one group. All methods block.
pub(super) struct Checkpoint {
    store: Arc<dyn KeyValue>,
    group: GroupId,
    slot: u8,
    tree: Arc<dyn Tree>,
    meta: SnapshotMeta,
    /// Rows whose value is kept in parts, and in how many.
    parts: HashMap<Vec<u8>, u32>,
}

impl Checkpoint {
    /// Opens the group's checkpoint, finishing or undoing what a crash interrupted.
    pub(super) fn open(store: Arc<dyn KeyValue>, group: GroupId) -> io::Result<Self> {
        let slots = store.tree(SLOTS).map_err(io::Error::other)?;
        let slot = match slots
            .get(&group.0.to_be_bytes())
            .map_err(io::Error::other)?
        {
            Some(value) if value[..] == [1] => 1,
            _ => 0,
        };
        // What a crash left of a snapshot that was never installed.
        store
            .drop_tree(&tree_name(group, 1 - slot))
            .map_err(io::Error::other)?;
        let tree = store
            .tree(&tree_name(group, slot))
            .map_err(io::Error::other)?;
        let mut checkpoint = Self {
            store,
            group,
            slot,
            tree,
            meta: SnapshotMeta::default(),
            parts: HashMap::new(),
        };
        if let Some(meta) = checkpoint.get(&[META])? {
            checkpoint.meta = decode_meta(meta)?;
        }
        checkpoint.find_parts()?;
        checkpoint.recover()?;
        Ok(checkpoint)
    }

    /// Up to where the log is in the checkpoint, and the members by then.
    pub(super) fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// Adds the rows changed since the last checkpoint. Values that are in the log are read one by one, and twice if they are many: they
    /// are never all in memory. On an error, what the disk holds is the checkpoint before or this one; the group must stop, since the
    /// changes cannot be told again.
    pub(super) fn write(
        &mut self,
        rows: Vec<Row>,
        meta: SnapshotMeta,
        read_back: ReadBack<'_>,
    ) -> io::Result<()> {
        if let Some(changes) = self.small(&rows, read_back)? {
            let mut batch = Batch::default();
            for change in changes {
                self.put(&mut batch, change);
            }
            batch.put(vec![META], encode_meta(&meta));
            self.apply(batch)?;
        } else {
            self.write_redo(&rows, &meta, read_back)?;
            let mut placing = Placing::default();
            for row in rows {
                let value = value_of(row.value, read_back)?;
                self.place(&mut placing, (row.key, value))?;
            }
            self.finish_placing(placing, &meta)?;
        }
        self.flush()?;
        self.meta = meta;
        Ok(())
    }

    /// The rows after the key `after`, in order: about `bytes_max` bytes of them, at least one if there is one.
    pub(super) fn rows_after(
        &self,
        after: Option<&[u8]>,
        bytes_max: usize,
    ) -> io::Result<Vec<StoredRow>> {
        self.rows().after(&[], after, bytes_max)
    }

    /// The rows, for who does not hold the checkpoint still.
    pub(super) fn rows(&self) -> Rows {
        Rows {
            tree: Arc::clone(&self.tree),
        }
    }

    /// Begins a snapshot in the other slot.
    pub(super) fn stage(&self) -> io::Result<Staging> {
        let name = tree_name(self.group, 1 - self.slot);
        self.store.drop_tree(&name).map_err(io::Error::other)?;
        let tree = self.store.tree(&name).map_err(io::Error::other)?;
        Ok(Staging(Self {
            store: Arc::clone(&self.store),
            group: self.group,
            slot: 1 - self.slot,
            tree,
            meta: SnapshotMeta::default(),
            parts: HashMap::new(),
        }))
    }

    /// Makes a staged snapshot the checkpoint. When this returns, it survives a loss of power. Readers of the rows that were there have them
    /// until [`drop_replaced`](Self::drop_replaced).
    pub(super) fn install(&mut self, staged: Staging) -> io::Result<()> {
        let staged = staged.0;
        if staged.slot == self.slot {
            return Err(io::Error::other("another snapshot was installed meanwhile"));
        }
        staged.flush()?;
        let mut batch = Batch::default();
        batch.put(self.group.0.to_be_bytes().to_vec(), vec![staged.slot]);
        let slots = self.store.tree(SLOTS).map_err(io::Error::other)?;
        slots.apply(batch).map_err(io::Error::other)?;
        self.flush()?;
        *self = staged;
        Ok(())
    }

    /// Removes what [`install`](Self::install) has replaced. It is removed at the next start otherwise, or by the next snapshot.
    pub(super) fn drop_replaced(&self) -> io::Result<()> {
        let old = tree_name(self.group, 1 - self.slot);
        self.store.drop_tree(&old).map_err(io::Error::other)
    }

    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.tree.get(key).map_err(io::Error::other)
    }

    fn apply(&self, batch: Batch) -> io::Result<()> {
        self.tree.apply(batch).map_err(io::Error::other)
    }

    fn flush(&self) -> io::Result<()> {
        self.store.flush().map_err(io::Error::other)
    }

    fn find_parts(&mut self) -> io::Result<()> {
        let mut parts = HashMap::new();
        let visited = self.tree.scan_prefix(&[ROW], &[ROW], &mut |key, value| {
            if let Some(count) = part_count(value) {
                parts.insert(key[1..].to_vec(), count);
            }
            true
        });
        self.parts = parts;
        visited.map_err(io::Error::other)
    }

    /// The changes with their values, if they fit into one batch.
    fn small(&self, rows: &[Row], read_back: ReadBack<'_>) -> io::Result<Option<Vec<Change>>> {
        if rows.len() >= Batch::KEYS_MAX {
            return Ok(None);
        }
        let (mut keys, mut bytes) = (0, 0);
        let mut changes = Vec::with_capacity(rows.len());
        for row in rows {
            let change = (row.key.clone(), value_of(row.value.clone(), read_back)?);
            // Parts and deletions of former parts count as keys, too.
            keys += 1 + self.keys_beside(&change);
            bytes += change_bytes(&change);
            if keys >= Batch::KEYS_MAX || bytes > BATCH_BYTES {
                return Ok(None);
            }
            changes.push(change);
        }
        Ok(Some(changes))
    }

    /// Keys that a change takes or frees beside its own.
    fn keys_beside(&self, (key, value): &Change) -> usize {
        let new = value
            .as_ref()
            .map_or(0, |value| value.len() / PART_BYTES + 1);
        self.parts.get(key).map_or(0, |old| *old as usize) + new
    }

    fn put(&mut self, batch: &mut Batch, (key, value): Change) {
        let old = self.parts.remove(&key).unwrap_or(0);
        let mut new = 0;
        match value {
            None => batch.delete(prefixed(ROW, &key)),
            Some(value) if value.len() <= PART_BYTES => {
                let mut whole = Vec::with_capacity(value.len() + 1);
                whole.push(0);
                whole.extend_from_slice(&value);
                batch.put(prefixed(ROW, &key), whole);
            }
            Some(value) => {
                for part in value.chunks(PART_BYTES) {
                    batch.put(part_key(&key, new), part.to_vec());
                    new += 1;
                }
                let mut head = vec![1];
                head.put_u32_le(new);
                batch.put(prefixed(ROW, &key), head);
            }
        }
        for part in new..old {
            batch.delete(part_key(&key, part));
        }
        if new > 0 {
            self.parts.insert(key, new);
        }
    }

    fn write_redo(
        &self,
        rows: &[Row],
        meta: &SnapshotMeta,
        read_back: ReadBack<'_>,
    ) -> io::Result<()> {
        let mut pieces = 0u32;
        let mut batch = Batch::default();
        let mut buffer = BytesMut::new();
        let mut emit = |piece: Bytes, batch: &mut Batch| {
            batch.put(numbered(REDO, pieces), piece);
            pieces += 1;
            if batch.len() >= BATCH_BYTES / PART_BYTES {
                return self.apply(std::mem::take(batch));
            }
            Ok(())
        };
        for row in rows {
            match &row.value {
                Some(RowValue::Bytes(value)) => encode_change(&row.key, Some(value), &mut buffer),
                other => {
                    let value = value_of(other.clone(), read_back)?;
                    encode_change(&row.key, value.as_deref(), &mut buffer);
                }
            }
            while buffer.len() >= PART_BYTES {
                emit(buffer.split_to(PART_BYTES).freeze(), &mut batch)?;
            }
        }
        emit(buffer.freeze(), &mut batch)?;
        self.apply(batch)?;
        self.flush()?;
        let mut end = BytesMut::new();
        end.put_u32_le(pieces);
        end.put(&encode_meta(meta)[..]);
        let mut batch = Batch::default();
        batch.put(vec![REDO_END], end.freeze());
        self.apply(batch)?;
        self.flush()
    }

    /// Puts a row into place, by as many batches as all of them take.
    fn place(&mut self, placing: &mut Placing, change: Change) -> io::Result<()> {
        let more = change_bytes(&change);
        let keys = 1 + self.keys_beside(&change);
        if placing.batch.len() + keys > Batch::KEYS_MAX || placing.bytes + more > BATCH_BYTES {
            self.apply(std::mem::take(&mut placing.batch))?;
            placing.bytes = 0;
        }
        placing.bytes += more;
        self.put(&mut placing.batch, change);
        Ok(())
    }

    fn finish_placing(&self, placing: Placing, meta: &SnapshotMeta) -> io::Result<()> {
        self.apply(placing.batch)?;
        let mut batch = Batch::default();
        batch.put(vec![META], encode_meta(meta));
        batch.delete(vec![REDO_END]);
        self.apply(batch)?;
        // Left-over pieces without their end mean nothing.
        self.remove_pieces()
    }

    fn recover(&mut self) -> io::Result<()> {
        let Some(mut end) = self.get(&[REDO_END])? else {
            return self.remove_pieces();
        };
        if end.len() < 4 {
            return Err(io::Error::other("a redo record cannot be read"));
        }
        let pieces = end.get_u32_le();
        let meta = decode_meta(end)?;
        let mut buffer = BytesMut::new();
        let mut placing = Placing::default();
        for piece in 0..pieces {
            let piece = self.get(&numbered(REDO, piece))?;
            buffer
                .put(piece.ok_or_else(|| io::Error::other("a piece of a redo record is missing"))?);
            while let Some(change) = take_change(&mut buffer) {
                self.place(&mut placing, change)?;
            }
        }
        if !buffer.is_empty() {
            return Err(io::Error::other("a redo record cannot be read"));
        }
        self.finish_placing(placing, &meta)?;
        self.flush()?;
        self.meta = meta;
        Ok(())
    }

    fn remove_pieces(&self) -> io::Result<()> {
        let mut keys = Vec::new();
        self.tree
            .scan_prefix(&[REDO], &[REDO], &mut |key, _| {
                keys.push(key.to_vec());
                true
            })
            .map_err(io::Error::other)?;
        for some in keys.chunks(Batch::KEYS_MAX) {
            let mut batch = Batch::default();
            some.iter().for_each(|key| batch.delete(key.clone()));
            self.apply(batch)?;
        }
        Ok(())
    }
}

/// Changes on their way into place.
#[derive(Default)]
struct Placing {
    batch: Batch,
    bytes: usize,
}

/// A changed row with its value; `None`: the row is gone.
type Change = (Vec<u8>, Option<Bytes>);

/// Rows of a checkpoint, read while it may be written: each row whole, of one time or another.
#[derive(Clone)]
pub(super) struct Rows {
    tree: Arc<dyn Tree>,
}

impl Rows {
    /// One row's value.
    pub(super) fn row(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        let value = self
            .tree
            .get(&prefixed(ROW, key))
            .map_err(io::Error::other)?;
        value.map(|value| self.whole(key, value)).transpose()
    }

    /// The rows whose key begins with `prefix`, after the key `after`: about `bytes_max` bytes of them, at least one if there is one.
    pub(super) fn after(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        bytes_max: usize,
    ) -> io::Result<Vec<StoredRow>> {
        let prefix = prefixed(ROW, prefix);
        let mut from = prefix.clone();
        if let Some(after) = after {
            from = prefixed(ROW, after);
            // The first key that is greater.
            from.push(0);
        }
        let mut rows = Vec::new();
        let mut bytes = 0;
        let visited = self.tree.scan_prefix(&prefix, &from, &mut |key, value| {
            let parts = part_count(value).map_or(0, |parts| parts as usize * PART_BYTES);
            bytes += key.len() + value.len() + parts;
            rows.push((key[1..].to_vec(), Bytes::copy_from_slice(value)));
            bytes < bytes_max
        });
        visited.map_err(io::Error::other)?;
        rows.into_iter()
            .map(|(key, value)| self.whole(&key, value).map(|value| (key, value)))
            .collect()
    }

    fn whole(&self, key: &[u8], value: Bytes) -> io::Result<Bytes> {
        let Some(count) = part_count(&value) else {
            return Ok(value.slice(1.min(value.len())..));
        };
        let mut whole = BytesMut::new();
        for part in 0..count {
            let part = self
                .tree
                .get(&part_key(key, part))
                .map_err(io::Error::other)?;
            whole.put(part.ok_or_else(|| io::Error::other("a part of a row is missing"))?);
        }
        Ok(whole.freeze())
    }
}

/// A snapshot that is being received, in the slot that does not count.
pub(super) struct Staging(Checkpoint);

impl Staging {
    /// Adds rows. Keys do not repeat.
    pub(super) fn put(&mut self, rows: Vec<StoredRow>) -> io::Result<()> {
        let mut placing = Placing::default();
        for (key, value) in rows {
            self.0.place(&mut placing, (key, Some(value)))?;
        }
        self.0.apply(placing.batch)
    }

    /// All rows are there: what they are the state of.
    pub(super) fn finish(&mut self, meta: SnapshotMeta) -> io::Result<()> {
        let mut batch = Batch::default();
        batch.put(vec![META], encode_meta(&meta));
        self.0.apply(batch)?;
        self.0.meta = meta;
        Ok(())
    }

    pub(super) fn rows_after(
        &self,
        after: Option<&[u8]>,
        bytes_max: usize,
    ) -> io::Result<Vec<StoredRow>> {
        self.0.rows_after(after, bytes_max)
    }
}

/// Removes the checkpoint of a group that does not run. Blocks.
pub(super) fn remove(store: &dyn KeyValue, group: GroupId) -> io::Result<()> {
    let slots = store.tree(SLOTS).map_err(io::Error::other)?;
    for slot in [0, 1] {
        store
            .drop_tree(&tree_name(group, slot))
            .map_err(io::Error::other)?;
    }
    let mut batch = Batch::default();
    batch.delete(group.0.to_be_bytes().to_vec());
    slots.apply(batch).map_err(io::Error::other)?;
    store.flush().map_err(io::Error::other)
}

fn tree_name(group: GroupId, slot: u8) -> String {
    format!("raft-{group}-{slot}")
}

fn prefixed(prefix: u8, key: &[u8]) -> Vec<u8> {
    let mut prefixed = Vec::with_capacity(key.len() + 1);
    prefixed.push(prefix);
    prefixed.extend_from_slice(key);
    prefixed
}

fn numbered(prefix: u8, number: u32) -> Vec<u8> {
    prefixed(prefix, &number.to_be_bytes())
}

fn part_key(key: &[u8], part: u32) -> Vec<u8> {
    let mut part_key = prefixed(PART, key);
    part_key.extend_from_slice(&part.to_be_bytes());
    part_key
}

fn part_count(value: &[u8]) -> Option<u32> {
    let (&1, count) = value.split_first()? else {
        return None;
    };
    Some(u32::from_le_bytes(count.try_into().ok()?))
}

fn change_bytes((key, value): &Change) -> usize {
    key.len() + value.as_ref().map_or(0, Bytes::len)
}

fn value_of(value: Option<RowValue>, read_back: ReadBack<'_>) -> io::Result<Option<Bytes>> {
    match value {
        None => Ok(None),
        Some(RowValue::Bytes(value)) => Ok(Some(value.into())),
        Some(RowValue::Logged { position }) => read_back(position),
    }
}

fn encode_meta(meta: &SnapshotMeta) -> Vec<u8> {
    wire::snapshot_meta(meta).encode_to_vec()
}

fn decode_meta(bytes: Bytes) -> io::Result<SnapshotMeta> {
    let meta = proto::SnapshotMeta::decode(bytes).map_err(io::Error::other)?;
    wire::to_snapshot_meta(meta).ok_or_else(|| io::Error::other("a checkpoint cannot be read"))
}

fn encode_change(key: &[u8], value: Option<&[u8]>, buffer: &mut BytesMut) {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("rows are far below 4 GiB");
    buffer.put_u32_le(length(key));
    buffer.put(key);
    match value {
        None => buffer.put_u8(0),
        Some(value) => {
            buffer.put_u8(1);
            buffer.put_u32_le(length(value));
            buffer.put(value);
        }
    }
}

/// Takes a change off the front; `None` while it is not whole.
fn take_change(buffer: &mut BytesMut) -> Option<Change> {
    let mut rest = &buffer[..];
    let key_bytes = rest.try_get_u32_le().ok()? as usize;
    rest = rest.get(key_bytes..)?;
    let value_bytes = match rest.try_get_u8().ok()? {
        0 => None,
        _ => Some(rest.try_get_u32_le().ok()? as usize),
    };
    rest.get(..value_bytes.unwrap_or(0))?;
    buffer.advance(4);
    let key = buffer.split_to(key_bytes).to_vec();
    buffer.advance(1);
    let value = value_bytes.map(|bytes| {
        buffer.advance(4);
        Bytes::copy_from_slice(&buffer.split_to(bytes))
    });
    Some((key, value))
}

/// A group's checkpoint, shared between its driver and those who send snapshots of it. Readers hold it still.
pub(super) type Shared = Arc<tokio::sync::RwLock<Checkpoint>>;

/// What is known of the checkpoint without waiting for its lock.
#[derive(Default)]
pub(super) struct Latest(Mutex<SnapshotMeta>);

impl Latest {
    pub(super) fn set(&self, meta: SnapshotMeta) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = meta;
    }

    pub(super) fn meta(&self) -> SnapshotMeta {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
