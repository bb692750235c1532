//! Who the client is, and what it may do: asked before anything is done for it.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use magpie_access::Policy;
use magpie_audit::What;
use magpie_auth::{By, Identity, Request, SCRAM_METHOD, Scram};
use magpie_codec::{ProtocolVersion, ReasonCode};
use magpie_session::{Answer, Credentials, Eviction, Subscription, Ticket};

use super::Driver;
use crate::access::{Access, why_not};
use crate::authenticate::{reason, request};
use crate::handle::Handle;
use crate::mailbox::Post;
use crate::node::Shared;
use crate::permit::Permit;
use crate::publish::Outgoing;
use crate::{clock, task};

/// How somebody proves to be who it is, while it does.
#[derive(Debug)]
pub(super) struct Proving {
    scram: Option<Scram>,
    /// Of which its user is: who proves an older password is not let in under a newer one.
    policy: Arc<Policy>,
    /// User Name of CONNECT, which must be the one that is proven.
    claimed: Option<magpie_codec::Text>,
}

impl Driver {
    /// Asks who the client is. The answer may come by the mailbox.
    pub(super) fn authenticate(&mut self, ticket: Ticket, credentials: &Credentials, now: Instant) {
        if let Some(reason) = self.refusal {
            // Nobody is asked about it: that would be work for those who come too often.
            let answer = Answer::Authenticated(Err(reason));
            return self.session.handle_answer(ticket, answer, now);
        }
        let access = &self.node.access;
        let policy = access.policy();
        let address = self.handle.peer.remote.ip();
        let ban = policy.ban_of(&credentials.client_id, None, address, clock::wall_ms());
        if ban.is_some() {
            let answer = Err((ReasonCode::Banned, "banned"));
            return self.authenticated(ticket, answer, None, now);
        }
        let claimed = credentials.username.as_ref();
        self.proving = Some(Box::new(Proving {
            scram: None,
            policy: Arc::clone(&policy),
            claimed: claimed.map(magpie_codec::Text::compact),
        }));
        if let Some(method) = &credentials.method {
            // [MQTT-4.12.0-1]
            if method.as_str() != SCRAM_METHOD || !access.authenticator.asks_users(&policy) {
                let answer = Err((ReasonCode::BadAuthenticationMethod, "unknown method"));
                return self.authenticated(ticket, answer, None, now);
            }
            return self.prove(ticket, credentials.data.as_ref(), true, now);
        }
        let request = request(credentials, &self.handle.peer, self.anonymity);
        match access.authenticator.at_once(&policy, &request) {
            Some(result) => self.authenticated(ticket, result.map_err(reason), None, now),
            None => {
                let (node, handle) = (Arc::clone(&self.node), Arc::clone(&self.handle));
                task::spawn(ask(node, handle, request, ticket));
            }
        }
    }

    /// Takes a step of the exchange of a method.
    pub(super) fn prove(
        &mut self,
        ticket: Ticket,
        data: Option<&Bytes>,
        begins: bool,
        now: Instant,
    ) {
        let refused = Err((ReasonCode::NotAuthorized, "the proof does not hold"));
        let policy = self.node.access.policy();
        let Some(proving) = &mut self.proving else {
            return self.authenticated(ticket, refused, None, now);
        };
        let data = data.map_or(&[][..], |data| data);
        if begins {
            let begun = Scram::begin(&policy, &self.node.access.scram_secret, data);
            return match begun {
                Ok((scram, answer)) => {
                    proving.scram = Some(scram);
                    proving.policy = policy;
                    let challenge = Answer::Challenge(Some(answer));
                    self.session.handle_answer(ticket, challenge, now);
                }
                Err(refusal) => self.authenticated(ticket, Err(reason(refusal)), None, now),
            };
        }
        let proven = proving
            .scram
            .take()
            .and_then(|scram| scram.finish(data).ok());
        let Some((username, answer)) = proven else {
            return self.authenticated(ticket, refused, None, now);
        };
        let is_claimed = proving
            .claimed
            .as_ref()
            .is_none_or(|claimed| *claimed == username);
        let user = proving.policy.user(&username).filter(|_| is_claimed);
        let client_id = self.session.client_id().cloned();
        let (Some(user), Some(client_id)) = (user, client_id) else {
            return self.authenticated(ticket, refused, None, now);
        };
        let identity = Identity::of_user(By::Scram, username, user, client_id);
        self.authenticated(ticket, Ok(identity), Some(answer), now);
    }

