//! Opening a log: what is on disk becomes the state in memory.
//!
//! Records are replayed in the order in which they were written. The first bad one, at X, is the
//! end of the log if nothing later proves that X was synced once; a later record with a watermark
//! beyond X proves it, and then the log is refused, since cutting there would take back promises.
//! The end is made sure of before anything new is written: what may be only in the page cache is
//! written again and synced, and the rest of the segment is zeroed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use hashbrown::HashMap;

use super::group::{Group, Place, Purged};
use super::keeper::{Fill, FreeFile, create_filled};
use super::record::{Kind, Position};
use super::scan::{End, Scan, Scanned, scan};
use super::segment::{self, DATA_START, Segment, Segments};
use super::slots::Slot;
use super::{GroupId, Options};
use crate::disk::Disk;
use crate::error::Error;

const SCANNERS: usize = 2;
const ZERO_BYTES: usize = 1 << 20;

/// An incomplete last write that was cut off. None of it was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The file that was cut.
    pub file: PathBuf,
    /// Where the log ends now, in bytes.
    pub offset: u64,
}

/// What was found on disk.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) groups: HashMap<u32, Group, foldhash::fast::RandomState>,
    pub(super) segments: Segments,
    pub(super) active: Arc<Segment>,
    pub(super) end: u32,
    pub(super) spares: Vec<Segment>,
    pub(super) free: Vec<FreeFile>,
    pub(super) next: u32,
    pub(super) records: u64,
    pub(super) torn_tail: Option<TornTail>,
}

pub(super) fn recover(disk: &dyn Disk, dir: &Path, options: &Options) -> Result<Found, Error> {
    disk.create_dir(dir).map_err(Error::io("create", dir))?;
    let (segments, free) = open_files(disk, dir)?;
    if segments.is_empty() {
        return fresh(disk, dir, options, free);
    }

    let mut replay = Replay::default();
    replay_all(&segments, &mut replay)?;
    let Replay {
        mut groups,
        first_live,
        cut,
        is_torn,
        records,
        watermark,
    } = replay;

    let first = segments[0].number;
    if first > first_live.max(1) {
        return Err(Error::Damaged {
            file: dir.join(segment::file_name(first_live.max(1))),
            offset: 0,
            reason: "the segment is missing",
        });
    }
    let mut segments = segments;
    let (active, end) = match cut {
        Some(cut) => cut,
        // The last segment is sealed, and power went before the next one had its name.
        None => {
            let number = segments[segments.len() - 1].number + 1;
            let path = dir.join("filling.new");
            let file = create_filled(disk, &path, options.segment_bytes, Fill::AtOnce)?;
            let bytes = options.segment_bytes;
            let next = Segment::begin(disk, dir, &path, file, bytes, number)?;
            segments.push(Arc::new(next));
            (segments.len() - 1, DATA_START)
        }
    };
    let spares = segments.split_off(active + 1);
    let active = segments[active].clone();
    secure_end(&segments, end, watermark)?;

    let table = Segments::default();
    for segment in &segments {
        table.push(segment.clone());
    }
    count_live(&mut groups, &table)?;
    let spares: Vec<_> = spares.into_iter().filter_map(Arc::into_inner).collect();
    let next = active.number + 1 + spares.len() as u32;
    Ok(Found {
        groups,
        segments: table,
        torn_tail: is_torn.then(|| TornTail {
            file: active.path.clone(),
            offset: u64::from(end),
        }),
        active,
        end,
        spares,
        free,
        next,
        records,
    })
}

fn fresh(
    disk: &dyn Disk,
    dir: &Path,
    options: &Options,
    free: Vec<FreeFile>,
) -> Result<Found, Error> {
    let path = dir.join("filling.new");
    let file = create_filled(disk, &path, options.segment_bytes, Fill::AtOnce)?;
    let active = Segment::begin(disk, dir, &path, file, options.segment_bytes, 1)?;
    let active = Arc::new(active);
    let segments = Segments::default();
    segments.push(active.clone());
    Ok(Found {
        groups: HashMap::default(),
        segments,
        active,
        end: DATA_START,
        spares: Vec::new(),
        free,
        next: 2,
        records: 0,
        torn_tail: None,
    })
}

