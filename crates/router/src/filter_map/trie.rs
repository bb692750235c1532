//! The filters with wildcards: a trie of their levels.
//!
//! A node is 24 bytes. The edges of all nodes to their literal children are one hash table, keyed by (node, level), so a
//! node with two children and one with a million cost the same per child. All walks go level by level in a loop; the
//! stack does not depend on any topic.

use std::hash::BuildHasher;
use std::ops::ControlFlow;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::levels::Levels;
use crate::index::Index;
use crate::pages::Pages;

const ROOT: u32 = 0;
/// No node, no filter.
const NONE: u32 = u32::MAX;
/// The level of a node under a `+`.
const PLUS: u32 = u32::MAX;

#[derive(Clone, Debug)]
pub(super) struct Trie {
    /// The root first. Freed nodes are chained by `parent` from `free`.
    nodes: Pages<Node>,
    free: u32,
    free_len: usize,
    edges: Index,
    levels: Levels,
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    parent: u32,
    /// The level between parent and node: a number of [`Levels`], or [`PLUS`].
    level: u32,
    /// The child for `+`.
    plus: u32,
    /// Children with a literal level.
    literals: u32,
    /// The filter that ends at this node.
    here: u32,
    /// The filter that ends with a `#` under this node.
    below: u32,
}

impl Trie {
    pub(super) fn new() -> Self {
        let mut nodes = Pages::new();
        nodes.push(Node::new(NONE, NONE));
        Self {
            nodes,
            free: NONE,
            free_len: 0,
            edges: Index::new(),
            levels: Levels::new(),
            hasher: RandomState::default(),
        }
    }

    /// Whether `levels` more nodes can be numbered.
    pub(super) fn has_room(&self, levels: usize) -> bool {
        self.nodes.len() as usize + levels < NONE as usize
    }

    /// Adds a filter that is not in the trie, under the number `id`.
    pub(super) fn insert(&mut self, filter: &str, id: u32) {
        let mut at = ROOT;
        for level in filter.split('/') {
            at = match level {
                "#" => {
                    self.nodes[at].below = id;
                    return;
                }
                "+" if self.nodes[at].plus != NONE => self.nodes[at].plus,
                "+" => {
                    let child = self.allocate(Node::new(at, PLUS));
                    self.nodes[at].plus = child;
                    child
                }
                _ => self
                    .literal_child(at, level)
                    .unwrap_or_else(|| self.add_literal(at, level)),
            };
        }
        self.nodes[at].here = id;
    }

    /// The number of exactly this filter.
    pub(super) fn find(&self, filter: &str) -> Option<u32> {
        let (at, below) = self.walk(filter)?;
        let node = &self.nodes[at];
        let id = if below { node.below } else { node.here };
        (id != NONE).then_some(id)
    }

    /// Removes a filter and every node that only it needed.
    pub(super) fn remove(&mut self, filter: &str) {
        let Some((mut at, below)) = self.walk(filter) else {
            return;
        };
        let node = &mut self.nodes[at];
        if below {
            node.below = NONE;
        } else {
            node.here = NONE;
        }
        while at != ROOT && self.nodes[at].is_unused() {
            at = self.prune(at);
        }
        if self.free_len + 1 == self.nodes.len() as usize {
            // Gives the memory back. The root may hold a `#`.
            let root = self.nodes[ROOT];
            *self = Self::new();
            self.nodes[ROOT] = root;
        }
    }

