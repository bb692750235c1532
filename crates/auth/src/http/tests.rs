//! Against a service that answers, is slow, or is not there.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::chain::tests::request;

/// A service that answers each question with `answer`, after `delay`; and how many questions it got, on how many connections.
async fn service(
    status: &'static str,
    answer: &'static str,
    delay: Duration,
) -> (String, Arc<[AtomicUsize; 2]>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/auth", listener.local_addr().unwrap());
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let counted = Arc::clone(&counts);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            counted[1].fetch_add(1, Ordering::Relaxed);
            tokio::spawn(serve(socket, status, answer, delay, Arc::clone(&counted)));
        }
    });
    (url, counts)
}

async fn serve(
    mut socket: TcpStream,
    status: &'static str,
    answer: &'static str,
    delay: Duration,
    counts: Arc<[AtomicUsize; 2]>,
) {
    let mut buffer = Vec::new();
    loop {
        let mut bytes = [0; 4096];
        let Ok(count @ 1..) = socket.read(&mut bytes).await else {
            return;
        };
        buffer.extend_from_slice(&bytes[..count]);
        let text = String::from_utf8_lossy(&buffer).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let head = head.to_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap();
        let length: usize = length.lines().next().unwrap().parse().unwrap();
        if body.len() < length {
            continue;
        }
        buffer.clear();
        counts[0].fetch_add(1, Ordering::Relaxed);
        let document: Value = serde_json::from_str(body).unwrap();
        assert_eq!(document["client_id"], "phone");
        tokio::time::sleep(delay).await;
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{answer}",
            answer.len()
        );
        socket.write_all(answer.as_bytes()).await.unwrap();
    }
}

fn hook(config: AuthConfig) -> Hook {
    let web = Web::new(None).unwrap();
    Hook::new(&config, &web).unwrap().unwrap()
}

fn config(url: String) -> AuthConfig {
    AuthConfig {
        http_url: Some(url),
        http_cache: Duration::ZERO,
        ..AuthConfig::default()
    }
}

async fn decide(hook: &Hook) -> Decision {
    hook.decide(&request(Some("ann"), Some(b"secret"))).await
}

const AT_ONCE: Duration = Duration::ZERO;

#[tokio::test]
async fn it_says_who_comes_in() {
    let answer = r#"{"result":"allow","is_superuser":true,"expire_at":4000000000,
        "acl":[{"permission":"deny","action":"publish","topic":"a/#"}]}"#;
    let (url, counts) = service("200 OK", answer, AT_ONCE).await;
    let hook = hook(config(url));
    let Decision::Allow(identity) = decide(&hook).await else {
        panic!("not allowed");
    };
    assert_eq!(identity.subject.username.as_deref(), Some("ann"));
    assert!(identity.subject.is_superuser);
    assert_eq!(identity.subject.own_rules.unwrap().len(), 1);
    assert_eq!(
        identity.expires_at,
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000))
    );
    for _ in 0..9 {
        decide(&hook).await;
    }
    assert_eq!(counts[0].load(Ordering::Relaxed), 10);
    assert_eq!(counts[1].load(Ordering::Relaxed), 1, "one connection");
    let (url, _) = service("200 OK", r#"{"result":"deny"}"#, AT_ONCE).await;
    let denied = decide(&self::hook(config(url))).await;
    assert!(matches!(denied, Decision::Refuse(Refusal::BadCredentials)));
    let (url, _) = service("200 OK", r#"{"result":"ignore"}"#, AT_ONCE).await;
    assert!(matches!(
        decide(&self::hook(config(url))).await,
        Decision::Ignore
    ));
}

#[tokio::test]
async fn it_fails_closed() {
    let allow = r#"{"result":"allow"}"#;
    let (error, _) = service("500 Oops", allow, AT_ONCE).await;
    let (elsewhere, _) = service("302 Found", allow, AT_ONCE).await;
    let (nonsense, _) = service("200 OK", "<html>", AT_ONCE).await;
    let (empty, _) = service("200 OK", "{}", AT_ONCE).await;
    let (bad_rules, _) = service("200 OK", r#"{"result":"allow","acl":7}"#, AT_ONCE).await;
    // Nobody listens on port 1.
    let absent = "http://127.0.0.1:1/".to_owned();
    for url in [error, elsewhere, nonsense, empty, bad_rules, absent] {
        let decision = decide(&hook(config(url.clone()))).await;
        assert!(
            matches!(decision, Decision::Refuse(Refusal::Unavailable)),
            "{url}"
        );
    }
}

#[tokio::test]
async fn a_slow_one_is_given_up_and_queued_for_no_longer() {
    let (url, _) = service("200 OK", r#"{"result":"allow"}"#, Duration::from_secs(60)).await;
    let hook = hook(AuthConfig {
        http_timeout: Duration::from_millis(100),
        http_concurrency: 1,
        http_queue: 1,
        ..config(url)
    });
    let began = Instant::now();
    let (a, b, c) = tokio::join!(decide(&hook), decide(&hook), decide(&hook));
    assert!(matches!(a, Decision::Refuse(Refusal::Unavailable)));
    assert!(
        matches!(b, Decision::Refuse(Refusal::Unavailable)),
        "its time passed in the queue"
    );
    assert!(matches!(c, Decision::Refuse(Refusal::Busy)));
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn an_answer_holds_for_a_while_for_the_same_credentials() {
    let (url, counts) = service("200 OK", r#"{"result":"deny"}"#, AT_ONCE).await;
    let hook = hook(AuthConfig {
        http_cache: Duration::from_secs(60),
        ..config(url)
    });
    let asked = || counts[0].load(Ordering::Relaxed);
    for _ in 0..3 {
        decide(&hook).await;
    }
    assert_eq!(asked(), 1);
    hook.decide(&request(Some("ann"), Some(b"other"))).await;
    hook.decide(&request(Some("ann"), None)).await;
    hook.decide(&request(None, None)).await;
    assert_eq!(asked(), 4);
    let (url, counts) = service("200 OK", r#"{"result":"deny"}"#, AT_ONCE).await;
    let hook = self::hook(AuthConfig {
        http_cache: Duration::from_millis(50),
        ..config(url)
    });
    decide(&hook).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    decide(&hook).await;
    assert_eq!(counts[0].load(Ordering::Relaxed), 2);
}
