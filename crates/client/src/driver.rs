//! The task that owns a client's connection.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use magpie_codec::{
    Ack, ConnAck, Disconnect, Packet, Publish, QoS, ReasonCode, SubAck, Subscribe, UnsubAck,
    Unsubscribe,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::inflight::{Done, Inflight, Waiting};
use crate::receiving::Receiving;
use crate::{Connection, Error, Incoming, Options};

/// What the user wants.
#[derive(Debug)]
pub(crate) enum Command {
    Publish {
        publish: Box<Publish>,
        done: Done<ReasonCode>,
    },
    Subscribe {
        subscribe: Subscribe,
        done: Done<SubAck>,
    },
    Unsubscribe {
        unsubscribe: Unsubscribe,
        done: Done<UnsubAck>,
    },
    Disconnect {
        disconnect: Disconnect,
        done: Done<()>,
    },
}

/// Waits for the socket, the user or the clock, handles one thing and whatever is ready of its kind, and waits again;
/// writes whenever the socket takes it.
pub(crate) struct Driver {
    connection: Connection,
    commands: mpsc::Receiver<Command>,
    acks: mpsc::Receiver<Packet>,
    incoming: mpsc::Sender<Incoming>,
    inflight: Inflight,
    receiving: Receiving,
    /// A message that found no room. While it waits, nothing is read.
    undelivered: Option<Incoming>,
    /// A command that found the server's Receive Maximum used up. While it waits, no other is taken.
    held: Option<Command>,
    keep_alive: Option<Duration>,
    last_sent: Instant,
    /// When the PINGREQ on its way was sent.
    ping_sent: Option<Instant>,
}

/// Above this many bytes to send, no command is taken.
const SEND_BYTES_HIGH: usize = 256 * 1024;
/// How long the server may take to close after DISCONNECT.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// What the task waits for.
enum Event {
    Packet(Packet),
    /// There is room for a message, or nobody takes any more.
    Room,
    Written,
    Command(Command),
    /// PUBACK or PUBREC of the user.
    Ack(Packet),
    Timeout,
}

/// Why the task ends.
enum End {
    /// The user asked for it.
    Disconnect(Disconnect, Done<()>),
    Error(Error),
}

impl<E: Into<Error>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

impl Driver {
    pub(crate) fn new(
        mut connection: Connection,
        options: &Options,
        connack: &ConnAck,
        commands: mpsc::Receiver<Command>,
        acks: mpsc::Receiver<Packet>,
        incoming: mpsc::Sender<Incoming>,
    ) -> Self {
        let properties = connack.properties.as_deref();
        connection.writer.packet_bytes_max =
            properties.and_then(|properties| properties.maximum_packet_size);
        let receive_maximum = properties
            .and_then(|properties| properties.receive_maximum)
            .map_or(u16::MAX, std::num::NonZeroU16::get);
        // [MQTT-3.1.2-21]
        let keep_alive_s = properties
            .and_then(|properties| properties.server_keep_alive_s)
            .unwrap_or(options.keep_alive_s);
        Self {
            connection,
            commands,
            acks,
            incoming,
            inflight: Inflight::new(receive_maximum),
            receiving: Receiving::new(options.acknowledge, options.properties.topic_alias_maximum),
            undelivered: None,
            held: None,
            keep_alive: (keep_alive_s > 0).then(|| Duration::from_secs(keep_alive_s.into())),
            last_sent: Instant::now(),
            ping_sent: None,
        }
    }

    /// Runs until the connection ends, and says why.
    pub(crate) async fn run(mut self, ended: Arc<OnceLock<Error>>) {
        let Err(end) = self.drive().await;
        match end {
            End::Error(error) => {
                // Only this task sets it.
                let _ = ended.set(error);
            }
            End::Disconnect(disconnect, done) => {
                let _ = ended.set(Error::Ended);
                let _ = done.send(self.say_goodbye(disconnect).await);
            }
        }
    }

