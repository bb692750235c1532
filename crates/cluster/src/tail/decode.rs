//! From a log entry to messages.

use magpie_state::partition::PartitionCommand;
use magpie_state::{Position, Record};

use super::TailItem;
use super::reader::{Entry, Refused};

/// The messages of an entry.
pub(super) fn items(entry: &Entry) -> Vec<TailItem> {
    let Ok(PartitionCommand::Append(append)) = PartitionCommand::decode(&entry.command) else {
        return Vec::new();
    };
    let mut items = Vec::with_capacity((append.count as usize).min(append.records.len()));
    for (ordinal, record) in (0..).zip(append.records()) {
        let Record::Publish(publish) = record else {
            continue;
        };
        if entry.refused.contains(ordinal) || publish.retain_only {
            continue;
        }
        let place = match &entry.ordinals {
            None => Some(ordinal),
            Some(ordinals) => ordinals.get(ordinal as usize).copied(),
        };
        let Some(place) = place else {
            // Only a bug of the node that sent the entry leaves one out.
            continue;
        };
        items.push(TailItem {
            position: Position::at(entry.index, place),
            publisher: publish.client,
            qos: publish.qos,
            retain: publish.retain,
            published_ms: publish.published_ms,
            message: publish.message,
        });
    }
    items
}

impl Refused {
    fn contains(&self, ordinal: u32) -> bool {
        !self.0.is_empty() && self.0.contains(&ordinal)
    }
}