/// All segments in order, and the files that wait for a new life.
fn open_files(disk: &dyn Disk, dir: &Path) -> Result<(Vec<Arc<Segment>>, Vec<FreeFile>), Error> {
    let mut numbers = Vec::new();
    let mut free = Vec::new();
    for name in disk.list(dir).map_err(Error::io("list", dir))? {
        let path = dir.join(&name);
        if let Some(number) = segment::number_of(&name) {
            numbers.push(number);
        } else if name.ends_with(".free") {
            let file = disk.open(&path).map_err(Error::io("open", &path))?;
            let bytes = file.bytes().map_err(Error::io("stat", &path))?;
            free.push(FreeFile {
                path,
                file,
                bytes: u32::try_from(bytes).unwrap_or(0),
            });
        } else if name.ends_with(".new") {
            disk.remove(&path).map_err(Error::io("remove", &path))?;
        }
    }
    numbers.sort_unstable();
    for pair in numbers.windows(2) {
        if pair[0] + 1 != pair[1] {
            return Err(Error::Damaged {
                file: dir.join(segment::file_name(pair[0] + 1)),
                offset: 0,
                reason: "the segment is missing",
            });
        }
    }
    let segments = numbers
        .into_iter()
        .map(|number| Segment::open(disk, dir, number).map(Arc::new))
        .collect::<Result<_, _>>()?;
    Ok((segments, free))
}

/// Scans on two threads while this one replays, in order.
fn replay_all(segments: &[Arc<Segment>], replay: &mut Replay) -> Result<(), Error> {
    std::thread::scope(|scope| {
        let scanners: Vec<_> = (0..SCANNERS)
            .map(|scanner| {
                let (sender, receiver) = mpsc::sync_channel(1);
                scope.spawn(move || {
                    let mut buffer = Vec::new();
                    for segment in segments.iter().skip(scanner).step_by(SCANNERS) {
                        if sender.send(scan(segment, &mut buffer)).is_err() {
                            return;
                        }
                    }
                });
                receiver
            })
            .collect();
        for (number, segment) in segments.iter().enumerate() {
            let scan = scanners[number % SCANNERS]
                .recv()
                .expect("a scanner sends one scan per segment")?;
            replay.add(number, segment, segments, scan)?;
        }
        Ok(())
    })
}

#[derive(Debug, Default)]
struct Replay {
    groups: HashMap<u32, Group, foldhash::fast::RandomState>,
    /// Segments below were dropped on purpose.
    first_live: u32,
    /// Segment (as a place in the list) and offset of the first bad record.
    cut: Option<(usize, u32)>,
    is_torn: bool,
    watermark: Position,
    records: u64,
}

impl Replay {
    fn add(
        &mut self,
        number: usize,
        segment: &Segment,
        all: &[Arc<Segment>],
        scan: Scan,
    ) -> Result<(), Error> {
        if let Some((cut, offset)) = self.cut {
            // Nothing may follow a bad record in a later segment: one is begun only when the
            // former is synced to its end.
            let is_empty = matches!(
                scan.end,
                End::Bad {
                    offset: DATA_START,
                    is_torn: false,
                    ..
                }
            );
            if !is_empty {
                return Err(damaged(&all[cut], offset));
            }
            return Ok(());
        }
        self.watermark = self.watermark.max(scan.watermark);
        self.records += scan.records.len() as u64;
        let mut notes = scan.notes.into_iter();
        for record in scan.records {
            self.apply(&record, &mut notes);
        }
        if let End::Bad {
            offset,
            is_torn,
            later_watermark,
        } = scan.end
        {
            let here = Position::new(segment.number, offset);
            if later_watermark.is_some_and(|watermark| watermark > here) {
                return Err(damaged(segment, offset));
            }
            self.cut = Some((number, offset));
            self.is_torn = is_torn;
        }
        Ok(())
    }

    fn apply(&mut self, record: &Scanned, notes: &mut impl Iterator<Item = Bytes>) {
        let header = &record.header;
        let place = record.place;
        if matches!(header.kind, Kind::Entry | Kind::Moved) {
            let group = self.groups.entry(header.group).or_default();
            let purged = group.purged.value.as_ref();
            if purged.is_none_or(|purged| header.index > purged.index) {
                let slot = Slot::new(
                    place.segment,
                    place.offset,
                    record.payload_bytes,
                    header.term,
                );
                group.slots.insert(header.index, slot);
            }
            return;
        }
        let note = notes.next().unwrap_or_default();
        match header.kind {
            Kind::Drop => self.first_live = self.first_live.max(header.index as u32),
            Kind::Remove => {
                self.groups.remove(&header.group);
            }
            Kind::Vote | Kind::Committed | Kind::Truncate | Kind::Purge => {
                let group = self.groups.entry(header.group).or_default();
                apply_to_group(group, record, note);
            }
            Kind::Entry | Kind::Moved | Kind::Watermark | Kind::Seal => {}
        }
    }
}

