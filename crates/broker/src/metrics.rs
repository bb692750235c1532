//! Counters of this crate. Hot paths count for themselves and report once per burst.

use std::sync::atomic::{AtomicU64, Ordering};

use magpie_codec::QoS;
use magpie_session::{CloseCause, Eviction};
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

/// Handles to all metrics, resolved once, so that counting is an atomic addition.
pub(crate) struct Metrics {
    pub(crate) connections: Gauge,
    pub(crate) connects: Counter,
    pub(crate) refused_connection_limit: Counter,
    pub(crate) refused_proxy_header: Counter,
    pub(crate) refused_half_open_limit: Counter,
    pub(crate) refused_connect_rate: Counter,
    pub(crate) refused_connect_rate_per_address: Counter,
    pub(crate) refused_banned: Counter,
    pub(crate) refused_too_slow: Counter,
    pub(crate) refused_tls: Counter,
    pub(crate) refused_upgrade: Counter,
    pub(crate) half_open: Gauge,
    pub(crate) certificate_ends: Gauge,
    pub(crate) tls_reloads: Counter,
    pub(crate) failed_tls_reloads: Counter,
    pub(crate) accept_errors: Counter,
    pub(crate) slow_closes: Counter,
    pub(crate) received: PerQoS,
    pub(crate) sent: PerQoS,
    pub(crate) dropped: Dropped,
    pub(crate) publishes_denied: Counter,
    pub(crate) rate_exceeded: Counter,
    pub(crate) mailbox_overflows: Counter,
    pub(crate) retain_ignored: Counter,
    pub(crate) retained_replaced: Counter,
    pub(crate) subscriptions: Gauge,
    pub(crate) filters: Gauge,
    pub(crate) mailbox_messages: Gauge,
    pub(crate) mailbox_bytes: Gauge,
}

/// Messages and payload bytes by QoS.
pub(crate) struct PerQoS {
    messages: [Counter; 3],
    bytes: [Counter; 3],
    /// Of all QoS, for those who ask this process.
    messages_in_all: AtomicU64,
    bytes_in_all: AtomicU64,
}

/// Deliveries that were not made.
pub(crate) struct Dropped {
    mailbox_full: Counter,
    no_member: Counter,
    too_large: Counter,
    expired: Counter,
    in_all: AtomicU64,
}

/// Why a delivery was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DropCause {
    MailboxFull,
    NoShareMember,
    TooLarge,
    Expired,
}

/// What one connection counted since its last report.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    messages: [u64; 3],
    bytes: [u64; 3],
}

impl Metrics {
    /// Registers with the process's recorder, which must be installed before.
    pub(crate) fn register() -> Self {
        describe();
        let refused = |reason| counter!("magpie_connections_refused_total", "reason" => reason);
        Self {
            connections: gauge!("magpie_connections"),
            connects: counter!("magpie_connects_total"),
            refused_connection_limit: refused("connection_limit"),
            refused_proxy_header: refused("proxy_header"),
            refused_half_open_limit: refused("half_open_limit"),
            refused_connect_rate: refused("connect_rate"),
            refused_connect_rate_per_address: refused("connect_rate_per_address"),
            refused_banned: refused("banned"),
            refused_too_slow: refused("handshake_timeout"),
            refused_tls: refused("tls_handshake"),
            refused_upgrade: refused("websocket_upgrade"),
            half_open: gauge!("magpie_half_open_connections"),
            certificate_ends: gauge!("magpie_tls_certificate_expires_seconds"),
            tls_reloads: counter!("magpie_tls_reloads_total", "outcome" => "loaded"),
            failed_tls_reloads: counter!("magpie_tls_reloads_total", "outcome" => "failed"),
            accept_errors: counter!("magpie_accept_errors_total"),
            slow_closes: counter!("magpie_slow_closes_total"),
            received: PerQoS::register(
                "magpie_messages_received_total",
                "magpie_messages_received_bytes_total",
            ),
            sent: PerQoS::register(
                "magpie_messages_sent_total",
                "magpie_messages_sent_bytes_total",
            ),
            dropped: Dropped::register(),
            publishes_denied: counter!("magpie_publishes_denied_total"),
            rate_exceeded: counter!("magpie_publish_rate_exceeded_total"),
            mailbox_overflows: counter!("magpie_mailbox_overflows_total"),
            retain_ignored: counter!("magpie_retain_ignored_total"),
            retained_replaced: counter!("magpie_retained_replaced_total"),
            subscriptions: gauge!("magpie_subscriptions"),
            filters: gauge!("magpie_subscribed_filters"),
            mailbox_messages: gauge!("magpie_mailbox_messages"),
            mailbox_bytes: gauge!("magpie_mailbox_bytes"),
        }
    }

