#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

const P: PartitionId = PartitionId(3);

fn at(position: u64) -> Position {
    Position(position)
}

fn nothing(_: PartitionId) -> Position {
    Position::START
}

fn resumed(floor: u64, done: &[u64], inflight: &[u64]) -> Lanes {
    let cursor = Cursor {
        partition: P,
        floor: at(floor),
        done: done.iter().copied().map(at).collect(),
    };
    Lanes::resume(
        &[cursor],
        &[],
        inflight.iter().map(|it| (P, at(*it))).collect(),
        1000,
    )
}

fn only(cursors: Vec<Cursor>) -> (u64, Vec<u64>) {
    let [cursor] = <[Cursor; 1]>::try_from(cursors).unwrap();
    (cursor.floor.0, cursor.done.iter().map(|it| it.0).collect())
}

#[test]
fn a_new_lane_is_live_behind_its_subscription() {
    let mut lanes = Lanes::new(1000);
    lanes.insert(P, at(10));
    assert!(!lanes.must_read());
    assert_eq!(lanes.offer(P, at(10), true), Offered::Known);
    assert_eq!(lanes.offer(P, at(11), true), Offered::Taken);
    assert_eq!(lanes.offer(P, at(12), true), Offered::Taken);
    assert_eq!(only(lanes.cursors(nothing)), (10, vec![]));
    lanes.finish(P, at(12));
    assert_eq!(only(lanes.cursors(nothing)), (10, vec![12]));
    lanes.finish(P, at(11));
    assert_eq!(only(lanes.cursors(nothing)), (12, vec![]));
    assert_eq!(only(lanes.cursors(|_| at(99))), (99, vec![]));
}

#[test]
fn who_does_not_acknowledge_one_message_gets_no_more_than_so_many_behind_it() {
    let mut lanes = Lanes::new(3);
    lanes.insert(P, at(10));
    for position in 11..14 {
        assert_eq!(lanes.offer(P, at(position), true), Offered::Taken);
    }
    assert_eq!(lanes.offer(P, at(14), true), Offered::Deferred);
    assert!(!lanes.finish(P, at(12)));
    assert!(!lanes.finish(P, at(13)));
    assert!(!lanes.must_read(), "the first one is open");
    assert_eq!(only(lanes.cursors(|_| at(99))), (10, vec![12, 13]));
    assert!(lanes.finish(P, at(11)));
    assert_eq!(lanes.next_to_read(), Some((P, at(13))));
    assert!(lanes.take_read(P, at(14)));
    lanes.read_upto(P, at(14), false);
    assert_eq!(lanes.offer(P, at(15), true), Offered::Taken);
}

/// A client left with one message open and as many done behind it as it may have: it goes on when it acknowledges, whenever that is.
#[test]
fn who_comes_back_with_one_open_message_goes_on_when_it_is_acknowledged() {
    let cursor = Cursor {
        partition: P,
        floor: at(10),
        done: [12, 13].map(at).into(),
    };
    let resumed = |inflight: &[u64]| {
        let inflight = inflight.iter().map(|it| (P, at(*it))).collect();
        let mut lanes = Lanes::resume(std::slice::from_ref(&cursor), &[], inflight, 3);
        lanes.activate(&[(P, at(20))]);
        lanes
    };
    let read = |lanes: &mut Lanes, positions: std::ops::Range<u64>| {
        let taken = positions.filter(|position| lanes.take_read(P, at(*position)));
        taken.collect::<Vec<_>>()
    };

    let mut lanes = resumed(&[11]);
    assert!(lanes.must_read(), "it is not known what is behind");
    assert!(read(&mut lanes, 11..12).is_empty());
    lanes.read_upto(P, at(11), false);
    assert!(!lanes.must_read(), "it holds one open, and has all it may");
    assert!(lanes.finish(P, at(11)));
    assert_eq!(read(&mut lanes, 12..16), [14, 15]);
    lanes.read_upto(P, at(15), false);
    assert_eq!(lanes.pending_count(), 2, "what is done is forgotten");

    // Its node died: the client has it, and nobody knows.
    let mut lanes = resumed(&[]);
    assert_eq!(read(&mut lanes, 11..13), [11]);
    lanes.read_upto(P, at(12), false);
    assert!(!lanes.must_read());
    assert!(lanes.finish(P, at(11)));
    assert_eq!(read(&mut lanes, 12..15), [14]);
}