    /// Calls `f` once with every filter that matches.
    pub(super) fn for_each_match(
        &self,
        topic: &str,
        mut f: impl FnMut(u32) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        // [MQTT-3.3.2-3], [MQTT-3.3.2-3 v3.1.1]: only those. [MQTT-4.7.2-1], [MQTT-4.7.2-1 v3.1.1]: a leading wildcard does not
        // match topics that begin with `$`.
        let dollar = topic.starts_with('$');
        // The nodes whose path matches the levels so far; see `shapes` for how many there can be.
        let mut standing: SmallVec<[u32; 16]> = SmallVec::new();
        let mut next: SmallVec<[u32; 16]> = SmallVec::new();
        standing.push(ROOT);
        if !dollar {
            self.meet_below(ROOT, &mut f)?;
        }
        for (depth, level) in topic.split('/').enumerate() {
            let wildcard_ok = depth > 0 || !dollar;
            let mut hash = None;
            for &at in &standing {
                let node = self.nodes[at];
                if node.plus != NONE && wildcard_ok {
                    next.push(node.plus);
                }
                if node.literals > 0 {
                    let hash = *hash.get_or_insert_with(|| self.levels.hash(level.as_bytes()));
                    next.extend(self.edge(at, level, hash));
                }
            }
            if next.is_empty() {
                return ControlFlow::Continue(());
            }
            for &at in &next {
                self.meet_below(at, &mut f)?;
            }
            std::mem::swap(&mut standing, &mut next);
            next.clear();
        }
        for at in standing {
            let id = self.nodes[at].here;
            if id != NONE {
                f(id)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Nodes without the root, and level texts.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (
            self.nodes.len() as usize - self.free_len - 1,
            self.levels.len(),
        )
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.nodes.bytes() + self.edges.table_bytes() + self.levels.heap_bytes()
    }

    /// `a/#` matches `a` and all below it, so it is met at the node of `a`.
    fn meet_below(&self, at: u32, f: &mut impl FnMut(u32) -> ControlFlow<()>) -> ControlFlow<()> {
        match self.nodes[at].below {
            NONE => ControlFlow::Continue(()),
            id => f(id),
        }
    }

    /// The node at which a filter ends, and whether it ends there with a `#`.
    fn walk(&self, filter: &str) -> Option<(u32, bool)> {
        let mut at = ROOT;
        for level in filter.split('/') {
            at = match level {
                "#" => return Some((at, true)),
                "+" => self.nodes[at].plus,
                _ => self.literal_child(at, level)?,
            };
            if at == NONE {
                return None;
            }
        }
        Some((at, false))
    }

    fn literal_child(&self, at: u32, level: &str) -> Option<u32> {
        self.edge(at, level, self.levels.hash(level.as_bytes()))
    }

    /// The literal child for a level with this hash. Does not look the level up first: among a million it is not in any
    /// cache, and each such look costs as much as all the rest.
    fn edge(&self, at: u32, level: &str, hash: u64) -> Option<u32> {
        let is_it = |child: u32| {
            let child = &self.nodes[child];
            child.parent == at && self.levels.text(child.level) == level.as_bytes()
        };
        self.edges.find(self.edge_hash(at, hash), is_it)
    }

    fn edge_hash(&self, at: u32, level_hash: u64) -> u64 {
        self.hasher.hash_one((at, level_hash))
    }

    fn add_literal(&mut self, at: u32, level: &str) -> u32 {
        let hash = self.edge_hash(at, self.levels.hash(level.as_bytes()));
        let level = self.levels.acquire(level);
        let child = self.allocate(Node::new(at, level));
        self.edges.insert(hash, child);
        self.nodes[at].literals += 1;
        child
    }

    /// Removes a node that nothing needs, and gives its parent.
    fn prune(&mut self, at: u32) -> u32 {
        let Node { parent, level, .. } = self.nodes[at];
        if level == PLUS {
            self.nodes[parent].plus = NONE;
        } else {
            let level_hash = self.levels.hash(self.levels.text(level));
            self.edges.remove(self.edge_hash(parent, level_hash), at);
            self.levels.release(level);
            self.nodes[parent].literals -= 1;
        }
        self.nodes[at].parent = self.free;
        self.free = at;
        self.free_len += 1;
        parent
    }

    fn allocate(&mut self, node: Node) -> u32 {
        if self.free == NONE {
            return self.nodes.push(node);
        }
        let at = self.free;
        self.free = self.nodes[at].parent;
        self.free_len -= 1;
        self.nodes[at] = node;
        at
    }
}

impl Node {
    const fn new(parent: u32, level: u32) -> Self {
        Self {
            parent,
            level,
            plus: NONE,
            literals: 0,
            here: NONE,
            below: NONE,
        }
    }

    const fn is_unused(&self) -> bool {
        self.plus == NONE && self.literals == 0 && self.here == NONE && self.below == NONE
    }
}
