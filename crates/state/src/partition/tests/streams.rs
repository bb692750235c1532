//! The streams themselves, attachments, fences and share groups.

use std::collections::HashSet;

use super::super::Skip;
use super::*;
fn taken() -> AppendAnswer {
    AppendAnswer::Taken(Outcome::default())
}

#[test]
fn a_stream_takes_each_batch_once_and_in_order() {
    let mut replica = Replica::default();
    let batch = [publish("phone", Epoch(1))];
    assert_eq!(replica.append(A1, 1, &batch), taken());
    assert_eq!(replica.append(A1, 3, &batch), AppendAnswer::Gap { last: 1 });
    assert_eq!(replica.append(A1, 2, &batch), taken());
    assert_eq!(
        replica.append(A1, 2, &batch),
        AppendAnswer::Repeat(Outcome::default()),
        "a repeat is answered"
    );
    assert_eq!(replica.state.skip(1), Skip::Nothing);
    assert_eq!(replica.state.skip(2), Skip::Whole, "out of turn");
    assert_eq!(replica.state.skip(3), Skip::Nothing);
    assert_eq!(replica.state.skip(4), Skip::Whole, "a repeat");
    assert_eq!(
        replica.append(B1, 1, &batch),
        taken(),
        "streams are counted apart"
    );
}

#[test]
fn a_repeat_gets_the_first_answer() {
    let mut replica = Replica::default();
    let first = replica.attach(A1, 1, "phone");
    replica.attach(B1, 1, "phone");
    assert_eq!(
        replica.attach(A1, 1, "phone"),
        first,
        "a lost answer is given again, not a new attach"
    );
    assert_eq!(
        replica
            .state
            .attachment(&client("phone"))
            .map(|(_, holder)| holder),
        Some(B1)
    );
}

#[test]
fn a_newer_life_ends_the_older() {
    let mut replica = Replica::default();
    replica.attach(A1, 1, "phone");
    assert_eq!(
        replica.append(A2, 1, &[publish("tablet", Epoch(5))]),
        taken()
    );
    assert_eq!(
        replica.state.attachment(&client("phone")),
        None,
        "what the older life held is let go"
    );
    assert_eq!(
        replica.append(A1, 2, &[publish("phone", Epoch(1))]),
        AppendAnswer::Ended
    );
}

#[test]
fn a_life_declared_ended_writes_nothing_more() {
    let mut replica = Replica::default();
    replica.attach(A1, 1, "phone");
    replica.append(
        A1,
        2,
        &[Record::JoinShare {
            filter: TopicFilter::from_static("$share/g/a"),
            member: 7,
            qos: QoS::AtLeastOnce,
            session: None,
        }],
    );
    assert_eq!(replica.state.holders(), HashSet::from([A1]));
    replica.apply(&PartitionCommand::EndStream { stream: A1 });
    assert!(replica.state.holders().is_empty());
    assert_eq!(replica.state.share_groups().count(), 0);
    assert_eq!(
        replica.append(A1, 3, &[publish("phone", Epoch(1))]),
        AppendAnswer::Ended
    );
    assert_eq!(
        replica.append(A2, 1, &[publish("phone", Epoch(9))]),
        taken(),
        "the next life does"
    );
}

#[test]
fn ending_a_life_that_never_wrote_refuses_it_too() {
    let mut replica = Replica::default();
    replica.apply(&PartitionCommand::EndStream { stream: A1 });
    assert_eq!(
        replica.append(A1, 1, &[publish("phone", Epoch(1))]),
        AppendAnswer::Ended
    );
}

#[test]
fn a_late_end_of_an_older_life_leaves_the_newer_alone() {
    let mut replica = Replica::default();
    replica.attach(A2, 1, "phone");
    replica.apply(&PartitionCommand::EndStream { stream: A1 });
    assert_eq!(
        replica
            .state
            .attachment(&client("phone"))
            .map(|(_, holder)| holder),
        Some(A2)
    );
    assert_eq!(
        replica.append(A2, 2, &[publish("phone", Epoch(9))]),
        taken()
    );
}

#[test]
fn a_takeover_names_what_it_supersedes_and_a_late_detach_changes_nothing() {
    let mut replica = Replica::default();
    let old = replica.attach(A1, 1, "phone");
    assert_eq!(old.superseded, None);
    let new = replica.attach(B1, 1, "phone");
    assert_eq!(
        new.superseded,
        Some(Superseded {
            epoch: old.epoch,
            holder: A1
        })
    );
    assert!(new.epoch > old.epoch);
    replica.append(
        A1,
        2,
        &[Record::Detach {
            client: client("phone"),
            epoch: old.epoch,
            departure: crate::Departure::Clean,
            session_expiry_s: None,
            last: None,
        }],
    );
    assert_eq!(
        replica.state.attachment(&client("phone")),
        Some((new.epoch, B1))
    );
    replica.append(
        B1,
        2,
        &[Record::Detach {
            client: client("phone"),
            epoch: new.epoch,
            departure: crate::Departure::Clean,
            session_expiry_s: None,
            last: None,
        }],
    );
    assert_eq!(replica.state.attachment_count(), 0);
}

