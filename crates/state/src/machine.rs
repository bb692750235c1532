//! The contract between a replicated state and the Raft group that drives it.

use bytes::Bytes;

/// One row of a state: what checkpoints write to the key-value store and snapshots carry. Keys begin with a table's prefix byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Table prefix and key.
    pub key: Vec<u8>,
    /// `None`: the row is gone.
    pub value: Option<Vec<u8>>,
}

/// A deterministic state machine, fed with committed commands in log order.
///
/// The driver (in `cluster`) owns it, calls [`apply`](Self::apply) once per committed entry, now and then takes the
/// [changed rows](Self::take_changed) for a checkpoint, and takes [all rows](Self::rows) for a snapshot. The index of the last applied
/// entry and the Raft membership are the driver's, and are stored beside the rows in the same batch.
pub trait StateMachine: Default + Send + Sync + 'static {
    /// What the proposer of a command learns.
    type Answer: Send + 'static;

    /// Applies one command, encoded, that was committed at `index`. Indexes only grow; those of Raft's own entries are skipped.
    /// A command that cannot be decoded is a bug of the proposer and changes nothing; the answer says so.
    fn apply(&mut self, index: u64, command: &Bytes) -> Self::Answer;

    /// Rows changed since the last call, the latest value of each.
    fn take_changed(&mut self) -> Vec<Row>;

    /// Every row, for a snapshot. All values are `Some`.
    fn rows(&self) -> Vec<Row>;

    /// Takes over one row of a checkpoint or a snapshot, into a fresh state. Rows come in any order.
    ///
    /// # Errors
    /// A row that this version cannot read.
    fn load(&mut self, row: Row) -> Result<(), crate::DecodeError>;
}