    async fn drive(&mut self) -> Result<std::convert::Infallible, End> {
        loop {
            let may_read = self.undelivered.is_none();
            let may_take =
                self.held.is_none() && self.connection.writer.queued_bytes() < SEND_BYTES_HIGH;
            let timer = self.timer();
            let Connection { reader, writer } = &mut self.connection;
            let event = tokio::select! {
                packet = reader.recv(), if may_read => Event::Packet(packet?.ok_or(Error::Closed)?),
                _ = self.incoming.reserve(), if !may_read => Event::Room,
                written = writer.write_some(), if writer.has_queued() => {
                    written?;
                    Event::Written
                }
                command = self.commands.recv(), if may_take => Event::Command(command.ok_or(Error::Ended)?),
                Some(ack) = self.acks.recv() => Event::Ack(ack),
                () = sleep_until(timer.unwrap_or(self.last_sent)), if timer.is_some() => Event::Timeout,
            };
            match event {
                Event::Packet(packet) => {
                    self.handle_packet(packet)?;
                    self.handle_buffered()?;
                }
                Event::Room => self.handle_room()?,
                Event::Written => self.last_sent = Instant::now(),
                Event::Command(command) => {
                    self.handle_command(command)?;
                    self.handle_waiting_commands()?;
                }
                Event::Ack(ack) => self.handle_ack_of_user(&ack)?,
                Event::Timeout => self.handle_timeout()?,
            }
        }
    }

    /// The user took a message, or will take no more.
    fn handle_room(&mut self) -> Result<(), End> {
        if let Some(incoming) = self.undelivered.take() {
            // This task alone sends, so there is room, or nobody who receives.
            let _ = self.incoming.try_send(incoming);
        }
        // The answer to a PINGREQ may be among what was not read.
        self.ping_sent = self.ping_sent.map(|_| Instant::now());
        self.handle_buffered()
    }

    fn handle_buffered(&mut self) -> Result<(), End> {
        while self.undelivered.is_none()
            && let Some(packet) = self.connection.reader.buffered()?
        {
            self.handle_packet(packet)?;
        }
        Ok(())
    }

    fn handle_packet(&mut self, packet: Packet) -> Result<(), End> {
        let packet_type = packet.packet_type();
        match packet {
            Packet::Publish(publish) => self.handle_publish(publish)?,
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubComp(ack) => {
                let packet_id = ack.packet_id;
                if self.inflight.handle_ack(packet_type, ack)? {
                    self.queue(&Packet::PubRel(Ack::new(packet_id, ReasonCode::Success)))?;
                }
                self.retry_held()?;
            }
            Packet::PubRel(pubrel) => {
                let pubcomp = self.receiving.handle_pubrel(&pubrel);
                self.queue(&pubcomp)?;
            }
            Packet::SubAck(suback) => self.inflight.handle_suback(suback)?,
            Packet::UnsubAck(unsuback) => self.inflight.handle_unsuback(unsuback)?,
            Packet::PingResp => self.ping_sent = None,
            Packet::Disconnect(disconnect) => return Err(disconnected(disconnect).into()),
            _ => return Err(Error::Unexpected(packet_type).into()),
        }
        Ok(())
    }

    fn handle_publish(&mut self, publish: Publish) -> Result<(), End> {
        let (incoming, answer) = self.receiving.handle_publish(publish)?;
        if let Some(incoming) = incoming
            && let Err(mpsc::error::TrySendError::Full(incoming)) = self.incoming.try_send(incoming)
        {
            self.undelivered = Some(incoming);
        }
        answer.map_or(Ok(()), |answer| self.queue(&answer))
    }

    fn handle_waiting_commands(&mut self) -> Result<(), End> {
        while self.held.is_none()
            && self.connection.writer.queued_bytes() < SEND_BYTES_HIGH
            && let Ok(command) = self.commands.try_recv()
        {
            self.handle_command(command)?;
        }
        Ok(())
    }

    /// Tries the command that was held up, now that something was acknowledged.
    fn retry_held(&mut self) -> Result<(), End> {
        match self.held.take() {
            Some(command) => self.handle_command(command),
            None => Ok(()),
        }
    }

