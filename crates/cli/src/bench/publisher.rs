//! A publisher's task: as many messages as window and pace allow, in as few writes as possible.

use std::convert::Infallible;
use std::io::IoSlice;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, bail};
use magpie_codec::{PacketType, ProtocolVersion, QoS, ReasonCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::flow::{Board, Flow};
use super::frame::{Incoming, PublishFrames, next_frame, put_ack};
use super::pace::Pace;
use super::read_buf::ReadBuf;
use super::stamp::Stamp;

/// One publisher, connected.
pub(super) struct Publisher {
    pub(super) id: u32,
    pub(super) stream: TcpStream,
    pub(super) read: ReadBuf,
    pub(super) version: ProtocolVersion,
    pub(super) qos: QoS,
    pub(super) frames: PublishFrames,
    /// The most messages on their way, at most 65,535.
    pub(super) window: u64,
    /// `None`: as fast as the window lets through.
    pub(super) pace: Option<Pace>,
    /// Subscribers that hear each message.
    pub(super) subscribers: u64,
    pub(super) flow: Arc<Flow>,
    pub(super) board: Arc<Board>,
}

/// How far the messages of a publisher are.
struct Progress {
    sent: u64,
    acked: u64,
    refused: u64,
    /// Messages that the window no longer waits for: those lost at the end of a burst leave no gap in which a
    /// subscriber could see that they are lost.
    given_up: u64,
    /// One bit for each Packet Identifier, set while it is in use.
    in_use: Vec<u64>,
    /// By Packet Identifier, when a message was sent; empty without a pace, since then it tells of the window's length only.
    sent_ns: Vec<u64>,
    /// PUBRELs to send.
    answers: Vec<u8>,
}

/// Without any progress for so long, the window is opened again; what is missing counts as lost in the end.
const STALL: Duration = Duration::from_secs(2);
/// A message that is sent later than this after it was due was held up, and its latency counts from when it was due.
/// Below is the coarseness of the timer.
const LATE_NS: u64 = 2_000_000;

impl Publisher {
    /// Publishes until the board says stop, and then reads on. Ends only with an error, or when it is dropped.
    pub(super) async fn run(mut self) -> anyhow::Result<Infallible> {
        let mut progress = Progress::new(self.qos, self.pace.is_some());
        let mut timer = pin!(sleep_until(Instant::now() + STALL));
        let mut seen_at_timer = 0;
        loop {
            let now_ns = self.board.now_ns();
            let room = self.window.saturating_sub(self.on_their_way(&mut progress));
            let due = self.due(&progress, now_ns);
            let count = usize::try_from(room.min(due)).unwrap_or(usize::MAX);
            let count = self.patch(&mut progress, count.min(self.frames.slots()), now_ns);
            if count > 0 || !progress.answers.is_empty() {
                write_both(
                    &mut self.stream,
                    &progress.answers,
                    self.frames.first(count),
                )
                .await?;
                progress.answers.clear();
                self.flow.sent.store(progress.sent, Ordering::Relaxed);
                if count == self.frames.slots() {
                    continue;
                }
            }
            if let Some(pace) = self.pace
                && room > due
            {
                let next = self.board.instant(pace.due_ns(progress.sent));
                timer.as_mut().reset(if self.board.is_stopped() {
                    Instant::now() + STALL
                } else {
                    next
                });
            }
            tokio::select! {
                biased;
                read = self.stream.read(self.read.space()) => {
                    self.read.filled(read?)?;
                    self.handle_incoming(&mut progress)?;
                }
                () = self.flow.wake.notified() => {}
                () = timer.as_mut() => {
                    timer.as_mut().reset(Instant::now() + STALL);
                    let seen = progress.acked + self.flow.passed.load(Ordering::Relaxed);
                    if seen == std::mem::replace(&mut seen_at_timer, seen) {
                        progress.given_up = u64::MAX;
                    }
                }
            }
        }
    }

    /// Messages that fill the window: not acknowledged or, without a pace, not at their subscribers.
    fn on_their_way(&self, progress: &mut Progress) -> u64 {
        let unacked = match self.qos {
            QoS::AtMostOnce => 0,
            _ => progress.sent - progress.acked,
        };
        if self.pace.is_some() {
            return unacked;
        }
        let passed = self.flow.passed.load(Ordering::Relaxed) / self.subscribers.max(1);
        let undelivered = progress.sent.saturating_sub(passed);
        progress.given_up = progress.given_up.min(undelivered);
        unacked.max(undelivered - progress.given_up)
    }

    fn due(&self, progress: &Progress, now_ns: u64) -> u64 {
        match self.pace {
            _ if self.board.is_stopped() => 0,
            Some(pace) => pace.due(now_ns).saturating_sub(progress.sent),
            None => u64::MAX,
        }
    }

    /// Makes the next `count` messages ready; fewer if their Packet Identifiers are still in use.
    fn patch(&mut self, progress: &mut Progress, count: usize, now_ns: u64) -> usize {
        for slot in 0..count {
            let packet_id = (progress.sent % u64::from(u16::MAX)) as u16 + 1;
            if self.qos != QoS::AtMostOnce && !progress.take_id(packet_id) {
                return slot;
            }
            let due_ns = self.pace.map_or(now_ns, |pace| pace.due_ns(progress.sent));
            let sent_ns = if now_ns.saturating_sub(due_ns) > LATE_NS {
                due_ns
            } else {
                now_ns
            };
            let stamp = Stamp {
                publisher: self.id,
                seq: progress.sent,
                sent_ns,
            };
            self.frames.patch(slot, packet_id, stamp);
            if let Some(sent) = progress.sent_ns.get_mut(usize::from(packet_id)) {
                *sent = sent_ns;
            }
            progress.sent += 1;
        }
        count
    }

    fn handle_incoming(&mut self, progress: &mut Progress) -> anyhow::Result<()> {
        while let Some((incoming, bytes)) = next_frame(self.read.unread(), self.version)? {
            match incoming {
                Incoming::PubAck { packet_id, refused } => {
                    self.note_acknowledged(progress, packet_id);
                    progress.handle_end(packet_id, refused)?
                }
                Incoming::PubRec {
                    packet_id,
                    refused: true,
                } => progress.handle_end(packet_id, true)?,
                Incoming::PubRec {
                    packet_id,
                    refused: false,
                } => {
                    self.note_acknowledged(progress, packet_id);
                    put_ack(PacketType::PubRel, packet_id, &mut progress.answers);
                }
                Incoming::PubComp { packet_id } => progress.handle_end(packet_id, false)?,
                Incoming::Disconnect { reason } => bail!(disconnect_sentence(reason)),
                _ => {}
            }
            self.read.consume(bytes);
        }
        self.flow.acked.store(progress.acked, Ordering::Relaxed);
        self.flow.refused.store(progress.refused, Ordering::Relaxed);
        Ok(())
    }

    /// The server has taken a message: PUBACK or PUBREC.
    fn note_acknowledged(&self, progress: &Progress, packet_id: u16) {
        if let Some(sent_ns) = progress.sent_ns.get(usize::from(packet_id))
            && self.board.is_measuring()
        {
            let took_us = self.board.now_ns().saturating_sub(*sent_ns) / 1000;
            let mut times = self.board.acknowledgements.of(self.id as usize);
            times.saturating_record(took_us.max(1));
        }
    }
}

impl Progress {
    fn new(qos: QoS, is_timed: bool) -> Self {
        const WORDS: usize = (u16::MAX as usize + 1) / u64::BITS as usize;
        Self {
            sent: 0,
            acked: 0,
            refused: 0,
            given_up: 0,
            in_use: if qos == QoS::AtMostOnce {
                Vec::new()
            } else {
                vec![0; WORDS]
            },
            sent_ns: if is_timed && qos != QoS::AtMostOnce {
                vec![0; usize::from(u16::MAX) + 1]
            } else {
                Vec::new()
            },
            answers: Vec::new(),
        }
    }

    /// Marks an identifier as used; whether it was free.
    fn take_id(&mut self, packet_id: u16) -> bool {
        let word = &mut self.in_use[usize::from(packet_id / 64)];
        let bit = 1 << (packet_id % 64);
        let was_free = *word & bit == 0;
        *word |= bit;
        was_free
    }

    /// Takes the last acknowledgement of a message.
    fn handle_end(&mut self, packet_id: u16, refused: bool) -> anyhow::Result<()> {
        let word = self
            .in_use
            .get_mut(usize::from(packet_id / 64))
            .with_context(|| "the server acknowledges a message of QoS 0")?;
        let bit = 1 << (packet_id % 64);
        if *word & bit == 0 {
            bail!("the server acknowledges packet identifier {packet_id}, which is not in use");
        }
        *word &= !bit;
        self.acked += 1;
        self.refused += u64::from(refused);
        Ok(())
    }
}

/// What a DISCONNECT of the server means.
pub(super) fn disconnect_sentence(reason: u8) -> String {
    let words =
        ReasonCode::from_u8(reason).map_or("unknown reason", magpie_client::reason_in_words);
    format!("the server ended the connection: {words}")
}

/// Writes both, with one call of the system if the socket takes them.
async fn write_both(stream: &mut TcpStream, first: &[u8], second: &[u8]) -> std::io::Result<()> {
    let mut written = 0;
    if !first.is_empty() && !second.is_empty() {
        written = stream
            .write_vectored(&[IoSlice::new(first), IoSlice::new(second)])
            .await?;
    }
    if let Some(rest) = first.get(written..) {
        stream.write_all(rest).await?;
    }
    stream
        .write_all(&second[written.saturating_sub(first.len())..])
        .await
}
