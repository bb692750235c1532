//! Share groups: who gets what, and what becomes of it when members come and go.

mod model;

use super::*;
use crate::record::ShareSession;
use crate::{MembershipId, ShareGroupId};

const SHARED: &str = "$share/g/chat/+";
const NODES: [StreamId; 2] = [A1, B1];

fn join(member: u64, qos: QoS, session: Option<ShareSession>) -> Record {
    Record::JoinShare {
        filter: filter(SHARED),
        member,
        qos,
        session,
    }
}

fn session(id: &'static str, session: u64, epoch: u64) -> ShareSession {
    ShareSession {
        client: client(id),
        session: Epoch(session),
        epoch: Epoch(epoch),
    }
}

/// What may have been sent.
type Sent<'a> = Option<&'a [(MembershipId, Position)]>;

fn leave(member: u64, session: Option<ShareSession>, sent: Sent<'_>) -> Record {
    Record::LeaveShare {
        filter: filter(SHARED),
        member,
        session,
        sent: sent.map(<[_]>::to_vec),
    }
}

fn part(member: u64, sent: Sent<'_>) -> Record {
    Record::PartShare {
        member,
        sent: sent.map(<[_]>::to_vec),
    }
}

fn done(membership: MembershipId, positions: &[Position]) -> Record {
    Record::ShareDone {
        done: vec![(membership, positions.to_vec())],
    }
}

fn at(index: u64) -> Position {
    Position::at(index, 0)
}

impl Replica {
    fn group(&self) -> &ShareGroup {
        self.state.share_groups().next().unwrap()
    }

    fn membership(&self, nth: usize) -> MembershipId {
        self.group().members().nth(nth).unwrap().id()
    }

    /// Publishes a message to the group.
    fn publish(&mut self) -> Position {
        self.send(A2B, &[publish("someone", Epoch(1))]);
        at(self.index)
    }

    fn deal(&mut self, deals: &[(Position, MembershipId, QoS)]) {
        let group = self.group();
        let upto = deals.iter().map(|deal| deal.0).max().unwrap();
        let deals = GroupDeals {
            group: group.id(),
            upto: upto.max(group.next()),
            deals: deals
                .iter()
                .map(|(position, member, qos)| Deal {
                    position: *position,
                    member: *member,
                    qos: *qos,
                })
                .collect(),
        };
        self.apply(&PartitionCommand::Deal { deals: vec![deals] });
    }

    /// What connections of a node have, from the beginning: by connection and position. Every replica tells the same.
    fn dealt(&self, stream: StreamId) -> Vec<(u64, Position)> {
        let (dealt, _, has_more) = self.state.dealt_to(stream, 0, usize::MAX);
        assert!(!has_more);
        let loaded = self.reloaded();
        assert_eq!(loaded.dealt_to(stream, 0, usize::MAX).0, dealt);
        dealt.iter().map(|it| (it.member, it.position)).collect()
    }

    fn returned(&self) -> Vec<Position> {
        self.group().returned().map(|it| it.0).collect()
    }
}

/// A node that only publishes.
const A2B: StreamId = stream(3, 1);

/// A peer may write what reads like two share names.
#[test]
fn a_filter_behind_a_share_name_is_no_share_name_again() {
    for odd in ["$share/g/$share/x", "$share/g/$share/x/#"] {
        let mut replica = Replica::configured();
        let join = Record::JoinShare {
            filter: filter(odd),
            member: 1,
            qos: QoS::AtLeastOnce,
            session: None,
        };
        replica.send(A1, &[join]);
        replica.publish();
        assert_eq!(replica.group().filter().as_str(), odd);
        assert_eq!(replica.reloaded().share_groups().count(), 1);
    }
}

#[test]
fn a_message_is_of_one_member_until_it_is_done() {
    let mut replica = Replica::configured();
    replica.send(A1, &[join(1, QoS::AtLeastOnce, None)]);
    replica.send(B1, &[join(1, QoS::AtLeastOnce, None)]);
    let (a, b) = (replica.membership(0), replica.membership(1));
    let (m, n) = (replica.publish(), replica.publish());
    let to = topic("chat/g/42");
    assert_eq!(replica.state.share_groups_need_above(&to), None);
    let to = topic("chat/7");
    assert_eq!(replica.state.share_groups_need_above(&to), Some(a.0));
    replica.deal(&[(m, a, QoS::AtLeastOnce)]);
    // Overtaken: dealt already. A message of before the group is not its own.
    replica.deal(&[(m, b, QoS::AtLeastOnce), (a.0, b, QoS::AtLeastOnce)]);
    replica.deal(&[(n, b, QoS::AtLeastOnce)]);
    assert_eq!(replica.dealt(A1), [(1, m)]);
    assert_eq!(replica.dealt(B1), [(1, n)]);
    assert_eq!(replica.state.share_groups_need_above(&to), Some(n));
    assert_eq!(replica.state.dealt_to(B1, replica.index - 1, 1).0.len(), 1);
    assert_eq!(replica.state.dealt_to(B1, replica.index, 1).0, []);
    replica.send(A1, &[done(a, &[m, n])]);
    assert_eq!(replica.dealt(A1), []);
    assert_eq!(replica.dealt(B1), [(1, n)], "not its own");
    replica.send(B1, &[done(b, &[n])]);
    assert_eq!(replica.state.share_groups_hold().count(), 0);
}

