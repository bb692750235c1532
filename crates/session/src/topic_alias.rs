//! Topic aliases: small numbers that stand for topics on one Network Connection (section 3.3.2.3.4).

use std::num::NonZeroU16;

use magpie_codec::{ReasonCode, TopicName};

use crate::violation::Violation;

/// The aliases that the client set.
#[derive(Debug)]
pub(crate) struct InboundAliases {
    /// The topic of alias n at n - 1. As long as the highest alias that was set.
    topics: Vec<Option<TopicName>>,
    max: u16,
}

impl InboundAliases {
    pub(crate) fn new(max: u16) -> Self {
        Self {
            topics: Vec::new(),
            max,
        }
    }

    /// The topic of a PUBLISH that names it, sets an alias for it, or stands on an alias that was set before.
    #[inline]
    pub(crate) fn resolve(
        &mut self,
        topic: Option<TopicName>,
        alias: Option<NonZeroU16>,
    ) -> Result<TopicName, Violation> {
        match (topic, alias) {
            (Some(topic), None) => Ok(topic),
            (topic, Some(alias)) => self.resolve_alias(topic, alias),
            (None, None) => Err(Violation::protocol_error("neither topic nor topic alias")),
        }
    }

    fn resolve_alias(
        &mut self,
        topic: Option<TopicName>,
        alias: NonZeroU16,
    ) -> Result<TopicName, Violation> {
        // [MQTT-3.3.2-9], [MQTT-3.2.2-17], [MQTT-3.2.2-18]: never greater than the maximum that we told, if any.
        if alias.get() > self.max {
            return Err(Violation::new(
                ReasonCode::TopicAliasInvalid,
                "topic alias above the maximum",
            ));
        }
        // [MQTT-3.3.2-12]
        let at = usize::from(alias.get()) - 1;
        if let Some(topic) = topic {
            if self.topics.len() <= at {
                self.topics.resize(at + 1, None);
            }
            // Compact: an alias must not keep a read buffer alive.
            self.topics[at] = Some(topic.compact());
            return Ok(topic);
        }
        let known = self.topics.get(at).and_then(Clone::clone);
        known.ok_or(Violation::new(
            ReasonCode::ProtocolError,
            "topic alias was not set",
        ))
    }
}

/// The aliases that we set.
#[derive(Debug)]
pub(crate) struct OutboundAliases {
    /// The topic of alias n at n - 1, and when it was last used.
    topics: Vec<(TopicName, u64)>,
    max: u16,
    /// Counts deliveries.
    turn: u64,
    misses: u64,
}

impl OutboundAliases {
    /// A shorter topic costs no more than the property.
    const TOPIC_BYTES_MIN: usize = 6;
    /// Once all aliases are set, every how many topics without one a topic takes the place of the least recently
    /// used. With more topics in turn than aliases, most stay useful instead of none.
    const MISSES_PER_CHANGE: u64 = 8;

    /// `max` is the client's Topic Alias Maximum, or ours if that is lower [MQTT-3.1.2-26], [MQTT-3.3.2-11].
    pub(crate) fn new(max: u16) -> Self {
        Self {
            topics: Vec::new(),
            max,
            turn: 0,
            misses: 0,
        }
    }

    /// The alias for this topic, and whether the topic has to be sent with it. The PUBLISH must then be sent.
    pub(crate) fn assign(&mut self, topic: &TopicName) -> Option<(NonZeroU16, bool)> {
        // [MQTT-3.1.2-27]
        if self.max == 0 || topic.as_str().len() < Self::TOPIC_BYTES_MIN {
            return None;
        }
        self.turn += 1;
        if let Some(at) = self.topics.iter().position(|(known, _)| known == topic) {
            self.topics[at].1 = self.turn;
            return Some((alias_of(at), false));
        }
        if self.topics.len() < usize::from(self.max) {
            self.topics.push((topic.compact(), self.turn));
            return Some((alias_of(self.topics.len() - 1), true));
        }
        self.misses += 1;
        if !self.misses.is_multiple_of(Self::MISSES_PER_CHANGE) {
            return None;
        }
        let (at, _) = self
            .topics
            .iter()
            .enumerate()
            .min_by_key(|(_, (_, used))| *used)?;
        self.topics[at] = (topic.compact(), self.turn);
        Some((alias_of(at), true))
    }
}

fn alias_of(at: usize) -> NonZeroU16 {
    u16::try_from(at + 1)
        .ok()
        .and_then(NonZeroU16::new)
        .expect("there are at most 65,535 aliases")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn topic(name: &str) -> TopicName {
        TopicName::try_from(name).unwrap()
    }

    fn alias(number: u16) -> Option<NonZeroU16> {
        NonZeroU16::new(number)
    }

    #[test]
    fn a_client_sets_uses_and_changes_an_alias() {
        let mut aliases = InboundAliases::new(2);
        assert_eq!(aliases.resolve(Some(topic("a")), alias(2)), Ok(topic("a")));
        assert_eq!(aliases.resolve(None, alias(2)), Ok(topic("a")));
        assert_eq!(aliases.resolve(Some(topic("b")), alias(2)), Ok(topic("b")));
        assert_eq!(aliases.resolve(None, alias(2)), Ok(topic("b")));
        assert_eq!(aliases.resolve(Some(topic("c")), None), Ok(topic("c")));
    }

    /// [MQTT-3.3.2-9], [MQTT-3.2.2-17], [MQTT-3.2.2-18]
    #[test]
    fn an_alias_above_the_maximum_or_never_set_is_a_violation() {
        let error = InboundAliases::new(0).resolve(Some(topic("a")), alias(1));
        assert_eq!(error.unwrap_err().reason, ReasonCode::TopicAliasInvalid);
        let mut aliases = InboundAliases::new(2);
        let error = aliases.resolve(Some(topic("a")), alias(3)).unwrap_err();
        assert_eq!(error.reason, ReasonCode::TopicAliasInvalid);
        let error = aliases.resolve(None, alias(1)).unwrap_err();
        assert_eq!(error.reason, ReasonCode::ProtocolError);
        let error = aliases.resolve(None, None).unwrap_err();
        assert_eq!(error.reason, ReasonCode::ProtocolError);
    }

    /// [MQTT-3.1.2-26] and [MQTT-3.1.2-27]
    #[test]
    fn we_set_no_alias_above_the_clients_maximum() {
        let mut none = OutboundAliases::new(0);
        assert_eq!(none.assign(&topic("a/long/topic")), None);

        let mut aliases = OutboundAliases::new(2);
        assert_eq!(
            aliases.assign(&topic("topic/1")),
            Some((alias(1).unwrap(), true))
        );
        assert_eq!(
            aliases.assign(&topic("topic/1")),
            Some((alias(1).unwrap(), false))
        );
        assert_eq!(
            aliases.assign(&topic("topic/2")),
            Some((alias(2).unwrap(), true))
        );
        assert_eq!(aliases.assign(&topic("short")), None);
        for _ in 1..OutboundAliases::MISSES_PER_CHANGE {
            assert_eq!(aliases.assign(&topic("topic/3")), None);
        }
        // Alias 1 is the one that was not used for longest.
        assert_eq!(
            aliases.assign(&topic("topic/3")),
            Some((alias(1).unwrap(), true))
        );
        assert_eq!(
            aliases.assign(&topic("topic/2")),
            Some((alias(2).unwrap(), false))
        );
    }
}
