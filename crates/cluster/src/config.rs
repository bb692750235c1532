//! Settings of a node as a member of its cluster.

use std::path::PathBuf;
use std::time::Duration;

use magpie_state::partition::PartitionLimits;

use crate::rpc::NodeTls;

/// Each rule is looked at again and again.
const RETENTION_RULES_MAX: usize = 64;

/// How a node takes part in the cluster. The durations are tuned for a local network; tests shorten them.
#[derive(Debug, Clone)]
pub struct Config {
    /// Everything that must last; locked against a second process.
    pub data_dir: PathBuf,
    /// Name for people.
    pub node_name: String,
    /// `ADDR:PORT` for gRPC between nodes.
    pub cluster_listen: String,
    /// `HOST:PORT` that other nodes dial.
    pub cluster_advertise: String,
    /// The same list on every node; names are resolved anew at each try. Empty: a cluster of one.
    pub seeds: Vec<String>,
    /// Shared by all nodes; needed when `seeds` is not empty.
    pub cluster_secret: Option<String>,
    /// TLS between nodes, on all of them or on none.
    pub tls: Option<TlsFiles>,
    /// For other nodes' operators to read.
    pub http_addr: String,
    /// For other nodes' operators to read.
    pub mqtt_addr: String,
    /// Taken when the cluster forms.
    pub partitions: u16,
    /// Taken when the cluster forms.
    pub replication_factor: u8,
    /// Taken when the cluster forms.
    pub direct_filters: Vec<String>,
    /// Raft heartbeat. Default 200 ms.
    pub heartbeat: Duration,
    /// Lower end of the election timeout; the upper end is twice this. At least ten times the usual p99.9 of fdatasync. Default 500 ms.
    pub election_timeout: Duration,
    /// Without a quorum for so long, the node is not ready. Default 1.5 s.
    pub quorum_lost_after: Duration,
    /// Silent for so long, a node is declared down; it closes its clients itself before that. Default 10 s.
    pub down_after: Duration,
    /// Bound on the wait for a commit. Default 10 s.
    pub publish_deadline: Duration,
    /// Bytes of log kept per group for slow readers, beyond what Raft needs. Default 64 MiB.
    pub log_retain_bytes: u64,
    /// Age of log kept. Default 60 s.
    pub log_retain: Duration,
    /// Bytes of messages that a partition keeps for sessions after the log let them go, and bytes of log that nobody could be asked about;
    /// beyond, the oldest messages are lost. Default 4 GiB.
    pub message_hold_bytes: u64,
    /// Messages that wait for sessions no longer than this; zero: as long as sessions need them. Default zero.
    pub message_hold_age: Duration,
    /// Limits of some topics. Default none.
    pub retention: Vec<RetentionRule>,
    /// Sessions that outlive their connections, in the cluster; each partition admits its share. Default 5,000,000.
    pub sessions_max: u64,
    /// Sessions that one user may have in the cluster, those included that end with their connections; zero: any number. Default zero.
    pub user_sessions_max: u64,
    /// Retained messages in the cluster; each partition keeps its share. Default 1,000,000.
    pub retained_max: u64,
    /// Bytes of their records. Default 1 GiB.
    pub retained_bytes_max: u64,
    /// Bytes that a partition may have to tell others: wills, and ends of sessions. Beyond, these wait. Default 64 MiB.
    pub outbox_bytes_max: u64,
    /// Bytes of messages that may wait for one session; beyond, its oldest are lost to it. Default 256 MiB.
    pub session_bytes_max: u64,
    /// Messages that one member of a share group has at once, in one partition, before the group waits for it or turns to others.
    /// Default 256.
    pub share_window: usize,
    /// Bytes that one link to a peer, or one stream into a partition, may have queued. Default 16 MiB.
    pub queue_bytes: usize,
    /// How long the last unsubscription of a filter waits before the other nodes are told. Default 30 s.
    pub route_linger: Duration,
}

/// PEM files for TLS between nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate of this node, good for a server and for a client, with what is between it and the authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authority that has signed the certificates of all nodes.
    pub authority: PathBuf,
}

/// How long, or how much, messages of some topics wait for sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionRule {
    /// Topics.
    pub filter: String,
    /// Older messages are lost.
    pub age: Option<Duration>,
    /// Of more bytes in the cluster, the oldest are lost. A filter with a wildcard gives each partition its share.
    pub bytes: Option<u64>,
}