#[test]
fn what_a_member_leaves_goes_to_another_but_for_what_it_may_have_at_qos_2() {
    let mut replica = Replica::configured();
    replica.send(
        A1,
        &[
            join(1, QoS::ExactlyOnce, None),
            join(2, QoS::AtLeastOnce, None),
        ],
    );
    let (a, b) = (replica.membership(0), replica.membership(1));
    let messages: Vec<_> = (0..3).map(|_| replica.publish()).collect();
    let [m, n, o] = messages[..] else { panic!() };
    replica.deal(&[
        (m, a, QoS::AtLeastOnce),
        (n, a, QoS::ExactlyOnce),
        (o, a, QoS::ExactlyOnce),
    ]);
    replica.send(A1, &[part(1, Some(&[(a, n), (b, o)]))]);
    // [MQTT-4.8.2-5]
    assert_eq!(replica.returned(), [m, o]);
    assert_eq!(replica.state.share_groups_with_returned().count(), 1);
    // Dealt to one that has gone: it stays returned.
    replica.deal(&[(m, a, QoS::AtLeastOnce)]);
    replica.deal(&[(m, b, QoS::AtLeastOnce), (o, b, QoS::AtLeastOnce)]);
    assert_eq!(replica.dealt(A1), [(2, m), (2, o)]);
    assert_eq!(replica.state.share_groups_with_returned().count(), 0);
    replica.send(A1, &[leave(2, None, None)]);
    assert_eq!(replica.state.share_groups().count(), 0, "nobody waits");
    assert_eq!(replica.state.share_groups_hold().count(), 0);
}

#[test]
fn a_session_keeps_its_membership_and_what_it_has_at_qos_2() {
    let mut replica = Replica::configured();
    let phone = |epoch| Some(session("phone", 5, epoch));
    replica.send(A1, &[join(1, QoS::ExactlyOnce, phone(5))]);
    let membership = replica.membership(0);
    let (m, n) = (replica.publish(), replica.publish());
    replica.deal(&[
        (m, membership, QoS::AtLeastOnce),
        (n, membership, QoS::ExactlyOnce),
    ]);
    replica.apply(&PartitionCommand::EndStream { stream: A1 });
    assert!(
        replica
            .group()
            .members()
            .all(|member| member.at().is_none())
    );
    assert_eq!((replica.dealt(A1), replica.returned()), (vec![], vec![m]));
    // [MQTT-4.8.2-4]: on another node.
    let before = replica.index;
    replica.send(B1, &[join(9, QoS::ExactlyOnce, phone(8))]);
    assert_eq!(replica.membership(0), membership);
    assert_eq!(replica.dealt(B1), [(9, n)]);
    assert_eq!(
        replica.state.dealt_to(B1, before, 9).0.len(),
        1,
        "it is new there"
    );
    // What an older connection says does not count any more.
    replica.send(
        A2,
        &[
            join(4, QoS::AtMostOnce, phone(6)),
            leave(4, phone(6), Some(&[])),
            part(4, Some(&[])),
        ],
    );
    assert_eq!(replica.dealt(B1), [(9, n)]);
    // Another place without a word from the one before.
    replica.deal(&[(m, membership, QoS::AtLeastOnce)]);
    replica.send(A2, &[join(5, QoS::ExactlyOnce, phone(10))]);
    replica.send(B1, &[part(9, Some(&[]))]);
    assert_eq!(
        (replica.dealt(A2), replica.dealt(B1)),
        (vec![(5, n)], vec![])
    );
    assert_eq!(replica.returned(), [m]);
    // The Session ends [MQTT-4.8.2-5], and with it the group.
    let release = |session| Record::Release {
        client: client("phone"),
        session: Epoch(session),
        packet_id: None,
    };
    replica.send(B1, &[release(4)]);
    assert_eq!(replica.state.share_groups().count(), 1, "an older one");
    replica.send(B1, &[join(2, QoS::AtLeastOnce, None), release(5)]);
    assert_eq!(replica.returned(), [m]);
    assert_eq!(replica.group().members().len(), 1);
}

