//! A publisher and a subscriber on each node, and the account of what is owed.

use std::collections::HashSet;
use std::time::Duration;

use magpie_client::{Client, Options};
use magpie_codec::{ProtocolVersion, QoS};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::nodes::Cluster;

/// When for so long nothing came, nothing more comes.
const QUIET: Duration = Duration::from_secs(6);

/// Runs until it is ended.
pub(super) struct Load {
    stop: CancellationToken,
    publishers: Vec<JoinHandle<Vec<String>>>,
    subscribers: Vec<JoinHandle<Heard>>,
}

/// What came of it.
pub(super) struct Account {
    /// Per node: the payloads that were acknowledged to its publisher.
    pub(super) acknowledged: Vec<Vec<String>>,
    /// Per node: what its subscriber heard.
    pub(super) heard: Vec<Heard>,
}

pub(super) struct Heard {
    payloads: HashSet<String>,
    /// Whether the connection held until the end.
    pub(super) is_whole: bool,
}

impl Load {
    /// Begins when every subscriber has its SUBACK.
    pub(super) async fn start(cluster: &Cluster, name: &str) -> Self {
        let stop = CancellationToken::new();
        let mut subscribers = Vec::new();
        for node in &cluster.nodes {
            let client = node.client(ProtocolVersion::V5).await;
            client
                .subscribe(format!("load/{name}/#"), QoS::AtLeastOnce)
                .await
                .unwrap();
            subscribers.push(tokio::spawn(listen(client, stop.clone())));
        }
        let publishers = cluster.nodes.iter().enumerate().map(|(number, node)| {
            let topic = format!("load/{name}/{number}");
            tokio::spawn(publish(
                node.options(ProtocolVersion::V5),
                topic,
                stop.clone(),
            ))
        });
        Self {
            publishers: publishers.collect(),
            subscribers,
            stop,
        }
    }

    /// Stops publishing, and waits for what is under way.
    pub(super) async fn end(self) -> Account {
        self.stop.cancel();
        let mut acknowledged = Vec::new();
        for publisher in self.publishers {
            acknowledged.push(publisher.await.unwrap());
        }
        let mut heard = Vec::new();
        for subscriber in self.subscribers {
            heard.push(subscriber.await.unwrap());
        }
        Account {
            acknowledged,
            heard,
        }
    }
}

impl Account {
    /// Whoever was there all the time heard everything that was acknowledged, to whichever publisher.
    pub(super) fn check(&self) {
        for (number, heard) in self
            .heard
            .iter()
            .enumerate()
            .filter(|(_, heard)| heard.is_whole)
        {
            let missing: Vec<&String> = self
                .acknowledged
                .iter()
                .flatten()
                .filter(|payload| !heard.payloads.contains(*payload))
                .collect();
            assert!(
                missing.is_empty(),
                "the subscriber on node {number} misses {}: {:?}",
                missing.len(),
                &missing[..missing.len().min(5)]
            );
        }
    }
}

/// One message after the other; a lost connection is made anew, and what was not acknowledged is not counted.
async fn publish(options: Options, topic: String, stop: CancellationToken) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let mut number = 0;
    while !stop.is_cancelled() {
        let Ok(client) = Client::connect(options.clone()).await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        while !stop.is_cancelled() {
            number += 1;
            let payload = format!("{topic} {number}");
            match client
                .publish(
                    format!("{topic}/{}", number % 20),
                    payload.clone(),
                    QoS::AtLeastOnce,
                    false,
                    None,
                )
                .await
            {
                Ok(_) => acknowledged.push(payload),
                Err(magpie_client::Error::Rejected { .. }) => {
                    sleep(Duration::from_millis(50)).await
                }
                Err(_) => break,
            }
        }
    }
    acknowledged
}

async fn listen(mut client: Client, stop: CancellationToken) -> Heard {
    let mut payloads = HashSet::new();
    let is_whole = loop {
        match timeout(QUIET, client.next()).await {
            Ok(Ok(message)) => {
                payloads.insert(String::from_utf8_lossy(&message.payload).into_owned());
            }
            Ok(Err(_)) => break false,
            Err(_) if stop.is_cancelled() => break true,
            Err(_) => {}
        }
    };
    Heard { payloads, is_whole }
}
