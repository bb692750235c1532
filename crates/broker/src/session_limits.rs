//! What one client may ask of this node.

use std::time::{Duration, Instant};

use bytesize::ByteSize;
use magpie_codec::{QoS, Text};
use magpie_session::Limits;
use serde::{Deserialize, Serialize};

use crate::config::Problem;
use crate::rate::{Rate, RatePolicy};

/// Bytes of a text that CONNACK or DISCONNECT tells.
const TEXT_BYTES_MAX: usize = 1024;

/// Bounds of one client's conversation. A version 5 client is told those that concern it in CONNACK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionConfig {
    /// How long a new connection may take until its CONNECT is complete; then it is closed. Default 10s.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long a PUBLISH of QoS 1 or 2 may wait until it is safe, and a CONNECT, SUBSCRIBE or UNSUBSCRIBE until it is carried out.
    /// Past it the connection is closed without an acknowledgement, so that the client repeats. Longer than the election of a new
    /// leader takes. Default 10s.
    #[serde(with = "humantime_serde")]
    pub publish_deadline: Duration,
    /// The longest Keep Alive; a version 5 client that asks for more, or for none, is told to use this one. 0s is no bound.
    /// At most 65535s. Default 0s.
    #[serde(with = "humantime_serde")]
    pub keep_alive_max: Duration,
    /// The longest time that a session is kept after its connection: what a version 5 client asks beyond it is cut, and CONNACK says so; a
    /// version 3 client with Clean Session 0 gets this. Messages of QoS 1 and 2 wait so long. 0s: sessions end with their connections.
    /// Default 7days.
    #[serde(with = "humantime_serde")]
    pub session_expiry_max: Duration,
    /// PUBLISH packets of QoS 1 and 2 that one client may have unacknowledged, 1 to 65535: the Receive Maximum. Default 256.
    pub receive_maximum: u16,
    /// Messages of QoS 1 and 2 on their way to one client, 1 to 65535; its own Receive Maximum may lower it. Default 256.
    pub inflight_max: u16,
    /// Messages of one partition, QoS 1 and 2, that a session may get beyond the first that its client does not acknowledge, 1 to 50000. Past it
    /// the client gets no more of that partition until it does: what it has acknowledged behind that one is remembered message by message.
    /// Default 20000.
    pub ahead_max: u32,
    /// The largest packet that a client may send, 1KiB to 8MiB, so that a message always fits into an entry of the log. Default 1MiB.
    pub max_packet_size: ByteSize,
    /// The largest CONNECT, 1KiB to 8MiB; a larger one is refused with 0x95. Whoever has not been let in yet can make the node keep so much.
    /// Default 64KiB.
    pub max_connect_size: ByteSize,
    /// Subscriptions of one client; a SUBSCRIBE past it is refused with 0x97. Default 10000.
    pub max_subscriptions_per_client: u32,
    /// Topic Filters in one SUBSCRIBE or UNSUBSCRIBE; those past it are refused with 0x97. Default 1024.
    pub max_filters_per_packet: u16,
    /// SUBSCRIBE and UNSUBSCRIBE packets of one client that may be unanswered; then it is not read. At least 1. Default 16.
    pub max_pending_subscribes: u16,
    /// PUBLISH packets per second of one client; what one second brings may come at once. 0: no bound. Default 0.
    pub publish_rate: u32,
    /// Payload bytes per second of one client, likewise. 0: no bound. Default 0B.
    pub publish_bytes_rate: ByteSize,
    /// What happens to a client that publishes faster: `throttle`, it is not read until it may go on; or `disconnect` (0x96). Default throttle.
    pub publish_rate_policy: RatePolicy,
    /// Levels in a Topic Name or Topic Filter, 1 to 128. Default 128.
    pub topic_levels: u16,
    /// Topic Aliases that a version 5 client may set. Default 32.
    pub topic_alias_max: u16,
    /// Topic Aliases that this node sets towards a version 5 client. Default 16.
    pub topic_alias_out_max: u16,
    /// Whether the payload of a version 5 client that says it is UTF-8 is looked at; if it is not, a PUBLISH of QoS 1 or 2, or a CONNECT with
    /// such a will, is refused with 0x99, and a client that sends it at QoS 0 is closed. Default false.
    pub check_payload_format: bool,
    /// Where version 5 clients are told to go when this node drains or stops: 0x9C with this Server Reference, for instance the name and port
    /// of the balancer. When left out they get 0x8B, and come back to where they were. Default off.
    pub server_reference: Option<String>,
    /// The Response Information of a version 5 client that asks for it: the part of the topic tree for responses to it, with `%c` for its
    /// Client Identifier, as in `"reply/%c/"`. An identifier with `/`, `+` or `#` gets none. Rights are given apart from it. Default off.
    pub response_information: Option<String>,
    /// Bytes in a Client Identifier, 23 at least. Default 1024.
    pub client_id_bytes_max: u16,
}

