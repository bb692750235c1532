//! Every bound of a conversation, in one place.

use std::time::Duration;

use magpie_codec::{MessageProperties, PayloadFormat, QoS, ReasonCode, Text};

/// What one client may ask of us, and what we grant it.
///
/// Shared by all connections of a listener. Each field is a hard bound: what is past it is refused with the reason
/// code that the field names, never queued. The defaults are safe for a public listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How long a new Network Connection may take until its CONNECT is complete. Past it, it is closed without a word
    /// (section 3.1.4 leaves the amount to us). Default 10 s.
    pub connect_timeout: Duration,
    /// How long the node may take to answer a ticket. Past it the outcome counts as unknown: a CONNECT is refused
    /// with 0x88, anything else closes the connection without an acknowledgement, so that the client repeats.
    /// Default 10 s.
    pub answer_timeout: Duration,
    /// The longest Keep Alive in seconds; 0 is no bound. A v5 client that asks for more, or for none, is told this
    /// one as Server Keep Alive. A 3.x client cannot be told, and keeps its own. Default 0.
    pub keep_alive_s_max: u16,
    /// The longest Session Expiry Interval in seconds. What a client asks beyond it is cut, and CONNACK says so.
    /// Default 0: every session ends with its connection.
    pub session_expiry_s_max: u32,
    /// QoS 1 and 2 PUBLISH packets of one client that may be unanswered at a time, 1 to 65535: our Receive Maximum.
    /// A v5 client that sends more is closed with 0x93; a 3.x client is not read until there is room. Default 256.
    pub receive_maximum: u16,
    /// QoS 1 and 2 messages on their way to one client, 1 to 65535. The client's own Receive Maximum may lower it.
    /// Default 256.
    pub inflight_max: u16,
    /// The largest packet in bytes that the decoder of this listener takes: told to v5 clients as Maximum Packet
    /// Size. The decoder enforces it (0x95). Default 1 MiB.
    pub packet_bytes_max: u32,
    /// The highest QoS; a PUBLISH above it is closed with 0x9B, a subscription is granted less. Default 2.
    pub qos_max: QoS,
    /// Whether messages may be retained. If not, a retained PUBLISH or Will Message of a v5 client is refused with
    /// 0x9A, and a 3.x client's flag is ignored with a [`Note`](crate::Note). Default false.
    pub retain_available: bool,
    /// Whether filters may hold wildcards; else 0xA2. Default true.
    pub wildcards_available: bool,
    /// Whether shared subscriptions are served; else 0x9E. Default true.
    pub shared_available: bool,
    /// Whether v5 subscriptions may carry an identifier; else 0xA1. Default true.
    pub subscription_ids_available: bool,
    /// Topic aliases that a v5 client may set, 0 to 65535; beyond it 0x94. Each may hold a topic of 64 KiB.
    /// Default 32.
    pub topic_aliases_in_max: u16,
    /// Topic aliases that we set towards a v5 client that allows them, 0 to 65535. Default 16.
    pub topic_aliases_out_max: u16,
    /// Subscriptions of one session; a new one past it is refused with 0x97. Default 10,000.
    pub subscriptions_max: u32,
    /// Filters in one SUBSCRIBE or UNSUBSCRIBE; those past it are refused with 0x97. Default 1,024.
    pub filters_per_packet_max: u16,
    /// SUBSCRIBE and UNSUBSCRIBE packets of one client that may be unanswered at a time, at least 1. At the limit the
    /// client is not read. Default 16.
    pub subscribes_pending_max: u16,
    /// Levels in a topic name or topic filter; beyond it 0x90 or 0x8F. Bounds the depth of the filter trie.
    /// Default 128.
    pub topic_levels_max: u16,
    /// Whether a payload that claims to be UTF-8 is looked at; if it is not, the PUBLISH or the CONNECT with the Will is
    /// refused with 0x99. Default false.
    pub payload_format_checked: bool,
    /// Where clients go that this node sends away: v5 clients are told with 0x9C when it stops, or is about to. None: they
    /// are told with 0x8B (CONNACK: 0x88).
    pub server_reference: Option<Text>,
    /// The part of the topic tree for responses to one client, told to v5 clients that ask for response information; `%c` stands
    /// for the client id. None: they are told nothing.
    pub response_information: Option<Text>,
    /// Bytes in a client id; beyond it 0x85. Default 1,024. (MQTT 3.1 says 23, and no broker holds clients to it.)
    pub client_id_bytes_max: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(10),
            keep_alive_s_max: 0,
            session_expiry_s_max: 0,
            receive_maximum: 256,
            inflight_max: 256,
            packet_bytes_max: 1024 * 1024,
            qos_max: QoS::ExactlyOnce,
            retain_available: false,
            wildcards_available: true,
            shared_available: true,
            subscription_ids_available: true,
            topic_aliases_in_max: 32,
            topic_aliases_out_max: 16,
            subscriptions_max: 10_000,
            filters_per_packet_max: 1_024,
            subscribes_pending_max: 16,
            topic_levels_max: 128,
            payload_format_checked: false,
            server_reference: None,
            response_information: None,
            client_id_bytes_max: 1_024,
        }
    }
}

impl Limits {
    /// Checks what a payload claims to be. [MQTT-3.3.2-4] asks to pass the indicator on; the check is the receiver's right (section
    /// 3.3.2.3.2).
    pub(crate) fn check_payload(
        &self,
        payload: &[u8],
        properties: Option<&MessageProperties>,
    ) -> Result<(), ReasonCode> {
        let format = properties.and_then(|properties| properties.payload_format);
        let is_wrong = self.payload_format_checked
            && format == Some(PayloadFormat::Utf8)
            && std::str::from_utf8(payload).is_err();
        match is_wrong {
            true => Err(ReasonCode::PayloadFormatInvalid),
            false => Ok(()),
        }
    }

    /// Response Information for one client. A name with `/`, `+` or `#` would reach into the topics of others, and gets none.
    pub(crate) fn response_information(&self, client_id: &str) -> Option<Text> {
        let pattern = self.response_information.as_ref()?;
        if client_id.contains(['/', '+', '#']) {
            return None;
        }
        Text::try_from(pattern.replace("%c", client_id)).ok()
    }

    /// Whether a topic name or filter has few enough levels.
    pub(crate) fn admits_levels(&self, topic: &str) -> bool {
        let max = usize::from(self.topic_levels_max);
        // A topic has one slash less than levels: a short one need not be counted.
        topic.len() < max || topic.bytes().filter(|byte| *byte == b'/').count() < max
    }
}