    /// Counts the end of a connection.
    pub(crate) fn closed(&self, cause: CloseCause) {
        counter!("magpie_connections_closed_total", "cause" => cause_name(cause)).increment(1);
        if let CloseCause::Refused(reason) = cause {
            counter!("magpie_connects_refused_total", "reason" => format!("{reason:?}"))
                .increment(1);
        }
    }
}

impl PerQoS {
    fn register(messages: &'static str, bytes: &'static str) -> Self {
        let qos = ["0", "1", "2"];
        Self {
            messages: qos.map(|qos| counter!(messages, "qos" => qos)),
            bytes: qos.map(|qos| counter!(bytes, "qos" => qos)),
            messages_in_all: AtomicU64::new(0),
            bytes_in_all: AtomicU64::new(0),
        }
    }

    /// Messages and payload bytes since the start.
    pub(crate) fn in_all(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.messages_in_all), count(&self.bytes_in_all))
    }

    fn add(&self, tally: &Tally) {
        let (messages, bytes) = (tally.messages.iter().sum(), tally.bytes.iter().sum());
        self.messages_in_all.fetch_add(messages, Ordering::Relaxed);
        self.bytes_in_all.fetch_add(bytes, Ordering::Relaxed);
        for qos in 0..3 {
            if tally.messages[qos] > 0 {
                self.messages[qos].increment(tally.messages[qos]);
                self.bytes[qos].increment(tally.bytes[qos]);
            }
        }
    }
}

impl Dropped {
    fn register() -> Self {
        let dropped = |reason| counter!("magpie_messages_dropped_total", "reason" => reason);
        Self {
            mailbox_full: dropped("mailbox_full"),
            no_member: dropped("no_share_member"),
            too_large: dropped("too_large"),
            expired: dropped("expired"),
            in_all: AtomicU64::new(0),
        }
    }

    /// Counts some.
    pub(crate) fn count(&self, cause: DropCause, messages: u64) {
        let counter = match cause {
            DropCause::MailboxFull => &self.mailbox_full,
            DropCause::NoShareMember => &self.no_member,
            DropCause::TooLarge => &self.too_large,
            DropCause::Expired => &self.expired,
        };
        counter.increment(messages);
        self.in_all.fetch_add(messages, Ordering::Relaxed);
    }

    /// Since the start.
    pub(crate) fn in_all(&self) -> u64 {
        self.in_all.load(Ordering::Relaxed)
    }
}

impl Tally {
    /// Counts one message.
    pub(crate) fn count(&mut self, qos: QoS, payload_bytes: usize) {
        self.messages[qos as usize] += 1;
        self.bytes[qos as usize] += payload_bytes as u64;
    }

