//! Share groups whose members are spread over nodes: which node gets the next message.

use smallvec::SmallVec;

use super::{NodeSet, Nodes};
use crate::share_group::Cursor;
use crate::short_text::ShortText;

/// The members of one share group under one filter.
#[derive(Clone, Debug)]
pub(super) struct ShareRow {
    name: ShortText,
    /// Place of a node, and its members: more than 0.
    members: SmallVec<[(NodeSet, u32); 2]>,
    cursor: Cursor,
}

/// A shared subscription and the nodes that have members of it.
#[derive(Clone, Copy, Debug)]
pub struct ShareRoute<'a, N> {
    filter: &'a str,
    row: &'a ShareRow,
    nodes: &'a Nodes<N>,
}

impl<'a, N: Copy + Eq> ShareRoute<'a, N> {
    pub(super) const fn new(filter: &'a str, row: &'a ShareRow, nodes: &'a Nodes<N>) -> Self {
        Self { filter, row, nodes }
    }

    /// The share name.
    pub fn name(&self) -> &'a str {
        self.row.name.as_str()
    }

    /// The filter without the share name.
    pub const fn filter(&self) -> &'a str {
        self.filter
    }

    /// The nodes with members, and how many each has.
    pub fn members(&self) -> impl Iterator<Item = (N, u32)> {
        let row = self.row.members.iter();
        row.flat_map(|(place, members)| self.nodes.of(*place).map(|node| (node, *members)))
    }

    /// The node that gets the next message: in turn, each as often as it has members, among those that are available.
    /// The node then chooses among its members. `available` is asked once per node.
    pub fn pick(&self, mut available: impl FnMut(N) -> bool) -> Option<N> {
        let there: SmallVec<[(N, u64); 8]> = self
            .members()
            .filter(|(node, _)| available(*node))
            .map(|(node, members)| (node, u64::from(members)))
            .collect();
        let all = there.iter().map(|(_, members)| members).sum::<u64>();
        if all == 0 {
            return None;
        }
        let mut turn = self
            .row
            .cursor
            .advance(usize::try_from(all).unwrap_or(usize::MAX)) as u64;
        for (node, members) in there {
            if turn < members {
                return Some(node);
            }
            turn -= members;
        }
        None
    }
}

/// Sets a node's members in a group, and gives how many it had. Groups without members go.
pub(super) fn set(rows: &mut Vec<ShareRow>, name: &str, place: NodeSet, members: u32) -> u32 {
    let found = rows
        .iter()
        .position(|row| row.name.as_bytes() == name.as_bytes());
    let at = match found {
        Some(at) => at,
        None if members == 0 => return 0,
        None => {
            rows.push(ShareRow {
                name: ShortText::new(name),
                members: SmallVec::new(),
                cursor: Cursor::new(),
            });
            rows.len() - 1
        }
    };
    let row = &mut rows[at].members;
    let before = match row.iter().position(|(present, _)| *present == place) {
        Some(position) if members == 0 => row.swap_remove(position).1,
        Some(position) => std::mem::replace(&mut row[position].1, members),
        None => {
            if members > 0 {
                row.push((place, members));
            }
            0
        }
    };
    if row.is_empty() {
        rows.swap_remove(at);
    }
    before
}

/// Drops nodes that are not in `live`; true if no group is left.
pub(super) fn retain(rows: &mut Vec<ShareRow>, live: NodeSet) -> bool {
    rows.retain_mut(|row| {
        row.members.retain(|(place, _)| *place & live != 0);
        !row.members.is_empty()
    });
    rows.is_empty()
}
