#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use magpie_codec::{
    Message, MessageProperties, PayloadFormat, QoS, RetainHandling, SubscriptionOptions, Text,
    TopicName, Will,
};

use super::*;

fn client(id: &'static str) -> ClientId {
    ClientId(Text::from_static(id))
}

fn round_trip(record: &Record) {
    let mut out = BytesMut::new();
    record.encode(&mut out);
    let whole = out.freeze();
    let mut buf = whole.clone();
    assert_eq!(Record::decode(&mut buf).as_ref(), Ok(record));
    assert!(buf.is_empty(), "nothing is left over");
    for cut in 0..whole.len() {
        assert!(
            Record::decode(&mut whole.slice(..cut)).is_err(),
            "cut at {cut}"
        );
    }
}

#[test]
fn records_survive_a_round_trip_and_no_prefix_is_taken_for_one() {
    let message = Message {
        topic: TopicName::from_static("chat/g/42"),
        payload: Bytes::from_static(b"hello"),
        properties: None,
    };
    let plain = Publish {
        client: client("phone"),
        epoch: Epoch(7),
        qos: QoS::AtLeastOnce,
        retain: false,
        retain_only: false,
        published_ms: 1_700_000_000_123,
        dedup: None,
        message: Arc::new(message.clone()),
    };
    let properties = MessageProperties {
        payload_format: Some(PayloadFormat::Utf8),
        expiry_interval_s: Some(60),
        content_type: Some(Text::from_static("text/plain")),
        response_topic: Some(TopicName::from_static("chat/u/1")),
        correlation_data: Some(Bytes::from_static(&[1, 2, 3])),
        user_properties: vec![
            (Text::from_static("a"), Text::from_static("1")),
            (Text::from_static("a"), Text::from_static("2")),
        ],
    };
    let rich = Publish {
        qos: QoS::ExactlyOnce,
        retain: true,
        retain_only: true,
        dedup: Some(Dedup {
            session: Epoch(3),
            packet_id: PacketId::new(77).unwrap(),
        }),
        message: Arc::new(Message {
            properties: Some(Box::new(properties.clone())),
            ..message
        }),
        ..plain.clone()
    };
    round_trip(&Record::Publish(plain));
    round_trip(&Record::Publish(rich));
    round_trip(&Record::Fence {
        against: StreamId::default(),
        client: client("phone"),
        epoch: Epoch(9),
    });
    round_trip(&Record::Unfence {
        client: client("phone"),
        epoch: Epoch(9),
    });
    round_trip(&Record::Refuse {
        stream: StreamId {
            node: crate::NodeId(7),
            incarnation: crate::Incarnation {
                counter: 3,
                nonce: 4,
            },
        },
    });
    let session = ShareSession {
        client: client("phone"),
        session: Epoch(7),
        epoch: Epoch(9),
    };
    for session in [None, Some(session)] {
        round_trip(&Record::JoinShare {
            filter: TopicFilter::from_static("$share/g/a/+"),
            member: 5,
            qos: QoS::ExactlyOnce,
            session: session.clone(),
        });
        round_trip(&Record::LeaveShare {
            filter: TopicFilter::from_static("$share/g/a/+"),
            member: 5,
            session,
            sent: None,
        });
    }
    let membership = MembershipId(Position::at(1, 0));
    round_trip(&Record::PartShare {
        member: 5,
        sent: Some(vec![(membership, Position::at(3, 4))]),
    });
    round_trip(&Record::ShareDone {
        done: vec![(membership, vec![Position::at(3, 4), Position::at(3, 5)])],
    });
    let will = Will {
        topic: TopicName::from_static("gone/phone"),
        payload: Bytes::from_static(b"bye"),
        qos: QoS::AtMostOnce,
        retain: true,
        delay_interval_s: 30,
        properties: Some(Box::new(properties)),
    };
    let attach = |will| Record::Attach {
        client: client("phone"),
        clean_start: true,
        session_expiry_s: 3600,
        will,
        owner: None,
    };
    round_trip(&attach(None));
    let mut owned = attach(None);
    if let Record::Attach { owner, .. } = &mut owned {
        *owner = Some(Text::from_static("ann"));
    }
    round_trip(&owned);
    round_trip(&attach(Some(Box::new(StoredWill {
        will,
        publish_ms: 17,
    }))));
}

