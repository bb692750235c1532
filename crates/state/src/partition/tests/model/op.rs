//! The commands.

use super::*;

#[derive(Debug, Clone)]
pub(super) enum Op {
    Attach {
        client: usize,
        stream: usize,
        clean_start: bool,
        expiry_s: u32,
        will_delay_s: Option<u32>,
        owner: Option<usize>,
    },
    Detach {
        client: usize,
        is_clean: bool,
        expiry_s: Option<u32>,
        last: Option<(u64, u64)>,
        is_stale: bool,
    },
    Subscribe {
        client: usize,
        filter: usize,
        qos: u8,
        since: u64,
        is_stale: bool,
    },
    Unsubscribe {
        client: usize,
        filter: usize,
        is_stale: bool,
    },
    Bind {
        client: usize,
        number: u16,
        place: (bool, u64),
        is_stale: bool,
    },
    Received {
        client: usize,
        number: u16,
    },
    Floors {
        stream: usize,
        here: u64,
        there: u64,
        joined: Option<usize>,
    },
    Lag {
        client: usize,
        place: (bool, u64),
        done: Option<u64>,
    },
    EndStream {
        stream: usize,
    },
    Limit {
        sessions_max: Option<u64>,
    },
    LoseWaiting {
        client: usize,
        place: (bool, u64),
        is_stale: bool,
    },
    Tick,
    Publish {
        client: usize,
        number: u16,
        retain: bool,
        is_empty: bool,
    },
    Release {
        client: usize,
        number: Option<u16>,
    },
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let (client, stream, filter) = (0..3usize, 0..4usize, 0..3usize);
    let stale = prop::bool::weighted(0.1);
    let place = (any::<bool>(), 1..POSITIONS);
    let expiry = prop_oneof![Just(0u32), 1..4u32, Just(u32::MAX)];
    let delay = prop::option::of(prop_oneof![Just(0u32), 1..4u32]);
    let last = prop::option::of((1..POSITIONS, 1..POSITIONS));
    let owner = prop_oneof![3 => Just(None), 5 => Just(Some(0)), 1 => Just(Some(1))];
    prop_oneof![
        4 => (client.clone(), stream.clone(), prop::bool::weighted(0.2), expiry.clone(), delay, owner).prop_map(
            |(client, stream, clean_start, expiry_s, will_delay_s, owner)| Op::Attach {
                client, stream, clean_start, expiry_s, will_delay_s, owner
            }),
        2 => (client.clone(), any::<bool>(), prop::option::weighted(0.2, expiry), last, stale).prop_map(
            |(client, is_clean, expiry_s, last, is_stale)| Op::Detach {
                client, is_clean, expiry_s, last, is_stale
            }),
        3 => (client.clone(), filter.clone(), 0..3u8, 1..POSITIONS, stale).prop_map(
            |(client, filter, qos, since, is_stale)| Op::Subscribe {
                client, filter, qos, since, is_stale
            }),
        1 => (client.clone(), filter, stale).prop_map(
            |(client, filter, is_stale)| Op::Unsubscribe { client, filter, is_stale }),
        2 => (client.clone(), 1..4u16, place.clone(), stale).prop_map(
            |(client, number, place, is_stale)| Op::Bind { client, number, place, is_stale }),
        1 => (client.clone(), 1..4u16).prop_map(|(client, number)| Op::Received { client, number }),
        3 => (stream.clone(), 0..POSITIONS, 0..POSITIONS, prop::option::of(client.clone())).prop_map(
            |(stream, here, there, joined)| Op::Floors { stream, here, there, joined }),
        2 => (client.clone(), place.clone(), prop::option::of(1..POSITIONS)).prop_map(
            |(client, place, done)| Op::Lag { client, place, done }),
        2 => (client.clone(), place, prop::bool::weighted(0.1)).prop_map(|(client, place, is_stale)| {
            Op::LoseWaiting { client, place, is_stale }
        }),
        1 => stream.prop_map(|stream| Op::EndStream { stream }),
        1 => prop::option::of(0..3u64).prop_map(|sessions_max| Op::Limit { sessions_max }),
        3 => Just(Op::Tick),
        2 => (client.clone(), 1..4u16, any::<bool>(), any::<bool>()).prop_map(
            |(client, number, retain, is_empty)| Op::Publish { client, number, retain, is_empty }),
        1 => (client, prop::option::of(1..4u16)).prop_map(
            |(client, number)| Op::Release { client, number }),
    ]
}

pub(super) const fn at(index: u64) -> Position {
    Position::at(index, 0)
}

pub(super) const fn place((is_here, index): (bool, u64)) -> (PartitionId, Position) {
    (if is_here { HERE } else { THERE }, at(index))
}
