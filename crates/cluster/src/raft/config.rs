//! What can be tuned about Raft groups.

use std::sync::Arc;
use std::time::Duration;

/// Settings of a group's Raft and of its log; the same for all groups of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How often a leader says that it lives. Default 200 ms.
    pub heartbeat_every: Duration,
    /// A follower that has heard nothing for `election_max` (the leader's lease) and then for a random time between this and
    /// [`election_max`](Self::election_max) stands for election. At least ten times the disk's usual p99.9 of fdatasync. Default 1 s.
    pub election_min: Duration,
    /// See [`election_min`](Self::election_min). Default 2 s.
    pub election_max: Duration,
    /// A replication stream on which nothing was answered for this long is opened anew. Default 5 s.
    pub append_within: Duration,
    /// Votes, heartbeats and other small calls fail after this. Default 1 s.
    pub call_within: Duration,
    /// A snapshot that made no progress for this long is given up. Default 10 s.
    pub snapshot_progress_within: Duration,
    /// A snapshot that takes longer in all is given up: while it is sent, the sender writes no checkpoint and its log grows. Default 10 min.
    pub snapshot_within: Duration,
    /// A read index that no quorum confirmed for this long fails. Default 2 s.
    pub read_within: Duration,
    /// Bytes of commands proposed on this node and not applied yet; more wait. Default 16 MiB.
    pub inflight_bytes_max: usize,
    /// Commands in one replication message, in bytes (at least one command goes). Default 1 MiB.
    pub append_bytes_max: usize,
    /// Commands in one replication message. Default 1024.
    pub append_entries_max: u64,
    /// A checkpoint is written when this many bytes of commands were applied since the last. Default 16 MiB.
    pub checkpoint_bytes: u64,
    /// A checkpoint is written this long after the last, if anything was applied. Default 30 s.
    pub checkpoint_every: Duration,
    /// Entries behind the last this many bytes of log may be purged. Default 256 MiB.
    pub log_retain_bytes: u64,
    /// Entries older than this may be purged. Default 10 min.
    pub log_retain: Duration,
    /// Entries that somebody holds (see `GroupParts::hold`) are purged all the same behind the last this many bytes. Default 1 GiB.
    pub log_hold_bytes_max: u64,
    /// How often the two policies above are looked at. Default 250 ms.
    pub retention_every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            heartbeat_every: Duration::from_millis(200),
            election_min: Duration::from_millis(1000),
            election_max: Duration::from_millis(2000),
            append_within: Duration::from_secs(5),
            call_within: Duration::from_secs(1),
            snapshot_progress_within: Duration::from_secs(10),
            snapshot_within: Duration::from_secs(600),
            read_within: Duration::from_secs(2),
            inflight_bytes_max: 16 << 20,
            append_bytes_max: 1 << 20,
            append_entries_max: 1024,
            checkpoint_bytes: 16 << 20,
            checkpoint_every: Duration::from_secs(30),
            log_retain_bytes: 256 << 20,
            log_retain: Duration::from_secs(600),
            log_hold_bytes_max: 1 << 30,
            retention_every: Duration::from_millis(250),
        }
    }
}

impl Config {
    pub(super) fn to_library(&self) -> Result<Arc<openraft::Config>, openraft::ConfigError> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let config = openraft::Config {
            cluster_name: "magpie".to_owned(),
            heartbeat_interval: millis(self.heartbeat_every),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            install_snapshot_timeout: millis(self.snapshot_within),
            max_payload_entries: self.append_entries_max,
            // Checkpoints and purges go by bytes and time: see `retention`.
            snapshot_policy: openraft::SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            api_channel_size: Some(4096),
            notification_channel_size: Some(16_384),
            // A leader that hears nobody may still be heard. It falls silent when its lease is over, so that others are elected.
            quorum_loss_probe_interval: Some(2 * millis(self.election_max)),
            // A leader that was cut off must not raise terms when it comes back.
            enable_pre_vote: Some(true),
            // A restarted leader has to be elected again: its state may be behind what it once acknowledged.
            enable_leader_restore: Some(false),
            // A follower whose log went back has lost what it acknowledged; it must not be counted on.
            allow_log_reversion: Some(false),
            ..openraft::Config::default()
        };
        Ok(Arc::new(config.validate()?))
    }
}
