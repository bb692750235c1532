//! Enhanced authentication.

use std::num::NonZeroU32;

use magpie_codec::{Auth, AuthProperties, Disconnect, DisconnectProperties};

use super::*;

fn method(name: &'static str) -> ConnectProperties {
    ConnectProperties {
        authentication_method: Some(Text::from_static(name)),
        authentication_data: Some(Bytes::from_static(b"first")),
        ..ConnectProperties::default()
    }
}

fn auth_of(method: &'static str, reason: ReasonCode, data: &'static [u8]) -> Packet {
    Packet::Auth(Auth {
        reason,
        properties: Some(Box::new(AuthProperties {
            authentication_method: Text::from_static(method),
            authentication_data: Some(Bytes::from_static(data)),
            reason_string: None,
            user_properties: Vec::new(),
        })),
    })
}

fn auth(reason: ReasonCode, data: &'static [u8]) -> Packet {
    auth_of("M", reason, data)
}

fn goes_on(data: &'static [u8]) -> Packet {
    auth(ReasonCode::ContinueAuthentication, data)
}

fn data(data: &'static [u8]) -> Option<Bytes> {
    Some(Bytes::from_static(data))
}

/// A client whose CONNECT named a method; its first question.
fn asked(properties: ConnectProperties) -> (Driver, Ticket) {
    let mut driver = Driver::new(Limits::default());
    let outputs = driver.packet(Packet::Connect(Box::new(connect_v5(properties))));
    (driver, ticket_of(&outputs))
}

/// One that was asked to go on.
fn challenged() -> Driver {
    let (mut driver, ticket) = asked(method("M"));
    let outputs = driver.answer(ticket, Answer::Challenge(data(b"salt")));
    assert_eq!(outputs, sent([goes_on(b"salt")]));
    driver
}

/// One that was let in.
fn let_in() -> Driver {
    let mut driver = challenged();
    let ticket = ticket_of(&driver.packet(goes_on(b"proof")));
    let outputs = driver.answer(ticket, Answer::Authenticated(Ok(data(b"signature"))));
    let outputs = driver.answer(
        ticket_of(&outputs),
        Answer::Attached {
            epoch: 7,
            session: None,
        },
    );
    let properties = connack_properties(&outputs);
    assert_eq!(properties.authentication_method.as_deref(), Some("M"));
    assert_eq!(properties.authentication_data, data(b"signature"));
    driver
}

/// [MQTT-4.12.0-1]
#[test]
fn a_method_without_a_name_is_refused() {
    let mut driver = Driver::new(Limits::default());
    let outputs = driver.packet(Packet::Connect(Box::new(connect_v5(method("")))));
    let reason = ReasonCode::BadAuthenticationMethod;
    assert_eq!(connack(&outputs).reason, reason);
    // One that the node does not have.
    let (mut driver, ticket) = asked(method("M"));
    let outputs = driver.answer(ticket, Answer::Authenticated(Err(reason)));
    assert_eq!(connack(&outputs).reason, reason);
    assert!(driver.connection.close_cause().is_some());
}

/// [MQTT-4.12.0-2], [MQTT-4.12.0-3], [MQTT-4.12.0-5], [MQTT-3.1.4-6], [MQTT-3.2.0-1]
#[test]
fn each_step_is_asked_of_the_node() {
    let (mut driver, ticket) = asked(method("M"));
    assert!(!driver.connection.wants_packets());
    driver.answer(ticket, Answer::Challenge(data(b"salt")));
    assert!(driver.connection.wants_packets());
    let outputs = driver.packet(goes_on(b"proof"));
    let second = ticket_of(&outputs);
    assert_eq!(
        outputs,
        [Output::AuthenticateOn {
            ticket: second,
            data: data(b"proof"),
            begins: false,
        }]
    );
    assert!(!driver.connection.wants_packets());
    // A late answer to the first question lets nobody in.
    assert_eq!(driver.answer(ticket, Answer::Authenticated(Ok(None))), []);
    let outputs = driver.answer(second, Answer::Challenge(None));
    assert!(matches!(&outputs[..], [Output::Send(Packet::Auth(_))]));
    let_in();
}

/// [MQTT-4.12.0-4]
#[test]
fn a_proof_that_does_not_hold_is_refused_by_connack() {
    let mut driver = challenged();
    let ticket = ticket_of(&driver.packet(goes_on(b"proof")));
    let refused = Answer::Authenticated(Err(ReasonCode::NotAuthorized));
    let outputs = driver.answer(ticket, refused);
    assert_eq!(connack(&outputs).reason, ReasonCode::NotAuthorized);
    assert!(matches!(outputs[1], Output::Close { .. }));
    // So is one who never answers.
    let mut driver = challenged();
    assert_eq!(driver.timeout_ms(), Some(10_000));
    let outputs = driver.sleep(10_000);
    assert_eq!(connack(&outputs).reason, ReasonCode::NotAuthorized);
}

