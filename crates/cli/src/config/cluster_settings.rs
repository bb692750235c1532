//! The section `[cluster]`: timing and bounds of what happens between nodes.

use std::time::Duration;

use bytesize::ByteSize;
use magpie_cluster::{Config, RetentionRule};
use serde::{Deserialize, Serialize};

/// The same on every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ClusterSettings {
    /// How often a leader of a group tells the others that it is there.
    #[serde(with = "humantime_serde")]
    pub(crate) heartbeat: Duration,
    /// Silent for so long, a leader is replaced; each node waits between once and twice this. At least ten times the usual p99.9 of
    /// fdatasync on the data directory: raise it on slow disks.
    #[serde(with = "humantime_serde")]
    pub(crate) election_timeout: Duration,
    /// Without a quorum for so long, the node fails its readiness check, so that the balancer moves its clients.
    #[serde(with = "humantime_serde")]
    pub(crate) quorum_lost_after: Duration,
    /// Silent for so long, a node is declared down and its clients' attachments end; it closes them itself before that. At least
    /// five times `quorum_lost_after`.
    #[serde(with = "humantime_serde")]
    pub(crate) down_after: Duration,
    /// Bytes of log kept per group for readers that fell behind, beyond what the nodes themselves need. What sessions need of a partition's
    /// older log is kept apart from it.
    pub(crate) log_retain_bytes: ByteSize,
    /// Age up to which log is kept.
    #[serde(with = "humantime_serde")]
    pub(crate) log_retain: Duration,
    /// Bytes of messages that a partition keeps for sessions after the log let them go, and bytes of log that it holds while it cannot find
    /// out which messages are needed. Beyond, the oldest messages are lost, counted in `magpie_messages_lost_total`.
    pub(crate) message_hold_bytes: ByteSize,
    /// How long a message may wait for sessions after the log let it go; 0s: as long as a session needs it. Older ones are lost, counted in
    /// `magpie_messages_lost_total` and with each session that waited for them.
    #[serde(with = "humantime_serde")]
    pub(crate) message_hold_age: Duration,
    /// The same for some topics, and by bytes, in the file only: `[[cluster.retention]]` with `filter = "telemetry/#"` and one or both of
    /// `age = "1h"` and `bytes = "1GiB"`. Bytes are those of the cluster; a filter with a wildcard gives each partition its share. At most 64.
    pub(crate) retention: Vec<RetentionSetting>,
    /// Sessions that outlive their connections, in the whole cluster; each partition admits its share of them. Past it, a CONNECT that would
    /// begin one more is refused with 0x97 (version 3: 0x03), and counted in `magpie_sessions_refused_total`; one that resumes a session, or
    /// asks for none, is let in.
    pub(crate) sessions_max: u64,
    /// Sessions that one user may have in the whole cluster, those included that end with their connections; 0: any number. Past it, a CONNECT
    /// of a client id that has none is refused with 0x97 (version 3: 0x03), and counted in `magpie_user_sessions_refused_total`; one that resumes
    /// or replaces a session is let in, and so are clients without a user name. It is checked once a partition has more than an even share of
    /// the user's sessions, so that up to twice as many may get in, and nobody is refused who has fewer.
    pub(crate) user_sessions_max: u64,
    /// Retained messages in the cluster; each partition keeps its share of them. Past it, a message of QoS 1 or 2 that would be retained for one
    /// topic more is refused with 0x97 (version 3: the connection is closed), and nobody gets it; one of QoS 0, and a will, is delivered and
    /// not kept, counted in `magpie_retained_not_kept_total`. Replacing and clearing always works.
    pub(crate) retained_max: u64,
    /// Bytes of retained messages in the cluster, headers included; the same policy.
    pub(crate) retained_bytes_max: ByteSize,
    /// Bytes that one partition may have to tell others and that they have not taken: wills, and ends of sessions. Past it, what is due waits, and
    /// nothing of it is lost; a CONNECT that would end a session or make a will due at once is refused with 0x97 (version 3: 0x03).
    pub(crate) outbox_bytes_max: ByteSize,
    /// Bytes of messages, headers included, that may wait for one session. Beyond, its oldest are lost to that session and to no other, counted
    /// with it (`magpie ctl sessions show`) and in `magpie_session_messages_lost_total`. It is looked at about every ten seconds, while its
    /// client is away, and only while more than that waits in the cluster at all: a session may be over it for a while.
    pub(crate) session_bytes_max: ByteSize,
    /// Messages that one member of a share group has at once, in one partition, sent or about to be, before others get the next ones. A
    /// group whose members all have so many falls behind; its messages wait in the log.
    pub(crate) share_window: usize,
    /// Bytes that one link to another node, or one stream into a partition, may have queued. A full link drops QoS 0, and holds
    /// publishers of QoS 1 and 2 back.
    pub(crate) queue_bytes: ByteSize,
    /// How long the last unsubscription of a filter waits before the other nodes are told, in case somebody subscribes again.
    #[serde(with = "humantime_serde")]
    pub(crate) route_linger: Duration,
}

