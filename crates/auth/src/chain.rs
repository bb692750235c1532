//! The chain: who is asked, in which order, and what follows.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use magpie_access::{Policy, Subject, User};
use magpie_codec::Text;

use crate::http::Hook;
use crate::jwt::Jwt;
use crate::passwords::Passwords;
use crate::web::Web;
use crate::{AuthConfig, CertificateNames, Error, Kind, NameSource};

/// What a client showed by its CONNECT and before. `Debug` does not show the password.
#[derive(Clone)]
pub struct Request {
    /// Its client id, or the one that it will get.
    pub client_id: Text,
    /// User Name.
    pub username: Option<Text>,
    /// Password.
    pub password: Option<Bytes>,
    /// Where it comes from.
    pub remote: SocketAddr,
    /// 3, 4 or 5, as CONNECT has it.
    pub protocol_version: u8,
    /// Of the certificate that it showed, and that was verified.
    pub certificate: Option<Arc<CertificateNames>>,
    /// Whether this listener lets in clients without credentials; `None`: if it cannot be reached from elsewhere and nothing is set up.
    pub allow_anonymous: Option<bool>,
    /// Whether only this machine can reach the listener.
    pub is_loopback: bool,
}

/// Who a client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// As rules see it.
    pub subject: Subject,
    /// When its proof expires: then the connection is to be ended.
    pub expires_at: Option<SystemTime>,
    /// Who said so.
    pub by: By,
    /// Of a user of the cluster: [`mark_of`](Self::mark_of) what was known of it.
    pub mark: u64,
}

/// Who vouches for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum By {
    /// Nobody was asked.
    Anonymous,
    /// The cluster's users, by password.
    Users,
    /// The cluster's users, by SCRAM.
    Scram,
    /// A token.
    Jwt,
    /// The web service.
    Http,
    /// Its certificate.
    Certificate,
}

/// Why a client is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// User name or password are not right, or nobody knows them (v5: 0x86).
    BadCredentials,
    /// There are no credentials where some are needed, or a proof does not hold (0x87).
    NotAuthorized,
    /// Too many wait (0x89).
    Busy,
    /// Who is to be asked does not answer (0x88).
    Unavailable,
}

/// What one authenticator says.
#[derive(Debug, Clone)]
pub(crate) enum Decision {
    /// It does not know the client: ask the next.
    Ignore,
    Allow(Identity),
    Refuse(Refusal),
}

/// The chain of this node.
#[derive(Debug)]
pub struct Authenticator {
    order: Vec<Kind>,
    certificate_name: Option<NameSource>,
    jwt: Option<Jwt>,
    hook: Option<Hook>,
    passwords: Passwords,
    /// Whether others than the cluster's users are asked.
    has_others: bool,
}

impl Authenticator {
    /// Reads what the configuration names. Inside a tokio runtime.
    ///
    /// # Errors
    /// A file that cannot be read, a key that is none: one sentence for the operator.
    pub fn new(config: &AuthConfig) -> Result<Self, Error> {
        let needs_web = config.http_url.is_some() || config.has_jwt();
        let web = needs_web
            .then(|| Web::new(config.ca_file.as_deref()))
            .transpose()?;
        let (mut jwt, mut hook) = (None, None);
        if let Some(web) = &web {
            jwt = Jwt::new(config, web)?;
            hook = Hook::new(config, web)?;
        }
        Ok(Self {
            order: config.order.clone(),
            certificate_name: config.certificate_name,
            jwt,
            hook,
            passwords: Passwords::new(config),
            has_others: config.has_authenticators(),
        })
    }

    /// The answer, if it follows from the policy alone: nobody has to be asked.
    #[must_use]
    pub fn at_once(&self, policy: &Policy, request: &Request) -> Option<Result<Identity, Refusal>> {
        let is_set_up = policy.has_users() || self.has_others;
        (!is_set_up).then(|| self.anonymous(policy, request))
    }

    /// Whether the cluster's users are asked at all, by a password or by a method of theirs.
    #[must_use]
    pub fn asks_users(&self, policy: &Policy) -> bool {
        policy.has_users() && self.order.contains(&Kind::Users)
    }