/// [MQTT-3.1.2-30], [MQTT-4.12.0-3], [MQTT-4.12.0-5]: the wrong packet, method or reason.
#[test]
fn what_is_out_of_order_before_connack_is_a_protocol_error() {
    for packet in [
        Packet::PingReq,
        publish(QoS::AtMostOnce, 0),
        auth_of("other", ReasonCode::ContinueAuthentication, b""),
        auth(ReasonCode::ReAuthenticate, b""),
        auth(ReasonCode::Success, b""),
        Packet::Auth(Auth {
            reason: ReasonCode::Success,
            properties: None,
        }),
    ] {
        let outputs = challenged().packet(packet);
        assert_eq!(connack(&outputs).reason, ReasonCode::ProtocolError);
        assert!(matches!(outputs[1], Output::Close { .. }));
    }
    let goodbye = Disconnect {
        reason: ReasonCode::Success,
        properties: None::<Box<DisconnectProperties>>,
    };
    let cause = assert_closed_silently(&challenged().packet(Packet::Disconnect(goodbye)));
    assert_eq!(cause, CloseCause::ByClient(ReasonCode::Success));
}

/// [MQTT-4.12.1-1]
#[test]
fn a_client_authenticates_again_while_it_goes_on() {
    let mut driver = let_in();
    for _ in 0..2 {
        let outputs = driver.packet(auth(ReasonCode::ReAuthenticate, b"again"));
        let ticket = ticket_of(&outputs);
        assert!(matches!(
            outputs[0],
            Output::AuthenticateOn { begins: true, .. }
        ));
        let ping = driver.packet(Packet::PingReq);
        assert_eq!(ping, sent([Packet::PingResp]));
        let outputs = driver.answer(ticket, Answer::Challenge(data(b"salt")));
        assert_eq!(outputs, sent([goes_on(b"salt")]));
        let ticket = ticket_of(&driver.packet(goes_on(b"proof")));
        let outputs = driver.answer(ticket, Answer::Authenticated(Ok(data(b"signature"))));
        let done = auth(ReasonCode::Success, b"signature");
        assert_eq!(outputs, sent([done]));
        assert_eq!(driver.timeout_ms(), None);
    }
}

/// [MQTT-4.12.1-2]
#[test]
fn one_that_fails_to_is_sent_away() {
    for (reason, told) in [
        (ReasonCode::NotAuthorized, ReasonCode::NotAuthorized),
        (ReasonCode::ServerBusy, ReasonCode::ServerBusy),
        // DISCONNECT has no such code.
        (ReasonCode::BadUserNameOrPassword, ReasonCode::NotAuthorized),
    ] {
        let mut driver = let_in();
        let ticket = ticket_of(&driver.packet(auth(ReasonCode::ReAuthenticate, b"again")));
        let outputs = driver.answer(ticket, Answer::Authenticated(Err(reason)));
        assert_closed_with(&outputs, told);
    }
    let mut driver = let_in();
    driver.packet(auth(ReasonCode::ReAuthenticate, b"again"));
    assert_eq!(driver.timeout_ms(), Some(10_000));
    assert_closed_with(&driver.sleep(10_000), ReasonCode::NotAuthorized);
}

/// [MQTT-4.12.0-7], [MQTT-4.12.1-1]
#[test]
fn an_auth_out_of_order_ends_the_connection() {
    let mut without = Driver::connected(ProtocolVersion::V5);
    let outputs = without.packet(auth(ReasonCode::ReAuthenticate, b""));
    assert_closed_with(&outputs, ReasonCode::ProtocolError);
    for packet in [
        goes_on(b""),
        auth(ReasonCode::Success, b""),
        auth_of("other", ReasonCode::ReAuthenticate, b""),
    ] {
        assert_closed_with(&let_in().packet(packet), ReasonCode::ProtocolError);
    }
    let mut twice = let_in();
    twice.packet(auth(ReasonCode::ReAuthenticate, b""));
    let outputs = twice.packet(auth(ReasonCode::ReAuthenticate, b""));
    assert_closed_with(&outputs, ReasonCode::ProtocolError);
}

/// [MQTT-4.12.0-6]
#[test]
fn without_a_method_there_is_none_in_the_answer() {
    let (mut driver, ticket) = asked(ConnectProperties::default());
    let outputs = driver.answer(ticket, Answer::Challenge(None));
    assert_eq!(connack(&outputs).reason, ReasonCode::NotAuthorized);
    assert!(driver.connection.close_cause().is_some());
}

/// [MQTT-3.1.2-24]
#[test]
fn a_client_that_takes_no_answer_is_refused() {
    let small = || ConnectProperties {
        maximum_packet_size: NonZeroU32::new(60),
        ..method("M")
    };
    const LONG: &[u8] = &[7; 60];
    for answer in [
        Answer::Challenge(data(LONG)),
        Answer::Authenticated(Ok(data(LONG))),
    ] {
        let (mut driver, ticket) = asked(small());
        let outputs = driver.answer(ticket, answer);
        assert_eq!(
            connack(&outputs).reason,
            ReasonCode::ImplementationSpecificError
        );
    }
}
