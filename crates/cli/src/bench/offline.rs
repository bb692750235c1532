//! `magpie bench offline`: messages for sessions that are away, and how fast they come when all are back.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::BytesMut;
use clap::Args;
use magpie_codec::{PacketType, QoS, TopicName};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::frame::{Incoming, PublishFrames, next_frame, put_ack};
use super::load::show_progress;
use super::parse_duration;
use super::process::{Usage, usage_of_all};
use super::report::mib;
use super::sequence::Sequence;
use super::stamp::Stamp;
use super::target::{DISCONNECT, Established, Lifetime, Target, TargetArgs};
use crate::connect_args::parse_qos;

/// Leave, be written to, come back.
#[derive(Args, Debug)]
pub(crate) struct OfflineArgs {
    /// Sessions that are away
    #[arg(long, default_value_t = 200, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    sessions: u32,
    /// Messages for each of them
    #[arg(long, default_value_t = 500, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    messages: u32,
    /// One topic for all sessions, so that each message is for all of them; else each has its own
    #[arg(long)]
    group: bool,
    /// QoS of messages and subscriptions, 1 or 2
    #[arg(short = 'q', long, default_value = "1", value_parser = parse_qos)]
    qos: QoS,
    /// Payload in bytes, at least 20
    #[arg(long, default_value_t = 64, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(20..))]
    size: u32,
    /// Messages of one publisher that are not acknowledged, at most
    #[arg(long, default_value_t = 100, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    window: u16,
    /// Connections in the making at a time
    #[arg(long, default_value_t = 100, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    connecting: u16,
    /// Longest time that the messages may take to come
    #[arg(long, default_value = "120s", value_parser = parse_duration)]
    patience: Duration,
    #[command(flatten)]
    pub(super) target: TargetArgs,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct OfflineReport {
    scenario: &'static str,
    sessions: u32,
    messages: u32,
    group: bool,
    qos: u8,
    payload_bytes: u32,
    published_per_s: f64,
    /// From the first CONNECT of the return until the last message.
    drained_s: f64,
    drained_per_s: f64,
    missing: u64,
    duplicates: u64,
    out_of_order: u64,
    /// Sessions that the server did not know any more.
    lost_sessions: usize,
    servers: Option<Servers>,
}

/// What the servers' processes used.
#[derive(Clone, Copy, Debug, Serialize)]
struct Servers {
    /// From the first subscription to the last of the sessions' goodbyes.
    resident_bytes_per_session: f64,
    cpu_us_per_published: f64,
    cpu_us_per_drained: f64,
    /// By all of them together, while it was published.
    disk_bytes_per_published: f64,
    resident_bytes: u64,
}

/// What one session saw when it was back.
struct Back {
    session_present: bool,
    sequence: Sequence,
}

impl OfflineArgs {
    /// Runs the bench.
    ///
    /// # Errors
    /// When a connection cannot be made or is lost while messages are published.
    pub(super) async fn bench(&self) -> anyhow::Result<OfflineReport> {
        if self.qos == QoS::AtMostOnce {
            bail!("messages of QoS 0 do not wait for anybody: -q 1 or -q 2");
        }
        let target = Arc::new(Target::new(&self.target).await?);
        let before = self.usage()?;
        self.leave(&target).await?;
        let away = self.usage()?;
        let started = Instant::now();
        self.publish(&target).await?;
        let published_s = started.elapsed().as_secs_f64();
        let waiting = self.usage()?;
        let started = Instant::now();
        let backs = self.come_back(&target).await?;
        let drained_s = started.elapsed().as_secs_f64();
        let after = self.usage()?;
        self.forget(&target).await?;
        let expected = u64::from(self.messages) * u64::from(self.sessions);
        let sum = |of: fn(&Sequence) -> u64| backs.iter().map(|back| of(&back.sequence)).sum();
        let received: u64 = sum(|sequence| sequence.received);
        let published = if self.group {
            u64::from(self.messages)
        } else {
            expected
        };
        let cpu_us = |from: Usage, to: Usage, per: u64| {
            to.cpu.saturating_sub(from.cpu).as_secs_f64() * 1e6 / per.max(1) as f64
        };
        let servers = before.zip(away).zip(waiting.zip(after));
        Ok(OfflineReport {
            scenario: "offline",
            sessions: self.sessions,
            messages: self.messages,
            group: self.group,
            qos: self.qos.into(),
            payload_bytes: self.size,
            published_per_s: published as f64 / published_s,
            drained_s,
            drained_per_s: received as f64 / drained_s,
            missing: expected.saturating_sub(received),
            duplicates: sum(|sequence| sequence.duplicates),
            out_of_order: sum(|sequence| sequence.out_of_order),
            lost_sessions: backs.iter().filter(|back| !back.session_present).count(),
            servers: servers.map(|((before, away), (waiting, after))| Servers {
                resident_bytes_per_session: away
                    .resident_bytes
                    .saturating_sub(before.resident_bytes)
                    as f64
                    / f64::from(self.sessions),
                cpu_us_per_published: cpu_us(away, waiting, published),
                cpu_us_per_drained: cpu_us(waiting, after, received),
                disk_bytes_per_published: waiting.disk_bytes.saturating_sub(away.disk_bytes) as f64
                    / published.max(1) as f64,
                resident_bytes: after.resident_bytes,
            }),
        })
    }

