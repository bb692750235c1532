//! What a PUBLISH costs on the data path: one by one, and as the burst that one read of a busy socket brings.

#![expect(missing_docs, reason = "what criterion's macros write has none")]

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use magpie_codec::{
    Decoder, Limits, Message, MessageProperties, Packet, PacketId, ProtocolVersion, PublishHeader,
    QoS, Text, TopicName, encode_publish,
};

const BURST: usize = 100;

/// One case: version, QoS, payload size, and whether there are properties.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    version: ProtocolVersion,
    qos: QoS,
    payload_bytes: usize,
    has_properties: bool,
}

const CASES: [Case; 6] = [
    case(
        "v3.1.1 QoS 0 64 B",
        ProtocolVersion::V3_1_1,
        QoS::AtMostOnce,
        64,
        false,
    ),
    case(
        "v3.1.1 QoS 1 64 B",
        ProtocolVersion::V3_1_1,
        QoS::AtLeastOnce,
        64,
        false,
    ),
    case(
        "v3.1.1 QoS 0 1 KiB",
        ProtocolVersion::V3_1_1,
        QoS::AtMostOnce,
        1024,
        false,
    ),
    case(
        "v5 QoS 0 64 B",
        ProtocolVersion::V5,
        QoS::AtMostOnce,
        64,
        false,
    ),
    case(
        "v5 QoS 1 64 B",
        ProtocolVersion::V5,
        QoS::AtLeastOnce,
        64,
        false,
    ),
    case(
        "v5 QoS 1 64 B with properties",
        ProtocolVersion::V5,
        QoS::AtLeastOnce,
        64,
        true,
    ),
];

const fn case(
    name: &'static str,
    version: ProtocolVersion,
    qos: QoS,
    payload_bytes: usize,
    has_properties: bool,
) -> Case {
    Case {
        name,
        version,
        qos,
        payload_bytes,
        has_properties,
    }
}

impl Case {
    fn message(self) -> Message {
        let properties = MessageProperties {
            expiry_interval_s: Some(60),
            content_type: Some(Text::from_static("application/json")),
            user_properties: vec![(
                Text::from_static("trace"),
                Text::from_static("0123456789abcdef"),
            )],
            ..MessageProperties::default()
        };
        Message {
            topic: TopicName::from_static("site/7/device/4711/state"),
            payload: vec![b'x'; self.payload_bytes].into(),
            properties: self.has_properties.then(|| Box::new(properties)),
        }
    }

    fn header(self) -> PublishHeader {
        let packet_id = (self.qos > QoS::AtMostOnce).then_some(PacketId::MIN);
        PublishHeader {
            qos: self.qos,
            packet_id,
            ..PublishHeader::default()
        }
    }

    fn burst(self, packets: usize) -> Bytes {
        let mut buf = BytesMut::new();
        for _ in 0..packets {
            encode_publish(self.version, &self.header(), &self.message(), &mut buf)
                .expect("the message is valid");
        }
        buf.freeze()
    }
}

/// Includes what a connection does anyway: the bytes are copied into the read buffer, and its memory is used again as
/// soon as the packets are dropped.
fn decode(c: &mut Criterion) {
    for (group, packets) in [("decode one", 1), ("decode burst of 100", BURST)] {
        let mut group = c.benchmark_group(group);
        group.throughput(Throughput::Elements(packets as u64));
        for case in CASES {
            let bytes = case.burst(packets);
            let mut decoder = Decoder::client(case.version, Limits::default());
            let mut buf = BytesMut::new();
            group.bench_with_input(
                BenchmarkId::from_parameter(case.name),
                &bytes,
                |b, bytes| {
                    b.iter(|| {
                        buf.extend_from_slice(bytes);
                        while let Some(packet) =
                            decoder.decode(&mut buf).expect("the packets are valid")
                        {
                            let Packet::Publish(publish) = black_box(packet) else {
                                unreachable!("only PUBLISH is sent")
                            };
                            drop(publish);
                        }
                    });
                },
            );
        }
    }
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode burst of 100");
    group.throughput(Throughput::Elements(BURST as u64));
    for case in CASES {
        let (header, message) = (case.header(), case.message());
        let mut buf = BytesMut::new();
        group.bench_function(BenchmarkId::from_parameter(case.name), |b| {
            b.iter(|| {
                buf.clear();
                for _ in 0..BURST {
                    encode_publish(
                        case.version,
                        black_box(&header),
                        black_box(&message),
                        &mut buf,
                    )
                    .expect("the message is valid");
                }
                black_box(&buf);
            });
        });
    }
}

criterion_group!(benches, decode, encode);
criterion_main!(benches);
