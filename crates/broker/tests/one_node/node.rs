//! A node of a cluster of one, in this process.

use std::net::SocketAddr;
use std::time::Duration;

use magpie_broker::{Config, Node};
use magpie_cluster::{Cluster, Events, Readiness};
use tempfile::TempDir;

/// Stops with the test.
pub(crate) struct TestNode {
    pub(crate) node: Node,
    pub(crate) address: SocketAddr,
    _data_dir: TempDir,
}

impl TestNode {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// With the default configuration, changed.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let data_dir = tempfile::tempdir().expect("a temporary directory");
        let (cluster, events) = cluster(&data_dir).await;
        let mut readiness = cluster.readiness();
        let ready = readiness.wait_for(|it| *it == Readiness::Ready);
        tokio::time::timeout(Duration::from_secs(20), ready)
            .await
            .expect("a cluster of one is ready soon")
            .expect("the cluster lives");
        let mut config = Config::default();
        config.listener.mqtt_listen = Some(([127, 0, 0, 1], 0).into());
        change(&mut config);
        let node = Node::start(config, cluster, events);
        let listening = node.listen().expect("a free port");
        Self {
            node,
            address: listening.mqtt.expect("a configured listener"),
            _data_dir: data_dir,
        }
    }
}

async fn cluster(data_dir: &TempDir) -> (Cluster, Events) {
    let config = magpie_cluster::Config {
        data_dir: data_dir.path().to_owned(),
        cluster_listen: "127.0.0.1:0".to_owned(),
        cluster_advertise: "127.0.0.1:0".to_owned(),
        direct_filters: vec!["direct/#".to_owned()],
        ..magpie_cluster::Config::default()
    };
    Cluster::start(config)
        .await
        .expect("a cluster of one starts")
}
