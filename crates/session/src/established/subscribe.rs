//! SUBSCRIBE and UNSUBSCRIBE: checked here, granted by the node, acknowledged in order.

use std::collections::VecDeque;
use std::time::Instant;

use magpie_codec::{
    Packet, PacketId, PacketType, QoS, ReasonCode, SubAck, Subscribe, SubscriptionOptions,
    TopicFilter, UnsubAck, Unsubscribe,
};

use super::Established;
use crate::reason::carried_by;
use crate::session::SubscriptionState;
use crate::ticket::Subject;
use crate::violation::Violation;
use crate::{CloseCause, Output, Subscription, Ticket};

/// A SUBSCRIBE or UNSUBSCRIBE that the client waits for an answer to.
#[derive(Debug)]
pub(crate) struct OpenSubscribe {
    packet_id: PacketId,
    pub(crate) asked_at: Instant,
    request: Request,
}

#[derive(Debug)]
enum Request {
    /// For each filter of the packet what the node was asked, or why it was not.
    Subscribe(Vec<Result<Subscription, ReasonCode>>),
    Unsubscribe(Vec<TopicFilter>),
    /// An UNSUBSCRIBE that the node is not asked about.
    Refused(Vec<ReasonCode>),
}

/// What will be of a filter when all open packets are answered with success.
#[derive(Debug)]
pub(crate) struct Asked {
    /// In how many places of open packets it stands.
    times: usize,
    subscribed: bool,
    /// A SUBSCRIBE that asks for it was open since this was made.
    wanted: bool,
    /// Wanted, and the session does not have it now: counted in `asked_new`.
    counted: bool,
}

impl Established {
    pub(crate) fn handle_subscribe(
        &mut self,
        packet: Subscribe,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), CloseCause> {
        self.check_answer(packet.filters.len())?;
        let mut requests = Vec::with_capacity(packet.filters.len());
        for (filter, options) in packet.filters {
            // [MQTT-3.8.3-4]
            if options.no_local && filter.is_shared() {
                return Err(Violation::protocol_error("no local on a shared subscription").into());
            }
            let request = if self.is_in_use(packet.packet_id) {
                Err(ReasonCode::PacketIdentifierInUse)
            } else if requests.len() >= usize::from(self.limits.filters_per_packet_max) {
                Err(ReasonCode::QuotaExceeded)
            } else {
                self.ask_for(filter, options, packet.subscription_id)
            };
            requests.push(request);
        }
        let subscriptions: Vec<_> = requests.iter().flatten().cloned().collect();
        let open = OpenSubscribe {
            packet_id: packet.packet_id,
            asked_at: now,
            request: Request::Subscribe(requests),
        };
        if subscriptions.is_empty() {
            self.subscribes.push_answered(open, Vec::new());
            self.acknowledge_subscribes(outputs);
        } else {
            let ticket = Ticket {
                subject: Subject::Subscribe,
                number: self.subscribes.ask(open),
            };
            outputs.push_back(Output::Subscribe {
                ticket,
                subscriptions,
            });
        }
        Ok(())
    }

    /// Checks one filter, and notes that it is asked for.
    fn ask_for(
        &mut self,
        filter: TopicFilter,
        mut options: SubscriptionOptions,
        id: Option<u32>,
    ) -> Result<Subscription, ReasonCode> {
        let limits = &self.limits;
        if filter.is_shared() && !limits.shared_available {
            return Err(ReasonCode::SharedSubscriptionsNotSupported);
        }
        // [MQTT-3.8.3-2 v3.1.1]
        if !filter.is_exact() && !limits.wildcards_available {
            return Err(ReasonCode::WildcardSubscriptionsNotSupported);
        }
        if id.is_some() && !limits.subscription_ids_available {
            return Err(ReasonCode::SubscriptionIdentifiersNotSupported);
        }
        if !limits.admits_levels(filter.filter()) {
            return Err(ReasonCode::TopicFilterInvalid);
        }
        let asked = self.asked.get(&filter);
        let exists = self.session.subscriptions.contains_key(&filter);
        let replaces = asked.map_or(exists, |asked| asked.subscribed);
        if !exists && !asked.is_some_and(|asked| asked.wanted) {
            let subscriptions = self.session.subscriptions.len() + self.asked_new;
            if subscriptions >= usize::try_from(limits.subscriptions_max).unwrap_or(usize::MAX) {
                return Err(ReasonCode::QuotaExceeded);
            }
        }
        // [MQTT-3.2.2-10]
        options.qos = options.qos.min(self.limits.qos_max);
        // Compact: a subscription must not keep a read buffer alive.
        let filter = filter.compact();
        self.note_asked(&filter, true);
        Ok(Subscription {
            filter,
            options,
            id,
            replaces,
        })
    }

