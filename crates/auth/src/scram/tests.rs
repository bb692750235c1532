//! The exchange, with the RFC's own numbers and with a client.

#![expect(clippy::unwrap_used, reason = "tests")]

use magpie_access::{PasswordHash, Tables};

use super::*;

const SECRET: [u8; 32] = [9; 32];

/// A policy with one user.
fn policy(name: &str, verifier: Option<ScramVerifier>) -> Policy {
    let mut tables = Tables::default();
    let user = magpie_access::User {
        password: PasswordHash::of(b"pencil", [1; SALT_BYTES]).unwrap(),
        scram: verifier,
        is_superuser: false,
    };
    crate::chain::tests::set_user(&mut tables, name, user);
    Policy::new(&tables)
}

fn verifier(password: &[u8]) -> ScramVerifier {
    ScramVerifier::of(password, [5; SALT_BYTES], SCRAM_ITERATIONS).unwrap()
}

/// What a client with this password answers to the server's first message.
fn proof(password: &[u8], bare: &str, server_first: &str, header: &str) -> String {
    let attribute = |name: &str| {
        let mut attributes = server_first.split(',');
        attributes.find_map(|it| it.strip_prefix(name)).unwrap()
    };
    let salt = BASE64.decode(attribute("s=")).unwrap();
    let iterations = attribute("i=").parse().unwrap();
    let salted = pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password, &salt, iterations);
    let client_key = hmac(&salted, b"Client Key");
    let stored_key: [u8; 32] = Sha256::digest(client_key).into();
    let without_proof = format!("c={},r={}", BASE64.encode(header), attribute("r="));
    let transcript = format!("{bare},{server_first},{without_proof}");
    let signature = hmac(&stored_key, transcript.as_bytes());
    let proof: Vec<u8> = client_key
        .iter()
        .zip(signature)
        .map(|(a, b)| a ^ b)
        .collect();
    format!("{without_proof},p={}", BASE64.encode(proof))
}

fn log_in(policy: &Policy, first: &str, bare: &str, password: &[u8]) -> Result<Text, Refusal> {
    let (exchange, server_first) = Scram::begin(policy, &SECRET, first.as_bytes())?;
    let server_first = std::str::from_utf8(&server_first).unwrap();
    let header = first.strip_suffix(bare).unwrap();
    let last = proof(password, bare, server_first, header);
    exchange
        .finish(last.as_bytes())
        .map(|(username, _)| username)
}

/// RFC 7677, section 3.
#[test]
fn the_exchange_of_the_rfc() {
    let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let verifier = ScramVerifier::of(b"pencil", salt.try_into().unwrap(), 4096).unwrap();
    let (exchange, first) = Scram::begin_with(
        &policy("user", Some(verifier)),
        &SECRET,
        b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
        "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
    )
    .unwrap();
    assert_eq!(
        first,
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    );
    let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    let (username, answer) = exchange.finish(last.as_bytes()).unwrap();
    assert_eq!(username.as_str(), "user");
    assert_eq!(answer, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

#[test]
fn only_the_right_password_is_proven() {
    let policy = policy("ann", Some(verifier(b"pencil")));
    let log_in = |first, bare, password| log_in(&policy, first, bare, password);
    let bare = "n=ann,r=abc";
    assert_eq!(
        log_in("n,,n=ann,r=abc", bare, b"pencil").unwrap().as_str(),
        "ann"
    );
    assert!(log_in("y,a=ann,n=ann,r=abc", bare, b"pencil").is_ok());
    assert_eq!(
        log_in("n,,n=ann,r=abc", bare, b"pen"),
        Err(Refusal::NotAuthorized)
    );
    assert_eq!(
        log_in("n,a=bob,n=ann,r=abc", bare, b"pencil"),
        Err(Refusal::NotAuthorized)
    );
}

#[test]
fn names_are_unescaped() {
    let policy = policy("a,b=c", Some(verifier(b"pencil")));
    let bare = "n=a=2Cb=3Dc,r=abc";
    let proven = log_in(&policy, &format!("n,,{bare}"), bare, b"pencil");
    assert_eq!(proven.unwrap().as_str(), "a,b=c");
    for wrong in ["a=2cb", "a=", "a=4", "="] {
        assert_eq!(name(wrong), None, "{wrong}");
    }
}

#[test]
fn an_unknown_user_is_asked_the_same_at_each_try() {
    // Known, but without keys for this method.
    let policy = policy("ann", None);
    let ask = |name: &str, secret: &[u8; 32]| {
        let first = format!("n,,n={name},r=abc");
        let (exchange, first) =
            Scram::begin_with(&policy, secret, first.as_bytes(), "def").unwrap();
        assert!(!exchange.is_known);
        first
    };
    for name in ["ann", "bob"] {
        assert_eq!(ask(name, &SECRET), ask(name, &SECRET));
        assert_ne!(
            ask(name, &SECRET),
            ask(name, &[8; 32]),
            "nobody can foresee it"
        );
    }
    assert_ne!(ask("ann", &SECRET), ask("bob", &SECRET));
    for password in [&b"pencil"[..], b""] {
        let proven = log_in(&policy, "n,,n=bob,r=abc", "n=bob,r=abc", password);
        assert_eq!(proven, Err(Refusal::NotAuthorized));
    }
}

#[test]
fn what_is_no_message_is_refused() {
    let policy = policy("ann", Some(verifier(b"pencil")));
    let long = format!("n,,n=ann,r={}", "x".repeat(MESSAGE_BYTES_MAX));
    for first in [
        "",
        "n",
        "n,,",
        "n,,n=ann",
        "n,,n=,r=abc",
        "n,,n=ann,r=",
        "n,,n=ann,r=a c",
        "n,,m=x,n=ann,r=abc",
        "n,x,n=ann,r=abc",
        "p=tls-unique,,n=ann,r=abc",
        &long,
    ] {
        let began = Scram::begin(&policy, &SECRET, first.as_bytes());
        assert_eq!(began.err(), Some(Refusal::NotAuthorized), "{first}");
    }
    assert!(Scram::begin(&policy, &SECRET, b"n,,n=\xff,r=abc").is_err());
    let bare = "n=ann,r=abc";
    let finish = |change: &dyn Fn(String) -> String| {
        let (exchange, first) = Scram::begin(&policy, &SECRET, b"n,,n=ann,r=abc").unwrap();
        let last = proof(b"pencil", bare, std::str::from_utf8(&first).unwrap(), "n,,");
        exchange.finish(change(last).as_bytes()).map(|_| ())
    };
    assert_eq!(finish(&|last| last), Ok(()));
    let refused = Err(Refusal::NotAuthorized);
    assert_eq!(
        finish(&|last| last.replace("c=biws", "c=eSws")),
        refused,
        "another header"
    );
    assert_eq!(
        finish(&|last| last.replace("r=abc", "r=abd")),
        refused,
        "another nonce"
    );
    assert_eq!(finish(&|last| last.replace(",p=", ",p=AA")), refused);
    assert_eq!(finish(&|_| String::new()), refused);
    assert_eq!(finish(&|_| "c=biws,r=abc,p=AAAA".to_owned()), refused);
}
