//! Messages in log order, 24 bytes each, in columns: a search for topics reads nothing but topics.

use std::collections::VecDeque;

use magpie_state::Position;

/// Messages per block.
const BLOCK: usize = 1024;
/// Length of a message that is gone but still has its place in the columns and in its topic's chain.
const GONE: u32 = u32::MAX;

/// One message: where its record lies in the log entry, and which topic it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) position: Position,
    /// Number of the topic in the table of topics.
    pub(super) topic: u32,
    /// Offset of the record in its entry, in bytes.
    pub(super) offset: u32,
    /// Length of the record, in bytes.
    pub(super) bytes: u32,
}

/// Messages in ascending order of position, each with a number that stays until it goes. Numbers follow one another and wrap around.
#[derive(Debug, Default)]
pub(super) struct Columns {
    blocks: VecDeque<Block>,
    /// Number of the first place of the first block.
    block_start: u32,
    first: u32,
    next: u32,
    gone: u32,
}

#[derive(Debug)]
struct Block {
    positions: Box<[Position; BLOCK]>,
    topics: Box<[u32; BLOCK]>,
    offsets: Box<[u32; BLOCK]>,
    bytes: Box<[u32; BLOCK]>,
    /// Number of the next message of the same topic; its own: there is none.
    nexts: Box<[u32; BLOCK]>,
}

impl Columns {
    /// How many places there are, those of messages that are gone included.
    pub(super) const fn len(&self) -> u32 {
        self.next.wrapping_sub(self.first)
    }

    /// How many of them are gone.
    pub(super) const fn gone(&self) -> u32 {
        self.gone
    }

    pub(super) const fn first(&self) -> u32 {
        self.first
    }

    pub(super) const fn next(&self) -> u32 {
        self.next
    }

    /// Adds a message behind all others; its number.
    pub(super) fn push(&mut self, message: Placed) -> u32 {
        let number = self.next;
        let at = number.wrapping_sub(self.block_start) as usize;
        if at == self.blocks.len() * BLOCK {
            self.blocks.push_back(Block::new());
        }
        let block = &mut self.blocks[at / BLOCK];
        let at = at % BLOCK;
        block.positions[at] = message.position;
        block.topics[at] = message.topic;
        block.offsets[at] = message.offset;
        block.bytes[at] = message.bytes;
        block.nexts[at] = number;
        self.next = number.wrapping_add(1);
        number
    }

    /// Links a message to the next of its topic.
    pub(super) fn link(&mut self, number: u32, next: u32) {
        let (block, at) = self.place(number);
        self.blocks[block].nexts[at] = next;
    }

    /// The message of the same topic behind this one.
    pub(super) fn after(&self, number: u32) -> Option<u32> {
        let (block, at) = self.place(number);
        let next = self.blocks[block].nexts[at];
        (next != number).then_some(next)
    }

    pub(super) fn position(&self, number: u32) -> Position {
        let (block, at) = self.place(number);
        self.blocks[block].positions[at]
    }

    pub(super) fn topic(&self, number: u32) -> u32 {
        let (block, at) = self.place(number);
        self.blocks[block].topics[at]
    }

    /// The message with this number; `None` if it is gone.
    pub(super) fn message(&self, number: u32) -> Option<Placed> {
        let (block, at) = self.place(number);
        let block = &self.blocks[block];
        (block.bytes[at] != GONE).then(|| Placed {
            position: block.positions[at],
            topic: block.topics[at],
            offset: block.offsets[at],
            bytes: block.bytes[at],
        })
    }

    /// The first message in front goes; where the chain of its topic goes on.
    pub(super) fn pop(&mut self) -> Option<u32> {
        let number = self.first;
        let after = self.after(number);
        if self.message(number).is_none() {
            self.gone -= 1;
        }
        self.first = number.wrapping_add(1);
        if self.first.wrapping_sub(self.block_start) as usize == BLOCK {
            self.blocks.pop_front();
            self.block_start = self.first;
        }
        after
    }

    /// Takes a message out. Its place stays until it is in front.
    pub(super) fn remove(&mut self, number: u32) {
        let (block, at) = self.place(number);
        self.blocks[block].bytes[at] = GONE;
        self.gone += 1;
    }

    /// The number of the first message above `position`; [`next`](Self::next) if there is none.
    pub(super) fn above(&self, position: Position) -> u32 {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.position(self.first.wrapping_add(middle)) <= position {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        self.first.wrapping_add(low)
    }

    /// The first message in `from..to` whose topic is wanted.
    pub(super) fn find(
        &self,
        from: u32,
        to: u32,
        mut is_wanted: impl FnMut(u32) -> bool,
    ) -> Option<u32> {
        let mut left = to.wrapping_sub(from) as usize;
        let mut number = from;
        while left > 0 {
            let (block, at) = self.place(number);
            let end = BLOCK.min(at + left);
            let topics = &self.blocks[block].topics[at..end];
            if let Some(found) = topics.iter().position(|topic| is_wanted(*topic)) {
                return Some(number.wrapping_add(found as u32));
            }
            left -= topics.len();
            number = number.wrapping_add(topics.len() as u32);
        }
        None
    }

    /// Bytes that the columns take.
    pub(super) fn memory(&self) -> usize {
        self.blocks.len() * BLOCK * 24
    }

    /// Begins to count here, while there is nothing.
    #[cfg(test)]
    pub(super) fn start_at(&mut self, number: u32) {
        assert_eq!(self.len(), 0);
        (self.block_start, self.first, self.next) = (number, number, number);
    }

    fn place(&self, number: u32) -> (usize, usize) {
        let at = number.wrapping_sub(self.block_start) as usize;
        (at / BLOCK, at % BLOCK)
    }
}

impl Block {
    fn new() -> Self {
        Self {
            positions: Box::new([Position::default(); BLOCK]),
            topics: Box::new([0; BLOCK]),
            offsets: Box::new([0; BLOCK]),
            bytes: Box::new([0; BLOCK]),
            nexts: Box::new([0; BLOCK]),
        }
    }
}