    /// Reports, and begins anew. Gives the messages and bytes of this report; nothing is done without any.
    pub(crate) fn report(&mut self, to: &PerQoS) -> Option<(u64, u64)> {
        let messages = self.messages.iter().sum();
        if messages == 0 {
            return None;
        }
        to.add(self);
        let bytes = self.bytes.iter().sum();
        *self = Self::default();
        Some((messages, bytes))
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn cause_name(cause: CloseCause) -> &'static str {
    match cause {
        CloseCause::ByClient(_) => "client",
        CloseCause::Lost => "lost",
        CloseCause::ConnectTimeout => "connect_timeout",
        CloseCause::KeepAliveTimeout => "keep_alive_timeout",
        CloseCause::Refused(_) => "refused",
        CloseCause::Violation { .. } => "violation",
        CloseCause::Unanswered => "unanswered",
        CloseCause::PublishRefused(_) => "publish_refused",
        CloseCause::Evicted(Eviction::TakenOver) => "taken_over",
        CloseCause::Evicted(Eviction::ShuttingDown) => "shutting_down",
        CloseCause::Evicted(Eviction::Kicked) => "kicked",
        CloseCause::Evicted(Eviction::QuotaExceeded) => "mailbox_full",
        CloseCause::Evicted(Eviction::Banned) => "banned",
        CloseCause::Evicted(Eviction::NotAuthorized) => "not_authorized",
        CloseCause::Evicted(Eviction::RateTooHigh) => "rate_too_high",
        CloseCause::Evicted(_) => "evicted",
    }
}

fn describe() {
    describe_gauge!("magpie_connections", "Open client connections.");
    describe_counter!("magpie_connects_total", "Accepted network connections.");
    describe_counter!(
        "magpie_connections_refused_total",
        "Network connections closed before CONNECT, by reason."
    );
    describe_gauge!(
        "magpie_half_open_connections",
        "Open connections whose CONNECT has not come."
    );
    describe_gauge!(
        "magpie_tls_certificate_expires_seconds",
        "When the certificate of the listeners ends, in seconds since 1970."
    );
    describe_counter!(
        "magpie_tls_reloads_total",
        "Certificates read again while the node runs, by outcome."
    );
    describe_counter!(
        "magpie_connections_closed_total",
        "Ended client connections, by cause."
    );
    describe_counter!(
        "magpie_accept_errors_total",
        "Failed accepts, for instance for lack of file descriptors."
    );
    describe_counter!(
        "magpie_slow_closes_total",
        "Closed connections whose last packets could not be written in time."
    );
    describe_counter!(
        "magpie_messages_received_total",
        "PUBLISH packets from clients, by QoS."
    );
    describe_counter!(
        "magpie_messages_received_bytes_total",
        "Payload bytes from clients, by QoS."
    );
    describe_counter!(
        "magpie_messages_sent_total",
        "PUBLISH packets to clients, by QoS."
    );
    describe_counter!(
        "magpie_messages_sent_bytes_total",
        "Payload bytes to clients, by QoS."
    );
    describe_counter!(
        "magpie_messages_dropped_total",
        "Deliveries that were not made, by reason."
    );
    describe_counter!(
        "magpie_publishes_denied_total",
        "Messages of clients that no rule allows them to publish."
    );
    describe_counter!(
        "magpie_publish_rate_exceeded_total",
        "Times that a client published faster than it may, and was held back or closed."
    );
    describe_counter!(
        "magpie_mailbox_overflows_total",
        "Connections ended because their QoS 1 or 2 messages found the mailbox full."
    );
    describe_counter!(
        "magpie_retained_replaced_total",
        "Retained messages of QoS 0 that a newer one of their topic and client replaced before they were stored."
    );
    describe_counter!(
        "magpie_retain_ignored_total",
        "RETAIN flags of clients before version 5 that were ignored."
    );
    describe_gauge!(
        "magpie_subscriptions",
        "Subscriptions of connected clients."
    );
    describe_gauge!(
        "magpie_subscribed_filters",
        "Different topic filters of those."
    );
    describe_gauge!(
        "magpie_mailbox_messages",
        "Messages that wait in mailboxes."
    );
    describe_gauge!(
        "magpie_mailbox_bytes",
        "Bytes of messages (topic, payload, properties) that wait in mailboxes."
    );
}