    fn usage(&self) -> anyhow::Result<Option<Usage>> {
        let pids = &self.target.pids;
        (!pids.is_empty()).then(|| usage_of_all(pids)).transpose()
    }

    /// The topic of a session.
    fn topic(&self, target: &Target, session: u32) -> String {
        if self.group {
            target.topic("all")
        } else {
            target.topic(&session.to_string())
        }
    }

    /// Every session subscribes and goes.
    async fn leave(&self, target: &Arc<Target>) -> anyhow::Result<()> {
        let mut tasks = JoinSet::new();
        for session in 0..self.sessions {
            self.make_room(&mut tasks, session, "subscribed").await?;
            let (target, qos) = (Arc::clone(target), self.qos);
            let filter = self.topic(&target, session);
            tasks.spawn(async move {
                let host = target.any_host(session as usize);
                let mut established = target
                    .connect(host, &session.to_string(), Lifetime::Durable)
                    .await?;
                target.subscribe(&mut established, &filter, qos).await?;
                established.stream.write_all(&DISCONNECT).await?;
                // Until the server has closed, the session is not away.
                let mut rest = [0; 16];
                while let Ok(1..) = established.stream.read(&mut rest).await {}
                anyhow::Ok(())
            });
        }
        finish(tasks).await
    }

    /// One publisher per session, or one for the group.
    async fn publish(&self, target: &Arc<Target>) -> anyhow::Result<()> {
        let publishers = if self.group { 1 } else { self.sessions };
        let mut tasks = JoinSet::new();
        for publisher in 0..publishers {
            self.make_room(&mut tasks, publisher, "publishers done")
                .await?;
            let target = Arc::clone(target);
            let topic = TopicName::try_from(self.topic(&target, publisher).as_str())?;
            let frames = PublishFrames::new(
                target.version(),
                topic,
                self.qos,
                self.size as usize,
                self.window.into(),
            )?;
            let (messages, window) = (self.messages, self.window);
            tasks.spawn(async move {
                let host = target.publisher_host(publisher as usize);
                let name = format!("pub-{publisher}");
                let established = target.connect(host, &name, Lifetime::Connection).await?;
                publish_all(&target, established, frames, publisher, messages, window).await
            });
        }
        finish(tasks).await
    }

    /// All sessions come back and read what waited for them.
    async fn come_back(&self, target: &Arc<Target>) -> anyhow::Result<Vec<Back>> {
        let end = tokio::time::Instant::now() + self.patience;
        let messages = u64::from(self.messages);
        let mut tasks = JoinSet::new();
        let mut backs = Vec::new();
        let connecting = Arc::new(tokio::sync::Semaphore::new(self.connecting.into()));
        for session in 0..self.sessions {
            let (target, connecting) = (Arc::clone(target), Arc::clone(&connecting));
            tasks.spawn(async move {
                let permit = connecting.acquire().await?;
                // On another server than before, if there are several.
                let host = target.any_host(session as usize + 1);
                let established = target
                    .connect(host, &session.to_string(), Lifetime::Durable)
                    .await?;
                drop(permit);
                let mut sequence = Sequence::default();
                let session_present = established.session_present;
                let reading = read_all(&target, established, messages, &mut sequence);
                // What is missing then is counted.
                let _ = tokio::time::timeout_at(end, reading).await;
                anyhow::Ok(Back {
                    session_present,
                    sequence,
                })
            });
        }
        while let Some(back) = tasks.join_next().await {
            backs.push(back.context("a session broke")??);
        }
        show_progress("");
        Ok(backs)
    }

    async fn forget(&self, target: &Arc<Target>) -> anyhow::Result<()> {
        let mut tasks = JoinSet::new();
        for session in 0..self.sessions {
            self.make_room(&mut tasks, session, "ended").await?;
            let target = Arc::clone(target);
            tasks.spawn(async move {
                let host = target.any_host(session as usize);
                target.forget(host, &session.to_string()).await
            });
        }
        finish(tasks).await
    }