    pub(crate) fn handle_unsubscribe(
        &mut self,
        packet: Unsubscribe,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), CloseCause> {
        if packet.filters.len() > usize::from(self.limits.filters_per_packet_max) {
            return Err(Violation::new(
                ReasonCode::QuotaExceeded,
                "too many filters in one UNSUBSCRIBE",
            )
            .into());
        }
        self.check_answer(packet.filters.len())?;
        if self.is_in_use(packet.packet_id) {
            let refused = packet.filters.into_iter();
            let request =
                Request::Refused(refused.map(|_| ReasonCode::PacketIdentifierInUse).collect());
            let open = OpenSubscribe {
                packet_id: packet.packet_id,
                asked_at: now,
                request,
            };
            self.subscribes.push_answered(open, Vec::new());
            self.acknowledge_subscribes(outputs);
            return Ok(());
        }
        let filters: Vec<_> = packet.filters.iter().map(TopicFilter::compact).collect();
        for filter in &filters {
            self.note_asked(filter, false);
        }
        let request = Request::Unsubscribe(filters.clone());
        let open = OpenSubscribe {
            packet_id: packet.packet_id,
            asked_at: now,
            request,
        };
        let ticket = Ticket {
            subject: Subject::Subscribe,
            number: self.subscribes.ask(open),
        };
        outputs.push_back(Output::Unsubscribe { ticket, filters });
        Ok(())
    }

    /// Checks that the client takes a SUBACK or UNSUBACK with so many codes: without it, it would wait for ever
    /// [MQTT-3.8.4-1], [MQTT-3.10.4-4], [MQTT-3.1.2-24].
    fn check_answer(&self, filters: usize) -> Result<(), Violation> {
        // The id, no properties and the codes; before them the type and the length, of which two bytes do for 16,383.
        let bytes = 2 + 1 + filters + 1 + if filters < 125 { 1 } else { 2 };
        let max = self.terms.packet_bytes_max;
        if max.is_some_and(|max| bytes > max.get() as usize) {
            return Err(Violation::new(
                ReasonCode::PacketTooLarge,
                "the answer would be larger than the client takes",
            ));
        }
        Ok(())
    }

    /// Whether the id belongs to a QoS 2 PUBLISH of the client [MQTT-2.2.1-3]. Older clients are not held to it: they
    /// could not be told.
    fn is_in_use(&self, packet_id: PacketId) -> bool {
        self.terms.version.has_properties()
            && (self.session.received.contains(packet_id) || self.publishing.contains(packet_id))
    }

    pub(crate) fn handle_subscribed(
        &mut self,
        number: u32,
        reasons: Vec<ReasonCode>,
        outputs: &mut VecDeque<Output>,
    ) {
        let question = self.subscribes.question(number);
        if matches!(
            question,
            Some(OpenSubscribe {
                request: Request::Subscribe(_),
                ..
            })
        ) {
            self.subscribes.answer(number, reasons);
            self.acknowledge_subscribes(outputs);
        }
    }

    pub(crate) fn handle_unsubscribed(
        &mut self,
        number: u32,
        reasons: Vec<ReasonCode>,
        outputs: &mut VecDeque<Output>,
    ) {
        let question = self.subscribes.question(number);
        if matches!(
            question,
            Some(OpenSubscribe {
                request: Request::Unsubscribe(_),
                ..
            })
        ) {
            self.subscribes.answer(number, reasons);
            self.acknowledge_subscribes(outputs);
        }
    }

