//! Telling the session what the node answers.

use std::time::Instant;

use magpie_failpoint::fail_point;
use magpie_session::{Answer, Eviction, Ticket};

use super::Driver;
use crate::authenticate::reason;
use crate::mailbox::Post;
use crate::publish;
use crate::resume::at_least_once;
use crate::subscribe::{self, Next};

impl Driver {
    /// Takes an answer of the node.
    pub(super) fn handle_post(&mut self, post: Post, now: Instant) {
        match post {
            Post::Published { tickets, submitted } => {
                fail_point!("answer.published", self.handle.about());
                for (ordinal, ticket) in tickets.into_iter().enumerate() {
                    match publish::answer_to_submitted(&submitted, ordinal) {
                        Some(answer) => self.published(ticket, answer, now),
                        None => self.session.handle_close(Eviction::TakenOver, now),
                    }
                }
            }
            Post::Kept => {
                if let Some(publisher) = &mut self.publisher {
                    publisher.kept();
                }
            }
            Post::Forwarded { tickets, outcome } => {
                for ticket in tickets {
                    self.published(ticket, publish::answer_to_forwarded(outcome), now);
                }
            }
            Post::Attached { ticket, result } => {
                fail_point!("answer.attached", self.handle.about());
                self.attached(ticket, result, now);
            }
            Post::Authenticated { ticket, result } => {
                let result = result.map(|identity| *identity);
                self.authenticated(ticket, result.map_err(reason), None, now);
            }
            Post::RulesChanged => self.check_subscriptions(now),
            Post::Watched { number, watched } => {
                self.subscribing.watched(number, watched);
                self.go_on_subscribing(now);
            }
            Post::Settled(settled) => {
                let place = Self::place(&self.node, &self.handle, self.durable.as_deref());
                let next = self.subscribing.settled(place, &mut self.reading, *settled);
                if let Some(next) = next {
                    self.subscribed(next, now);
                }
                self.go_on_subscribing(now);
            }
            Post::Retained(part) => {
                if let Some(retained) = &mut self.retained {
                    retained.take(*part);
                }
                self.settle_retained();
            }
            Post::Resumed(resumed) => self.resumed(*resumed),
            Post::Fetched(fetched) => {
                if let Some(session) = self.session.session() {
                    fetched.take(&self.handle, session, &self.node.shares);
                }
                self.taken.has_unfetched = true;
            }
            Post::Read(read) => {
                if let Some(session) = self.session.session() {
                    self.reading.take(*read, &self.handle, session);
                }
            }
            Post::Stored {
                tickets,
                answer,
                is_stored,
            } => match is_stored {
                Ok(()) => {
                    fail_point!("answer.stored", self.handle.about());
                    for ticket in tickets {
                        self.session.handle_answer(ticket, answer.into(), now);
                    }
                }
                Err(why) => self.session.handle_close(why, now),
            },
            Post::Released {
                ticket,
                is_released,
            } => {
                if is_released {
                    fail_point!("answer.released", self.handle.about());
                    self.session.handle_answer(ticket, Answer::Released, now);
                } else {
                    self.session.handle_close(Eviction::Busy, now);
                }
            }
        }
        self.drain(now);
    }

    fn published(&mut self, ticket: Ticket, answer: Answer, now: Instant) {
        let Some(publisher) = &mut self.publisher else {
            return;
        };
        if publisher.is_last_answer(ticket, &answer) {
            self.session.handle_answer(ticket, answer, now);
        }
    }

    fn resumed(&mut self, resumed: subscribe::Resumed) {
        let Some(durable) = &mut self.durable else {
            return;
        };
        let Some(session) = self.session.session() else {
            return;
        };
        let mut offered = std::mem::take(&mut durable.offered);
        let place = Self::place(&self.node, &self.handle, Some(durable));
        let again = subscribe::resumed(place, session, resumed, &mut offered);
        if again.is_empty() {
            self.handle.mailbox.activate(&offered);
        } else {
            subscribe::resume_later(place, again);
            durable.offered = offered;
        }
    }

    pub(super) fn go_on_subscribing(&mut self, now: Instant) {
        loop {
            let place = Self::place(&self.node, &self.handle, self.durable.as_deref());
            let session = self.session.session();
            let at_least_once = || session.map_or_else(Vec::new, at_least_once);
            match self
                .subscribing
                .next(place, &mut self.reading, at_least_once)
            {
                Some(next) => self.subscribed(next, now),
                None => return,
            }
        }
    }

    fn subscribed(&mut self, next: Next, now: Instant) {
        match next {
            Next::Answer(ticket, answer, part, unsettled) => {
                self.session.handle_answer(ticket, answer, now);
                if !part.is_empty() || self.retained.is_some() {
                    let retained = self.retained.get_or_insert_default();
                    retained.want(part, unsettled);
                }
                self.settle_retained();
                self.check_subscribed(now);
            }
            Next::Noted => {}
            Next::TakenOver => self.session.handle_close(Eviction::TakenOver, now),
            Next::Unknown => self.session.handle_close(Eviction::Busy, now),
        }
    }
}
