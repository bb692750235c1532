use magpie_codec::Text;

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
        published_ms: 1_700_000_000_123,
        message: Arc::new(message.clone()),
    };
    let properties = MessageProperties {
        payload_format_utf8: true,
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
        message: Arc::new(Message {
            properties: Some(Box::new(properties)),
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
    round_trip(&Record::Attach {
        client: client("phone"),
        clean_start: true,
        session_expiry_s: 3600,
    });
    round_trip(&Record::Detach {
        client: client("phone"),
        epoch: Epoch(9),
    });
    round_trip(&Record::Unfence {
        client: client("phone"),
        epoch: Epoch(9),
    });
    round_trip(&Record::JoinShare {
        filter: TopicFilter::from_static("$share/g/a/+"),
        member: 5,
    });
    round_trip(&Record::LeaveShare {
        filter: TopicFilter::from_static("$share/g/a/+"),
        member: 5,
    });
}
