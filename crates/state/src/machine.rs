//! The contract between a replicated state and the Raft group that drives it.

use bytes::Bytes;

use crate::Position;

/// One row of a state: what checkpoints write to the key-value store and snapshots carry. Keys begin with a table's prefix byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Table prefix and key.
    pub key: Vec<u8>,
    /// `None`: the row is gone.
    pub value: Option<RowValue>,
}

/// Where a row's value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowValue {
    /// Here.
    Bytes(Vec<u8>),
    /// In the log: the record at this position, as [`StateMachine::extract`] cuts it out of its entry. What was copied once stays in the
    /// store until the row is gone, also when the log is purged; it is not given a second time.
    Logged {
        /// Where.
        position: Position,
    },
}

impl RowValue {
    /// The value, unless it is in the log.
    #[must_use]
    pub fn bytes(self) -> Option<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Logged { .. } => None,
        }
    }
}

impl From<Vec<u8>> for RowValue {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

/// A deterministic state machine, fed with committed commands in log order.
///
/// The driver (in `cluster`) owns it, calls [`apply`](Self::apply) once per committed entry, now and then takes the
/// [changed rows](Self::take_changed) for a checkpoint, and takes [all rows](Self::rows) for a snapshot. The index of the last applied
/// entry and the Raft membership are the driver's, and are stored beside the rows in the same batch.
pub trait StateMachine: Default + Send + Sync + 'static {
    /// What the proposer of a command learns.
    type Answer: Send + 'static;

    /// What a snapshot carries beside the rows of a checkpoint.
    type Carry: Carry;

    /// Applies one command, encoded, that was committed at `index`. Indexes only grow; those of Raft's own entries are skipped.
    /// A command that cannot be decoded is a bug of the proposer and changes nothing; the answer says so.
    fn apply(&mut self, index: u64, command: &Bytes) -> Self::Answer;

    /// Rows changed since the last call, the latest value of each.
    fn take_changed(&mut self) -> Vec<Row>;

    /// Every row. All values are `Some`; those of rows that were copied from the log are `Logged`, also if the log does not have them any
    /// more.
    fn rows(&self) -> Vec<Row>;

    /// Takes over one row of a checkpoint or a snapshot, into a fresh state. Rows come in any order.
    ///
    /// # Errors
    /// A row that this version cannot read.
    fn load(&mut self, row: Row) -> Result<(), crate::DecodeError>;

    /// Index up to which the log is not needed to restore this state, once the rows as they are now are on disk: entries behind it stay in the
    /// log, whatever else would let them go. Never goes back.
    fn purge_bound(&self) -> u64 {
        u64::MAX
    }

    /// Whether rows wait to be copied out of the log: a checkpoint is due, so that each has to read back a bounded number of bytes only.
    fn wants_checkpoint(&self) -> bool {
        false
    }

    /// The bytes of a record of a command: the value of a row that is [`Logged`](RowValue::Logged). `None` if there is no such record.
    #[must_use]
    fn extract(command: &Bytes, ordinal: u32) -> Option<Bytes> {
        let _ = (command, ordinal);
        None
    }
}

/// Finds what a snapshot carries beside the rows of a checkpoint: records of the sender's log that the state needs, as rows. The receiver's log
/// begins behind the snapshot.
pub trait Carry: Default + Send + 'static {
    /// Takes note of a row of the checkpoint. All of them come before anything is asked.
    ///
    /// # Errors
    /// A row that this version cannot read.
    fn see(&mut self, key: &[u8], value: &Bytes) -> Result<(), crate::DecodeError>;

    /// The first log index of which something is needed; `None`: of none.
    fn from(&self) -> Option<u64>;

    /// The rows of one command, with their values.
    fn rows(&self, index: u64, command: &Bytes) -> Vec<(Vec<u8>, Bytes)>;
}

/// Nothing.
impl Carry for () {
    fn see(&mut self, _: &[u8], _: &Bytes) -> Result<(), crate::DecodeError> {
        Ok(())
    }

    fn from(&self) -> Option<u64> {
        None
    }

    fn rows(&self, _: u64, _: &Bytes) -> Vec<(Vec<u8>, Bytes)> {
        Vec::new()
    }
}