#[test]
fn records_of_sessions_survive_a_round_trip() {
    let packet_id = |number| PacketId::new(number).unwrap();
    let cursors = vec![
        Cursor {
            partition: PartitionId(0),
            floor: Position::at(7, 1),
            done: vec![Position::at(8, 0), Position::at(9, 65_535)],
        },
        Cursor {
            partition: PartitionId(7),
            floor: Position::at(1, 0),
            done: Vec::new(),
        },
    ];
    let inflight = |number, qos, stage| Inflight {
        packet_id: packet_id(number),
        partition: PartitionId(3),
        position: Position::at(9, 3),
        qos,
        stage,
        share: None,
    };
    let shared = |number, stage| Inflight {
        share: Some(MembershipId(Position::at(4, 1))),
        ..inflight(number, QoS::ExactlyOnce, stage)
    };
    let last = SessionProgress {
        cursors: cursors.clone(),
        inflight: vec![
            inflight(65_535, QoS::ExactlyOnce, Stage::Released),
            inflight(1, QoS::AtLeastOnce, Stage::Published),
            shared(2, Stage::Published),
            shared(3, Stage::Released),
            shared(3, Stage::Done),
        ],
    };
    let (phone, epoch) = (client("phone"), Epoch(9));
    for (session_expiry_s, last) in [(None, None), (Some(0), Some(Box::new(last)))] {
        round_trip(&Record::Detach {
            client: phone.clone(),
            epoch,
            departure: match last {
                Some(_) => Departure::Unused,
                None => Departure::Clean,
            },
            session_expiry_s,
            last,
        });
    }
    let filters = ["chat/+/#", "$share/g/chat"].map(TopicFilter::from_static);
    let subscriptions = filters.iter().zip([None, Some(268_435_455)]);
    round_trip(&Record::Subscribe {
        client: phone.clone(),
        epoch,
        subscriptions: subscriptions
            .map(|(filter, id)| StoredSubscription {
                filter: filter.clone(),
                options: SubscriptionOptions {
                    qos: QoS::ExactlyOnce,
                    no_local: id.is_none(),
                    retain_as_published: id.is_some(),
                    retain_handling: RetainHandling::DoNotSend,
                },
                id,
                since: vec![(PartitionId(2), Position::end_of(4))],
            })
            .collect(),
    });
    round_trip(&Record::Unsubscribe {
        client: phone.clone(),
        epoch,
        filters: filters.to_vec(),
        inflight: vec![Inflight {
            packet_id: PacketId::new(3).unwrap(),
            partition: PartitionId(1),
            position: Position::at(4, 5),
            qos: QoS::AtLeastOnce,
            stage: Stage::Published,
            share: None,
        }],
    });
    round_trip(&Record::Bind {
        client: phone.clone(),
        epoch,
        bindings: [None, Some(MembershipId(Position::at(1, 0)))]
            .map(|share| Binding {
                packet_id: packet_id(5),
                partition: PartitionId(1),
                position: Position::at(3, 4),
                share,
            })
            .to_vec(),
    });
    round_trip(&Record::Settle {
        client: phone.clone(),
        epoch,
        deliveries: vec![(
            PartitionId(1),
            MembershipId(Position::at(1, 0)),
            Position::at(3, 4),
        )],
    });
    round_trip(&Record::Received {
        client: phone.clone(),
        epoch,
        packet_ids: vec![packet_id(5), packet_id(6)],
    });
    round_trip(&Record::Progress {
        floors: vec![(PartitionId(1), Position::at(3, 4))],
        laggards: vec![Laggard {
            client: phone.clone(),
            epoch,
            progress: cursors,
        }],
        joined: vec![(client("tablet"), Epoch(11))],
    });
    for packet_id in [None, Some(packet_id(9))] {
        round_trip(&Record::Release {
            client: phone.clone(),
            session: epoch,
            packet_id,
        });
    }
}

#[test]
fn a_publish_is_stamped_in_place() {
    let mut publish = Publish {
        client: client("phone"),
        epoch: Epoch(7),
        qos: QoS::AtLeastOnce,
        retain: false,
        retain_only: false,
        published_ms: 1,
        dedup: None,
        message: Arc::new(Message {
            topic: TopicName::from_static("a"),
            payload: Bytes::new(),
            properties: None,
        }),
    };
    let mut out = BytesMut::new();
    publish.encode(&mut out);
    assert!(is_publish(&out));
    stamp(&mut out, 99);
    publish.published_ms = 99;
    assert_eq!(
        Record::decode(&mut out.freeze()),
        Ok(Record::Publish(publish))
    );
}
