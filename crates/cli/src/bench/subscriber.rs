//! A subscriber's task: counts, checks and acknowledges what arrives, and opens the publishers' windows.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, bail};
use magpie_codec::{PacketType, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::flow::{Board, Flow};
use super::frame::{Incoming, next_frame, put_ack};
use super::publisher::disconnect_sentence;
use super::read_buf::ReadBuf;
use super::sequence::Sequence;
use super::stamp::Stamp;

/// One subscriber, connected and subscribed.
pub(super) struct Subscriber {
    pub(super) id: usize,
    pub(super) stream: TcpStream,
    pub(super) read: ReadBuf,
    pub(super) version: ProtocolVersion,
    /// The publishers that it hears.
    pub(super) hears: Range<usize>,
    /// Of all publishers.
    pub(super) flows: Arc<[Arc<Flow>]>,
    pub(super) board: Arc<Board>,
}

/// What a subscriber saw, for each publisher that it hears.
pub(super) struct Seen {
    pub(super) hears: Range<usize>,
    pub(super) sequences: Vec<Sequence>,
}

impl Subscriber {
    /// Reads until it is cancelled.
    pub(super) async fn run(mut self, done: CancellationToken) -> anyhow::Result<Seen> {
        let mut sequences: Vec<_> = self.hears.clone().map(|_| Sequence::default()).collect();
        let mut answers = Vec::new();
        let mut done = pin!(done.cancelled());
        // A message can have come right behind SUBACK.
        self.handle_incoming(&mut sequences, &mut answers)?;
        loop {
            if !answers.is_empty() {
                self.stream.write_all(&answers).await?;
                answers.clear();
            }
            tokio::select! {
                biased;
                read = self.stream.read(self.read.space()) => self.read.filled(read?)?,
                () = done.as_mut() => return Ok(Seen { hears: self.hears, sequences }),
            }
            self.handle_incoming(&mut sequences, &mut answers)?;
        }
    }

    fn handle_incoming(
        &mut self,
        sequences: &mut [Sequence],
        answers: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        let now_ns = self.board.now_ns();
        let mut latencies = self
            .board
            .is_measuring()
            .then(|| self.board.deliveries.of(self.id));
        let (mut delivered, mut delivered_bytes) = (0, 0);
        // Messages of one publisher mostly come in a row; its window is opened once for all of them.
        let (mut publisher, mut passed) = (self.hears.start, 0);
        while let Some((incoming, bytes)) = next_frame(self.read.unread(), self.version)? {
            match incoming {
                Incoming::Publish {
                    qos,
                    packet_id,
                    payload,
                } => {
                    match qos {
                        0 => {}
                        1 => put_ack(PacketType::PubAck, packet_id, answers),
                        _ => put_ack(PacketType::PubRec, packet_id, answers),
                    }
                    let stamp = Stamp::read(payload).context("a message without a stamp")?;
                    let from = stamp.publisher as usize;
                    if from != publisher && passed > 0 {
                        self.flows[publisher].pass(passed);
                        passed = 0;
                    }
                    publisher = from;
                    let sequence = from
                        .checked_sub(self.hears.start)
                        .and_then(|index| sequences.get_mut(index))
                        .context("a message of a publisher that this subscriber does not hear")?;
                    passed += sequence.see(stamp.seq);
                    delivered += 1;
                    delivered_bytes += payload.len() as u64;
                    if let Some(latencies) = &mut latencies {
                        latencies.saturating_record(now_ns.saturating_sub(stamp.sent_ns) / 1000);
                    }
                }
                Incoming::PubRel { packet_id } => put_ack(PacketType::PubComp, packet_id, answers),
                Incoming::Disconnect { reason } => bail!(disconnect_sentence(reason)),
                _ => {}
            }
            self.read.consume(bytes);
        }
        drop(latencies);
        if delivered > 0 {
            self.board.delivered.fetch_add(delivered, Ordering::Relaxed);
            self.board
                .delivered_bytes
                .fetch_add(delivered_bytes, Ordering::Relaxed);
        }
        if passed > 0 {
            self.flows[publisher].pass(passed);
        }
        Ok(())
    }
}
