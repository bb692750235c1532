//! Tokens that are good, and those that are not.

#![expect(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;

use super::*;
use crate::chain::tests::request;

/// Keys of nobody, for these tests only.
const RSA: &[u8] = include_bytes!("test_rsa.pem");
const RSA_PUBLIC: &[u8] = include_bytes!("test_rsa_public.pem");
const EC: &[u8] = include_bytes!("test_ec.pem");
const EC_PUBLIC: &[u8] = include_bytes!("test_ec_public.pem");
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn file(dir: &tempfile::TempDir, content: &[u8]) -> std::path::PathBuf {
    let path = dir.path().join(format!("{}", content.len()));
    std::fs::write(&path, content).unwrap();
    path
}

fn jwt(config: &AuthConfig) -> Jwt {
    let web = Web::new(None).unwrap();
    Jwt::new(config, &web).unwrap().unwrap()
}

fn now() -> u64 {
    jsonwebtoken::get_current_timestamp()
}

fn token_of(algorithm: Algorithm, kid: Option<&str>, key: &EncodingKey, claims: &Value) -> String {
    let header = Header {
        kid: kid.map(str::to_owned),
        ..Header::new(algorithm)
    };
    encode(&header, claims, key).unwrap()
}

fn hs256(claims: &Value) -> String {
    token_of(
        Algorithm::HS256,
        None,
        &EncodingKey::from_secret(SECRET),
        claims,
    )
}

async fn show(jwt: &Jwt, token: &str) -> Decision {
    let request = Request {
        password: Some(Bytes::from(token.to_owned())),
        ..request(Some("whoever"), None)
    };
    jwt.decide(&request).await
}

async fn identity(jwt: &Jwt, token: &str) -> Identity {
    match show(jwt, token).await {
        Decision::Allow(identity) => identity,
        other => panic!("{other:?}"),
    }
}

async fn is_refused(jwt: &Jwt, token: &str) -> bool {
    matches!(
        show(jwt, token).await,
        Decision::Refuse(Refusal::BadCredentials)
    )
}

fn with_secret(dir: &tempfile::TempDir) -> AuthConfig {
    AuthConfig {
        jwt_secret_file: Some(file(dir, SECRET)),
        ..AuthConfig::default()
    }
}

#[tokio::test]
async fn each_algorithm_lets_its_tokens_in() {
    let dir = tempfile::tempdir().unwrap();
    let claims = json!({"sub": "ann", "exp": now() + 60});
    let rsa = AuthConfig {
        jwt_public_key_file: Some(file(&dir, RSA_PUBLIC)),
        ..AuthConfig::default()
    };
    let ec = AuthConfig {
        jwt_public_key_file: Some(file(&dir, EC_PUBLIC)),
        ..AuthConfig::default()
    };
    let rsa_key = EncodingKey::from_rsa_pem(RSA).unwrap();
    let ec_key = EncodingKey::from_ec_pem(EC).unwrap();
    for (config, token) in [
        (with_secret(&dir), hs256(&claims)),
        (
            rsa,
            token_of(Algorithm::RS256, Some("any"), &rsa_key, &claims),
        ),
        (ec, token_of(Algorithm::ES256, None, &ec_key, &claims)),
    ] {
        let jwt = jwt(&config);
        let identity = identity(&jwt, &token).await;
        assert_eq!(identity.subject.username.as_deref(), Some("ann"));
        assert!(identity.expires_at.is_some());
        let mut damaged = token.clone();
        damaged.pop();
        damaged.push(if token.ends_with('A') { 'B' } else { 'A' });
        // The last character of a signature may say nothing; the one in the middle does.
        let middle = token.len() - 20;
        damaged.replace_range(
            middle..=middle,
            if &token[middle..=middle] == "A" {
                "B"
            } else {
                "A"
            },
        );
        assert!(is_refused(&jwt, &damaged).await);
    }
}

/// The algorithm follows from the key: a public key is no secret, whatever the token says.
#[tokio::test]
async fn no_token_chooses_its_algorithm() {
    let dir = tempfile::tempdir().unwrap();
    let claims = json!({"sub": "ann", "exp": now() + 60});
    let jwt = jwt(&AuthConfig {
        jwt_public_key_file: Some(file(&dir, RSA_PUBLIC)),
        ..AuthConfig::default()
    });
    let forged = EncodingKey::from_secret(RSA_PUBLIC);
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        assert!(is_refused(&jwt, &token_of(algorithm, None, &forged, &claims)).await);
    }
    let rsa = EncodingKey::from_rsa_pem(RSA).unwrap();
    for algorithm in [Algorithm::RS384, Algorithm::PS256] {
        assert!(is_refused(&jwt, &token_of(algorithm, None, &rsa, &claims)).await);
    }
    // {"alg":"none","typ":"JWT"}.{"sub":"ann"}.
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbm4ifQ.";
    assert!(is_refused(&jwt, none).await);
}