fn apply_to_group(group: &mut Group, record: &Scanned, note: Bytes) {
    let header = &record.header;
    match header.kind {
        Kind::Vote => {
            group.vote.value = Some(note);
            group.vote.place = record.place;
        }
        Kind::Committed => {
            group.committed.value = Some(note);
            group.committed.place = record.place;
        }
        Kind::Truncate => group.slots.truncate(header.index, |_| {}),
        Kind::Purge => {
            group.slots.purge(header.index, |_| {});
            group.purged.value = Some(Purged {
                index: header.index,
                term: header.term,
                note,
            });
            group.purged.place = record.place;
        }
        _ => {}
    }
}

fn damaged(segment: &Segment, offset: u32) -> Error {
    Error::Damaged {
        file: segment.path.clone(),
        offset: u64::from(offset),
        reason: "a record that was synced is not valid any more",
    }
}

/// Makes the end of the log the same on disk as it was read.
fn secure_end(segments: &[Arc<Segment>], end: u32, watermark: Position) -> Result<(), Error> {
    let Some((active, older)) = segments.split_last() else {
        return Ok(());
    };
    // A seal may not be on disk yet if nothing follows it.
    if let Some(sealed) = older.last() {
        rewrite(sealed, watermark, sealed.bytes)?;
    }
    rewrite(active, watermark, end)?;
    zero(active, end)
}

/// Writes again what may not be on disk although it could be read: after a failed sync, Linux
/// takes such pages for clean and would not write them by itself.
fn rewrite(segment: &Segment, watermark: Position, end: u32) -> Result<(), Error> {
    let start = if watermark.segment() == segment.number {
        (watermark.0 as u32).max(DATA_START)
    } else if watermark.segment() > segment.number {
        return Ok(());
    } else {
        DATA_START
    };
    let mut bytes = vec![0; end.saturating_sub(start) as usize];
    let read = segment
        .file
        .read_at(&mut bytes, u64::from(start))
        .map_err(Error::io("read", &segment.path))?;
    segment
        .file
        .write_at(&bytes[..read], u64::from(start))
        .map_err(Error::io("write", &segment.path))?;
    segment
        .file
        .sync()
        .map_err(Error::io("sync", &segment.path))
}

/// Zeroes the segment from `end` on, so that nothing left there can be taken for a record later.
fn zero(segment: &Segment, end: u32) -> Result<(), Error> {
    let zeros = vec![0; ZERO_BYTES];
    let mut found = vec![0; ZERO_BYTES];
    let mut offset = end;
    while offset < segment.bytes {
        let length = (segment.bytes - offset).min(ZERO_BYTES as u32) as usize;
        let read = segment
            .file
            .read_at(&mut found[..length], u64::from(offset))
            .map_err(Error::io("read", &segment.path))?;
        if read < length || found[..length] != zeros[..length] {
            segment
                .file
                .write_at(&zeros[..length], u64::from(offset))
                .map_err(Error::io("write", &segment.path))?;
        }
        offset += length as u32;
    }
    segment
        .file
        .sync()
        .map_err(Error::io("sync", &segment.path))
}

/// Counts what each segment still holds, and makes sure that no group has a hole.
fn count_live(
    groups: &mut HashMap<u32, Group, foldhash::fast::RandomState>,
    segments: &Segments,
) -> Result<(), Error> {
    let mut live: HashMap<u32, u64, foldhash::fast::RandomState> = HashMap::default();
    for group in groups.values_mut() {
        let registers = [group.vote.place, group.committed.place, group.purged.place];
        let mut counted = super::group::Counted::default();
        for place in registers
            .into_iter()
            .filter(|place: &Place| place.is_some())
        {
            counted.add(place);
        }
        let slots = &group.slots;
        let first = match &group.purged.value {
            Some(purged) if !slots.is_empty() => purged.index + 1,
            _ => slots.first(),
        };
        for index in first..slots.next() {
            let slot = slots.get(index).ok_or_else(|| Error::Damaged {
                file: segments
                    .oldest()
                    .map(|s| s.path.clone())
                    .unwrap_or_default(),
                offset: 0,
                reason: "entries are missing in the middle of a group's log",
            })?;
            counted.add(slot.place());
        }
        group.all_durable();
        for (segment, bytes) in counted.0 {
            *live.entry(segment).or_default() += bytes;
        }
    }
    for (segment, bytes) in live {
        segments.add_live(segment, bytes);
    }
    Ok(())
}

/// The groups found, in order.
pub(super) fn group_ids(groups: &HashMap<u32, Group, foldhash::fast::RandomState>) -> Vec<GroupId> {
    let mut ids: Vec<_> = groups.keys().copied().map(GroupId).collect();
    ids.sort_unstable();
    ids
}
