#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

const RULES: Rules<'_> = Rules {
    path: "/mqtt",
    origins: &[],
    is_loopback: false,
};

/// What browsers send, with one line replaced.
fn request_with(line: &str, instead: &str) -> String {
    let usual = "GET /mqtt HTTP/1.1\r\nHost: broker.example:8083\r\nUser-Agent: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                 Origin: https://app.example\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                 Sec-WebSocket-Protocol: chat, mqtt\r\n\r\n";
    assert!(usual.contains(line));
    usual.replacen(line, instead, 1)
}

/// [MQTT-6.0.0-4] [MQTT-6.0.0-4 v3.1.1]
#[test]
fn an_upgrade_is_answered_with_the_subprotocol() {
    let request = request_with("", "");
    for cut in 0..request.len() {
        assert_eq!(answer(&request.as_bytes()[..cut], RULES), None, "{cut}");
    }
    let verdict = answer(request.as_bytes(), RULES).unwrap();
    assert_eq!((verdict.length, verdict.upgraded), (request.len(), Ok(())));
    assert!(verdict.response.starts_with("HTTP/1.1 101 "));
    // The example of RFC 6455, 1.3.
    let accept = "\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    assert!(verdict.response.contains(accept));
    assert!(
        verdict
            .response
            .ends_with("\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n")
    );
}

#[test]
fn libraries_of_mqtt_3_1_are_answered_theirs() {
    let check = |offer: &str, answered: &str| {
        let request = request_with("chat, mqtt", offer);
        let verdict = answer(request.as_bytes(), RULES).unwrap();
        let field = format!("\r\nSec-WebSocket-Protocol: {answered}\r\n");
        assert!(verdict.response.contains(&field), "{}", verdict.response);
    };
    check("mqttv3.1", "mqttv3.1");
    check("mqttv3.1, mqtt", "mqtt");
    check("mqttv3.1\r\nSec-WebSocket-Protocol: mqtt", "mqtt");
}

#[test]
fn a_path_may_have_a_query() {
    let request = request_with("/mqtt", "/mqtt?token=1");
    assert_eq!(answer(request.as_bytes(), RULES).unwrap().upgraded, Ok(()));
}

#[test]
fn what_is_no_upgrade_is_refused() {
    use Refusal::*;
    for (line, instead, refusal, status) in [
        ("GET /mqtt", "GET /", Path, "404"),
        ("GET", "POST", NoWebSocket, "400"),
        ("HTTP/1.1", "HTTP/1.0", NoWebSocket, "400"),
        ("Host: broker.example:8083\r\n", "", NoWebSocket, "400"),
        ("keep-alive, Upgrade", "keep-alive", NoWebSocket, "400"),
        ("Upgrade: websocket", "Upgrade: h2c", NoWebSocket, "400"),
        ("Version: 13", "Version: 8", Version, "426"),
        ("dGhlIHNhbXBsZSBub25jZQ==", "dGhl", NoWebSocket, "400"),
        ("chat, mqtt", "chat", Subprotocol, "400"),
        ("chat, mqtt", "MQTT", Subprotocol, "400"),
        ("Host", "Ho st", Malformed, "400"),
    ] {
        let request = request_with(line, instead);
        let verdict = answer(request.as_bytes(), RULES).unwrap();
        assert_eq!(verdict.upgraded, Err(refusal), "{instead}");
        let start = format!("HTTP/1.1 {status} ");
        assert!(verdict.response.starts_with(&start), "{}", verdict.response);
    }
}

#[test]
fn a_request_has_its_limits() {
    let many = "X: y\r\n".repeat(70);
    let request = request_with("User-Agent: x\r\n", &many);
    let verdict = answer(request.as_bytes(), RULES).unwrap();
    assert_eq!(verdict.upgraded, Err(Refusal::Malformed));
    let endless = format!("GET /mqtt HTTP/1.1\r\nX: {}", "y".repeat(HEAD_BYTES_MAX));
    assert_eq!(
        answer(&endless.as_bytes()[..HEAD_BYTES_MAX - 1], RULES),
        None
    );
    let verdict = answer(endless.as_bytes(), RULES).unwrap();
    assert_eq!(verdict.upgraded, Err(Refusal::Malformed));
}

#[test]
fn pages_of_other_origins_are_refused_and_programs_are_not() {
    let origins = ["https://app.example".to_owned()];
    let rules = Rules {
        origins: &origins,
        ..RULES
    };
    let check = |line, instead, expected| {
        let request = request_with(line, instead);
        assert_eq!(
            answer(request.as_bytes(), rules).unwrap().upgraded,
            expected
        );
    };
    check("", "", Ok(()));
    check("Origin: https://app.example\r\n", "", Ok(()));
    check("app.example", "evil.example", Err(Refusal::Origin));
    check("https://app.example", "null", Err(Refusal::Origin));
}

/// Else any page could speak for the browser's machine.
#[test]
fn only_pages_of_this_machine_reach_a_listener_that_only_it_can_reach() {
    let rules = Rules {
        is_loopback: true,
        ..RULES
    };
    let check = |origin, expected| {
        let request = request_with("https://app.example", origin);
        let verdict = answer(request.as_bytes(), rules).unwrap();
        assert_eq!(verdict.upgraded, expected, "{origin}");
    };
    for local in [
        "http://localhost:3000",
        "http://127.0.0.1",
        "http://[::1]:8080",
    ] {
        check(local, Ok(()));
    }
    for other in [
        "https://app.example",
        "null",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://[::2]",
    ] {
        check(other, Err(Refusal::Origin));
    }
    let program = request_with("Origin: https://app.example\r\n", "");
    let verdict = answer(program.as_bytes(), rules).unwrap();
    assert_eq!(verdict.upgraded, Ok(()));
}

#[test]
fn our_client_and_our_server_agree() {
    let key = [7; 16];
    let request = request("localhost:8083", "/mqtt", key);
    let verdict = answer(request.as_bytes(), RULES).unwrap();
    assert_eq!(verdict.upgraded, Ok(()));
    let response = verdict.response.as_bytes();
    assert_eq!(accepted(&response[..40], key), Ok(None));
    assert_eq!(accepted(response, key), Ok(Some(response.len())));
    assert!(accepted(response, [8; 16]).is_err());
    let refused = accepted(Refusal::Path.response().as_bytes(), key).unwrap_err();
    assert!(refused.contains("404 Not Found"));
}
