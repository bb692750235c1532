//! Room on the disk, as the log sees it.

/// How much room there is. The caller acts on it; the log takes what it is given as long as it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Space {
    /// There is room.
    #[default]
    Ok,
    /// New messages should be refused: what room is left is for votes, membership, purges and
    /// acknowledgements.
    Soft,
    /// The reserve is nearly used up: this node should not count as ready.
    Hard,
}
