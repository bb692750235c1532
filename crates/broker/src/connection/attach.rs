//! From a client that was let in to its session, begun or gone on with.

use std::sync::Arc;
use std::time::Instant;

use magpie_audit::What;
use magpie_cluster::Attach;
use magpie_codec::{ReasonCode, TopicFilter};
use magpie_router::CacheLimits;
use magpie_session::{Answer, Eviction, Ticket};
use magpie_state::{ClientId, Epoch, ShareSession, StoredWill};

use super::Driver;
use crate::attach::Begun;
use crate::deliver::Deliverer;
use crate::durable::Durable;
use crate::handle::Greeting;
use crate::lanes::Lanes;
use crate::publish::Publisher;
use crate::resume::{Resume, resume};
use crate::{attach, clock, subscribe, task};

/// A client publishes to few topics at a time.
const CACHE: CacheLimits = CacheLimits {
    entries_max: 256,
    bytes_max: 128 << 10,
};

impl Driver {
    pub(super) fn attach(&mut self, ticket: Ticket, wanted: magpie_session::Attach, now: Instant) {
        // The session attaches nobody who was not let in, but for the compiler.
        let Some(permit) = &mut self.permit else {
            let refused = Answer::AttachRefused(ReasonCode::NotAuthorized);
            return self.session.handle_answer(ticket, refused, now);
        };
        let access = &self.node.access;
        if let Some(will) = &wanted.will
            && !permit.leave_will(access, &will.topic)
        {
            let subject = &permit.identity().subject;
            let (client, user) = (&subject.client_id, subject.username.as_deref());
            let (remote, topic) = (self.handle.peer.remote, Some(will.topic.as_str()));
            access.tell(What::Will, "no rule allows it", client, user, remote, topic);
            let refused = Answer::AttachRefused(ReasonCode::NotAuthorized);
            return self.session.handle_answer(ticket, refused, now);
        }
        let identity = Arc::clone(permit.identity());
        let client = ClientId(wanted.client_id.compact());
        self.handle.greet(Greeting {
            client: client.clone(),
            version: self.session.version(),
            keep_alive_s: self.keep_alive_s,
            session_expiry_s: wanted.session_expiry_s,
        });
        self.node.registry.enter(&client, &self.handle);
        let attach = Attach {
            client,
            clean_start: wanted.clean_start,
            session_expiry_s: wanted.session_expiry_s,
            will: wanted.will.map(|will| {
                Box::new(StoredWill {
                    will: *will,
                    publish_ms: clock::wall_ms(),
                })
            }),
            owner: identity.subject.username.clone(),
        };
        task::spawn(attach::run(
            Arc::clone(&self.node),
            Arc::clone(&self.handle),
            attach,
            ticket,
        ));
    }

    pub(super) fn attached(
        &mut self,
        ticket: Ticket,
        result: Result<Box<Begun>, ReasonCode>,
        now: Instant,
    ) {
        let begun = match result {
            Ok(begun) => *begun,
            Err(reason) => {
                return self
                    .session
                    .handle_answer(ticket, Answer::AttachRefused(reason), now);
            }
        };
        let Some(client) = self.handle.client().cloned() else {
            return;
        };
        let epoch = begun.attached.epoch;
        // A newer connection may have been heard of while this one attached.
        let is_newest = self.node.registry.attached(&client, &self.handle, epoch);
        if !is_newest {
            return self.session.handle_close(Eviction::TakenOver, now);
        }
        if let Some(why) = self.still_objects() {
            return self.session.handle_close(why, now);
        }
        let session = self.begin_session(&client, begun);
        let incarnation = self.durable.as_ref().map(|durable| durable.incarnation);
        self.publisher = Some(Box::new(self.new_publisher(client, epoch, incarnation)));
        self.append = Some(self.handle.mailbox.begin_append());
        let answer = Answer::Attached {
            epoch: epoch.0,
            session,
        };
        self.session.handle_answer(ticket, answer, now);
        // The rules may have changed since its subscriptions were looked at.
        self.check_subscriptions(now);
    }

    /// Begins to keep a session that outlives its connection; gives what an earlier one left of it.
    fn begin_session(
        &mut self,
        client: &ClientId,
        begun: Begun,
    ) -> Option<Box<magpie_session::Session>> {
        let Begun {
            attached,
            unacknowledged,
            left,
        } = begun;
        if attached.session.is_none() && !self.handle.is_durable() {
            return None;
        }
        self.handle.keep_session(ShareSession {
            client: client.clone(),
            session: attached.incarnation,
            epoch: attached.epoch,
        });
        self.durable = Some(Box::new(Durable::new(
            client.clone(),
            attached.epoch,
            attached.incarnation,
        )));
        let positions = &self.node.subscribers.positions;
        let ahead_max = self.node.config.session.ahead_max();
        let resumed = attached
            .session
            .map(|stored| resume(&stored, &unacknowledged, positions, ahead_max));
        let Some(resumed) = resumed else {
            self.handle.mailbox.set_lanes(Lanes::new(ahead_max));
            self.node.durables.add(&self.handle);
            self.leave_shares(&left);
            return None;
        };
        let Resume {
            session,
            lanes,
            reading,
            retained,
            filters,
            shared,
        } = resumed;
        if let Some(shared) = shared {
            let (shares, handle) = (&self.node.shares, &self.handle);
            shared
                .unsettled()
                .for_each(|place| shares.done_bound(handle, place));
            handle.mailbox.set_shared(shared);
        }
        // Now it is known what of theirs the client was sent.
        self.leave_shares(&left);
        self.reading = reading;
        self.retained = retained;
        self.handle.mailbox.set_lanes(lanes);
        self.node.durables.add(&self.handle);
        let place = Self::place(&self.node, &self.handle, self.durable.as_deref());
        subscribe::resume(place, filters);
        Some(session)
    }

    fn leave_shares(&self, filters: &[TopicFilter]) {
        for filter in filters {
            self.node.shares.leave(&self.handle, filter);
        }
    }

    fn new_publisher(&self, client: ClientId, epoch: Epoch, session: Option<Epoch>) -> Publisher {
        let node = &self.node;
        let deliverer = Deliverer::new(
            Arc::clone(&node.subscribers),
            CACHE,
            Arc::clone(&node.metrics),
        );
        Publisher::new(client, epoch, session, &self.handle, deliverer)
    }
}
