//! `$SYS/`: what the cluster and its nodes carry, as messages for those who subscribe to it.
//!
//! Each node makes these messages for its own subscribers, from what the nodes tell each other anyhow, so that they cost nothing between
//! nodes and nothing on disk. They are of QoS 0 and not retained: who subscribes gets them within a second, and then at each interval.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use magpie_cluster::{Load, NodeLoad};
use magpie_codec::{Message, QoS, Text, TopicName};
use magpie_router::CacheLimits;
use magpie_state::ClientId;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior};

use crate::clock;
use crate::config::Problem;
use crate::deliver::{Deliverer, Published};
use crate::node::Shared;
use crate::subscribers::Receivers;

/// How soon somebody who subscribed is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A few dozen topics for each node.
const CACHE: CacheLimits = CacheLimits {
    entries_max: 4096,
    bytes_max: 1 << 20,
};

/// What nodes tell of themselves in topics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SysTopicsConfig {
    /// Between two messages of each topic below `$SYS/`, at least 1s; 0s: there are none. Default 10s.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
}

impl Default for SysTopicsConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
        }
    }
}

impl SysTopicsConfig {
    pub(crate) fn check(&self, problems: &mut Vec<Problem>) {
        if !self.interval.is_zero() && self.interval < LOOK_EVERY {
            problems.push(Problem::new(
                "sys_topics.interval",
                "must be 0s (off) or at least 1s",
            ));
        }
    }
}

/// Whether only nodes publish there.
pub(crate) fn is_reserved(topic: &TopicName) -> bool {
    topic.as_str().starts_with("$SYS/")
}

/// Publishes until the node stops.
pub(crate) async fn run(node: Arc<Shared>) {
    let interval = node.config.sys_topics.interval;
    if interval.is_zero() {
        return;
    }
    let subscribers = Arc::clone(&node.subscribers);
    let mut deliverer = Deliverer::new(subscribers, CACHE, Arc::clone(&node.metrics));
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut due_at = Instant::now();
    let mut heard_by = 0;
    let mut generation = 0;
    while node.stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let is_due = Instant::now() >= due_at;
        let is_changed = node.subscribers.generation() != generation;
        if !is_due && !is_changed {
            continue;
        }
        generation = node.subscribers.generation();
        let messages = messages(&node.cluster.loads());
        let audience = messages
            .iter()
            .map(|message| audience(&mut deliverer, &message.topic))
            .sum();
        if is_due || audience > heard_by {
            publish(&mut deliverer, &messages);
        }
        if is_due {
            due_at = Instant::now() + interval;
        }
        heard_by = audience;
    }
}

fn audience(deliverer: &mut Deliverer, topic: &TopicName) -> usize {
    match &deliverer.find(topic).receivers {
        Receivers::Few(few) => few.len(),
        // Who comes to so many waits for its turn.
        Receivers::Crowd => 0,
    }
}

fn publish(deliverer: &mut Deliverer, messages: &[Arc<Message>]) {
    let publisher = ClientId(Text::from_static("$SYS"));
    let now_ms = clock::wall_ms();
    for message in messages {
        deliverer.deliver(Published::new(
            &publisher,
            QoS::AtMostOnce,
            false,
            now_ms,
            message,
        ));
    }
    deliverer.flush();
}

/// All messages: of the cluster, under the names that users of Mosquitto know, and of each node.
fn messages(loads: &[NodeLoad]) -> Vec<Arc<Message>> {
    let mut messages = Vec::new();
    let mut tell = |topic: String, value: String| {
        // A node's name may be no part of a topic in spite of `as_level`: then it is left out.
        if let Ok(topic) = TopicName::try_from(topic.as_str()) {
            messages.push(Arc::new(Message {
                topic,
                payload: Bytes::from(value),
                properties: None,
            }));
        }
    };
    let names: Vec<_> = loads.iter().map(|load| as_level(&load.name)).collect();
    tell("$SYS/brokers".to_owned(), names.join(","));
    let total = loads
        .iter()
        .fold(Load::default(), |sum, it| add(sum, it.load));
    describe("$SYS/broker", &total, &mut tell);
    let clients = total.clients + total.sessions_waiting;
    tell("$SYS/broker/clients/total".to_owned(), clients.to_string());
    tell(
        "$SYS/broker/nodes/count".to_owned(),
        loads.len().to_string(),
    );
    for (name, NodeLoad { load, .. }) in names.iter().zip(loads) {
        describe(&format!("$SYS/brokers/{name}"), load, &mut tell);
    }
    messages
}

fn describe(prefix: &str, load: &Load, tell: &mut impl FnMut(String, String)) {
    let mut tell = |topic: &str, value: String| tell(format!("{prefix}/{topic}"), value);
    tell("version", format!("magpie {}", env!("CARGO_PKG_VERSION")));
    tell("uptime", format!("{} seconds", load.uptime_s));
    let values = [
        ("clients/connected", load.clients),
        ("clients/disconnected", load.sessions_waiting),
        ("subscriptions/count", load.subscriptions),
        ("retained messages/count", load.retained),
        ("publish/messages/received", load.messages_received),
        ("publish/messages/sent", load.messages_sent),
        ("publish/messages/dropped", load.messages_dropped),
        ("publish/bytes/received", load.bytes_received),
        ("publish/bytes/sent", load.bytes_sent),
    ];
    for (topic, value) in values {
        tell(topic, value.to_string());
    }
}

fn add(sum: Load, load: Load) -> Load {
    Load {
        // The cluster is as old as its oldest node, as far as those know.
        uptime_s: sum.uptime_s.max(load.uptime_s),
        clients: sum.clients + load.clients,
        subscriptions: sum.subscriptions + load.subscriptions,
        messages_received: sum.messages_received + load.messages_received,
        bytes_received: sum.bytes_received + load.bytes_received,
        messages_sent: sum.messages_sent + load.messages_sent,
        bytes_sent: sum.bytes_sent + load.bytes_sent,
        messages_dropped: sum.messages_dropped + load.messages_dropped,
        sessions_waiting: sum.sessions_waiting + load.sessions_waiting,
        retained: sum.retained + load.retained,
    }
}

/// A node's name as one level of a topic.
fn as_level(name: &str) -> String {
    name.replace(['/', '+', '#', ','], "_")
}

#[cfg(test)]
mod tests {
    use magpie_state::NodeId;

    use super::*;

    fn load_of(name: &str, clients: u64) -> NodeLoad {
        NodeLoad {
            node: NodeId(1),
            name: name.to_owned(),
            is_this: true,
            load: Load {
                clients,
                sessions_waiting: 1,
                ..Load::default()
            },
        }
    }

    fn value<'a>(messages: &'a [Arc<Message>], topic: &str) -> Option<&'a [u8]> {
        let message = messages.iter().find(|it| it.topic.as_str() == topic)?;
        Some(&message.payload)
    }

    #[test]
    fn nodes_are_told_apart_and_added_up() {
        let messages = messages(&[load_of("a/b", 3), load_of("c", 4)]);
        let value = |topic| value(&messages, topic);
        assert_eq!(value("$SYS/brokers"), Some(&b"a_b,c"[..]));
        assert_eq!(value("$SYS/brokers/a_b/clients/connected"), Some(&b"3"[..]));
        assert_eq!(value("$SYS/brokers/c/clients/connected"), Some(&b"4"[..]));
        assert_eq!(value("$SYS/broker/clients/connected"), Some(&b"7"[..]));
        assert_eq!(value("$SYS/broker/clients/total"), Some(&b"9"[..]));
        assert_eq!(value("$SYS/broker/nodes/count"), Some(&b"2"[..]));
    }
}
