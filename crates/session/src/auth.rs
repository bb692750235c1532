//! Enhanced authentication (section 4.12): the exchange of AUTH packets by the method that CONNECT named, before CONNACK and
//! again whenever the client wants. What the data mean is the node's affair.
//!
//! ```text
//!            ┌──────────── AUTH 0x18 from the client ───────────┐
//!            ▼                                                  │
//! begun ──► Asked ──Challenge──► AUTH 0x18 to the client ──► Challenged
//!             └──Authenticated──► CONNACK, or AUTH 0x00 ──► Done ──AUTH 0x19──► Asked
//! ```

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use magpie_codec::{Auth, AuthProperties, Packet, PacketType, ProtocolVersion, ReasonCode, Text};

use crate::ticket::Subject;
use crate::violation::Violation;
use crate::{CloseCause, Output, Ticket};

/// The exchange of one connection.
#[derive(Debug)]
pub(crate) struct Exchange {
    method: Text,
    step: Step,
    /// Counts questions to the node, whose late answers are ignored.
    number: u32,
    /// When the client must have shown who it is, while an exchange is under way.
    deadline: Option<Instant>,
    /// The longest exchange.
    timeout: Duration,
    packet_bytes_max: Option<NonZeroU32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The node is to answer.
    Asked,
    /// The client is.
    Challenged,
    Done,
}

impl Exchange {
    /// Begins with CONNECT, whose data are the first ones.
    pub(crate) fn begin(
        method: Text,
        timeout: Duration,
        packet_bytes_max: Option<NonZeroU32>,
        now: Instant,
    ) -> Self {
        Self {
            method,
            step: Step::Asked,
            number: 0,
            deadline: now.checked_add(timeout),
            timeout,
            packet_bytes_max,
        }
    }

    /// Whether the client is to send AUTH.
    pub(crate) fn is_challenged(&self) -> bool {
        self.step == Step::Challenged
    }

    /// When an exchange that is under way has taken too long.
    pub(crate) const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether the answer is that to the last question.
    pub(crate) fn awaits(&self, ticket: Ticket) -> bool {
        self.step == Step::Asked
            && ticket.subject == Subject::Authenticate
            && ticket.number == self.number
    }

    pub(crate) fn ticket(&self) -> Ticket {
        Ticket {
            subject: Subject::Authenticate,
            number: self.number,
        }
    }

    /// Takes an AUTH of the client: it goes on, or begins anew once it was let in.
    pub(crate) fn handle_auth(
        &mut self,
        auth: Auth,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), Violation> {
        let properties = auth
            .properties
            .ok_or(Violation::protocol_error("AUTH without a method"))?;
        // [MQTT-4.12.0-5], [MQTT-4.12.1-1]: one method for the whole connection.
        if properties.authentication_method != self.method {
            return Err(Violation::protocol_error(
                "AUTH with another method than CONNECT",
            ));
        }
        let begins = match (auth.reason, self.step) {
            // [MQTT-4.12.0-3]
            (ReasonCode::ContinueAuthentication, Step::Challenged) => false,
            (ReasonCode::ReAuthenticate, Step::Done) => {
                self.deadline = now.checked_add(self.timeout);
                true
            }
            _ => return Err(Violation::protocol_error("AUTH out of order")),
        };
        self.step = Step::Asked;
        self.number = self.number.wrapping_add(1);
        // Compact: the exchange must not keep a read buffer alive.
        let data = properties.authentication_data;
        outputs.push_back(Output::AuthenticateOn {
            ticket: self.ticket(),
            data: data.map(|data| Bytes::copy_from_slice(&data)),
            begins,
        });
        Ok(())
    }

    /// The client is to answer `data`.
    pub(crate) fn challenge(
        &mut self,
        data: Option<Bytes>,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), CloseCause> {
        self.step = Step::Challenged;
        // [MQTT-4.12.0-2]
        self.send(ReasonCode::ContinueAuthentication, data, outputs)
    }

    /// The client is who it says, and CONNACK tells it.
    pub(crate) fn finish(&mut self) {
        self.step = Step::Done;
        self.deadline = None;
    }

    /// A client that was let in before has shown again who it is.
    pub(crate) fn finish_again(
        &mut self,
        data: Option<Bytes>,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), CloseCause> {
        self.finish();
        self.send(ReasonCode::Success, data, outputs)
    }

    pub(crate) fn method(&self) -> &Text {
        &self.method
    }

    fn send(
        &self,
        reason: ReasonCode,
        data: Option<Bytes>,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), CloseCause> {
        let packet = Packet::Auth(Auth {
            reason,
            // [MQTT-4.12.0-5]
            properties: Some(Box::new(AuthProperties {
                authentication_method: self.method.clone(),
                authentication_data: data,
                reason_string: None,
                user_properties: Vec::new(),
            })),
        });
        // [MQTT-3.1.2-24]: without it the client would wait for ever.
        if !fits(ProtocolVersion::V5, &packet, self.packet_bytes_max) {
            return Err(CloseCause::Refused(ReasonCode::ImplementationSpecificError));
        }
        outputs.push_back(Output::Send(packet));
        Ok(())
    }
}

/// Why a client that was let in is sent away, if it cannot show again who it is [MQTT-4.12.1-2].
pub(crate) const fn refused_again(reason: ReasonCode) -> CloseCause {
    CloseCause::Refused(
        if reason.is_valid_in(PacketType::Disconnect) && reason.is_error() {
            reason
        } else {
            ReasonCode::NotAuthorized
        },
    )
}

/// Whether the client takes a packet as large as this.
pub(crate) fn fits(version: ProtocolVersion, packet: &Packet, max: Option<NonZeroU32>) -> bool {
    max.is_none() || magpie_codec::encode(version, packet, max, &mut BytesMut::new()).is_ok()
}