    /// Takes the answers over into the session and sends the acknowledgements, in the order of the packets, so that
    /// the last word on a filter is the client's last word.
    fn acknowledge_subscribes(&mut self, outputs: &mut VecDeque<Output>) {
        while let Some((
            OpenSubscribe {
                packet_id, request, ..
            },
            reasons,
        )) = self.subscribes.pop()
        {
            // An answer that is too short refuses the rest.
            let mut reasons = reasons
                .into_iter()
                .chain(std::iter::repeat(ReasonCode::UnspecifiedError));
            let mut next_reason = || reasons.next().unwrap_or(ReasonCode::UnspecifiedError);
            let properties = None;
            // [MQTT-2.2.1-6], [MQTT-3.8.4-1], [MQTT-3.8.4-2], [MQTT-3.8.4-5], [MQTT-3.8.4-6], [MQTT-3.9.3-1],
            // [MQTT-3.10.4-4], [MQTT-3.10.4-5], [MQTT-3.10.4-6], [MQTT-3.11.3-1], [MQTT-2.3.1-7 v3.1.1],
            // [MQTT-3.8.4-1 v3.1.1], [MQTT-3.8.4-2 v3.1.1], [MQTT-3.8.4-4 v3.1.1], [MQTT-3.8.4-5 v3.1.1],
            // [MQTT-3.9.3-1 v3.1.1], [MQTT-3.10.4-4 v3.1.1], [MQTT-3.10.4-5 v3.1.1], [MQTT-3.10.4-6 v3.1.1]: one
            // answer for all filters of a packet, with its id, and a code for each in its order.
            outputs.push_back(Output::Send(match request {
                Request::Subscribe(requests) => {
                    let grant = |request| match request {
                        Ok(subscription) => self.settle_subscription(subscription, next_reason()),
                        Err(reason) => reason,
                    };
                    let reasons = requests.into_iter().map(grant).collect();
                    Packet::SubAck(SubAck {
                        packet_id,
                        reasons,
                        properties,
                    })
                }
                Request::Unsubscribe(filters) => {
                    let end = |filter| self.settle_end(filter, next_reason());
                    let reasons = filters.into_iter().map(end).collect();
                    Packet::UnsubAck(UnsubAck {
                        packet_id,
                        reasons,
                        properties,
                    })
                }
                Request::Refused(reasons) => Packet::UnsubAck(UnsubAck {
                    packet_id,
                    reasons,
                    properties,
                }),
            }));
        }
    }

    fn settle_subscription(
        &mut self,
        subscription: Subscription,
        reason: ReasonCode,
    ) -> ReasonCode {
        let Subscription {
            filter,
            mut options,
            id,
            replaces: _,
        } = subscription;
        let reason = carried_by(PacketType::SubAck, reason);
        let granted = match reason {
            ReasonCode::Success => Some(QoS::AtMostOnce),
            ReasonCode::GrantedQoS1 => Some(QoS::AtLeastOnce),
            ReasonCode::GrantedQoS2 => Some(QoS::ExactlyOnce),
            _ => None,
        };
        if let Some(qos) = granted {
            // [MQTT-3.8.4-7], [MQTT-3.8.4-5 v3.1.1]
            options.qos = qos;
            self.session
                .subscriptions
                .insert(filter.clone(), SubscriptionState { options, id });
        }
        self.note_answered(&filter);
        reason
    }

    fn settle_end(&mut self, filter: TopicFilter, reason: ReasonCode) -> ReasonCode {
        let reason = carried_by(PacketType::UnsubAck, reason);
        // [MQTT-3.10.4-1], [MQTT-3.10.4-3], [MQTT-3.10.4-1 v3.1.1], [MQTT-3.10.4-3 v3.1.1]: what is in flight stays
        // there.
        if !reason.is_error() {
            self.session.subscriptions.remove(&filter);
        }
        self.note_answered(&filter);
        reason
    }

    fn note_asked(&mut self, filter: &TopicFilter, subscribed: bool) {
        let new = || Asked {
            times: 0,
            subscribed,
            wanted: false,
            counted: false,
        };
        let asked = self.asked.entry(filter.clone()).or_insert_with(new);
        asked.times += 1;
        asked.subscribed = subscribed;
        asked.wanted |= subscribed;
        self.recount(filter);
    }

    /// To be called after the session took the answer over.
    fn note_answered(&mut self, filter: &TopicFilter) {
        if let Some(asked) = self.asked.get_mut(filter) {
            asked.times -= 1;
            asked.wanted &= asked.times > 0;
            self.recount(filter);
        }
    }

    fn recount(&mut self, filter: &TopicFilter) {
        let Some(asked) = self.asked.get_mut(filter) else {
            return;
        };
        let counts = asked.wanted && !self.session.subscriptions.contains_key(filter);
        self.asked_new = self.asked_new + usize::from(counts) - usize::from(asked.counted);
        asked.counted = counts;
        if asked.times == 0 {
            self.asked.remove(filter);
        }
    }
}