#[test]
fn a_newer_session_of_the_client_takes_the_place_of_the_older() {
    let mut replica = Replica::configured();
    replica.send(
        A1,
        &[join(1, QoS::AtLeastOnce, Some(session("phone", 5, 5)))],
    );
    replica.send(
        B1,
        &[join(1, QoS::AtLeastOnce, Some(session("phone", 9, 9)))],
    );
    let members: Vec<_> = replica
        .group()
        .members()
        .map(|it| it.session().unwrap().session)
        .collect();
    assert_eq!(members, [Epoch(9)]);
    assert_eq!(replica.state.holders(), HashSet::from([A1, B1]));
    replica.send(
        A1,
        &[join(1, QoS::AtLeastOnce, Some(session("phone", 5, 6)))],
    );
    assert_eq!(replica.group().members().len(), 1);
}

#[test]
fn a_membership_that_nobody_ends_is_dropped_unless_it_is_used_again() {
    let mut replica = Replica::configured();
    replica.send(
        A1,
        &[join(1, QoS::AtLeastOnce, Some(session("phone", 5, 5)))],
    );
    let membership = replica.membership(0);
    let drop = |epoch| PartitionCommand::DropShares {
        memberships: vec![(membership, Epoch(epoch))],
    };
    replica.apply(&drop(5));
    assert_eq!(replica.state.share_groups().count(), 1, "it is online");
    replica.send(A1, &[part(1, None)]);
    replica.send(
        A1,
        &[
            join(2, QoS::AtLeastOnce, Some(session("phone", 5, 7))),
            part(2, None),
        ],
    );
    replica.apply(&drop(5));
    assert_eq!(replica.state.share_groups().count(), 1, "it was used since");
    replica.apply(&drop(7));
    assert_eq!(replica.state.share_groups().count(), 0);
    assert_eq!(replica.state.holders(), HashSet::from([A1]));
}

/// A session's QoS 2 deliveries from share groups.
#[test]
fn a_shared_delivery_is_bound_until_it_is_settled() {
    let mut replica = Replica::configured();
    let epoch = replica.connect(A1, "phone", true, 100, None).epoch;
    let membership = MembershipId(at(3));
    let bind = |number: u16, share| Record::Bind {
        client: client("phone"),
        epoch,
        bindings: vec![crate::Binding {
            packet_id: packet_id(number),
            partition: THERE,
            position: at(10),
            share,
        }],
    };
    replica.send(
        A1,
        &[
            bind(1, None),
            bind(2, Some(membership)),
            bind(3, Some(MembershipId(at(4)))),
        ],
    );
    let held = |replica: &Replica| -> Vec<_> {
        let session = replica.session("phone").unwrap();
        let inflight = session.inflight.into_iter();
        inflight
            .map(|it| (it.packet_id.number(), it.stage))
            .collect()
    };
    use crate::Stage::{Done, Published};
    assert_eq!(
        held(&replica),
        [(1, Published), (2, Published), (3, Published)]
    );
    assert_eq!(
        replica.state.inflight_in(THERE),
        [at(10)],
        "by the plain one only"
    );
    // No cursor tells of them.
    let laggard = Laggard {
        client: client("phone"),
        epoch,
        progress: vec![Cursor {
            partition: THERE,
            floor: at(11),
            done: vec![],
        }],
    };
    let progress = Record::Progress {
        floors: vec![],
        laggards: vec![laggard],
        joined: vec![],
    };
    replica.send(A1, &[progress]);
    assert_eq!(held(&replica), [(2, Published), (3, Published)]);
    // The identifier is used anew before the group is known to know.
    let next = Record::Bind {
        client: client("phone"),
        epoch,
        bindings: vec![crate::Binding {
            packet_id: packet_id(2),
            partition: THERE,
            position: at(20),
            share: Some(membership),
        }],
    };
    replica.send(A1, &[next]);
    let mut now = held(&replica);
    now.sort_by_key(|it| it.0);
    assert_eq!(now, [(2, Done), (2, Published), (3, Published)]);
    let settle = |index| Record::Settle {
        client: client("phone"),
        epoch,
        deliveries: vec![(THERE, membership, at(index))],
    };
    replica.send(A1, &[settle(10)]);
    assert_eq!(held(&replica), [(3, Published), (2, Published)]);
    replica.send(A1, &[settle(20)]);
    assert_eq!(held(&replica), [(3, Published)]);
}
