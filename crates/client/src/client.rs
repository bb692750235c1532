//! The client as its user sees it: a handle to the task that owns the connection.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use magpie_codec::{
    ConnAck, Disconnect, MessageProperties, Packet, PacketId, Publish, QoS, ReasonCode, SubAck,
    Subscribe, SubscriptionOptions, TopicFilter, TopicName, UnsubAck, Unsubscribe,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::driver::{Command, Driver};
use crate::receiving::acknowledgement;
use crate::{Connection, Error, Incoming, Options};

/// A connected client. Dropping it with all its [`Handle`]s closes the network connection without DISCONNECT, so that
/// the server publishes the will.
#[derive(Debug)]
pub struct Client {
    handle: Handle,
    incoming: mpsc::Receiver<Incoming>,
    connack: ConnAck,
}

/// The sending side of a [`Client`], for several tasks at once.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    /// Beside the commands, because acknowledgements go out when the server's Receive Maximum is used up too.
    acks: mpsc::Sender<Packet>,
    /// Why the connection ended; set before anything that waits for it is woken.
    ended: Arc<OnceLock<Error>>,
}

/// A message that was handed to the connection and is perhaps not acknowledged yet.
#[derive(Debug)]
pub struct Pending {
    outcome: oneshot::Receiver<Result<ReasonCode, Error>>,
    ended: Arc<OnceLock<Error>>,
}

/// Commands that wait for the connection's task; whoever comes later waits.
const COMMANDS_MAX: usize = 256;

impl Client {
    /// Connects and waits for CONNACK.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::ConnectTimeout`], [`Error::Refused`], or what breaks a connection.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let (connection, connack) = timeout(options.connect_timeout, handshake(&options))
            .await
            .map_err(|_| Error::ConnectTimeout {
                address: address(&options),
                after: options.connect_timeout,
            })??;
        let (commands, command_queue) = mpsc::channel(COMMANDS_MAX);
        let (acks, ack_queue) = mpsc::channel(COMMANDS_MAX);
        let (incoming_sender, incoming) = mpsc::channel(options.incoming_max.max(1));
        let ended = Arc::new(OnceLock::new());
        let driver = Driver::new(
            connection,
            &options,
            &connack,
            command_queue,
            ack_queue,
            incoming_sender,
        );
        tokio::spawn(driver.run(Arc::clone(&ended)));
        let handle = Handle {
            commands,
            acks,
            ended,
        };
        Ok(Self {
            handle,
            incoming,
            connack,
        })
    }

    /// The server's CONNACK.
    pub const fn connack(&self) -> &ConnAck {
        &self.connack
    }

    /// The sending side, to be cloned into other tasks.
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The next message in the order of arrival. Loses nothing when cancelled.
    ///
    /// # Errors
    /// Why the connection ended, once all messages that came before are taken.
    pub async fn next(&mut self) -> Result<Incoming, Error> {
        match self.incoming.recv().await {
            Some(incoming) => Ok(incoming),
            None => Err(end_reason(&self.handle.ended)),
        }
    }

    /// The next message if it has arrived already.
    pub fn try_next(&mut self) -> Option<Incoming> {
        self.incoming.try_recv().ok()
    }

    /// See [`Handle::publish`].
    ///
    /// # Errors
    /// As there.
    pub async fn publish<T>(
        &self,
        topic: T,
        payload: impl Into<Bytes>,
        qos: QoS,
        retain: bool,
        properties: Option<MessageProperties>,
    ) -> Result<ReasonCode, Error>
    where
        T: TryInto<TopicName, Error: Into<Error>>,
    {
        self.handle
            .publish(topic, payload, qos, retain, properties)
            .await
    }

    /// See [`Handle::publish_queued`].
    ///
    /// # Errors
    /// As there.
    pub async fn publish_queued<T>(
        &self,
        topic: T,
        payload: impl Into<Bytes>,
        qos: QoS,
        retain: bool,
        properties: Option<MessageProperties>,
    ) -> Result<Pending, Error>
    where
        T: TryInto<TopicName, Error: Into<Error>>,
    {
        self.handle
            .publish_queued(topic, payload, qos, retain, properties)
            .await
    }

    /// See [`Handle::subscribe`].
    ///
    /// # Errors
    /// As there.
    pub async fn subscribe<F>(&self, filter: F, qos: QoS) -> Result<QoS, Error>
    where
        F: TryInto<TopicFilter, Error: Into<Error>>,
    {
        self.handle.subscribe(filter, qos).await
    }

    /// See [`Handle::subscribe_all`].
    ///
    /// # Errors
    /// As there.
    pub async fn subscribe_all(
        &self,
        filters: Vec<(TopicFilter, SubscriptionOptions)>,
        subscription_id: Option<u32>,
    ) -> Result<SubAck, Error> {
        self.handle.subscribe_all(filters, subscription_id).await
    }

    /// See [`Handle::unsubscribe`].
    ///
    /// # Errors
    /// As there.
    pub async fn unsubscribe(&self, filters: Vec<TopicFilter>) -> Result<UnsubAck, Error> {
        self.handle.unsubscribe(filters).await
    }

    /// See [`Handle::acknowledge`].
    ///
    /// # Errors
    /// As there.
    pub async fn acknowledge(&self, incoming: &Incoming) -> Result<(), Error> {
        self.handle.acknowledge(incoming).await
    }

    /// Sends what is queued, then a DISCONNECT without will, and waits until the server closed.
    ///
    /// # Errors
    /// Why the connection had ended before.
    pub async fn disconnect(self) -> Result<(), Error> {
        self.disconnect_with(Disconnect::default()).await
    }

    /// As [`disconnect`](Self::disconnect), with a reason code or properties.
    ///
    /// # Errors
    /// Why the connection had ended before.
    pub async fn disconnect_with(mut self, disconnect: Disconnect) -> Result<(), Error> {
        // Messages that nobody will take must not hold up the rest.
        self.incoming.close();
        while self.incoming.try_recv().is_ok() {}
        let (done, outcome) = oneshot::channel();
        self.handle
            .command(Command::Disconnect { disconnect, done })
            .await?;
        self.handle.outcome(outcome).await
    }
}