/// One `[[cluster.retention]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetentionSetting {
    filter: String,
    #[serde(default, with = "humantime_serde")]
    age: Option<Duration>,
    #[serde(default)]
    bytes: Option<ByteSize>,
}

impl RetentionSetting {
    fn rule(&self) -> RetentionRule {
        RetentionRule {
            filter: self.filter.clone(),
            age: self.age,
            bytes: self.bytes.map(|bytes| bytes.as_u64()),
        }
    }
}

impl Default for ClusterSettings {
    fn default() -> Self {
        let config = Config::default();
        Self {
            heartbeat: config.heartbeat,
            election_timeout: config.election_timeout,
            quorum_lost_after: config.quorum_lost_after,
            down_after: config.down_after,
            log_retain_bytes: ByteSize::b(config.log_retain_bytes),
            log_retain: config.log_retain,
            message_hold_bytes: ByteSize::b(config.message_hold_bytes),
            message_hold_age: config.message_hold_age,
            retention: Vec::new(),
            sessions_max: config.sessions_max,
            user_sessions_max: config.user_sessions_max,
            retained_max: config.retained_max,
            retained_bytes_max: ByteSize::b(config.retained_bytes_max),
            outbox_bytes_max: ByteSize::b(config.outbox_bytes_max),
            session_bytes_max: ByteSize::b(config.session_bytes_max),
            share_window: config.share_window,
            queue_bytes: ByteSize::b(config.queue_bytes as u64),
            route_linger: config.route_linger,
        }
    }
}

impl ClusterSettings {
    /// Whether `key` of [`Config`] is set in this section.
    pub(crate) fn has(key: &str) -> bool {
        super::keys::known().any(|known| known.section == "cluster" && known.name == key)
    }

    /// Puts this section's values in.
    pub(crate) fn apply(&self, config: &mut Config) {
        config.heartbeat = self.heartbeat;
        config.election_timeout = self.election_timeout;
        config.quorum_lost_after = self.quorum_lost_after;
        config.down_after = self.down_after;
        config.log_retain_bytes = self.log_retain_bytes.as_u64();
        config.log_retain = self.log_retain;
        config.message_hold_bytes = self.message_hold_bytes.as_u64();
        config.message_hold_age = self.message_hold_age;
        config.retention = self.retention.iter().map(RetentionSetting::rule).collect();
        config.sessions_max = self.sessions_max;
        config.user_sessions_max = self.user_sessions_max;
        config.retained_max = self.retained_max;
        config.retained_bytes_max = self.retained_bytes_max.as_u64();
        config.outbox_bytes_max = self.outbox_bytes_max.as_u64();
        config.session_bytes_max = self.session_bytes_max.as_u64();
        config.share_window = self.share_window;
        config.queue_bytes = usize::try_from(self.queue_bytes.as_u64()).unwrap_or(usize::MAX);
        config.route_linger = self.route_linger;
    }
}