#[tokio::test]
async fn claims_are_held_to() {
    let dir = tempfile::tempdir().unwrap();
    let jwt = jwt(&AuthConfig {
        jwt_issuer: Some("us".to_owned()),
        jwt_audience: vec!["mqtt".to_owned(), "chat".to_owned()],
        jwt_client_id_claim: Some("client".to_owned()),
        jwt_superuser_claim: Some("root".to_owned()),
        ..with_secret(&dir)
    });
    let good =
        json!({"sub": "ann", "exp": now() + 60, "iss": "us", "aud": "chat", "client": "phone"});
    assert!(!identity(&jwt, &hs256(&good)).await.subject.is_superuser);
    let changes = [
        json!({"exp": now() - 60}),
        json!({"exp": null}),
        json!({"exp": "soon"}),
        json!({"nbf": now() + 60}),
        json!({"nbf": "soon"}),
        json!({"iss": "them"}),
        json!({"iss": null}),
        json!({"aud": "other"}),
        json!({"aud": null}),
        json!({"sub": ""}),
        json!({"sub": 7}),
        json!({"sub": null}),
        json!({"client": "other"}),
        json!({"client": null}),
        json!({"acl": "everything"}),
    ];
    for change in changes {
        let mut claims = good.clone();
        for (claim, value) in change.as_object().unwrap() {
            match value {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(claim)),
                value => claims[claim] = value.clone(),
            }
        }
        assert!(is_refused(&jwt, &hs256(&claims)).await, "{change}");
    }
    let mut root = good.clone();
    root["root"] = json!(true);
    root["acl"] = json!([{"action": "subscribe", "topic": "a/%u/#"}]);
    let identity = identity(&jwt, &hs256(&root)).await;
    assert!(identity.subject.is_superuser);
    assert_eq!(identity.subject.own_rules.unwrap().len(), 1);
}

#[tokio::test]
async fn a_token_may_last_for_ever_where_that_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let jwt = jwt(&AuthConfig {
        jwt_require_expiry: false,
        ..with_secret(&dir)
    });
    assert_eq!(
        identity(&jwt, &hs256(&json!({"sub": "ann"})))
            .await
            .expires_at,
        None
    );
    let far = hs256(&json!({"sub": "ann", "exp": u64::MAX}));
    assert_eq!(identity(&jwt, &far).await.expires_at, None);
}

#[tokio::test]
async fn tokens_that_wait_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let jwt = jwt(&with_secret(&dir));
    let token = hs256(&json!({"sub": "ann", "exp": now() + 60}));
    let turns = jwt.pool.all_turns();
    let answer = show(&jwt, &token).await;
    assert!(matches!(answer, Decision::Refuse(Refusal::Busy)));
    drop(turns);
    identity(&jwt, &token).await;
}

#[tokio::test]
async fn what_is_no_token_is_somebody_elses_affair() {
    let dir = tempfile::tempdir().unwrap();
    let jwt = jwt(&with_secret(&dir));
    for password in ["secret", "a.b", "a.b.c", ""] {
        assert!(
            matches!(show(&jwt, password).await, Decision::Ignore),
            "{password}"
        );
    }
    let without = jwt.decide(&request(Some("ann"), None)).await;
    assert!(matches!(without, Decision::Ignore));
}

#[tokio::test]
async fn a_key_set_is_found_by_key_id_and_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let rsa = EncodingKey::from_rsa_pem(RSA).unwrap();
    let ec = EncodingKey::from_ec_pem(EC).unwrap();
    let key_of = |key: &EncodingKey, algorithm, id: &str| {
        let mut jwk = Jwk::from_encoding_key(key, algorithm).unwrap();
        jwk.common.key_id = Some(id.to_owned());
        jwk
    };
    let write = |keys: Vec<Jwk>| {
        let set = serde_json::to_vec(&JwkSet { keys }).unwrap();
        std::fs::write(dir.path().join("jwks"), set).unwrap();
    };
    write(vec![key_of(&rsa, Algorithm::RS256, "old")]);
    let jwt = jwt(&AuthConfig {
        jwks: Some(dir.path().join("jwks").display().to_string()),
        ..AuthConfig::default()
    });
    let claims = json!({"sub": "ann", "exp": now() + 60});
    let old = token_of(Algorithm::RS256, Some("old"), &rsa, &claims);
    let new = token_of(Algorithm::ES256, Some("new"), &ec, &claims);
    identity(&jwt, &old).await;
    write(vec![key_of(&ec, Algorithm::ES256, "new")]);
    // Within the pause after the last reading, which the task has done or this does.
    let first = is_refused(&jwt, &new).await;
    if first {
        jwt.keys.forget_reading().await;
    }
    identity(&jwt, &new).await;
    assert!(
        is_refused(&jwt, &old).await,
        "it is not in the set any more"
    );
    // What cannot be read leaves those that were known.
    std::fs::write(dir.path().join("jwks"), b"{}").unwrap();
    jwt.keys.forget_reading().await;
    assert!(is_refused(&jwt, &old).await);
    identity(&jwt, &new).await;
}

#[tokio::test]
async fn what_cannot_be_a_key_is_told_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let web = Web::new(None).unwrap();
    let short = AuthConfig {
        jwt_secret_file: Some(file(&dir, b"short")),
        ..AuthConfig::default()
    };
    let nonsense = AuthConfig {
        jwt_public_key_file: Some(file(&dir, b"nonsense")),
        ..AuthConfig::default()
    };
    let absent = AuthConfig {
        jwks: Some("/nowhere/at/all".to_owned()),
        ..AuthConfig::default()
    };
    for config in [short, nonsense, absent] {
        assert!(Jwt::new(&config, &web).is_err());
    }
}
