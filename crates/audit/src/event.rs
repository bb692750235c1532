//! What is told, and the line that it becomes.

use std::net::SocketAddr;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;

/// Longest text of a client that a line has; the rest is cut off.
const TEXT_BYTES_MAX: usize = 256;

/// An operator's change.
#[derive(Debug, Clone)]
pub struct Change<'a> {
    /// `subject.verb`, as in `user.add`.
    pub action: &'static str,
    /// Name of what was changed; may be empty.
    pub target: &'a str,
    /// Where the request came from.
    pub remote: Option<SocketAddr>,
    /// `done`, or why not.
    pub outcome: &'a str,
    /// What else there is to know, without secrets; `null` for nothing.
    pub details: Value,
}

/// Who was refused what.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'a> {
    /// What was wanted.
    pub what: What,
    /// Why not, in words without secrets: `no rule allows it`, `wrong password`.
    pub why: &'static str,
    /// Client id; may be empty.
    pub client: &'a str,
    /// User name, as claimed or as proven.
    pub user: Option<&'a str>,
    /// Where it came from.
    pub remote: Option<SocketAddr>,
    /// Topic Name, Topic Filter, or the path of the API.
    pub topic: Option<&'a str>,
}

/// What was wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    /// To connect.
    Connect,
    /// To publish.
    Publish,
    /// To subscribe.
    Subscribe,
    /// To leave a will.
    Will,
    /// To go on: a right or an identity is gone.
    Stay,
    /// To use the API.
    Api,
}

impl What {
    /// In lines and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Will => "will",
            Self::Stay => "stay",
            Self::Api => "api",
        }
    }
}

impl Change<'_> {
    pub(crate) fn trace(&self) {
        // Names with `?`: what is in them must not command a terminal.
        tracing::info!(
            target: "audit",
            action = self.action,
            on = ?self.target,
            remote = self.remote.map(tracing::field::display),
            outcome = ?self.outcome,
            details = (!self.details.is_null()).then(|| tracing::field::display(&self.details)),
            "operator"
        );
    }
}

impl Refusal<'_> {
    pub(crate) fn trace(&self, repeated: u64) {
        tracing::info!(
            target: "audit",
            what = self.what.name(),
            why = self.why,
            client = ?cut(self.client),
            user = self.user.map(|user| tracing::field::debug(cut(user))),
            remote = self.remote.map(tracing::field::display),
            topic = self.topic.map(|topic| tracing::field::debug(cut(topic))),
            repeated = (repeated > 0).then_some(repeated),
            "refused"
        );
    }
}

/// A line of the file, its line feed included.
pub(crate) struct Line(pub(crate) Vec<u8>);

#[derive(Serialize)]
struct ChangeLine<'a> {
    time: String,
    node: &'a str,
    event: &'static str,
    action: &'static str,
    target: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<SocketAddr>,
    outcome: &'a str,
    #[serde(skip_serializing_if = "Value::is_null")]
    details: &'a Value,
}

#[derive(Serialize)]
struct RefusalLine<'a> {
    time: String,
    node: &'a str,
    event: &'static str,
    what: &'static str,
    why: &'static str,
    client: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repeated: Option<u64>,
}

impl Line {
    pub(crate) fn of_change(node: &str, change: &Change<'_>) -> Self {
        Self::of(&ChangeLine {
            time: now(),
            node,
            event: "change",
            action: change.action,
            target: change.target,
            remote: change.remote,
            outcome: change.outcome,
            details: &change.details,
        })
    }

    pub(crate) fn of_refusal(node: &str, refusal: &Refusal<'_>, repeated: u64) -> Self {
        Self::of(&RefusalLine {
            time: now(),
            node,
            event: "refused",
            what: refusal.what.name(),
            why: refusal.why,
            client: cut(refusal.client),
            user: refusal.user.map(cut),
            remote: refusal.remote,
            topic: refusal.topic.map(cut),
            repeated: (repeated > 0).then_some(repeated),
        })
    }

    fn of(line: &impl Serialize) -> Self {
        let mut text = serde_json::to_vec(line).expect("plain data always has a JSON form");
        text.push(b'\n');
        Self(text)
    }
}

/// In UTC, to the millisecond.
fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// At most [`TEXT_BYTES_MAX`], between characters.
pub(crate) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}
