//! The server over real sockets, while the node starts: what needs no node.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::time::Duration;

use magpie_audit::Audit;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Config, Limits, Metrics, Server, Token, api};

async fn server(listen: &str, token: Option<&str>) -> Server {
    with_limits(listen, token, Limits::default()).await
}

async fn with_limits(listen: &str, token: Option<&str>, limits: Limits) -> Server {
    let config = Config {
        listen: listen.parse().unwrap(),
        token: token.map(Token::new),
        limits,
    };
    Server::bind(config, Metrics::unused(), Audit::without_file("n1"))
        .await
        .unwrap()
}

/// Sends a request, gives status and body. `headers` end each with CR LF.
async fn ask(server: &Server, request: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", server.address().port()))
        .await
        .unwrap();
    let host = if headers.contains("Host:") {
        ""
    } else {
        "Host: localhost\r\n"
    };
    let text = format!("{request} HTTP/1.1\r\n{host}Connection: close\r\n{headers}\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

async fn check(server: &Server, request: &str, headers: &str, expected: u16) -> String {
    let (status, body) = ask(server, request, headers).await;
    assert_eq!(status, expected, "{request} {headers:?}: {body}");
    body
}

#[tokio::test]
async fn a_node_that_starts_is_alive_and_not_ready() {
    let server = server("127.0.0.1:0", None).await;
    check(&server, "GET /livez", "", 200).await;
    assert_eq!(
        check(&server, "GET /readyz", "", 503).await,
        "the node starts\n"
    );
    check(&server, "GET /metrics", "", 200).await;
    check(&server, "GET /api/v1/status", "", 503).await;
    server.begin_stop();
    assert_eq!(
        check(&server, "GET /readyz", "", 503).await,
        "the node drains\n"
    );
}

#[tokio::test]
async fn off_loopback_only_health_and_metrics_answer_without_the_token() {
    let server = server("0.0.0.0:0", Some("secret")).await;
    for open in ["/livez", "/metrics"] {
        check(&server, &format!("GET {open}"), "", 200).await;
    }
    check(&server, "GET /readyz", "", 503).await;
    for (method, path) in api::routes().list {
        let method = method.to_uppercase();
        check(&server, &format!("{method} /api/v1{path}"), "", 401).await;
    }
    for guarded in ["/", "/nothing"] {
        check(&server, &format!("GET {guarded}"), "", 401).await;
    }
    for wrong in [
        "Bearer secre",
        "Bearer secret2",
        "Bearer",
        "Basic secret",
        "Basic eDp4",
    ] {
        check(
            &server,
            "GET /",
            &format!("Authorization: {wrong}\r\n"),
            401,
        )
        .await;
    }
    check(&server, "GET /", "Authorization: Bearer secret\r\n", 200).await;
    // any:secret
    check(
        &server,
        "GET /",
        "Authorization: Basic YW55OnNlY3JldA==\r\n",
        200,
    )
    .await;
}

#[tokio::test]
async fn who_has_no_token_is_in_the_audit_log_once_and_no_token_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let audit = Audit::start("n1", Some(&path)).unwrap();
    let config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        token: Some(Token::new("secret")),
        limits: Limits::default(),
    };
    let server = Server::bind(config, Metrics::unused(), audit.clone())
        .await
        .unwrap();
    for _ in 0..5 {
        let wrong = "Authorization: Bearer guessed\r\n";
        check(&server, "DELETE /api/v1/clients/x", wrong, 401).await;
    }
    // What an operator tries is told with what came of it.
    let right = "Authorization: Bearer secret\r\n";
    check(&server, "DELETE /api/v1/clients/a%2Fb", right, 503).await;
    audit.flush(Duration::from_secs(10));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(
        !text.contains("guessed") && !text.contains("secret"),
        "{text}"
    );
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(lines[0]["what"], "api");
    assert_eq!(lines[0]["topic"], "/api/v1/clients/x");
    assert!(
        lines[0]["remote"]
            .as_str()
            .unwrap()
            .starts_with("127.0.0.1:")
    );
    assert_eq!(lines[1]["action"], "client.kick");
    assert_eq!(lines[1]["target"], "a/b");
    assert_eq!(lines[1]["outcome"], "the node is not part of a cluster yet");
    assert_eq!(lines[2]["repeated"], 4);
}