#[test]
fn two_attaches_in_one_batch_have_different_epochs() {
    let mut replica = Replica::default();
    let attach = Record::Attach {
        client: client("phone"),
        clean_start: true,
        session_expiry_s: 0,
        will: None,
        owner: None,
    };
    let AppendAnswer::Taken(outcome) = replica.append(A1, 1, &[attach.clone(), attach]) else {
        panic!()
    };
    assert!(outcome.attached[0].epoch < outcome.attached[1].epoch);
}

#[test]
fn a_fence_refuses_older_connections_until_their_node_has_closed_them() {
    let mut replica = Replica::default();
    let old = Epoch(5);
    let new = Epoch(9);
    assert_eq!(replica.append(A1, 1, &[publish("phone", old)]), taken());
    replica.append(
        B1,
        1,
        &[Record::Fence {
            client: client("phone"),
            epoch: new,
            against: A1,
        }],
    );

    let refused = |ordinals: &[u32]| {
        AppendAnswer::Taken(Outcome {
            refused: ordinals.to_vec(),
            repeated: Vec::new(),
            full: Vec::new(),
            foreign: Vec::new(),
            attached: Vec::new(),
        })
    };
    let repeated = AppendAnswer::Repeat(Outcome {
        refused: vec![1],
        repeated: Vec::new(),
        full: Vec::new(),
        foreign: Vec::new(),
        attached: Vec::new(),
    });
    let mixed = [
        publish("tablet", old),
        publish("phone", old),
        publish("tablet", old),
    ];
    assert_eq!(replica.append(A1, 2, &mixed), refused(&[1]));
    assert_eq!(
        replica.append(A1, 2, &mixed),
        repeated,
        "a repeat is told the same"
    );
    assert_eq!(
        replica.state.skip(3),
        Skip::Records(&[1]),
        "readers pass over the refused one"
    );
    assert_eq!(
        replica.append(B1, 2, &[publish("phone", new)]),
        taken(),
        "the newer connection publishes"
    );

    replica.append(
        A1,
        3,
        &[Record::Unfence {
            client: client("phone"),
            epoch: new,
        }],
    );
    assert!(
        replica
            .state
            .holders()
            .iter()
            .all(|holder| [A1, B1].contains(holder))
    );
    assert_eq!(
        replica.append(A1, 4, &[publish("phone", old)]),
        taken(),
        "nothing old can come any more: no fence"
    );
}

#[test]
fn what_a_refused_life_held_stays_until_it_is_ended() {
    let mut replica = Replica::default();
    let held = replica.attach(A1, 1, "phone");
    replica.append(B1, 1, &[Record::Refuse { stream: A1 }]);
    assert_eq!(
        replica.append(A1, 2, &[publish("phone", held.epoch)]),
        AppendAnswer::Ended
    );
    assert!(
        replica.state.holders().contains(&A1),
        "it is still to be ended"
    );
    let next = replica.attach(B1, 2, "phone");
    let superseded = next.superseded.map(|superseded| superseded.holder);
    assert_eq!(
        superseded,
        Some(A1),
        "the new connection has to keep it out itself"
    );

    let mut replica = Replica::default();
    replica.attach(A1, 1, "phone");
    replica.append(B1, 1, &[Record::Refuse { stream: A1 }]);
    replica.apply(&PartitionCommand::EndStream { stream: A1 });
    assert!(!replica.state.holders().contains(&A1));
    assert_eq!(replica.attach(B1, 2, "phone").superseded, None);
    assert_eq!(
        replica.append(A2, 1, &[]),
        taken(),
        "a newer life is another"
    );
}

#[test]
fn a_fence_against_a_life_that_is_over_is_not_kept() {
    let mut replica = Replica::default();
    replica.apply(&PartitionCommand::EndStream { stream: A1 });
    replica.append(
        B1,
        1,
        &[Record::Fence {
            client: client("phone"),
            epoch: Epoch(9),
            against: A1,
        }],
    );
    assert_eq!(replica.state.holders(), HashSet::from([B1]));
    replica.append(
        B1,
        2,
        &[Record::Fence {
            client: client("phone"),
            epoch: Epoch(9),
            against: A2,
        }],
    );
    replica.apply(&PartitionCommand::EndStream { stream: A2 });
    assert_eq!(replica.state.holders(), HashSet::from([B1]));
}

#[test]
fn an_unreadable_command_changes_nothing_and_is_passed_over() {
    let mut state = PartitionState::default();
    assert!(matches!(
        state.apply(1, &Bytes::from_static(b"\xffnonsense")),
        PartitionAnswer::Unreadable(_)
    ));
    assert_eq!(state.skip(1), Skip::Whole);
    state.apply(2, &PartitionCommand::ForgetSkipped { below: 2 }.encode());
    assert_eq!(state.skip(1), Skip::Nothing);
}