    fn handle_command(&mut self, command: Command) -> Result<(), End> {
        match command {
            Command::Publish { publish, done } if publish.qos == QoS::AtMostOnce => {
                let outcome = self.connection.writer.queue(&Packet::Publish(*publish));
                let _ = done.send(outcome.map(|()| ReasonCode::Success).map_err(Error::from));
            }
            Command::Publish { .. } if !self.inflight.has_room() => self.held = Some(command),
            Command::Subscribe { .. } | Command::Unsubscribe { .. }
                if self.inflight.is_exhausted() =>
            {
                self.held = Some(command);
            }
            Command::Publish { mut publish, done } => {
                let packet_id = self.inflight.free_packet_id();
                publish.packet_id = Some(packet_id);
                let waiting = match publish.qos {
                    QoS::ExactlyOnce => Waiting::PubRec,
                    _ => Waiting::PubAck,
                };
                match self.connection.writer.queue(&Packet::Publish(*publish)) {
                    Ok(()) => self.inflight.insert(packet_id, waiting(done)),
                    Err(error) => drop(done.send(Err(error.into()))),
                }
            }
            Command::Subscribe {
                mut subscribe,
                done,
            } => {
                subscribe.packet_id = self.inflight.free_packet_id();
                let packet_id = subscribe.packet_id;
                match self.connection.writer.queue(&Packet::Subscribe(subscribe)) {
                    Ok(()) => self.inflight.insert(packet_id, Waiting::SubAck(done)),
                    Err(error) => drop(done.send(Err(error.into()))),
                }
            }
            Command::Unsubscribe {
                mut unsubscribe,
                done,
            } => {
                unsubscribe.packet_id = self.inflight.free_packet_id();
                let packet_id = unsubscribe.packet_id;
                match self
                    .connection
                    .writer
                    .queue(&Packet::Unsubscribe(unsubscribe))
                {
                    Ok(()) => self.inflight.insert(packet_id, Waiting::UnsubAck(done)),
                    Err(error) => drop(done.send(Err(error.into()))),
                }
            }
            Command::Disconnect { disconnect, done } => {
                return Err(End::Disconnect(disconnect, done));
            }
        }
        Ok(())
    }

    fn handle_ack_of_user(&mut self, packet: &Packet) -> Result<(), End> {
        if let Packet::PubRec(pubrec) = packet
            && pubrec.reason.is_error()
        {
            self.receiving.handle_refused(pubrec.packet_id);
        }
        self.queue(packet)
    }

    fn queue(&mut self, packet: &Packet) -> Result<(), End> {
        Ok(self.connection.writer.queue(packet)?)
    }

    /// When the keep alive asks for something.
    fn timer(&self) -> Option<Instant> {
        let keep_alive = self.keep_alive?;
        Some(self.ping_sent.unwrap_or(self.last_sent) + keep_alive)
    }

    fn handle_timeout(&mut self) -> Result<(), End> {
        // While nothing is read, the answer may lie in the socket.
        if self.ping_sent.is_some() && self.undelivered.is_none() {
            return Err(Error::KeepAliveTimeout.into());
        }
        self.ping_sent = Some(Instant::now());
        self.queue(&Packet::PingReq)
    }

    /// Sends what is left and DISCONNECT, and reads until the server closes: closing with unread bytes would reset the
    /// connection, and the server might lose what it has not read yet.
    async fn say_goodbye(&mut self, disconnect: Disconnect) -> Result<(), Error> {
        // What the user acknowledged before is part of what is left.
        while let Ok(ack) = self.acks.try_recv() {
            self.connection.queue(&ack)?;
        }
        self.connection.queue(&Packet::Disconnect(disconnect))?;
        let Connection { reader, writer } = &mut self.connection;
        let write_all = async {
            while writer.has_queued() {
                writer.write_some().await?;
            }
            writer.shutdown().await
        };
        let both = async { tokio::join!(write_all, reader.discard_rest()).0 };
        match timeout(CLOSE_WAIT, both).await {
            Ok(written) => Ok(written?),
            Err(_) if self.connection.writer.has_queued() => Err(Error::KeepAliveTimeout),
            Err(_) => Ok(()),
        }
    }
}

fn disconnected(disconnect: Disconnect) -> Error {
    let (detail, server_reference) = match disconnect.properties {
        Some(properties) => (properties.reason_string, properties.server_reference),
        None => (None, None),
    };
    Error::Disconnected {
        reason: disconnect.reason,
        detail,
        server_reference,
    }
}
