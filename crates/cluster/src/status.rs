//! What operators see of the cluster, and how a node ends.

use serde::Serialize;

/// One node's view of the cluster.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Name of the cluster, once it is formed.
    pub cluster_id: Option<String>,
    /// This node.
    pub node_id: String,
    /// Its name for people.
    pub node_name: String,
    /// Empty when the node may accept clients, else the reason why not.
    pub not_ready: String,
    /// All members.
    pub members: Vec<MemberStatus>,
    /// Groups that have a replica here.
    pub groups: Vec<GroupStatus>,
    /// Rows in the table of direct routes.
    pub routes: usize,
    /// The node-wide log.
    pub log: LogStatus,
}

/// What the node-wide log has counted since the process started.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LogStatus {
    /// Syncs that took at most so many seconds, cumulative, ascending.
    pub fsyncs_within_s: Vec<(f64, u64)>,
    /// All syncs.
    pub fsyncs: u64,
    /// What they took together, seconds.
    pub fsyncs_s: f64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Segment files in use.
    pub segments: u64,
    /// `ok`, `soft` (publishes are refused) or `hard` (not ready).
    pub space: String,
}

impl LogStatus {
    pub(crate) fn of(log: &magpie_storage::Log) -> Self {
        let metrics = log.metrics();
        let mut within = 0;
        // Bucket n counts syncs of less than 2^n microseconds.
        let fsyncs_within_s = (0i32..).zip(metrics.fsyncs.buckets).map(|(power, count)| {
            within += count;
            (2f64.powi(power) / 1e6, within)
        });
        Self {
            fsyncs_within_s: fsyncs_within_s.collect(),
            fsyncs: metrics.fsyncs.count,
            fsyncs_s: std::time::Duration::from_micros(metrics.fsyncs.sum_us).as_secs_f64(),
            written_bytes: metrics.written_bytes,
            segments: metrics.segments,
            space: format!("{:?}", metrics.space).to_lowercase(),
        }
    }
}

/// A member as this node knows it.
#[derive(Debug, Clone, Serialize)]
pub struct MemberStatus {
    /// Identity.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// `up` or `down`.
    pub state: String,
    /// Its present life.
    pub incarnation: String,
    /// `HOST:PORT` between nodes.
    pub cluster_addr: String,
    /// `HOST:PORT` of MQTT.
    pub mqtt_addr: String,
    /// `HOST:PORT` of the HTTP API.
    pub http_addr: String,
    /// Whether it votes in the control group.
    pub voter: bool,
    /// Whether it is the node that answers.
    pub this: bool,
}

/// One Raft group as this node's replica sees it.
#[derive(Debug, Clone, Serialize)]
pub struct GroupStatus {
    /// `control`, or the number of the partition.
    pub group: String,
    /// Raft term.
    pub term: u64,
    /// Leader's node id, if one is known.
    pub leader: Option<String>,
    /// Whether this node leads.
    pub leading: bool,
    /// Node ids of the voters.
    pub voters: Vec<String>,
    /// Index of the last entry of the log here.
    pub last_log: u64,
    /// Index known to be committed.
    pub committed: u64,
    /// Index applied here.
    pub applied: u64,
    /// Index up to which this node's subscribers were served (partitions only).
    pub tail: Option<u64>,
    /// What this replica holds (partitions only).
    pub holds: Option<PartitionHolds>,
}

/// What a partition holds besides messages.
#[derive(Debug, Clone, Serialize)]
pub struct PartitionHolds {
    /// Sessions with a connection.
    pub sessions_attached: usize,
    /// Sessions that wait for their client.
    pub sessions_detached: usize,
    /// The most sessions that outlive their connections; none: the partition has not been told.
    pub sessions_max: Option<u64>,
    /// Entries of sessions' rows that were left out, because no correct node writes so many.
    pub entries_cut: u64,
    /// Retained messages.
    pub retained: usize,
    /// Bytes of their records.
    pub retained_bytes: u64,
    /// Messages that were not retained for want of room, since the replica started.
    pub retained_not_kept: u64,
    /// Bytes of the records that other partitions have not taken yet.
    pub outbox_bytes: u64,
    /// Batches that other partitions have not taken yet.
    pub outbox: usize,
}

impl PartitionHolds {
    pub(crate) fn of(state: &magpie_state::partition::PartitionState) -> Self {
        let attached = state.attachment_count();
        Self {
            sessions_attached: attached,
            sessions_detached: state.session_count().saturating_sub(attached),
            sessions_max: Some(state.limits().sessions_max).filter(|max| *max < u64::MAX),
            entries_cut: state.entries_cut(),
            retained: state.retained_count(),
            outbox_bytes: state.outbox_bytes(),
            retained_bytes: state.retained_bytes(),
            retained_not_kept: state.retained_not_kept(),
            outbox: state
                .outbox_targets()
                .iter()
                .map(|(_, batches)| batches)
                .sum(),
        }
    }
}

/// Why a node stops by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// Exit code 70.
    #[error("{0}")]
    Disk(String),
    /// Exit code 71.
    #[error("{0}")]
    Fenced(String),
    /// This life was declared down while the node was cut off: start again, with a new one.
    #[error("{0}")]
    Down(String),
}

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Exit code 1: one sentence, what, where and what to do.
    #[error("{0}")]
    Config(String),
    /// Exit code 71: this data directory must not be started again.
    #[error("{0}")]
    DataDir(String),
}

impl StartError {
    /// What the storage says about a data directory, with the way out.
    pub(crate) fn from_storage(dir: &std::path::Path, error: &magpie_storage::Error) -> Self {
        let text = format!("data directory {}: {error}", dir.display());
        match error {
            magpie_storage::Error::Damaged { .. } | magpie_storage::Error::KeyValue { .. } => {
                Self::DataDir(text)
            }
            _ => Self::Config(text),
        }
    }
}
