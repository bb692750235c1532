//! One client id, one connection that can act, in the whole cluster.

use magpie_client::{Client, Error};
use magpie_codec::{ProtocolVersion, QoS, ReasonCode, Text};
use tokio::time::timeout;

use super::nodes::{Cluster, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_connection_takes_over_from_any_node() {
    let cluster = Cluster::start().await;
    for before in &cluster.nodes {
        for after in &cluster.nodes {
            let connect = async |node: &super::nodes::Node| {
                let mut options = node.options(ProtocolVersion::V5);
                options.client_id = Text::try_from("the-one").unwrap();
                Client::connect(options).await.unwrap()
            };
            let mut older = connect(before).await;
            older.subscribe("taken", QoS::AtLeastOnce).await.unwrap();
            let mut newer = connect(after).await;
            assert!(!newer.connack().session_present, "nothing is kept yet");

            let end = timeout(PATIENCE, older.next()).await.unwrap();
            assert!(
                matches!(
                    end,
                    Err(Error::Disconnected {
                        reason: ReasonCode::SessionTakenOver,
                        ..
                    })
                ),
                "the older connection ended with {end:?}"
            );
            newer.subscribe("taken", QoS::AtLeastOnce).await.unwrap();
            newer
                .publish("taken", "x", QoS::AtLeastOnce, false, None)
                .await
                .unwrap();
            let got = timeout(PATIENCE, newer.next()).await.unwrap().unwrap();
            assert_eq!(&got.payload[..], b"x");
        }
    }
}
