//! A node of a cluster of one, in this process.

use std::net::SocketAddr;
use std::time::Duration;

use magpie_audit::Audit;
use magpie_broker::{Config, Node};
use magpie_cluster::{Cluster, Events, Readiness};
use tempfile::TempDir;

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Stops with the test.
pub(crate) struct TestNode {
    pub(crate) node: Node,
    pub(crate) cluster: Cluster,
    pub(crate) address: SocketAddr,
    _data_dir: TempDir,
}

impl TestNode {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// With the default configuration, changed.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_limited(|_| {}, change).await
    }

    /// With that of the cluster changed, too.
    pub(crate) async fn start_limited(
        change_cluster: impl FnOnce(&mut magpie_cluster::Config),
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let data_dir = tempfile::tempdir().expect("a temporary directory");
        let (cluster, events) = cluster(&data_dir, change_cluster).await;
        let formed = tokio::time::timeout(PATIENCE, cluster.formed());
        formed.await.expect("a cluster of one forms by itself");
        let mut config = Config::default();
        config.listener.mqtt_listen = Some(([127, 0, 0, 1], 0).into());
        change(&mut config);
        let mut readiness = cluster.readiness();
        let audit = Audit::without_file("one");
        let node = Node::start(config, cluster.clone(), events, audit).unwrap();
        let ready = readiness.wait_for(|it| *it == Readiness::Ready);
        tokio::time::timeout(PATIENCE, ready)
            .await
            .expect("a cluster of one is ready soon")
            .expect("the cluster lives");
        let listening = node.listen().expect("a free port");
        Self {
            node,
            cluster,
            address: listening.mqtt.expect("a configured listener"),
            _data_dir: data_dir,
        }
    }
}

impl TestNode {
    /// Waits until all partitions know their limits.
    pub(crate) async fn limited(&self) {
        let knows = |group: &magpie_cluster::GroupStatus| {
            let holds = group.holds.as_ref();
            holds.is_none_or(|holds| holds.sessions_max.is_some())
        };
        crate::until("limits that are known", || {
            self.cluster.status().groups.iter().all(knows)
        })
        .await;
    }

    /// Waits until the client has no connection any more.
    pub(crate) async fn gone(&self, id: &str) {
        let is_here = || self.node.clients().iter().any(|it| &*it.client.0 == id);
        crate::until("a client that is gone", || !is_here()).await;
    }
}

async fn cluster(
    data_dir: &TempDir,
    change: impl FnOnce(&mut magpie_cluster::Config),
) -> (Cluster, Events) {
    let mut config = magpie_cluster::Config {
        data_dir: data_dir.path().to_owned(),
        cluster_listen: "127.0.0.1:0".to_owned(),
        cluster_advertise: "127.0.0.1:0".to_owned(),
        direct_filters: vec!["direct/#".to_owned()],
        ..magpie_cluster::Config::default()
    };
    change(&mut config);
    Cluster::start(config)
        .await
        .expect("a cluster of one starts")
}
