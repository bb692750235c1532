//! The batch of a stream: the command that carries every message of the replicated class.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use magpie_codec::QoS;

use super::PartitionState;
use super::answer::{AppendAnswer, Attached, Outcome};
use super::received::Taking;
use super::retained::Retaining;
use super::sessions::{Ending, NewConnection, Superseded, Unattached};
use super::share_groups::{Joining, ShareMemberId};
use super::streams::Turn;

use crate::record::skim;
use crate::wire::{put_stream, read_stream, read_u8, read_u32, read_u64};
use crate::{DecodeError, Dedup, Epoch, Position, Publish, Record, StreamId};

/// A batch of records, number `seq` of its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// Which node, in which life.
    pub stream: StreamId,
    /// Sequence number within the stream, from 1, without gaps.
    pub seq: u64,
    /// Whether `apply` must read the records: one is other than a publish, or [must be read](Record::must_read).
    pub has_control: bool,
    /// How many records there are.
    pub count: u32,
    /// The records, one after the other.
    pub records: Bytes,
}

impl Append {
    /// The records in order. Ends at the first that cannot be read, which only a bug can write.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        let mut rest = self.records.clone();
        (0..self.count).map_while(move |_| Record::decode(&mut rest).ok())
    }

    /// The bytes of the record with this ordinal.
    pub(super) fn record_bytes(&self, ordinal: u32) -> Option<Bytes> {
        if ordinal >= self.count {
            return None;
        }
        let mut rest = self.records.clone();
        let skip = |rest: &mut Bytes| match skim(rest) {
            Some(publish) => {
                rest.advance(publish.bytes);
                Some(())
            }
            None => Record::decode(rest).ok().map(|_| ()),
        };
        for _ in 0..ordinal {
            skip(&mut rest)?;
        }
        let start = rest.clone();
        skip(&mut rest)?;
        Some(start.slice(..start.len() - rest.len()))
    }

    /// Appends the batch's bytes, without the command's kind.
    pub(super) fn encode(&self, out: &mut BytesMut) {
        put_stream(out, self.stream);
        out.put_u64_le(self.seq);
        out.put_u8(u8::from(self.has_control));
        out.put_u32_le(self.count);
        out.put_slice(&self.records);
    }

    /// Takes a batch, to the end of `buf`.
    pub(super) fn decode(buf: &mut Bytes) -> Result<Self, DecodeError> {
        let stream = read_stream(buf, "stream")?;
        let seq = read_u64(buf, "sequence number")?;
        let has_control = read_u8(buf, "batch flags")? != 0;
        let count = read_u32(buf, "record count")?;
        Ok(Self {
            stream,
            seq,
            has_control,
            count,
            records: buf.split_off(0),
        })
    }
}

impl PartitionState {
    pub(super) fn append(&mut self, index: u64, append: &Append) -> AppendAnswer {
        let answer = match self.streams.turn(append.stream, append.seq) {
            Turn::Next => return AppendAnswer::Taken(self.take(index, append)),
            Turn::Repeat(outcome) => AppendAnswer::Repeat(outcome),
            Turn::Gap { last } => AppendAnswer::Gap { last },
            Turn::Ended => AppendAnswer::Ended,
        };
        self.skipped.whole(index, &mut self.changed);
        answer
    }

    fn take(&mut self, index: u64, append: &Append) -> Outcome {
        if let Some(older) = self.streams.older_life(append.stream) {
            // A superseded incarnation counts as down.
            self.end_stream(older);
        }
        let mut outcome = Outcome::default();
        // The usual batch, all publishes and no fence to check them against, is not read.
        if append.has_control || !self.fences.is_empty() {
            for (ordinal, record) in (0..).zip(append.records()) {
                self.take_record(index, ordinal, append.stream, record, &mut outcome);
            }
        }
        let passed_over = outcome.passed_over();
        if !passed_over.is_empty() {
            self.skipped.records(index, passed_over, &mut self.changed);
        }
        self.streams
            .taken(append.stream, append.seq, &outcome, &mut self.changed);
        outcome
    }

