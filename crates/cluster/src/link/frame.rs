//! The bytes of a direct message on a link.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use magpie_codec::TopicFilter;
use magpie_state::{Epoch, NodeId, PublishHead, Record, encode_publish};

use crate::{Direct, ShareTarget};

const PLAIN: u8 = 1;

/// A message for one node, behind what `out` holds: flags, the share groups that have a member chosen there, and the message as it
/// would be stored.
pub(super) fn encode(message: &Direct, node: NodeId, plain: bool, mut out: BytesMut) -> BytesMut {
    let shares = || message.shares.iter().filter(|share| share.node == node);
    out.put_u8(if plain { PLAIN } else { 0 });
    out.put_u8(u8::try_from(shares().count().min(255)).unwrap_or(255));
    for share in shares().take(255) {
        let filter = share.filter.as_str();
        out.put_u16_le(
            u16::try_from(filter.len()).expect("an MQTT string has at most 65,535 bytes"),
        );
        out.put_slice(filter.as_bytes());
    }
    let head = PublishHead {
        client: &message.publisher,
        epoch: Epoch::default(),
        qos: message.qos,
        retain: message.retain,
        retain_only: false,
        published_ms: message.published_ms,
        dedup: None,
    };
    encode_publish(&head, &message.message, &mut out);
    out
}

/// Takes one message off the front of `buf`, as node `ours` got it. `None`: not of this version.
pub(super) fn decode(buf: &mut Bytes, ours: NodeId) -> Option<Direct> {
    if buf.remaining() < 2 {
        return None;
    }
    let plain = buf.get_u8() & PLAIN != 0;
    let count = buf.get_u8();
    let mut shares = Vec::new();
    for _ in 0..count {
        let len = if buf.remaining() < 2 {
            return None;
        } else {
            usize::from(buf.get_u16_le())
        };
        if buf.remaining() < len {
            return None;
        }
        let filter = TopicFilter::try_from(buf.split_to(len)).ok()?;
        shares.push(ShareTarget { filter, node: ours });
    }
    let Ok(Record::Publish(publish)) = Record::decode(buf) else {
        return None;
    };
    Some(Direct {
        publisher: publish.client,
        qos: publish.qos,
        retain: publish.retain,
        published_ms: publish.published_ms,
        message: Arc::clone(&publish.message),
        plain,
        shares,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use magpie_codec::{Message, QoS, Text, TopicName};
    use magpie_state::ClientId;

    use super::*;

    #[test]
    fn a_message_arrives_with_the_share_groups_of_its_node() {
        let share = |node| ShareTarget {
            filter: TopicFilter::from_static("$share/g/a/+"),
            node: NodeId(node),
        };
        let topic = TopicName::from_static("a/b");
        let message = Direct {
            publisher: ClientId(Text::from_static("phone")),
            qos: QoS::AtLeastOnce,
            retain: true,
            published_ms: 7,
            message: Arc::new(Message {
                topic,
                payload: Bytes::from_static(b"x"),
                properties: None,
            }),
            plain: true,
            shares: vec![share(1), share(2)],
        };
        let bytes = encode(&message, NodeId(2), false, BytesMut::new()).freeze();
        let mut buf = bytes.clone();
        let got = decode(&mut buf, NodeId(2)).unwrap();
        assert!(buf.is_empty() && !got.plain && got.retain);
        assert_eq!(got.shares, [share(2)]);
        assert_eq!(got.message, message.message);
        assert!((0..bytes.len()).all(|cut| decode(&mut bytes.slice(..cut), NodeId(2)).is_none()));
    }
}
