//! `$SYS/`: every node tells of all.

use std::collections::BTreeMap;

use magpie_codec::{ProtocolVersion, QoS};
use tokio::time::timeout;

use super::nodes::{Cluster, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn every_node_tells_of_all_nodes() {
    let cluster = Cluster::start_with(&[("MAGPIE_SYS_TOPICS__INTERVAL", "1s")]).await;
    let mut clients = Vec::new();
    for node in &cluster.nodes {
        clients.push(node.client(ProtocolVersion::V5).await);
    }
    for client in &mut clients {
        client.subscribe("$SYS/#", QoS::AtMostOnce).await.unwrap();
        let mut told = BTreeMap::new();
        let expected = [
            ("$SYS/broker/clients/connected", "3"),
            ("$SYS/broker/nodes/count", "3"),
            ("$SYS/brokers/node1/clients/connected", "1"),
            ("$SYS/brokers/node2/clients/connected", "1"),
            ("$SYS/brokers/node3/clients/connected", "1"),
        ];
        // Each node notes its own clients every few seconds.
        let everything = async {
            while expected
                .iter()
                .any(|(topic, value)| told.get(*topic).map(String::as_str) != Some(*value))
            {
                let message = client.next().await.unwrap();
                let value = String::from_utf8(message.payload.to_vec()).unwrap();
                told.insert(message.topic.to_string(), value);
            }
        };
        let is_told = timeout(PATIENCE, everything).await.is_ok();
        assert!(is_told, "{told:?}");
    }
}