    /// Who is it? Takes as long as it takes: to be awaited in a task of its own.
    ///
    /// Every authenticator that knows the client decides, the others pass it on. A user's wrong password is passed on as an unknown user's
    /// is, and takes as long.
    ///
    /// # Errors
    /// Why it is not let in.
    pub async fn authenticate(
        &self,
        policy: &Policy,
        request: &Request,
    ) -> Result<Identity, Refusal> {
        for kind in &self.order {
            let decision = match kind {
                Kind::Certificate => self.by_certificate(request),
                Kind::Jwt => match &self.jwt {
                    Some(jwt) => jwt.decide(request).await,
                    None => Decision::Ignore,
                },
                Kind::Users => self.by_password(policy, request).await,
                Kind::Http => match &self.hook {
                    Some(hook) => hook.decide(request).await,
                    None => Decision::Ignore,
                },
            };
            match decision {
                Decision::Ignore => {}
                Decision::Allow(identity) => return Ok(identity),
                Decision::Refuse(refusal) => return Err(refusal),
            }
        }
        self.anonymous(policy, request)
    }

    fn by_certificate(&self, request: &Request) -> Decision {
        let Some((source, names)) = self.certificate_name.zip(request.certificate.as_ref()) else {
            return Decision::Ignore;
        };
        match names.username(source).map(Text::try_from) {
            Some(Ok(username)) => Decision::Allow(Identity {
                subject: Subject::user(username, request.client_id.clone()),
                expires_at: None,
                by: By::Certificate,
                mark: 0,
            }),
            Some(Err(_)) | None => Decision::Ignore,
        }
    }

    async fn by_password(&self, policy: &Policy, request: &Request) -> Decision {
        let (Some(username), Some(password)) = (&request.username, &request.password) else {
            return Decision::Ignore;
        };
        if !policy.has_users() {
            return Decision::Ignore;
        }
        let user = policy.user(username);
        let hash = user.map(|user| &user.password);
        match (self.passwords.verify(username, hash, password).await, user) {
            (Ok(true), Some(user)) => Decision::Allow(Identity::of_user(
                By::Users,
                username.compact(),
                user,
                request.client_id.clone(),
            )),
            (Ok(_), _) => Decision::Ignore,
            (Err(refusal), _) => Decision::Refuse(refusal),
        }
    }

    /// Nobody knows it.
    fn anonymous(&self, policy: &Policy, request: &Request) -> Result<Identity, Refusal> {
        let is_set_up = policy.has_users() || self.has_others;
        let has_credentials = request.username.is_some() || request.password.is_some();
        let is_allowed = request
            .allow_anonymous
            .unwrap_or_else(|| request.is_loopback && !is_set_up && policy.is_open());
        // Where nobody could check them, credentials are as good as none: clients of other brokers bring some.
        if !is_allowed || (has_credentials && is_set_up) {
            return Err(match request.username {
                Some(_) => Refusal::BadCredentials,
                None => Refusal::NotAuthorized,
            });
        }
        Ok(Identity {
            subject: Subject::anonymous(request.client_id.clone()),
            expires_at: None,
            by: By::Anonymous,
            mark: 0,
        })
    }
}

impl Identity {
    /// Of a user of the cluster that was proven.
    #[must_use]
    pub fn of_user(by: By, username: Text, user: &User, client_id: Text) -> Self {
        let mut subject = Subject::user(username, client_id);
        subject.is_superuser = user.is_superuser;
        Self {
            subject,
            expires_at: None,
            by,
            mark: Self::mark_of(user),
        }
    }

    /// A number that changes with the user's password, keys and standing: connections of before are then to be ended.
    #[must_use]
    pub fn mark_of(user: &User) -> u64 {
        let mut hasher = DefaultHasher::new();
        user.password.as_str().hash(&mut hasher);
        user.is_superuser.hash(&mut hasher);
        if let Some(scram) = &user.scram {
            scram.stored_key.hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Whether what it rests on still holds under a newer policy: a user of the cluster is there, and as it was.
    #[must_use]
    pub fn holds(&self, policy: &Policy) -> bool {
        match self.by {
            By::Users | By::Scram => self
                .subject
                .username
                .as_ref()
                .and_then(|name| policy.user(name))
                .is_some_and(|user| Self::mark_of(user) == self.mark),
            By::Anonymous | By::Jwt | By::Http | By::Certificate => true,
        }
    }
}

impl By {
    /// In small letters, for people and labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Users => "users",
            Self::Scram => "scram",
            Self::Jwt => "jwt",
            Self::Http => "http",
            Self::Certificate => "certificate",
        }
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("client_id", &self.client_id)
            .field("username", &self.username)
            .field("has_password", &self.password.is_some())
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;