impl Handle {
    /// Publishes a message. At QoS 1 and 2 waits until it is acknowledged, at QoS 0 until it is in the send buffer.
    ///
    /// # Errors
    /// [`Error::Rejected`] when the server answers with an error, [`Error::Topic`], [`Error::Encode`], or why the
    /// connection ended; the message may have arrived then.
    pub async fn publish<T>(
        &self,
        topic: T,
        payload: impl Into<Bytes>,
        qos: QoS,
        retain: bool,
        properties: Option<MessageProperties>,
    ) -> Result<ReasonCode, Error>
    where
        T: TryInto<TopicName, Error: Into<Error>>,
    {
        self.publish_queued(topic, payload, qos, retain, properties)
            .await?
            .outcome()
            .await
    }

    /// Hands a message to the connection and does not wait for its acknowledgement; messages keep their order.
    /// Waits only while too many are queued.
    ///
    /// # Errors
    /// [`Error::Topic`], or why the connection ended.
    pub async fn publish_queued<T>(
        &self,
        topic: T,
        payload: impl Into<Bytes>,
        qos: QoS,
        retain: bool,
        properties: Option<MessageProperties>,
    ) -> Result<Pending, Error>
    where
        T: TryInto<TopicName, Error: Into<Error>>,
    {
        let publish = Publish {
            dup: false,
            qos,
            retain,
            packet_id: None,
            topic: Some(topic.try_into().map_err(Into::into)?),
            topic_alias: None,
            subscription_ids: Default::default(),
            properties: properties.map(Box::new),
            payload: payload.into(),
        };
        let (done, outcome) = oneshot::channel();
        self.command(Command::Publish {
            publish: Box::new(publish),
            done,
        })
        .await?;
        Ok(Pending {
            outcome,
            ended: Arc::clone(&self.ended),
        })
    }

    /// Subscribes to one filter; the QoS that the server grants.
    ///
    /// # Errors
    /// [`Error::Rejected`] when the server refuses it, [`Error::Topic`], or why the connection ended.
    pub async fn subscribe<F>(&self, filter: F, qos: QoS) -> Result<QoS, Error>
    where
        F: TryInto<TopicFilter, Error: Into<Error>>,
    {
        let options = SubscriptionOptions {
            qos,
            ..SubscriptionOptions::default()
        };
        let filter = filter.try_into().map_err(Into::into)?;
        let suback = self.subscribe_all(vec![(filter, options)], None).await?;
        let reason = suback
            .reasons
            .first()
            .copied()
            .unwrap_or(ReasonCode::UnspecifiedError);
        QoS::from_u8(reason.into()).ok_or_else(|| Error::Rejected {
            packet: "SUBSCRIBE",
            reason,
            detail: suback
                .properties
                .and_then(|properties| properties.reason_string),
        })
    }

