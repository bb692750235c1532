//! A set of packet ids that a peer chose.

use magpie_codec::PacketId;

const BLOCK_IDS: usize = 1024;
const WORD_IDS: usize = u64::BITS as usize;
const BLOCKS: usize = 65_536 / BLOCK_IDS;

/// Packet ids, without hashing: one bit each, in blocks that exist while an id in them is set.
///
/// At most 9 KiB, whatever ids the peer chooses; a client that counts upwards holds one or two blocks of 128 bytes.
#[derive(Debug, Default)]
pub(crate) struct PacketIds {
    /// Empty, or one place for each block.
    blocks: Vec<Option<Box<Block>>>,
    len: usize,
}

#[derive(Debug)]
struct Block {
    words: [u64; BLOCK_IDS / WORD_IDS],
    len: usize,
}

impl PacketIds {
    pub(crate) fn contains(&self, id: PacketId) -> bool {
        let (block, word, bit) = place(id);
        matches!(self.blocks.get(block), Some(Some(block)) if block.words[word] & bit != 0)
    }

    /// Says whether the id is new.
    pub(crate) fn insert(&mut self, id: PacketId) -> bool {
        if self.blocks.is_empty() {
            self.blocks.resize_with(BLOCKS, || None);
        }
        let (block, word, bit) = place(id);
        let block = self.blocks[block].get_or_insert_with(|| {
            Box::new(Block {
                words: [0; _],
                len: 0,
            })
        });
        let is_new = block.words[word] & bit == 0;
        if is_new {
            block.words[word] |= bit;
            block.len += 1;
            self.len += 1;
        }
        is_new
    }

    /// Says whether the id was there.
    pub(crate) fn remove(&mut self, id: PacketId) -> bool {
        if !self.contains(id) {
            return false;
        }
        let (at, word, bit) = place(id);
        if let Some(block) = &mut self.blocks[at] {
            block.words[word] &= !bit;
            block.len -= 1;
            self.len -= 1;
            if block.len == 0 && self.len > 0 {
                // The last block stays, so that one id at a time costs no allocation.
                self.blocks[at] = None;
            }
        }
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Gives memory back if there is nothing to remember.
    pub(crate) fn shrink(&mut self) {
        if self.is_empty() {
            self.blocks = Vec::new();
        }
    }
}

/// The block, the word in it, and the bit in that.
fn place(id: PacketId) -> (usize, usize, u64) {
    let id = usize::from(id.number());
    (
        id / BLOCK_IDS,
        id % BLOCK_IDS / WORD_IDS,
        1 << (id % WORD_IDS),
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counting_through_all_ids_leaves_little_behind() {
        let mut ids = PacketIds::default();
        for number in 1..=u16::MAX {
            let id = PacketId::new(number).unwrap();
            assert!(ids.insert(id));
            assert!(!ids.insert(id));
            if number > 10 {
                assert!(ids.remove(PacketId::new(number - 10).unwrap()));
            }
        }
        assert_eq!(ids.len(), 10);
        assert!(ids.blocks.iter().flatten().count() <= 2);
    }

    proptest! {
        #[test]
        fn behaves_like_a_hash_set(operations in prop::collection::vec((any::<bool>(), 1..=u16::MAX), 1..200)) {
            let mut ids = PacketIds::default();
            let mut model = HashSet::new();
            for (insert, number) in operations {
                // Half of the ids fall on few numbers, so that they meet.
                let id = PacketId::new(if number % 2 == 0 { number % 8 + 1 } else { number }).unwrap();
                if insert {
                    prop_assert_eq!(ids.insert(id), model.insert(id));
                } else {
                    prop_assert_eq!(ids.remove(id), model.remove(&id));
                }
                prop_assert_eq!(ids.len(), model.len());
                prop_assert_eq!(ids.contains(id), model.contains(&id));
            }
        }
    }
}