/// A read may be ahead of the tail.
#[test]
fn a_read_that_comes_after_the_lane_is_live_passes_over_nothing() {
    let mut lanes = resumed(10, &[], &[]);
    assert_eq!(lanes.next_to_read(), Some((P, at(10))));
    lanes.activate(&[(P, at(10))]);
    assert!(!lanes.take_read(P, at(11)), "the tail will offer it");
    lanes.read_upto(P, at(12), true);
    assert_eq!(lanes.offer(P, at(11), true), Offered::Taken);
}

#[test]
fn a_full_mailbox_turns_to_reading_and_back() {
    let mut lanes = Lanes::new(1000);
    lanes.insert(P, at(0));
    assert_eq!(lanes.offer(P, at(1), true), Offered::Taken);
    assert_eq!(lanes.offer(P, at(2), false), Offered::Deferred);
    assert_eq!(
        lanes.offer(P, at(3), true),
        Offered::Deferred,
        "order is kept"
    );
    assert_eq!(lanes.next_to_read(), Some((P, at(1))));
    assert!(!lanes.take_read(P, at(1)));
    assert!(lanes.take_read(P, at(2)));
    lanes.read_upto(P, at(2), false);
    assert_eq!(lanes.next_to_read(), Some((P, at(2))));
    // Meanwhile the tail goes on; what is read then is known to it.
    assert_eq!(lanes.offer(P, at(5), true), Offered::Deferred);
    assert!(lanes.take_read(P, at(3)));
    assert!(lanes.take_read(P, at(5)));
    lanes.read_upto(P, at(7), false);
    assert_eq!(lanes.next_to_read(), None);
    assert_eq!(lanes.offer(P, at(7), true), Offered::Known);
    assert_eq!(lanes.offer(P, at(8), true), Offered::Taken);
}

#[test]
fn a_resumed_lane_is_read_from_its_floor_and_leaves_out_what_is_known() {
    let mut lanes = resumed(10, &[12], &[14]);
    assert_eq!(lanes.next_to_read(), Some((P, at(10))));
    assert_eq!(only(lanes.cursors(|_| at(99))), (10, vec![12]));
    assert!(lanes.take_read(P, at(11)));
    assert!(!lanes.take_read(P, at(12)), "done before");
    assert!(lanes.take_read(P, at(13)));
    assert!(!lanes.take_read(P, at(14)), "sent before");
    lanes.read_upto(P, at(20), false);
    assert!(lanes.must_read(), "there may be more");
    lanes.read_upto(P, at(20), true);
    assert!(!lanes.must_read(), "subscriptions are not inserted yet");
    assert_eq!(lanes.offer(P, at(21), true), Offered::Deferred);
    lanes.activate(&[(P, at(25))]);
    assert_eq!(lanes.next_to_read(), Some((P, at(20))));
    assert!(lanes.take_read(P, at(21)));
    lanes.read_upto(P, at(25), false);
    assert!(!lanes.must_read());
    for position in [11, 13, 21] {
        lanes.finish(P, at(position));
    }
    assert_eq!(only(lanes.cursors(nothing)), (13, vec![21]));
    lanes.finish(P, at(14));
    assert_eq!(only(lanes.cursors(nothing)), (25, vec![]));
}

#[test]
fn being_clear_of_all_means_live_with_nothing_open() {
    let mut lanes = resumed(5, &[], &[]);
    assert!(!lanes.are_clear_of(|_| at(5)), "not live");
    lanes.activate(&[(P, at(5))]);
    assert!(lanes.are_clear_of(|_| at(9)));
    lanes.offer(P, at(7), true);
    assert!(lanes.are_clear_of(|_| at(6)));
    assert!(!lanes.are_clear_of(|_| at(7)));
    lanes.finish(P, at(7));
    assert!(lanes.are_clear_of(|_| at(7)));
}