    /// Subscribes to several filters with one packet. The SUBACK has a reason code for each, which may be an error.
    ///
    /// # Errors
    /// [`Error::Encode`], or why the connection ended.
    pub async fn subscribe_all(
        &self,
        filters: Vec<(TopicFilter, SubscriptionOptions)>,
        subscription_id: Option<u32>,
    ) -> Result<SubAck, Error> {
        let subscribe = Subscribe {
            packet_id: PacketId::MIN,
            subscription_id,
            user_properties: Vec::new(),
            filters,
        };
        let (done, outcome) = oneshot::channel();
        self.command(Command::Subscribe { subscribe, done }).await?;
        self.outcome(outcome).await
    }

    /// Unsubscribes from filters with one packet. Before version 5, the UNSUBACK has no reason codes.
    ///
    /// # Errors
    /// [`Error::Encode`], or why the connection ended.
    pub async fn unsubscribe(&self, filters: Vec<TopicFilter>) -> Result<UnsubAck, Error> {
        let unsubscribe = Unsubscribe {
            packet_id: PacketId::MIN,
            user_properties: Vec::new(),
            filters,
        };
        let (done, outcome) = oneshot::channel();
        self.command(Command::Unsubscribe { unsubscribe, done })
            .await?;
        self.outcome(outcome).await
    }

    /// Acknowledges a message with success, where the user does it [by hand](crate::Acknowledge::ByHand). PUBCOMP of
    /// QoS 2 follows by itself.
    ///
    /// # Errors
    /// Why the connection ended.
    pub async fn acknowledge(&self, incoming: &Incoming) -> Result<(), Error> {
        self.acknowledge_with(incoming, ReasonCode::Success).await
    }

    /// As [`acknowledge`](Self::acknowledge), with another reason code; an error ends a QoS 2 delivery.
    ///
    /// # Errors
    /// Why the connection ended.
    pub async fn acknowledge_with(
        &self,
        incoming: &Incoming,
        reason: ReasonCode,
    ) -> Result<(), Error> {
        let Some(packet) = acknowledgement(incoming, reason) else {
            return Ok(());
        };
        self.acks
            .send(packet)
            .await
            .map_err(|_| end_reason(&self.ended))
    }

    async fn command(&self, command: Command) -> Result<(), Error> {
        self.commands
            .send(command)
            .await
            .map_err(|_| end_reason(&self.ended))
    }

    async fn outcome<T>(&self, outcome: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
        outcome
            .await
            .unwrap_or_else(|_| Err(end_reason(&self.ended)))
    }
}

impl Pending {
    /// Waits until the message is acknowledged, at QoS 0 until it is in the send buffer.
    ///
    /// # Errors
    /// As [`Handle::publish`].
    pub async fn outcome(self) -> Result<ReasonCode, Error> {
        self.outcome
            .await
            .unwrap_or_else(|_| Err(end_reason(&self.ended)))
    }
}

fn end_reason(ended: &OnceLock<Error>) -> Error {
    ended.get().cloned().unwrap_or(Error::Ended)
}

async fn handshake(options: &Options) -> Result<(Connection, ConnAck), Error> {
    let address = (options.host.as_str(), options.port);
    let opened = match &options.tls {
        None => Connection::open(address, options.version).await,
        Some(tls) => Connection::open_tls(tls, address, options.version).await,
    };
    let mut connection = opened.map_err(|cause| Error::Connect {
        address: self::address(options),
        cause: Arc::new(cause),
    })?;
    connection
        .send(&Packet::Connect(Box::new(options.to_connect())))
        .await?;
    match connection.recv().await?.ok_or(Error::Closed)? {
        Packet::ConnAck(connack) if connack.reason.is_error() => Err(Error::Refused {
            reason: connack.reason,
            detail: connack
                .properties
                .and_then(|properties| properties.reason_string),
        }),
        Packet::ConnAck(connack) => Ok((connection, connack)),
        packet => Err(Error::Unexpected(packet.packet_type())),
    }
}

fn address(options: &Options) -> String {
    format!("{}:{}", options.host, options.port)
}
