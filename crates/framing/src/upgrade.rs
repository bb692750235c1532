//! The upgrade from HTTP to WebSocket: the request that a client begins with, and the answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha1::{Digest as _, Sha1};

/// A request or an answer may be so long.
pub const HEAD_BYTES_MAX: usize = 6144;

/// And have so many header fields.
const FIELDS_MAX: usize = 64;

/// What of MQTT may be offered, the best first.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// Appended to the key of the client (RFC 6455, 1.3).
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a server takes.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// The path of the request, without its query.
    pub path: &'a str,
    /// Which pages may connect, as in `https://example.com`; all if there are none. What is no browser does not say.
    pub origins: &'a [String],
    /// Only this machine can reach the listener. Any page that a browser on it shows could speak for it: without `origins`, only pages of this
    /// machine may.
    pub is_loopback: bool,
}

impl Rules<'_> {
    fn admits(&self, origin: &str) -> bool {
        if self.origins.is_empty() {
            return !self.is_loopback || is_local(origin);
        }
        self.origins
            .iter()
            .any(|it| it.eq_ignore_ascii_case(origin))
    }
}

/// Whether a page came from this machine, by an address or the name that no other can have.
fn is_local(origin: &str) -> bool {
    let Some((_, host)) = origin.split_once("://") else {
        // Of a page that has no origin to tell.
        return false;
    };
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let address = host.parse::<core::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// The answer to a complete request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// To be sent.
    pub response: String,
    /// Bytes of the request.
    pub length: usize,
    /// Whether frames follow; if not, with the reason for the log, the connection is to be closed.
    pub upgraded: Result<(), Refusal>,
}

/// Why there is no upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No HTTP, or too long.
    #[error("the request is not well-formed")]
    Malformed,
    /// Of another method or version, or no upgrade to WebSocket.
    #[error("the request is not for a WebSocket")]
    NoWebSocket,
    /// Of the WebSocket protocol.
    #[error("the WebSocket version is not 13")]
    Version,
    /// Another than that of MQTT.
    #[error("there is nothing at that path")]
    Path,
    /// A page that may not connect.
    #[error("pages of that origin may not connect")]
    Origin,
    /// None that is MQTT.
    #[error("the client offers neither subprotocol, mqtt or mqttv3.1")]
    Subprotocol,
}

impl Refusal {
    fn response(self) -> String {
        let status = match self {
            Self::Malformed | Self::NoWebSocket | Self::Subprotocol => "400 Bad Request",
            Self::Version => "426 Upgrade Required",
            Self::Path => "404 Not Found",
            Self::Origin => "403 Forbidden",
        };
        let hint = match self {
            Self::Version => "Sec-WebSocket-Version: 13\r\n",
            _ => "",
        };
        let body = format!("{self}\n");
        format!(
            "HTTP/1.1 {status}\r\n{hint}Connection: close\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }
}

/// Answers a request, when it is complete: `None` while it is not.
#[must_use]
pub fn answer(bytes: &[u8], rules: Rules<'_>) -> Option<Verdict> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let (length, outcome) = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_BYTES_MAX => {
            (length, check(&request, rules))
        }
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return None,
        _ => (bytes.len(), Err(Refusal::Malformed)),
    };
    let (response, upgraded) = match outcome {
        Ok(response) => (response, Ok(())),
        Err(refusal) => (refusal.response(), Err(refusal)),
    };
    Some(Verdict {
        response,
        length,
        upgraded,
    })
}

fn check(request: &httparse::Request<'_, '_>, rules: Rules<'_>) -> Result<String, Refusal> {
    let fields = &*request.headers;
    let path = request.path.unwrap_or_default();
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    if path != rules.path {
        return Err(Refusal::Path);
    }
    let is_upgrade = request.method == Some("GET")
        && request.version == Some(1)
        && one(fields, "host").is_some()
        && tokens(fields, "connection").any(|it| it.eq_ignore_ascii_case("upgrade"))
        && tokens(fields, "upgrade").any(|it| it.eq_ignore_ascii_case("websocket"));
    if !is_upgrade {
        return Err(Refusal::NoWebSocket);
    }
    if one(fields, "sec-websocket-version") != Some("13") {
        return Err(Refusal::Version);
    }
    let key = one(fields, "sec-websocket-key").unwrap_or_default();
    if !BASE64.decode(key).is_ok_and(|key| key.len() == 16) {
        return Err(Refusal::NoWebSocket);
    }
    if values(fields, "origin").any(|origin| !rules.admits(origin)) {
        return Err(Refusal::Origin);
    }
    // [MQTT-6.0.0-3], [MQTT-6.0.0-4], [MQTT-6.0.0-4 v3.1.1]: mqtt is what a client has to offer, and what it is answered. Libraries of MQTT 3.1
    // offer mqttv3.1.
    let subprotocol = SUBPROTOCOLS
        .into_iter()
        .find(|known| tokens(fields, "sec-websocket-protocol").any(|it| it == *known))
        .ok_or(Refusal::Subprotocol)?;
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {}\r\n\
         Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n",
        accept_key(key)
    ))
}

/// The request of a client. The key is 16 random bytes.
#[must_use]
pub fn request(host: &str, path: &str, key: [u8; 16]) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
        BASE64.encode(key)
    )
}

/// Reads a server's answer to [`request`]: its length; `None` while it is incomplete.
///
/// # Errors
/// In words: the server does not speak MQTT over WebSocket there.
pub fn accepted(bytes: &[u8], key: [u8; 16]) -> Result<Option<usize>, String> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
        _ => return Err("the answer is not HTTP".to_owned()),
    };
    let fields = &*response.headers;
    match response.code {
        Some(101) => {}
        Some(code) => {
            let reason = response.reason.unwrap_or_default();
            return Err(format!("the upgrade was refused: {code} {reason}"));
        }
        None => return Err("the answer has no status".to_owned()),
    }
    if one(fields, "sec-websocket-accept") != Some(&accept_key(&BASE64.encode(key))) {
        return Err("the answer does not belong to the request".to_owned());
    }
    if one(fields, "sec-websocket-protocol") != Some("mqtt") {
        return Err("the server does not speak MQTT there".to_owned());
    }
    Ok(Some(length))
}

fn accept_key(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(MAGIC.as_bytes());
    BASE64.encode(hash.finalize())
}

/// The value of a field that is there once, as text.
fn one<'a>(fields: &[httparse::Header<'a>], name: &str) -> Option<&'a str> {
    let mut values = values(fields, name);
    values.next().filter(|_| values.next().is_none())
}

/// The elements of a list that may be spread over several fields.
fn tokens<'a>(fields: &[httparse::Header<'a>], name: &str) -> impl Iterator<Item = &'a str> {
    values(fields, name).flat_map(|value| value.split(',').map(str::trim))
}

fn values<'a>(fields: &[httparse::Header<'a>], name: &str) -> impl Iterator<Item = &'a str> {
    fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name))
        .filter_map(|field| std::str::from_utf8(field.value).ok())
}

#[cfg(test)]
mod tests;
