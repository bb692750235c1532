//! A client that does what a test says, packet by packet.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use magpie_codec::{
    Ack, ConnAck, Connect, Decoder, Limits, Packet, PacketId, ProtocolVersion, Publish, QoS,
    ReasonCode, SubAck, Subscribe, SubscriptionOptions, Text, TopicFilter, TopicName, Will,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct TestClient {
    socket: TcpStream,
    version: ProtocolVersion,
    decoder: Decoder,
    buffer: BytesMut,
    next_id: u16,
    /// Messages that came while the test waited for another packet.
    early: Vec<Publish>,
}

impl TestClient {
    /// Opens the socket only.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let version = ProtocolVersion::V5;
        let limits = Limits {
            packet_bytes_max: 16 << 20,
            ..Limits::default()
        };
        Self {
            socket: TcpStream::connect(address).await.unwrap(),
            version,
            decoder: Decoder::client(version, limits),
            buffer: BytesMut::new(),
            next_id: 1,
            early: Vec::new(),
        }
    }

    pub(crate) async fn connect(address: SocketAddr, id: &str) -> Self {
        let mut client = Self::open(address).await;
        let connack = client.say_connect(id, None).await;
        assert_eq!(
            (connack.reason, connack.session_present),
            (ReasonCode::Success, false)
        );
        client
    }

    pub(crate) async fn connect_with_will(address: SocketAddr, id: &str, topic: &str) -> Self {
        let will = Will {
            topic: TopicName::try_from(topic.to_owned()).unwrap(),
            payload: Bytes::from_static(b"gone"),
            qos: QoS::AtLeastOnce,
            retain: false,
            delay_interval_s: 0,
            properties: None,
        };
        let mut client = Self::open(address).await;
        let connack = client.say_connect(id, Some(Box::new(will))).await;
        assert_eq!(connack.reason, ReasonCode::Success);
        client
    }

    pub(crate) async fn say_connect(&mut self, id: &str, will: Option<Box<Will>>) -> ConnAck {
        let connect = Connect {
            version: self.version,
            client_id: Text::try_from(id).unwrap(),
            clean_start: true,
            keep_alive_s: 30,
            username: None,
            password: None,
            will,
            properties: None,
        };
        self.send(&Packet::Connect(Box::new(connect))).await;
        match self.receive().await {
            Packet::ConnAck(connack) => connack,
            other => panic!("not a CONNACK: {other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        magpie_codec::encode(self.version, packet, None, &mut bytes).unwrap();
        self.send_bytes(&bytes).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// The next packet, whatever it is.
    pub(crate) async fn receive(&mut self) -> Packet {
        self.try_receive()
            .await
            .expect("the node closed the connection")
    }

    /// `None`: the node closed the connection.
    pub(crate) async fn try_receive(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.buffer).unwrap() {
                return Some(packet);
            }
            let reading = self.socket.read_buf(&mut self.buffer);
            match tokio::time::timeout(PATIENCE, reading)
                .await
                .expect("nothing came")
            {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next packet that is no message.
    async fn receive_answer(&mut self) -> Packet {
        loop {
            match self.receive().await {
                Packet::Publish(publish) => self.early.push(publish),
                other => return other,
            }
        }
    }

    fn packet_id(&mut self) -> PacketId {
        let id = PacketId::new(self.next_id).unwrap();
        self.next_id = self.next_id % 60_000 + 1;
        id
    }

    pub(crate) async fn subscribe(&mut self, filter: &str, qos: QoS) {
        let options = SubscriptionOptions {
            qos,
            ..SubscriptionOptions::default()
        };
        let suback = self.say_subscribe(&[filter], options).await;
        assert_eq!(suback.reasons, [ReasonCode::granted(qos)]);
    }

    pub(crate) async fn say_subscribe(
        &mut self,
        filters: &[&str],
        options: SubscriptionOptions,
    ) -> SubAck {
        let filter = |it: &&str| (TopicFilter::try_from((*it).to_owned()).unwrap(), options);
        let subscribe = Subscribe {
            packet_id: self.packet_id(),
            subscription_id: None,
            user_properties: Vec::new(),
            filters: filters.iter().map(filter).collect(),
        };
        self.send(&Packet::Subscribe(subscribe)).await;
        match self.receive_answer().await {
            Packet::SubAck(suback) => suback,
            other => panic!("not a SUBACK: {other:?}"),
        }
    }

    /// Sends a PUBLISH and waits for nothing.
    pub(crate) async fn send_publish(
        &mut self,
        topic: &str,
        qos: QoS,
        payload: impl Into<Bytes>,
    ) -> Option<PacketId> {
        let packet_id = (qos != QoS::AtMostOnce).then(|| self.packet_id());
        let publish = Publish {
            dup: false,
            qos,
            retain: false,
            packet_id,
            topic: Some(TopicName::try_from(topic.to_owned()).unwrap()),
            topic_alias: None,
            subscription_ids: Default::default(),
            properties: None,
            payload: payload.into(),
        };
        self.send(&Packet::Publish(publish)).await;
        packet_id
    }

    /// Publishes, and waits until the node has taken the message.
    pub(crate) async fn publish(&mut self, topic: &str, qos: QoS, payload: impl Into<Bytes>) {
        let Some(id) = self.send_publish(topic, qos, payload).await else {
            return;
        };
        match (qos, self.receive_answer().await) {
            (QoS::AtLeastOnce, Packet::PubAck(ack)) => {
                assert_eq!(ack, Ack::new(id, ReasonCode::Success))
            }
            (QoS::ExactlyOnce, Packet::PubRec(ack)) => {
                assert_eq!(ack, Ack::new(id, ReasonCode::Success));
                self.send(&Packet::PubRel(ack)).await;
                assert!(matches!(self.receive_answer().await, Packet::PubComp(_)));
            }
            (_, other) => panic!("not the acknowledgement: {other:?}"),
        }
    }

    /// The next message, acknowledged.
    pub(crate) async fn next(&mut self) -> Publish {
        let publish = if self.early.is_empty() {
            self.receive_publish().await
        } else {
            self.early.remove(0)
        };
        if let Some(id) = publish.packet_id {
            let ack = Ack::new(id, ReasonCode::Success);
            if publish.qos == QoS::AtLeastOnce {
                self.send(&Packet::PubAck(ack)).await;
            } else {
                self.send(&Packet::PubRec(ack)).await;
                self.release().await;
            }
        }
        publish
    }

    async fn receive_publish(&mut self) -> Publish {
        match self.receive().await {
            Packet::Publish(publish) => publish,
            other => panic!("not a PUBLISH: {other:?}"),
        }
    }

    async fn release(&mut self) {
        match self.receive_answer().await {
            Packet::PubRel(ack) => self.send(&Packet::PubComp(ack)).await,
            other => panic!("not a PUBREL: {other:?}"),
        }
    }

    /// The reason code of the DISCONNECT that ends the connection.
    pub(crate) async fn closed_with(&mut self) -> ReasonCode {
        let mut reason = ReasonCode::Success;
        while let Some(packet) = self.try_receive().await {
            if let Packet::Disconnect(disconnect) = packet {
                reason = disconnect.reason;
            }
        }
        reason
    }
}
