//! Limits by time and bytes of what a partition keeps for sessions, as its leader enforces them.
//!
//! They are about messages that the log has let go: what is younger than that is bounded by the log. What a limit removes is told to the
//! partitions of sessions with the same command, by the outbox, so that it is counted for each session.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use magpie_codec::TopicFilter;
use magpie_state::partition::{PartitionCommand, PartitionState};
use magpie_state::{LostTopic, PartitionId, Position};
use tokio::time::Instant;

use crate::Config;
use crate::index::{PartitionIndex, Waiting};
use crate::raft::RaftGroup;

/// Messages of one command, and topics.
const MESSAGES_MAX: usize = 32_768;
const TOPICS_MAX: usize = 1024;
/// Topics that one command tells sessions of, and bytes of their names: each takes a look at all subscriptions that match it, on every
/// replica. What is lost beside is in the metrics only.
const TOLD_TOPICS_MAX: usize = 32;
const TOLD_BYTES_MAX: usize = 64 << 10;
/// Part of a limit by bytes that goes beyond it, so that not every message takes a command.
const LOSE_PART: u64 = 16;

type Partition = RaftGroup<PartitionState>;

/// A clock for the age of messages. Messages are stamped by the nodes that took them: it does not run ahead of the newest stamp by more than the
/// time that passed since, so that a leader whose clock is a day ahead removes nothing for that.
#[derive(Debug, Default)]
pub(super) struct Ages {
    newest: Option<(u64, Instant)>,
}

/// One limit.
struct Rule {
    filter: Option<TopicFilter>,
    age: Option<Duration>,
    bytes: Option<u64>,
}

impl Ages {
    fn now_ms(&mut self, newest_ms: u64, wall_ms: u64, now: Instant) -> u64 {
        let (known_ms, since) = *self.newest.get_or_insert((newest_ms, now));
        if newest_ms > known_ms {
            self.newest = Some((newest_ms, now));
        }
        let (known_ms, since) = match newest_ms > known_ms {
            true => (newest_ms, now),
            false => (known_ms, since),
        };
        let passed = now.saturating_duration_since(since).as_millis();
        wall_ms.min(known_ms.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX)))
    }
}

/// Removes what is over a limit, some of it at a time.
pub(super) async fn enforce(
    partition: PartitionId,
    partitions: u16,
    group: &Partition,
    index: &PartitionIndex,
    config: &Config,
    ages: &mut Ages,
) -> Option<()> {
    let now_ms = ages.now_ms(index.newest_ms(), wall_ms(), Instant::now());
    for rule in rules(config, partition, partitions) {
        let filter = rule.filter.as_ref();
        if let Some(age) = rule.age {
            let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            let upto = index.published_by(now_ms.saturating_sub(age_ms));
            let old = index.oldest_kept_of(filter, upto, u64::MAX, MESSAGES_MAX, TOPICS_MAX);
            lose(partition, group, &old.await.ok()?, "age").await?;
        }
        if let Some(limit) = rule.bytes {
            let kept = index.kept_bytes_of(filter);
            if kept > limit {
                let excess = kept - limit + limit / LOSE_PART;
                let all = Position(u64::MAX);
                let old = index.oldest_kept_of(filter, all, excess, MESSAGES_MAX, TOPICS_MAX);
                lose(partition, group, &old.await.ok()?, "bytes").await?;
            }
        }
    }
    Some(())
}

/// The limits that concern a partition, with its share of them.
fn rules(config: &Config, partition: PartitionId, partitions: u16) -> Vec<Rule> {
    let mut rules = Vec::new();
    if !config.message_hold_age.is_zero() {
        rules.push(Rule {
            filter: None,
            age: Some(config.message_hold_age),
            bytes: None,
        });
    }
    for rule in &config.retention {
        // They were checked when the node started.
        let Ok(filter) = TopicFilter::try_from(rule.filter.as_str()) else {
            continue;
        };
        let of = filter
            .is_exact()
            .then(|| magpie_state::partition_of(filter.filter(), partitions));
        if of.is_some_and(|of| of != partition) {
            continue;
        }
        let share = if of.is_some() {
            1
        } else {
            u64::from(partitions.max(1))
        };
        rules.push(Rule {
            filter: Some(filter),
            age: rule.age,
            bytes: rule.bytes.map(|bytes| bytes.div_ceil(share)),
        });
    }
    rules
}

async fn lose(
    partition: PartitionId,
    group: &Partition,
    old: &Waiting,
    limit: &'static str,
) -> Option<()> {
    if old.messages.is_empty() {
        return Some(());
    }
    let command = PartitionCommand::LoseAt {
        positions: old.messages.iter().map(|it| it.position).collect(),
        told: told(old),
    };
    super::retention_duty::propose(group, &command).await?;
    count(partition, limit, old.messages.len());
    tracing::info!(%partition, limit, lost = old.messages.len(), "messages that wait are over a limit; the oldest are lost");
    Some(())
}

/// Counts messages that a limit removed.
pub(super) fn count(partition: PartitionId, limit: &'static str, lost: usize) {
    let labels = [
        ("partition", partition.to_string()),
        ("limit", limit.to_owned()),
    ];
    metrics::counter!("magpie_messages_lost_total", &labels).increment(lost as u64);
}

/// What sessions are told of messages that are lost.
pub(super) fn told(lost: &Waiting) -> Vec<LostTopic> {
    let mut by_topic: BTreeMap<u32, LostTopic> = BTreeMap::new();
    let mut bytes = 0;
    for message in &lost.messages {
        if let Some(known) = by_topic.get_mut(&message.topic) {
            known.last = message.position;
            known.messages += 1;
            continue;
        }
        let topic = &lost.topics[message.topic as usize];
        bytes += topic.as_str().len() + size_of::<LostTopic>();
        if bytes <= TOLD_BYTES_MAX && by_topic.len() < TOLD_TOPICS_MAX {
            let first = LostTopic {
                topic: topic.clone(),
                first: message.position,
                last: message.position,
                messages: 1,
            };
            by_topic.insert(message.topic, first);
        }
    }
    by_topic.into_values().collect()
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_ahead_makes_no_message_old() {
        let (mut ages, start) = (Ages::default(), Instant::now());
        let day = 86_400_000;
        assert_eq!(ages.now_ms(5000, 5000 + day, start), 5000);
        let later = start + Duration::from_secs(3);
        assert_eq!(ages.now_ms(5000, 8000 + day, later), 8000);
        assert_eq!(ages.now_ms(7000, 8000 + day, later), 7000);
        // One that is behind makes them live longer.
        assert_eq!(ages.now_ms(7000, 100, later), 100);
    }
}
