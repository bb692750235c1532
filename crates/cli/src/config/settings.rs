//! Everything that can be set.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use super::cluster_settings::ClusterSettings;

/// The settings of one node. A key without a section is also a flag of `magpie start`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Settings {
    /// Everything that must last; locked against a second process. Created if absent. A node whose data directory was wiped joins
    /// the cluster as a new member.
    pub(crate) data_dir: PathBuf,
    /// Name for people, in logs and lists; the node's identity is a random number kept in the data directory.
    pub(crate) node_name: String,
    #[serde(flatten)]
    pub(crate) listener: magpie_broker::ListenerConfig,
    /// Where other nodes connect.
    pub(crate) cluster_listen: SocketAddr,
    /// `HOST:PORT` that the other nodes dial; a name is resolved anew at each try. When left out: `cluster_listen`.
    pub(crate) cluster_advertise: Option<String>,
    /// `HOST:PORT` of the nodes that form the cluster, the same list on every node. Without it, this node is a cluster of one. On the
    /// command line and in the environment, separated by commas.
    #[serde(deserialize_with = "list")]
    pub(crate) seeds: Vec<String>,
    /// File with the secret that all nodes of the cluster share; or set the environment variable `MAGPIE_CLUSTER_SECRET`. Needed
    /// with `seeds`.
    pub(crate) cluster_secret_file: Option<PathBuf>,
    /// PEM file with the certificate that this node shows to the others, for TLS between nodes: for the host in `cluster_advertise`, and good for
    /// servers and for clients. On all nodes or on none. Read again on SIGHUP.
    pub(crate) cluster_tls_cert: Option<PathBuf>,
    /// PEM file with the private key of that certificate. Read again on SIGHUP.
    pub(crate) cluster_tls_key: Option<PathBuf>,
    /// PEM file with the authority that has signed the certificates of all nodes. Nodes without such a certificate are refused, and the secret
    /// is asked for in any case. Read again on SIGHUP.
    pub(crate) cluster_tls_ca: Option<PathBuf>,
    /// Where the dashboard, the API, metrics and health checks are served.
    pub(crate) http_listen: SocketAddr,
    /// File with the token that the API and the dashboard ask for; or set the environment variable `MAGPIE_API_TOKEN`. Without one
    /// they answer on loopback only.
    pub(crate) api_token_file: Option<PathBuf>,
    /// Topic filters whose messages of QoS 1 and 2 go the direct way: acknowledged when every node with a subscriber has them, kept
    /// for nobody who is away. Taken when the cluster forms.
    #[serde(deserialize_with = "list")]
    pub(crate) direct_filters: Vec<String>,
    /// Number of partitions, 1 to 1024: so many nodes can share the work of QoS 1 and 2. Taken when the cluster forms, and then fixed.
    pub(crate) partitions: u16,
    /// Nodes that hold each partition, 1 to 7; a cluster with fewer nodes uses what it has. Taken when the cluster forms.
    pub(crate) replication_factor: u8,
    /// File to which the audit log is appended: what operators changed and who was refused what, as lines of JSON. Opened anew on SIGHUP.
    /// Default off: then it is only in the log, under the target `audit`.
    pub(crate) audit_log: Option<PathBuf>,
    /// `text` for people, `json` for machines.
    pub(crate) log_format: LogFormat,
    /// What is logged: `error`, `warn`, `info`, `debug` or `trace`; per part as in `info,magpie_cluster=debug`.
    /// The consensus library tells only errors unless it is asked, as in `info,openraft=info`.
    pub(crate) log_level: String,
    pub(crate) connection: magpie_broker::ConnectionConfig,
    pub(crate) auth: magpie_auth::AuthConfig,
    pub(crate) session: magpie_broker::SessionConfig,
    pub(crate) mailbox: magpie_broker::MailboxConfig,
    pub(crate) sys_topics: magpie_broker::SysTopicsConfig,
    pub(crate) websocket: magpie_broker::WebSocketConfig,
    pub(crate) cluster: ClusterSettings,
    pub(crate) http: magpie_admin::Limits,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        let cluster = magpie_cluster::Config::default();
        Self {
            data_dir: PathBuf::from("./data"),
            node_name: host_name(),
            listener: magpie_broker::ListenerConfig::default(),
            cluster_listen: SocketAddr::from(([127, 0, 0, 1], 7883)),
            cluster_advertise: None,
            seeds: Vec::new(),
            cluster_secret_file: None,
            cluster_tls_cert: None,
            cluster_tls_key: None,
            cluster_tls_ca: None,
            http_listen: SocketAddr::from(([127, 0, 0, 1], 9883)),
            api_token_file: None,
            direct_filters: Vec::new(),
            partitions: cluster.partitions,
            replication_factor: cluster.replication_factor,
            audit_log: None,
            log_format: LogFormat::Text,
            log_level: "info".to_owned(),
            connection: magpie_broker::ConnectionConfig::default(),
            auth: magpie_auth::AuthConfig::default(),
            session: magpie_broker::SessionConfig::default(),
            mailbox: magpie_broker::MailboxConfig::default(),
            sys_topics: magpie_broker::SysTopicsConfig::default(),
            websocket: magpie_broker::WebSocketConfig::default(),
            cluster: ClusterSettings::default(),
            http: magpie_admin::Limits::default(),
        }
    }
}

fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// A list, or one text with commas between the elements, as flags and variables have it.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a list of texts")]
    enum List {
        Elements(Vec<String>),
        Commas(String),
    }
    Ok(match List::deserialize(deserializer)? {
        List::Elements(elements) => elements,
        List::Commas(text) => text
            .split(',')
            .map(|element| element.trim().to_owned())
            .filter(|element| !element.is_empty())
            .collect(),
    })
}