/// Less would keep wills and ends of sessions waiting for ever.
const OUTBOX_BYTES_MIN: u64 = 64 << 10;

/// A setting that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct ConfigError {
    /// The key, as in the configuration file.
    pub key: &'static str,
    /// What is wrong and what to do.
    pub problem: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./data"),
            node_name: String::from("magpie"),
            cluster_listen: String::from("127.0.0.1:7883"),
            cluster_advertise: String::from("127.0.0.1:7883"),
            seeds: Vec::new(),
            cluster_secret: None,
            tls: None,
            http_addr: String::new(),
            mqtt_addr: String::new(),
            partitions: 8,
            replication_factor: 3,
            direct_filters: Vec::new(),
            heartbeat: Duration::from_millis(200),
            election_timeout: Duration::from_millis(500),
            quorum_lost_after: Duration::from_millis(1500),
            down_after: Duration::from_secs(10),
            publish_deadline: Duration::from_secs(10),
            log_retain_bytes: 64 << 20,
            log_retain: Duration::from_secs(60),
            message_hold_bytes: 4 << 30,
            message_hold_age: Duration::ZERO,
            retention: Vec::new(),
            sessions_max: 5_000_000,
            user_sessions_max: 0,
            outbox_bytes_max: 64 << 20,
            retained_max: 1_000_000,
            retained_bytes_max: 1 << 30,
            session_bytes_max: 256 << 20,
            share_window: 256,
            queue_bytes: 16 << 20,
            route_linger: Duration::from_secs(30),
        }
    }
}

impl Config {
    /// What one of so many partitions takes at most.
    pub(crate) fn limits(&self, partitions: u16) -> PartitionLimits {
        let share = |limit: u64| limit.div_ceil(u64::from(partitions.max(1)));
        PartitionLimits {
            sessions_max: share(self.sessions_max),
            outbox_bytes_max: self.outbox_bytes_max,
            retained_max: share(self.retained_max),
            retained_bytes_max: share(self.retained_bytes_max),
        }
    }

    /// Every problem of these settings, at once.
    #[must_use]
    pub fn problems(&self) -> Vec<ConfigError> {
        let mut problems = Vec::new();
        let mut problem = |key, text: &str| {
            problems.push(ConfigError {
                key,
                problem: text.to_owned(),
            })
        };
        if self.partitions == 0 || self.partitions > 1024 {
            problem("partitions", "must be 1 to 1024");
        }
        if self.replication_factor == 0 || self.replication_factor > 7 {
            problem("replication_factor", "must be 1 to 7");
        }
        if !self.seeds.is_empty() && self.cluster_secret.as_deref().is_none_or(str::is_empty) {
            problem(
                "cluster_secret_file",
                "a cluster with seeds needs a secret that all nodes share: set cluster_secret_file, or MAGPIE_CLUSTER_SECRET",
            );
        }
        if let Some(files) = &self.tls
            && let Err(error) = NodeTls::load(files.clone())
        {
            problem(error.key, &error.problem);
        }
        if self.share_window == 0 {
            problem("share_window", "must be at least 1");
        }
        if self.outbox_bytes_max < OUTBOX_BYTES_MIN {
            problem(
                "outbox_bytes_max",
                "must be at least 64KiB: it cannot be off",
            );
        }
        if self.down_after < 5 * self.quorum_lost_after {
            problem(
                "down_after",
                "must be at least five times quorum_lost_after",
            );
        }
        if self.retention.len() > RETENTION_RULES_MAX {
            problem("retention", "has too many rules: at most 64");
        }
        for rule in &self.retention {
            let filter = magpie_codec::TopicFilter::try_from(rule.filter.as_str());
            if !filter.is_ok_and(|filter| !filter.is_shared()) {
                problem(
                    "retention",
                    &format!("\"{}\" is not a topic filter", rule.filter),
                );
            }
            if rule.age.is_none() && rule.bytes.is_none() {
                problem(
                    "retention",
                    &format!("\"{}\" has neither age nor bytes", rule.filter),
                );
            }
        }
        for filter in &self.direct_filters {
            if magpie_codec::TopicFilter::try_from(filter.as_str()).is_err() {
                problem(
                    "direct_filters",
                    &format!("\"{filter}\" is not a topic filter"),
                );
            }
        }
        problems
    }
}