    /// Waits until one more connection may be in the making.
    async fn make_room(
        &self,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        number: u32,
        what: &str,
    ) -> anyhow::Result<()> {
        while tasks.len() >= usize::from(self.connecting) {
            tasks
                .join_next()
                .await
                .context("a connection is in the making")???;
        }
        if number.is_multiple_of(256) {
            show_progress(&format!("{number} {what}"));
        }
        Ok(())
    }
}

async fn finish(mut tasks: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(one) = tasks.join_next().await {
        one??;
    }
    show_progress("");
    Ok(())
}

/// Publishes so many messages and waits for all acknowledgements.
async fn publish_all(
    target: &Target,
    established: Established,
    mut frames: PublishFrames,
    publisher: u32,
    messages: u32,
    window: u16,
) -> anyhow::Result<()> {
    let Established {
        mut stream,
        mut read,
        receive_maximum,
        ..
    } = established;
    let window = u32::from(window.min(receive_maximum));
    let (mut sent, mut acked) = (0u32, 0u32);
    let mut out = Vec::new();
    while acked < messages {
        while sent < messages && sent - acked < window {
            let room = (window - (sent - acked)).min(messages - sent) as usize;
            let count = room.min(frames.slots());
            for slot in 0..count {
                // Identifiers from 1 on, each used anew long after it was acknowledged.
                let packet_id = u16::try_from(sent % 60_000)? + 1;
                let stamp = Stamp {
                    publisher,
                    seq: u64::from(sent),
                    sent_ns: 0,
                };
                frames.patch(slot, packet_id, stamp);
                sent += 1;
            }
            out.extend_from_slice(frames.first(count));
        }
        stream.write_all(&out).await?;
        out.clear();
        if stream.read_buf(&mut read).await? == 0 {
            bail!("the server closed the connection of a publisher");
        }
        while let Some((incoming, bytes)) = next_frame(&read, target.version())? {
            match incoming {
                Incoming::PubAck { refused, .. }
                | Incoming::PubRec {
                    refused: refused @ true,
                    ..
                } => {
                    if refused {
                        bail!("the server refused a message");
                    }
                    acked += 1;
                }
                Incoming::PubRec { packet_id, .. } => {
                    put_ack(PacketType::PubRel, packet_id, &mut out);
                }
                Incoming::PubComp { .. } => acked += 1,
                _ => {}
            }
            bytes::Buf::advance(&mut read, bytes);
        }
    }
    stream.write_all(&DISCONNECT).await?;
    Ok(())
}

/// Reads and acknowledges until so many messages came.
async fn read_all(
    target: &Target,
    established: Established,
    messages: u64,
    sequence: &mut Sequence,
) -> anyhow::Result<()> {
    let Established {
        mut stream, read, ..
    } = established;
    let mut read: BytesMut = read;
    let mut out = Vec::new();
    let mut unfinished = 0usize;
    loop {
        while let Some((incoming, bytes)) = next_frame(&read, target.version())? {
            match incoming {
                Incoming::Publish {
                    qos,
                    packet_id,
                    payload,
                } => {
                    let stamp = Stamp::read(payload).context("a message without a stamp")?;
                    sequence.see(stamp.seq);
                    if qos == 1 {
                        put_ack(PacketType::PubAck, packet_id, &mut out);
                    } else {
                        unfinished += 1;
                        put_ack(PacketType::PubRec, packet_id, &mut out);
                    }
                }
                Incoming::PubRel { packet_id } => {
                    unfinished = unfinished.saturating_sub(1);
                    put_ack(PacketType::PubComp, packet_id, &mut out);
                }
                Incoming::Disconnect { reason } => bail!("closed with reason {reason:#04x}"),
                _ => {}
            }
            bytes::Buf::advance(&mut read, bytes);
        }
        stream.write_all(&out).await?;
        out.clear();
        if sequence.received >= messages && unfinished == 0 {
            stream.write_all(&DISCONNECT).await?;
            return Ok(());
        }
        if stream.read_buf(&mut read).await? == 0 {
            bail!("the server closed the connection of a session");
        }
    }
}

impl OfflineReport {
    /// Whether every message came once and in order, and every session was known.
    pub(super) const fn kept_promises(&self) -> bool {
        self.missing == 0
            && self.duplicates == 0
            && self.out_of_order == 0
            && self.lost_sessions == 0
    }
}

impl fmt::Display for OfflineReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "offline: {} sessions, {} messages for {}, QoS {}, {} B",
            self.sessions,
            self.messages,
            if self.group { "all of them" } else { "each" },
            self.qos,
            self.payload_bytes
        )?;
        writeln!(f, "  published  {:.0} /s", self.published_per_s)?;
        write!(
            f,
            "  drained    in {:.2} s, {:.0} /s; {} missing, {} duplicates, {} out of order, {} sessions lost",
            self.drained_s,
            self.drained_per_s,
            self.missing,
            self.duplicates,
            self.out_of_order,
            self.lost_sessions
        )?;
        if let Some(servers) = self.servers {
            write!(
                f,
                "\n  servers    {:.0} B per session away, {:.1} us CPU and {:.0} B to disk per message published, {:.1} us per message drained, {:.1} MiB resident",
                servers.resident_bytes_per_session,
                servers.cpu_us_per_published,
                servers.disk_bytes_per_published,
                servers.cpu_us_per_drained,
                mib(servers.resident_bytes)
            )?;
        }
        Ok(())
    }
}
