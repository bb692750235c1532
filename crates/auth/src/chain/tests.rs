//! The order of things, and who is let in unasked.

#![expect(clippy::unwrap_used, reason = "tests")]

use magpie_access::{
    Action, Change, Effect, PasswordHash, Pattern, Rule, SALT_BYTES, Tables, UserIs, Who,
};

use super::*;

pub(crate) fn set_user(tables: &mut Tables, name: &str, user: User) {
    let change = Change::SetUser {
        name: name.to_owned(),
        user,
        expect: UserIs::NewOrKnown,
    };
    tables.apply(change, &mut Vec::new()).unwrap();
}

pub(crate) fn user(password: &[u8]) -> User {
    User {
        password: PasswordHash::of(password, [1; SALT_BYTES]).unwrap(),
        scram: None,
        is_superuser: false,
    }
}

pub(crate) fn request(username: Option<&'static str>, password: Option<&'static [u8]>) -> Request {
    Request {
        client_id: Text::from_static("phone"),
        username: username.map(Text::from_static),
        password: password.map(Bytes::from_static),
        remote: ([127, 0, 0, 1], 4242).into(),
        protocol_version: 5,
        certificate: None,
        allow_anonymous: None,
        is_loopback: true,
    }
}

fn with_ann() -> Policy {
    let mut tables = Tables::default();
    set_user(&mut tables, "ann", user(b"secret"));
    Policy::new(&tables)
}

async fn by(policy: &Policy, request: Request) -> Result<By, Refusal> {
    let authenticator = Authenticator::new(&AuthConfig::default()).unwrap();
    let identity = authenticator.authenticate(policy, &request).await?;
    assert_eq!(identity.subject.client_id, request.client_id);
    Ok(identity.by)
}

#[tokio::test]
async fn without_anything_set_up_loopback_is_open_to_all() {
    let open = Policy::default();
    let unproven = request(Some("ann"), Some(b"x"));
    let authenticator = Authenticator::new(&AuthConfig::default()).unwrap();
    let identity = authenticator.authenticate(&open, &unproven).await.unwrap();
    assert_eq!(identity.by, By::Anonymous);
    assert_eq!(identity.subject.username, None, "nobody has proven it");
    let elsewhere = Request {
        is_loopback: false,
        ..request(None, None)
    };
    assert_eq!(
        by(&open, elsewhere.clone()).await,
        Err(Refusal::NotAuthorized)
    );
    let allowed = Request {
        allow_anonymous: Some(true),
        ..elsewhere
    };
    assert_eq!(by(&open, allowed).await, Ok(By::Anonymous));
    let forbidden = Request {
        allow_anonymous: Some(false),
        ..request(None, None)
    };
    assert_eq!(by(&open, forbidden).await, Err(Refusal::NotAuthorized));
}

#[tokio::test]
async fn a_rule_or_a_user_closes_it() {
    let mut tables = Tables::default();
    let rule = Rule {
        effect: Effect::Allow,
        action: Action::All,
        who: Who::Everybody,
        pattern: Pattern::try_from("#").unwrap(),
    };
    tables
        .apply(Change::AddRule { rule }, &mut Vec::new())
        .unwrap();
    let ruled = Policy::new(&tables);
    assert_eq!(
        by(&ruled, request(None, None)).await,
        Err(Refusal::NotAuthorized)
    );
    assert_eq!(
        by(&with_ann(), request(None, None)).await,
        Err(Refusal::NotAuthorized)
    );
}

#[tokio::test]
async fn users_come_with_their_password() {
    let policy = with_ann();
    assert_eq!(
        by(&policy, request(Some("ann"), Some(b"secret"))).await,
        Ok(By::Users)
    );
    for wrong in [
        request(Some("ann"), Some(b"wrong")),
        request(Some("bob"), Some(b"secret")),
        request(Some("ann"), None),
    ] {
        // Also where strangers may come without credentials.
        for allow_anonymous in [None, Some(true)] {
            let wrong = Request {
                allow_anonymous,
                ..wrong.clone()
            };
            assert_eq!(by(&policy, wrong).await, Err(Refusal::BadCredentials));
        }
    }
    let stranger = Request {
        allow_anonymous: Some(true),
        ..request(None, None)
    };
    assert_eq!(by(&policy, stranger).await, Ok(By::Anonymous));
}

#[tokio::test]
async fn a_certificate_names_the_user() {
    let config = AuthConfig {
        certificate_name: Some(NameSource::Cn),
        ..AuthConfig::default()
    };
    let authenticator = Authenticator::new(&config).unwrap();
    let names = CertificateNames {
        common_name: Some("ann".to_owned()),
        ..CertificateNames::default()
    };
    let shown = Request {
        certificate: Some(Arc::new(names)),
        ..request(Some("bob"), None)
    };
    let policy = Policy::default();
    let identity = authenticator.authenticate(&policy, &shown).await.unwrap();
    assert_eq!(identity.subject.username.as_deref(), Some("ann"));
    // Without one, nobody is let in unasked any more.
    let without = request(None, None);
    let without = authenticator.authenticate(&policy, &without);
    assert_eq!(without.await, Err(Refusal::NotAuthorized));
}

#[test]
fn an_identity_holds_while_its_user_is_as_it_was() {
    let mut tables = Tables::default();
    set_user(&mut tables, "ann", user(b"secret"));
    let known = Policy::new(&tables);
    let ann = known.user("ann").unwrap();
    let text = Text::from_static;
    let identity = Identity::of_user(By::Users, text("ann"), ann, text("phone"));
    assert!(identity.holds(&known));
    assert!(!identity.holds(&Policy::default()), "gone");
    for changed in [
        user(b"other"),
        User {
            is_superuser: true,
            ..user(b"secret")
        },
    ] {
        set_user(&mut tables, "ann", changed);
        assert!(!identity.holds(&Policy::new(&tables)));
    }
}