#[tokio::test]
async fn what_is_sent_is_never_repeated_in_an_answer() {
    let server = server("127.0.0.1:0", None).await;
    for (body, status) in [
        (r#"{"password": "secret of anna", "surprise": 1}"#, 400),
        (r#"{"password": ["secret of anna"]}"#, 400),
        (r#"{"password": "secret of anna""#, 400),
        ("secret of anna", 400),
    ] {
        let headers = format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = check(&server, "POST /api/v1/users/anna", &headers, status).await;
        assert!(!answer.contains("secret"), "{answer}");
    }
    let untyped = "Content-Length: 2\r\n\r\n{}";
    check(&server, "POST /api/v1/users/anna", untyped, 415).await;
}

#[tokio::test]
async fn off_loopback_and_without_a_token_the_api_is_closed() {
    let server = server("0.0.0.0:0", None).await;
    check(&server, "GET /livez", "", 200).await;
    let body = check(&server, "GET /api/v1/status", "", 403).await;
    assert!(body.contains("--api-token-file"), "{body}");
}

#[tokio::test]
async fn a_token_counts_on_loopback_too() {
    let server = server("127.0.0.1:0", Some("secret")).await;
    check(&server, "GET /", "", 401).await;
    check(&server, "GET /", "Authorization: Bearer secret\r\n", 200).await;
}

#[tokio::test]
async fn pages_of_other_sites_cannot_use_a_browser_on_this_machine() {
    let server = server("127.0.0.1:0", None).await;
    let name = format!("Host: localhost:{}\r\n", server.address().port());
    check(&server, "GET /", &name, 200).await;
    check(&server, "GET /", "Host: [::1]:9883\r\n", 200).await;
    // A name that was made to resolve to 127.0.0.1.
    check(&server, "GET /", "Host: evil.example\r\n", 403).await;
    check(
        &server,
        "POST /api/v1/drain",
        "Origin: http://evil.example\r\n",
        403,
    )
    .await;
    check(&server, "POST /api/v1/drain", "Origin: null\r\n", 403).await;
    check(
        &server,
        "POST /api/v1/drain",
        "Origin: http://localhost\r\n",
        503,
    )
    .await;
}

#[tokio::test]
async fn what_does_not_exist_is_told_in_json() {
    let server = server("127.0.0.1:0", None).await;
    for (request, status) in [
        ("GET /nothing", 404),
        ("GET /api/v1/nothing", 404),
        ("PUT /api/v1/status", 405),
    ] {
        let body = check(&server, request, "", status).await;
        assert!(serde_json::from_str::<Value>(&body).unwrap()["error"].is_string());
    }
}

#[tokio::test]
async fn the_description_has_the_routes_and_no_others() {
    let server = server("127.0.0.1:0", None).await;
    let body = check(&server, "GET /api/v1/openapi.json", "", 200).await;
    let description: Value = serde_json::from_str(&body).unwrap();
    let mut described = BTreeSet::new();
    for (path, operations) in description["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            described.insert((method.clone(), path.clone()));
        }
    }
    let served = api::routes()
        .list
        .into_iter()
        .map(|(method, path)| (method.to_owned(), path.to_owned()));
    assert_eq!(described, served.collect());
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_room_comes_back() {
    let limits = Limits {
        max_connections: 2,
        header_timeout: Duration::from_millis(300),
        ..Limits::default()
    };
    let server = with_limits("127.0.0.1:0", None, limits).await;
    let mut idle = Vec::new();
    for _ in 0..2 {
        idle.push(TcpStream::connect(server.address()).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut third = TcpStream::connect(server.address()).await.unwrap();
    assert_eq!(third.read(&mut [0; 1]).await.unwrap_or(0), 0);
    // Those who say nothing are closed after the header timeout.
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), idle[0].read_to_end(&mut rest))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    check(&server, "GET /livez", "", 200).await;
}
