//! Members and settings of a cluster.

use serde::{Deserialize, Serialize};

use crate::{Incarnation, NodeId};

/// A node that belongs to the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Identity, from the data directory.
    pub id: NodeId,
    /// The life that announced itself last.
    pub incarnation: Incarnation,
    /// Name for people.
    pub name: String,
    /// `HOST:PORT` that other nodes dial.
    pub cluster_addr: String,
    /// `HOST:PORT` of the HTTP API, as the node listens on it.
    pub http_addr: String,
    /// `HOST:PORT` of MQTT over TCP, as the node listens on it.
    pub mqtt_addr: String,
    /// Whether its present life counts.
    pub state: MemberState,
}

/// Whether a member's present life counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// It does.
    Up,
    /// The control group has declared it over. The node comes back only with a new life.
    Down,
}

/// What the nodes agree on when the cluster forms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Number of partitions, 1 to 1024; never changes.
    pub partitions: u16,
    /// Replicas of each partition, where there are that many members.
    pub replication_factor: u8,
    /// Topic filters whose QoS 1 and 2 messages go the direct way.
    pub direct_filters: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            partitions: 8,
            replication_factor: 3,
            direct_filters: Vec::new(),
        }
    }
}