impl Default for SessionConfig {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            connect_timeout: limits.connect_timeout,
            publish_deadline: limits.answer_timeout,
            keep_alive_max: Duration::ZERO,
            session_expiry_max: Duration::from_secs(7 * 24 * 3600),
            receive_maximum: limits.receive_maximum,
            inflight_max: limits.inflight_max,
            ahead_max: 20_000,
            max_packet_size: ByteSize::b(u64::from(limits.packet_bytes_max)),
            max_connect_size: ByteSize::kib(64),
            max_subscriptions_per_client: limits.subscriptions_max,
            max_filters_per_packet: limits.filters_per_packet_max,
            max_pending_subscribes: limits.subscribes_pending_max,
            publish_rate: 0,
            publish_bytes_rate: ByteSize::b(0),
            publish_rate_policy: RatePolicy::Throttle,
            topic_levels: limits.topic_levels_max,
            topic_alias_max: limits.topic_aliases_in_max,
            topic_alias_out_max: limits.topic_aliases_out_max,
            check_payload_format: false,
            server_reference: None,
            response_information: None,
            client_id_bytes_max: limits.client_id_bytes_max,
        }
    }
}

impl SessionConfig {
    /// What one connection's rate is measured with, if it is bounded.
    pub(crate) fn rate(&self, now: Instant) -> Option<Box<Rate>> {
        let policy = self.publish_rate_policy;
        Rate::new(self.publish_rate, self.publish_bytes_rate, policy, now)
    }

    /// What cannot be right.
    pub(crate) fn check(&self, problems: &mut Vec<Problem>) {
        let mut check = |key: &str, holds: bool, what: &str| {
            if !holds {
                problems.push(Problem::new(format!("session.{key}"), what));
            }
        };
        check(
            "connect_timeout",
            !self.connect_timeout.is_zero(),
            "must be longer than 0s",
        );
        check(
            "publish_deadline",
            !self.publish_deadline.is_zero(),
            "must be longer than 0s",
        );
        check(
            "keep_alive_max",
            self.keep_alive_max <= Duration::from_secs(u64::from(u16::MAX)),
            "must be at most 65535s",
        );
        check(
            "receive_maximum",
            self.receive_maximum > 0,
            "must be at least 1",
        );
        check("inflight_max", self.inflight_max > 0, "must be at least 1");
        check(
            "ahead_max",
            (1..=50_000).contains(&self.ahead_max),
            "must be from 1 to 50000",
        );
        check(
            "max_packet_size",
            (1 << 10..=8 << 20).contains(&self.max_packet_size.as_u64()),
            "must be from 1KiB to 8MiB",
        );
        check(
            "max_connect_size",
            (1 << 10..=8 << 20).contains(&self.max_connect_size.as_u64()),
            "must be from 1KiB to 8MiB",
        );
        check(
            "max_filters_per_packet",
            self.max_filters_per_packet > 0,
            "must be at least 1",
        );
        check(
            "max_pending_subscribes",
            self.max_pending_subscribes > 0,
            "must be at least 1",
        );
        check(
            "topic_levels",
            (1..=128).contains(&self.topic_levels),
            "must be from 1 to 128",
        );
        for (key, text) in [
            ("server_reference", &self.server_reference),
            ("response_information", &self.response_information),
        ] {
            check(
                key,
                text.as_deref().is_none_or(|text| {
                    text.len() <= TEXT_BYTES_MAX
                        && Text::try_from(text).is_ok()
                        && !text.contains(['+', '#'])
                }),
                "must be a text of at most 1024 bytes without control characters, + or #",
            );
        }
        check(
            "client_id_bytes_max",
            // [MQTT-3.1.3-5], [MQTT-3.1.3-5 v3.1.1]
            self.client_id_bytes_max >= 23,
            "must be at least 23",
        );
    }

    /// As the session takes them.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            connect_timeout: self.connect_timeout,
            answer_timeout: self.publish_deadline,
            keep_alive_s_max: u16::try_from(self.keep_alive_max.as_secs()).unwrap_or(u16::MAX),
            session_expiry_s_max: u32::try_from(self.session_expiry_max.as_secs())
                .unwrap_or(u32::MAX),
            receive_maximum: self.receive_maximum,
            inflight_max: self.inflight_max,
            packet_bytes_max: self.packet_bytes_max(),
            qos_max: QoS::ExactlyOnce,
            retain_available: true,
            wildcards_available: true,
            shared_available: true,
            subscription_ids_available: true,
            topic_aliases_in_max: self.topic_alias_max,
            topic_aliases_out_max: self.topic_alias_out_max,
            subscriptions_max: self.max_subscriptions_per_client,
            filters_per_packet_max: self.max_filters_per_packet,
            subscribes_pending_max: self.max_pending_subscribes,
            topic_levels_max: self.topic_levels,
            payload_format_checked: self.check_payload_format,
            server_reference: text_of(self.server_reference.as_deref()),
            response_information: text_of(self.response_information.as_deref()),
            client_id_bytes_max: self.client_id_bytes_max,
        }
    }

    /// As the decoder takes them. What the session refuses more kindly, the decoder lets pass.
    pub(crate) fn decoder_limits(&self) -> magpie_codec::Limits {
        magpie_codec::Limits {
            packet_bytes_max: self.packet_bytes_max() as usize,
            connect_bytes_max: usize::try_from(self.max_connect_size.as_u64())
                .unwrap_or(usize::MAX),
            ..magpie_codec::Limits::default()
        }
    }

    /// As the lanes take it.
    pub(crate) fn ahead_max(&self) -> usize {
        usize::try_from(self.ahead_max).unwrap_or(usize::MAX)
    }

    fn packet_bytes_max(&self) -> u32 {
        u32::try_from(self.max_packet_size.as_u64()).unwrap_or(u32::MAX)
    }
}

fn text_of(text: Option<&str>) -> Option<Text> {
    text.and_then(|text| Text::try_from(text).ok())
}