#[test]
fn what_is_offered_before_a_resumed_session_is_ready_is_read() {
    let mut lanes = resumed(5, &[], &[]);
    // The first of its subscriptions is inserted, the second one not yet.
    assert_eq!(lanes.offer(P, at(31), true), Offered::Deferred);
    // A read that was under way before that.
    lanes.read_upto(P, at(30), false);
    lanes.activate(&[(P, at(25))]);
    assert_eq!(lanes.next_to_read(), Some((P, at(30))));
    assert!(lanes.take_read(P, at(31)));
    lanes.read_upto(P, at(31), true);
    assert!(!lanes.must_read());
}

#[test]
fn a_lane_of_no_subscription_is_not_read_for_ever() {
    let (subscribed, other) = (PartitionId(4), P);
    let cursor = Cursor {
        partition: subscribed,
        floor: at(7),
        done: Vec::new(),
    };
    // Sent by a subscription that has gone since, and not acknowledged.
    let mut lanes = Lanes::resume(&[cursor], &[], vec![(other, at(3))], 1000);
    lanes.activate(&[(subscribed, at(9))]);
    assert_eq!(lanes.next_to_read(), Some((subscribed, at(7))));
    lanes.read_upto(subscribed, at(9), true);
    assert!(!lanes.must_read());
    lanes.finish(other, at(3));
}

#[test]
fn what_is_in_flight_is_open_in_whichever_order_it_was_sent() {
    // No cursor: the session got no further than where its subscription began. Or that has gone since.
    for since in [&[(P, at(9))][..], &[]] {
        let mut lanes = Lanes::resume(&[], since, vec![(P, at(12)), (P, at(10))], 1000);
        assert_eq!(only(lanes.cursors(nothing)), (9, vec![]));
        lanes.finish(P, at(12));
        assert_eq!(only(lanes.cursors(nothing)), (9, vec![12]));
    }
}

#[test]
fn lanes_are_read_in_turn() {
    let mut lanes = Lanes::new(1000);
    for partition in [1, 2, 3] {
        lanes.insert(PartitionId(partition), at(0));
    }
    for partition in [1, 3] {
        lanes.offer(PartitionId(partition), at(9), false);
    }
    let mut read = || lanes.next_to_read().unwrap().0.0;
    assert_eq!([read(), read(), read()], [1, 3, 1]);
}

#[test]
fn a_lane_knows_what_was_offered_before_it_fell_behind() {
    let mut lanes = Lanes::new(1000);
    lanes.insert(P, at(10));
    assert!(!lanes.are_past(&[(P, at(40))], nothing));
    assert!(lanes.are_past(&[(P, at(40))], |_| at(40)));
    lanes.offer(P, at(50), false);
    assert_eq!(lanes.next_to_read(), Some((P, at(49))));
    assert!(lanes.are_past(&[(P, at(40))], nothing));
    assert!(!lanes.are_past(&[(P, at(50))], |_| at(60)), "it is read");
}

#[test]
fn a_lane_is_read_past_a_gap_of_the_tail() {
    let mut lanes = Lanes::new(1000);
    lanes.insert(P, at(10));
    assert_eq!(lanes.offer(P, at(12), true), Offered::Taken);
    lanes.miss(P, at(14), at(20));
    assert_eq!(lanes.offer(P, at(22), true), Offered::Deferred);
    assert_eq!(only(lanes.cursors(|_| at(99))), (11, vec![]));
    lanes.finish(P, at(12));
    assert_eq!(only(lanes.cursors(|_| at(99))), (14, vec![]));
    assert_eq!(lanes.next_to_read(), Some((P, at(14))));
    lanes.read_upto(P, at(21), false);
    assert!(lanes.must_read(), "22 was offered");
    lanes.read_upto(P, at(22), false);
    assert!(!lanes.must_read());
    // What it was read past already is no gap to it, and one that is being read is read further.
    lanes.miss(P, at(15), at(22));
    assert!(!lanes.must_read());
    let mut lanes = resumed(5, &[], &[]);
    lanes.miss(P, at(7), at(9));
    lanes.activate(&[(P, at(3))]);
    lanes.read_upto(P, at(8), false);
    assert!(lanes.must_read());
    lanes.read_upto(P, at(9), false);
    assert!(!lanes.must_read());
}