    fn take_record(
        &mut self,
        index: u64,
        ordinal: u32,
        stream: StreamId,
        record: Record,
        outcome: &mut Outcome,
    ) {
        let changed = &mut self.changed;
        match record {
            Record::Publish(publish) => {
                let position = Position::at(index, ordinal);
                self.take_publish(position, stream, &publish, outcome);
            }
            Record::Attach {
                client,
                session_expiry_s,
                clean_start,
                will,
                owner,
            } => {
                let epoch = Epoch::at(index, ordinal);
                let new = NewConnection {
                    client: &client,
                    epoch,
                    holder: stream,
                    clean_start,
                    session_expiry_s,
                    will: will.as_deref(),
                    owner: owner.as_deref(),
                };
                match self.sessions.attach(&new, &self.limits, changed) {
                    Ok(attaching) => outcome.attached.push(Attached {
                        ordinal,
                        epoch,
                        session_present: attaching.session_present,
                        superseded: attaching.superseded,
                        owned: attaching.owned,
                    }),
                    // Without an answer: that tells it from a refusal for a newer connection.
                    Err(Unattached::Full) => outcome.refused.push(ordinal),
                    Err(Unattached::Foreign) => outcome.foreign.push(ordinal),
                }
            }
            Record::Detach {
                client,
                epoch,
                departure,
                session_expiry_s,
                last,
            } => {
                let ending = Ending {
                    departure,
                    session_expiry_s,
                };
                self.sessions
                    .detach(&client, epoch, &ending, last.as_deref(), changed);
            }
            Record::Subscribe {
                client,
                epoch,
                subscriptions,
            } => {
                let done = self
                    .sessions
                    .subscribe(&client, epoch, &subscriptions, changed);
                outcome.refused.extend(done.err().map(|Superseded| ordinal));
            }
            Record::Unsubscribe {
                client,
                epoch,
                filters,
                inflight,
            } => {
                let done = self
                    .sessions
                    .unsubscribe(&client, epoch, &filters, &inflight, changed);
                outcome.refused.extend(done.err().map(|Superseded| ordinal));
            }
            Record::Bind {
                client,
                epoch,
                bindings,
            } => {
                let done = self.sessions.bind(&client, epoch, &bindings, changed);
                outcome.refused.extend(done.err().map(|Superseded| ordinal));
            }
            Record::Received {
                client,
                epoch,
                packet_ids,
            } => {
                let done = self.sessions.received(&client, epoch, &packet_ids, changed);
                outcome.refused.extend(done.err().map(|Superseded| ordinal));
            }
            Record::Progress {
                floors,
                laggards,
                joined,
            } => self
                .sessions
                .progress(stream, &floors, &laggards, &joined, changed),
            Record::Release {
                client,
                session,
                packet_id,
            } => {
                if packet_id.is_none() {
                    self.share_groups.end_session(&client, session, changed);
                }
                self.received.release(&client, session, packet_id, changed);
            }
            Record::Lost { partition, topics } => {
                if stream.is_outbox() {
                    self.sessions.lost_elsewhere(partition, &topics, changed);
                }
            }
            Record::Fence {
                client,
                epoch,
                against,
            } => {
                if !self.streams.is_ended(against) {
                    self.fences.raise(&client, epoch, against, changed);
                }
            }
            Record::Unfence { client, epoch } => self.fences.lower(&client, epoch, stream, changed),
            Record::Refuse { stream } if stream.is_outbox() => {}
            Record::Refuse { stream } => self.streams.end(stream, changed),
            Record::Settle {
                client,
                epoch,
                deliveries,
            } => self.sessions.settle(&client, epoch, &deliveries, changed),
            Record::JoinShare {
                filter,
                member,
                qos,
                session,
            } => {
                let at = ShareMemberId { stream, member };
                let joining = Joining { at, qos, session };
                let place = Position::at(index, ordinal);
                self.share_groups.join(place, &filter, joining, changed);
            }
            Record::LeaveShare {
                filter,
                member,
                session,
                sent,
            } => {
                let at = ShareMemberId { stream, member };
                self.share_groups
                    .leave(&filter, at, session.as_ref(), sent.as_deref(), changed);
            }
            Record::PartShare { member, sent } => {
                let at = ShareMemberId { stream, member };
                self.share_groups.part(at, sent.as_deref(), changed);
            }
            Record::ShareDone { done } => {
                for (membership, positions) in done {
                    self.share_groups.done(membership, &positions, changed);
                }
            }
        }
    }

    fn take_publish(
        &mut self,
        position: Position,
        stream: StreamId,
        publish: &Publish,
        outcome: &mut Outcome,
    ) {
        let changed = &mut self.changed;
        // What a partition sends is no connection's.
        if !stream.is_outbox() && self.fences.refuses(&publish.client, publish.epoch) {
            return outcome.refused.push(position.ordinal());
        }
        if let Some(dedup) = publish.dedup {
            match self.received.take(&publish.client, dedup, changed) {
                Taking::New => {}
                Taking::Repeat => return outcome.repeated.push(position.ordinal()),
                Taking::Ended => return outcome.refused.push(position.ordinal()),
            }
        }
        // [MQTT-3.3.1-8], [MQTT-3.3.1-12 v3.1.1]
        if !publish.retain {
            return;
        }
        let kept = self
            .retained
            .publish(position, publish, &self.limits, changed);
        // Who waits for an acknowledgement is told, and nobody gets the message. All else is delivered, and not kept.
        if kept == Retaining::Full && publish.qos > QoS::AtMostOnce && !stream.is_outbox() {
            if let Some(dedup) = publish.dedup {
                let Dedup { session, packet_id } = dedup;
                self.received
                    .release(&publish.client, session, Some(packet_id), changed);
            }
            outcome.full.push(position.ordinal());
        }
    }
}
