//! The exactly-once, ordered streams into a partition: one per life of a node.

use std::collections::{BTreeMap, VecDeque};

use bytes::{BufMut, Bytes};

use super::answer::Outcome;
use super::{Changed, table};
use crate::wire::{read_incarnation, read_u8, read_u32, read_u64};
use crate::{DecodeError, Incarnation, NodeId, StreamId};

/// How many answers to the latest batches a stream keeps for repeats. A sender has fewer batches than this on the way.
pub const ANSWERS_KEPT: u64 = 32;

/// The newest life of each node that has written here, or was declared ended.
#[derive(Debug, Default)]
pub(super) struct Streams {
    by_node: BTreeMap<NodeId, Stream>,
}

#[derive(Debug)]
struct Stream {
    incarnation: Incarnation,
    /// Declared ended: kept, so that late batches of that life are refused for good.
    ended: bool,
    /// Sequence number of the last batch taken; 0 before the first.
    last: u64,
    /// Outcomes of the latest batches, oldest first, by sequence number. A plain outcome is not kept.
    outcomes: VecDeque<(u64, Outcome)>,
}

/// What a batch's sequence number means.
pub(super) enum Turn {
    /// The one that is due.
    Next,
    /// Taken before, with this outcome.
    Repeat(Outcome),
    /// Batches before it are missing.
    Gap { last: u64 },
    /// Of a life that is over.
    Ended,
}

impl Streams {
    pub(super) fn turn(&self, stream: StreamId, seq: u64) -> Turn {
        let last = match self.by_node.get(&stream.node) {
            Some(known) if known.incarnation == stream.incarnation => {
                if known.ended {
                    return Turn::Ended;
                }
                if seq <= known.last {
                    let outcome = known.outcomes.iter().find(|(of, _)| *of == seq);
                    return Turn::Repeat(
                        outcome
                            .map(|(_, outcome)| outcome.clone())
                            .unwrap_or_default(),
                    );
                }
                known.last
            }
            Some(known) if known.incarnation.counter >= stream.incarnation.counter => {
                return Turn::Ended;
            }
            _ => 0,
        };
        if seq == last + 1 {
            Turn::Next
        } else {
            Turn::Gap { last }
        }
    }

    /// The known life of the stream's node, if it is an older one that was not declared ended.
    pub(super) fn older_life(&self, stream: StreamId) -> Option<StreamId> {
        let known = self.by_node.get(&stream.node)?;
        let older = known.incarnation.counter < stream.incarnation.counter && !known.ended;
        older.then_some(StreamId {
            node: stream.node,
            incarnation: known.incarnation,
        })
    }

    pub(super) fn taken(
        &mut self,
        stream: StreamId,
        seq: u64,
        outcome: &Outcome,
        changed: &mut Changed,
    ) {
        changed.insert(key(stream.node));
        let entry = self
            .by_node
            .entry(stream.node)
            .or_insert_with(|| Stream::new(stream.incarnation));
        if entry.incarnation != stream.incarnation {
            *entry = Stream::new(stream.incarnation);
        }
        entry.last = seq;
        let forgotten = seq.saturating_sub(ANSWERS_KEPT);
        while entry
            .outcomes
            .front()
            .is_some_and(|(of, _)| *of <= forgotten)
        {
            entry.outcomes.pop_front();
        }
        if !outcome.is_plain() {
            entry.outcomes.push_back((seq, outcome.clone()));
        }
    }

    pub(super) fn end(&mut self, stream: StreamId, changed: &mut Changed) {
        let entry = self
            .by_node
            .entry(stream.node)
            .or_insert_with(|| Stream::new(stream.incarnation));
        if entry.incarnation.counter > stream.incarnation.counter {
            return;
        }
        *entry = Stream {
            ended: true,
            ..Stream::new(stream.incarnation)
        };
        changed.insert(key(stream.node));
    }

    /// Whether that life is over: declared so, or followed by another.
    pub(super) fn is_ended(&self, stream: StreamId) -> bool {
        self.by_node.get(&stream.node).is_some_and(|known| {
            if known.incarnation == stream.incarnation {
                known.ended
            } else {
                known.incarnation.counter >= stream.incarnation.counter
            }
        })
    }

    pub(super) fn live(&self) -> impl Iterator<Item = StreamId> + '_ {
        let live = self.by_node.iter().filter(|(_, stream)| !stream.ended);
        live.map(|(node, stream)| StreamId {
            node: *node,
            incarnation: stream.incarnation,
        })
        .filter(|stream| !stream.is_outbox())
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.by_node.keys().map(|node| key(*node))
    }

    pub(super) fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        let node = NodeId(u64::from_le_bytes(key.try_into().ok()?));
        let stream = self.by_node.get(&node)?;
        let mut out = Vec::new();
        out.put_u64_le(stream.incarnation.counter);
        out.put_u64_le(stream.incarnation.nonce);
        out.put_u8(u8::from(stream.ended));
        out.put_u64_le(stream.last);
        out.put_u32_le(u32::try_from(stream.outcomes.len()).expect("bounded by ANSWERS_KEPT"));
        for (seq, outcome) in &stream.outcomes {
            out.put_u64_le(*seq);
            outcome.encode(&mut out);
        }
        Some(out)
    }

    pub(super) fn load(&mut self, mut key: Bytes, mut value: Bytes) -> Result<(), DecodeError> {
        let node = NodeId(read_u64(&mut key, "node")?);
        let value = &mut value;
        let mut stream = Stream::new(read_incarnation(value, "incarnation")?);
        stream.ended = read_u8(value, "ended")? != 0;
        stream.last = read_u64(value, "sequence number")?;
        for _ in 0..read_u32(value, "outcomes")? {
            let seq = read_u64(value, "sequence number")?;
            stream.outcomes.push_back((seq, Outcome::decode(value)?));
        }
        self.by_node.insert(node, stream);
        Ok(())
    }
}

impl Stream {
    fn new(incarnation: Incarnation) -> Self {
        Self {
            incarnation,
            ended: false,
            last: 0,
            outcomes: VecDeque::new(),
        }
    }
}

fn key(node: NodeId) -> Vec<u8> {
    let mut key = vec![table::STREAM];
    key.put_u64_le(node.0);
    key
}