/// What a session does in the property test.
#[derive(Debug, Clone)]
enum Step {
    /// The log grows by a message.
    Publish,
    /// The tail offers the next message that it has not offered.
    Offer { has_room: bool },
    /// The tail cannot offer the next so many messages.
    Lose { messages: u64 },
    /// A read comes back, with so many messages at most.
    Read { most: usize },
    /// The client acknowledges one of those that it has.
    Acknowledge(prop::sample::Index),
    /// The connection ends and the session goes on by its cursors.
    Resume,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Publish),
        4 => any::<bool>().prop_map(|has_room| Step::Offer { has_room }),
        1 => (1..5u64).prop_map(|messages| Step::Lose { messages }),
        2 => (0..5usize).prop_map(|most| Step::Read { most }),
        4 => any::<prop::sample::Index>().prop_map(Step::Acknowledge),
        1 => Just(Step::Resume),
    ]
}

proptest! {
    /// Against a log in which every second position is a message: each one is handed over in order, once per connection, until it is
    /// acknowledged, and never after.
    #[test]
    fn nothing_is_lost_doubled_or_reordered(steps in prop::collection::vec(step(), 1..300)) {
        let mut lanes = Lanes::new(1000);
        lanes.insert(P, at(0));
        let (mut log, mut offered) = (0u64, 0u64);
        // Of this connection, in the order of delivery; and done for good.
        let mut open: Vec<u64> = Vec::new();
        let mut done = std::collections::BTreeSet::new();
        let mut last = 0;
        let messages = |from: u64, to: u64| (from + 1..=to).filter(|it| it % 2 == 0);
        for step in steps.into_iter().chain(std::iter::repeat_n(Step::Offer { has_room: true }, 300)) {
            match step {
                Step::Publish => log += 2,
                Step::Offer { has_room } => {
                    if offered < log {
                        offered += 2;
                        if lanes.offer(P, at(offered), has_room) == Offered::Taken {
                            prop_assert!(offered > last, "in order");
                            prop_assert!(!done.contains(&offered), "done before");
                            last = offered;
                            open.push(offered);
                        }
                    }
                }
                Step::Lose { messages } => {
                    let upto = log.min(offered + 2 * messages);
                    lanes.miss(P, at(offered), at(upto));
                    offered = upto;
                }
                Step::Read { most } => {
                    let Some((partition, after)) = lanes.next_to_read() else { continue };
                    let found: Vec<_> = messages(after.0, log).take(most).collect();
                    let upto = match found.last() {
                        Some(last) if found.len() == most => *last,
                        _ if found.len() < most => log,
                        _ => after.0,
                    };
                    for position in found {
                        if lanes.take_read(partition, at(position)) {
                            prop_assert!(position > last, "in order");
                            prop_assert!(!done.contains(&position), "done before");
                            last = position;
                            open.push(position);
                        }
                    }
                    lanes.read_upto(partition, at(upto), false);
                }
                Step::Acknowledge(which) => {
                    if !open.is_empty() {
                        let position = open.remove(which.index(open.len()));
                        lanes.finish(P, at(position));
                        done.insert(position);
                    }
                }
                Step::Resume => {
                    let (floor, known) = only(lanes.cursors(|_| at(offered)));
                    prop_assert!(messages(0, floor).all(|it| done.contains(&it)), "floor {floor}");
                    prop_assert!(known.iter().all(|it| done.contains(it)));
                    prop_assert!(done.iter().all(|it| *it <= floor || known.contains(it)));
                    lanes = resumed(floor, &known, &[]);
                    lanes.activate(&[(P, at(offered))]);
                    (open, last) = (Vec::new(), 0);
                }
            }
        }
        // What is left is read in the end.
        while let Some((partition, after)) = lanes.next_to_read() {
            for position in messages(after.0, log) {
                if lanes.take_read(partition, at(position)) {
                    open.push(position);
                }
            }
            lanes.read_upto(partition, at(log), false);
        }
        while offered < log {
            offered += 2;
            if lanes.offer(P, at(offered), true) == Offered::Taken {
                open.push(offered);
            }
        }
        for position in messages(0, log) {
            prop_assert!(done.contains(&position) || open.contains(&position), "{position} is lost");
        }
    }
}