    /// It is known who the client is, or why it may not come, or stay.
    pub(super) fn authenticated(
        &mut self,
        ticket: Ticket,
        result: Result<Identity, (ReasonCode, &'static str)>,
        data: Option<Bytes>,
        now: Instant,
    ) {
        let refusal = match result.and_then(|identity| self.let_in(identity, now)) {
            Ok(()) => {
                if data.is_none() {
                    // There is no method by which it could show again who it is.
                    self.proving = None;
                }
                let answer = Answer::Authenticated(Ok(data));
                return self.session.handle_answer(ticket, answer, now);
            }
            Err(refusal) => refusal,
        };
        let (reason, why) = refusal;
        let client = self.session.client_id().map_or("", |id| id.as_str());
        let remote = self.handle.peer.remote;
        let access = &self.node.access;
        access.tell(What::Connect, why, client, self.claimed(), remote, None);
        let answer = Answer::Authenticated(Err(reason));
        self.session.handle_answer(ticket, answer, now);
    }

    /// User name that it was or wants to be, for the audit log.
    fn claimed(&self) -> Option<&str> {
        let proving = self.proving.as_ref();
        let proving = proving.and_then(|proving| proving.claimed.as_deref());
        let permit = self.permit.as_ref();
        permit
            .and_then(|permit| permit.identity().subject.username.as_deref())
            .or(proving)
    }

    fn let_in(
        &mut self,
        identity: Identity,
        now: Instant,
    ) -> Result<(), (ReasonCode, &'static str)> {
        let policy = self.node.access.policy();
        match Access::objection(&policy, &identity, self.handle.peer.remote) {
            Some(Eviction::Banned) => return Err((ReasonCode::Banned, "banned")),
            Some(why) => return Err((ReasonCode::NotAuthorized, why_not(why))),
            None => {}
        }
        let identity = Arc::new(identity);
        match &mut self.permit {
            // [MQTT-4.12.1-1]: it shows again who it is, not that it is somebody else.
            Some(permit) if permit.identity().subject.username != identity.subject.username => {
                return Err((ReasonCode::NotAuthorized, "not the user that it was"));
            }
            Some(permit) => permit.renew(Arc::clone(&identity), now),
            None => {
                let permit = Permit::new(Arc::clone(&identity), policy, now);
                self.permit = Some(Box::new(permit));
            }
        }
        self.handle.identify(identity);
        Ok(())
    }

    /// Whether a message may go on. If not, it is answered here, and nobody gets it.
    pub(super) fn may_publish(&mut self, outgoing: &Outgoing, now: Instant) -> bool {
        let topic = &outgoing.message.topic;
        let Some(permit) = &mut self.permit else {
            return false;
        };
        if permit.may_publish(&self.node.access, topic) {
            return true;
        }
        let access = &self.node.access;
        access.refused(
            What::Publish,
            "no rule allows it",
            &self.handle,
            Some(topic.as_str()),
        );
        self.node.metrics.publishes_denied.increment(1);
        if let Some(ticket) = outgoing.ticket {
            let answer = match self.session.version() {
                ProtocolVersion::V5 => Err(ReasonCode::NotAuthorized),
                // It cannot be told [MQTT-3.3.5-2 v3.1.1]: acknowledged, and dropped.
                ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => Ok(ReasonCode::Success),
            };
            self.session
                .handle_answer(ticket, Answer::Published(answer), now);
        }
        false
    }

    /// Which of the filters the client may not have, by their places in the SUBSCRIBE; takes them out.
    pub(super) fn refuse_filters(&mut self, subscriptions: &mut Vec<Subscription>) -> Vec<usize> {
        let Some(permit) = &mut self.permit else {
            return Vec::new();
        };
        let mut denied = Vec::new();
        for (place, subscription) in subscriptions.iter().enumerate() {
            if !permit.may_subscribe(&self.node.access, &subscription.filter) {
                denied.push(place);
            }
        }
        for place in denied.iter().rev() {
            let filter = subscriptions.remove(*place).filter;
            let access = &self.node.access;
            access.refused(
                What::Subscribe,
                "no rule allows it",
                &self.handle,
                Some(filter.as_str()),
            );
        }
        denied
    }

    /// A SUBSCRIBE was answered as it was asked about: perhaps under older rules.
    pub(super) fn check_subscribed(&mut self, now: Instant) {
        let is_last = self.subscribing.is_idle();
        let access = &self.node.access;
        let permit = self.permit.as_mut();
        if permit.is_some_and(|permit| permit.must_look_again(access, is_last)) {
            self.check_subscriptions(now);
        }
    }

    /// The rules have changed: whoever has a subscription that it may not have any more goes.
    pub(super) fn check_subscriptions(&mut self, now: Instant) {
        let (Some(permit), Some(session), None) =
            (&mut self.permit, self.session.session(), &self.end)
        else {
            return;
        };
        let access = &self.node.access;
        let denied = session
            .subscriptions()
            .map(|(filter, _)| filter)
            .find(|filter| !permit.may_subscribe(access, filter))
            .cloned();
        if let Some(denied) = denied {
            access.refused(
                What::Stay,
                "no rule allows a subscription any more",
                &self.handle,
                Some(denied.as_str()),
            );
            self.session.handle_close(Eviction::NotAuthorized, now);
        }
    }

    /// The connection stands in the registry now: what changed since it was let in is seen here, what changes later is told to it.
    pub(super) fn still_objects(&self) -> Option<Eviction> {
        let policy = self.node.access.policy();
        let identity = self.permit.as_ref()?.identity();
        Access::objection(&policy, identity, self.handle.peer.remote)
    }
}

async fn ask(node: Arc<Shared>, handle: Arc<Handle>, request: Request, ticket: Ticket) {
    let policy = node.access.policy();
    let answer = node.access.authenticator.authenticate(&policy, &request);
    let result = answer.await.map(Box::new);
    // A connection that is gone needs no answer.
    let _ = handle.mailbox.post(Post::Authenticated { ticket, result });
}
