//! What the session costs per message, without codec and node: `cargo bench -p magpie-session`.

#![expect(clippy::disallowed_methods, reason = "an instant to begin with")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use criterion::{BatchSize, Bencher, Criterion, Throughput};
use magpie_codec::{
    Ack, Connect, ConnectProperties, Message, Packet, PacketId, ProtocolVersion, Publish, QoS,
    ReasonCode, Text, TopicName,
};
use magpie_session::{Answer, Connection, Delivery, Limits, Output, Ticket, Token};
use smallvec::SmallVec;

/// Messages under way, as with a client that pipelines.
const BATCH: u16 = 64;

/// With `session_expiry_s` above 0 the session outlives its connection, and QoS 2 deliveries are bound before they are sent.
fn connected(session_expiry_s: u32, now: Instant) -> Connection {
    let limits = Limits {
        session_expiry_s_max: session_expiry_s,
        ..Limits::default()
    };
    let mut connection = Connection::new(Arc::new(limits), 1, now);
    let connect = Connect {
        version: ProtocolVersion::V5,
        client_id: Text::from_static("client"),
        clean_start: true,
        keep_alive_s: 60,
        username: None,
        password: None,
        will: None,
        properties: Some(Box::new(ConnectProperties {
            session_expiry_interval_s: session_expiry_s,
            ..ConnectProperties::default()
        })),
    };
    connection.handle_packet(Packet::Connect(Box::new(connect)), now);
    let answers = [
        Answer::Authenticated(Ok(None)),
        Answer::Attached {
            epoch: 1,
            session: None,
        },
    ];
    for answer in answers {
        let ticket = match connection.poll_output() {
            Some(Output::Authenticate { ticket, .. } | Output::Attach { ticket, .. }) => ticket,
            other => panic!("{other:?}"),
        };
        connection.handle_answer(ticket, answer, now);
    }
    while connection.poll_output().is_some() {}
    assert!(connection.is_connected());
    connection
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).expect("not 0")
}

fn publishes(qos: QoS) -> Vec<Packet> {
    let topic = TopicName::from_static("devices/4711/temperature");
    let publish = |number| {
        Packet::Publish(Publish {
            dup: false,
            qos,
            retain: false,
            packet_id: (qos > QoS::AtMostOnce).then(|| id(number)),
            topic: Some(topic.clone()),
            topic_alias: None,
            subscription_ids: SmallVec::new(),
            properties: None,
            payload: Bytes::from_static(&[7; 64]),
        })
    };
    (1..=BATCH).map(publish).collect()
}

/// A batch of PUBLISHes, their answers, their acknowledgements.
fn inbound(b: &mut Bencher<'_>, qos: QoS) {
    let now = Instant::now();
    let mut connection = connected(0, now);
    let mut tickets: Vec<Ticket> = Vec::new();
    b.iter_batched_ref(
        || publishes(qos),
        |packets| {
            for packet in packets.drain(..) {
                assert!(connection.wants_packets());
                connection.handle_packet(packet, now);
            }
            while let Some(output) = connection.poll_output() {
                if let Output::Publish {
                    ticket: Some(ticket),
                    ..
                } = &output
                {
                    tickets.push(*ticket);
                }
                black_box(output);
            }
            for ticket in tickets.drain(..) {
                let answer = Answer::Published(Ok(ReasonCode::Success));
                connection.handle_answer(ticket, answer, now);
            }
            while let Some(output) = connection.poll_output() {
                if let Output::Send(Packet::PubRec(ack)) = &output {
                    connection.handle_packet(Packet::PubRel(ack.clone()), now);
                }
                black_box(output);
            }
        },
        BatchSize::SmallInput,
    );
}

/// A batch of deliveries and the client's acknowledgements.
fn outbound(b: &mut Bencher<'_>, qos: QoS, session_expiry_s: u32) {
    let now = Instant::now();
    let mut connection = connected(session_expiry_s, now);
    let message = Arc::new(Message {
        topic: TopicName::from_static("devices/4711/temperature"),
        payload: Bytes::from_static(&[7; 64]),
        properties: None,
    });
    let mut sent: Vec<PacketId> = Vec::new();
    b.iter(|| {
        for position in 0..u64::from(BATCH) {
            assert!(connection.can_accept(qos));
            let delivery = Delivery {
                message: Arc::clone(&message),
                qos,
                retain: false,
                subscription_ids: SmallVec::new(),
                token: Token {
                    partition: 0,
                    position,
                },
                expires_at: None,
            };
            connection.handle_delivery(delivery, now);
        }
        while let Some(output) = connection.poll_output() {
            match &output {
                Output::Deliver { header, .. } => sent.extend(header.packet_id),
                Output::Bind { ticket, .. } => {
                    connection.handle_answer(*ticket, Answer::Bound, now)
                }
                _ => {}
            }
            black_box(output);
        }
        for packet_id in sent.drain(..) {
            let ack = Ack::new(packet_id, ReasonCode::Success);
            if qos == QoS::ExactlyOnce {
                connection.handle_packet(Packet::PubRec(ack.clone()), now);
                while let Some(output) = connection.poll_output() {
                    if let Output::Received { ticket, .. } = &output {
                        connection.handle_answer(*ticket, Answer::ReceivedStored, now);
                    }
                    black_box(output);
                }
                connection.handle_packet(Packet::PubComp(ack), now);
            } else {
                connection.handle_packet(Packet::PubAck(ack), now);
            }
        }
        while let Some(output) = connection.poll_output() {
            black_box(output);
        }
    });
}

fn conversation(c: &mut Criterion) {
    let mut group = c.benchmark_group("session");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let number = u8::from(qos);
        group.bench_function(format!("inbound/qos{number}"), |b| inbound(b, qos));
        group.bench_function(format!("outbound/qos{number}"), |b| {
            outbound(b, qos, 0);
        });
    }
    group.bench_function("outbound/qos2/durable", |b| {
        outbound(b, QoS::ExactlyOnce, 600);
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    conversation(&mut criterion);
    criterion.final_summary();
}
