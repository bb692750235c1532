//! Random members and messages against a naive model.

use proptest::prelude::*;

use super::*;

/// What happens to a group, at random.
#[derive(Debug, Clone)]
enum Step {
    Publish,
    /// Client, node. A connection of its own each time.
    Join(usize, usize),
    /// Whether it says what was sent.
    Leave(usize, bool),
    Part(usize, bool),
    EndSession(usize),
    EndStream(usize),
    /// How many messages, to members from this one on; some of those that were returned before them.
    Deal(usize, usize),
    /// The nth message of the client's.
    Done(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..4_usize;
    prop_oneof![
        6 => Just(Step::Publish),
        4 => (client.clone(), 0..2_usize).prop_map(|(client, node)| Step::Join(client, node)),
        1 => (client.clone(), any::<bool>()).prop_map(|(client, tells)| Step::Leave(client, tells)),
        2 => (client.clone(), any::<bool>()).prop_map(|(client, tells)| Step::Part(client, tells)),
        1 => client.clone().prop_map(Step::EndSession),
        1 => (0..2_usize).prop_map(Step::EndStream),
        6 => (1..4_usize, 0..4_usize).prop_map(|(count, from)| Step::Deal(count, from)),
        4 => (client, 0..4_usize).prop_map(|(client, nth)| Step::Done(client, nth)),
    ]
}

/// The naive model: each message with what became of it; each client with its connection.
#[derive(Default)]
struct Model {
    replica: Replica,
    /// Life of each node.
    lives: [u64; 2],
    numbers: u64,
    epochs: u64,
    clients: [Naive; 4],
    /// Of the group as it is now, those published since it began.
    messages: BTreeMap<Position, Fate>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Naive {
    session: u64,
    membership: Option<MembershipId>,
    at: Option<(usize, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Waits,
    /// Of a client, and whether at QoS 2.
    Of(usize, bool),
    Returned,
    Over,
}

const CLIENTS: [&str; 4] = ["a", "b", "c", "d"];

impl Model {
    /// The last two outlive their connections.
    fn is_durable(client: usize) -> bool {
        client >= 2
    }

    fn stream(&self, node: usize) -> StreamId {
        let StreamId { node: id, .. } = NODES[node];
        stream(id.0, 1 + self.lives[node])
    }

    fn share_session(&self, client: usize) -> Option<ShareSession> {
        let session = self.clients[client].session;
        Self::is_durable(client).then(|| self::session(CLIENTS[client], session, self.epochs))
    }

    /// `tells`: of QoS 2, it says that what is at an odd index was not sent.
    fn let_go(&mut self, client: usize, keeps: bool, tells: bool) {
        for (position, fate) in &mut self.messages {
            let is_unsent = tells && position.index() % 2 == 1;
            *fate = match *fate {
                Fate::Of(of, true) if of == client && is_unsent => Fate::Returned,
                Fate::Of(of, true) if of == client && !keeps => Fate::Over,
                Fate::Of(of, false) if of == client => Fate::Returned,
                other => other,
            };
        }
    }

    /// What the nodes would say of what was sent.
    fn sent_of(&self, client: usize) -> Vec<(MembershipId, Position)> {
        let Some(membership) = self.clients[client].membership else {
            return Vec::new();
        };
        let sent = self.messages.keys().filter(|it| it.index() % 2 == 0);
        sent.map(|position| (membership, *position)).collect()
    }

    fn goes(&mut self, client: usize, tells: bool) {
        self.let_go(client, false, tells);
        self.clients[client].membership = None;
        self.clients[client].at = None;
        if self.clients.iter().all(|it| it.membership.is_none()) {
            self.messages.clear();
        }
    }

    fn parts(&mut self, client: usize, tells: bool) {
        if Self::is_durable(client) {
            self.let_go(client, true, tells);
            self.clients[client].at = None;
        } else {
            self.goes(client, tells);
        }
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Publish => {
                let position = self.replica.publish();
                if self.clients.iter().any(|it| it.membership.is_some()) {
                    self.messages.insert(position, Fate::Waits);
                }
            }
            Step::Join(client, node) => {
                if !Self::is_durable(client) && self.clients[client].membership.is_some() {
                    return;
                }
                self.numbers += 1;
                self.epochs += 1;
                if self.clients[client].membership.is_none() {
                    self.clients[client].session = self.epochs;
                }
                let session = self.share_session(client);
                let stream = self.stream(node);
                self.replica
                    .send(stream, &[join(self.numbers, QoS::ExactlyOnce, session)]);
                self.let_go(client, true, false);
                let known = &mut self.clients[client];
                known.at = Some((node, self.numbers));
                let place = MembershipId(at(self.replica.index));
                known.membership.get_or_insert(place);
            }
            Step::Leave(client, tells) => {
                let (Some((node, number)), session) =
                    (self.clients[client].at, self.share_session(client))
                else {
                    return;
                };
                let stream = self.stream(node);
                let sent = self.sent_of(client);
                let sent = tells.then_some(&sent[..]);
                self.replica.send(stream, &[leave(number, session, sent)]);
                self.goes(client, tells);
            }
            Step::Part(client, tells) => {
                let Some((node, number)) = self.clients[client].at else {
                    return;
                };
                let stream = self.stream(node);
                let sent = self.sent_of(client);
                let sent = tells.then_some(&sent[..]);
                self.replica.send(stream, &[part(number, sent)]);
                self.parts(client, tells);
            }
            Step::EndSession(client) => {
                if !Self::is_durable(client) || self.clients[client].membership.is_none() {
                    return;
                }
                let release = Record::Release {
                    client: super::client(CLIENTS[client]),
                    session: Epoch(self.clients[client].session),
                    packet_id: None,
                };
                self.replica.send(A2B, &[release]);
                self.goes(client, false);
            }
            Step::EndStream(node) => {
                let stream = self.stream(node);
                self.replica.apply(&PartitionCommand::EndStream { stream });
                self.lives[node] += 1;
                for client in 0..CLIENTS.len() {
                    if self.clients[client].at.is_some_and(|(at, _)| at == node) {
                        self.parts(client, false);
                    }
                }
            }
            Step::Deal(count, from) => self.deal(count, from),
            Step::Done(client, nth) => {
                let mine = self
                    .messages
                    .iter()
                    .filter(|(_, fate)| matches!(fate, Fate::Of(of, _) if *of == client));
                let Some((position, _)) = mine.clone().nth(nth) else {
                    return;
                };
                let position = *position;
                let membership = self.clients[client].membership.unwrap();
                self.replica.send(A2B, &[done(membership, &[position])]);
                self.messages.insert(position, Fate::Over);
            }
        }
        self.check();
    }

    fn deal(&mut self, count: usize, from: usize) {
        let open = self
            .messages
            .iter()
            .filter(|(_, fate)| matches!(fate, Fate::Waits | Fate::Returned));
        let wanted: Vec<Position> = open.map(|(position, _)| *position).take(count).collect();
        let online: Vec<usize> = (0..CLIENTS.len())
            .filter(|it| self.clients[*it].at.is_some())
            .collect();
        if online.is_empty() || wanted.is_empty() {
            return;
        }
        let mut deals = Vec::new();
        for (nth, position) in wanted.into_iter().enumerate() {
            let client = online[(from + nth) % online.len()];
            let is_twice = (from + nth).is_multiple_of(2);
            let qos = if is_twice {
                QoS::ExactlyOnce
            } else {
                QoS::AtLeastOnce
            };
            deals.push((position, self.clients[client].membership.unwrap(), qos));
            self.messages.insert(position, Fate::Of(client, is_twice));
        }
        self.replica.deal(&deals);
    }

    fn check(&self) {
        let Some(group) = self.replica.state.share_groups().next() else {
            assert!(self.messages.is_empty());
            return;
        };
        let of = |wanted: Fate| -> Vec<Position> {
            let found = self.messages.iter().filter(|(_, fate)| **fate == wanted);
            found.map(|(position, _)| *position).collect()
        };
        assert_eq!(
            group.returned().map(|it| it.0).collect::<Vec<_>>(),
            of(Fate::Returned)
        );
        assert!(
            of(Fate::Waits).iter().all(|it| *it > group.next()),
            "what waits is not passed over"
        );
        let handed = |fate: &Fate| !matches!(fate, Fate::Waits | Fate::Over);
        assert_eq!(
            group.open_count(),
            self.messages.values().filter(|it| handed(it)).count()
        );
        for (node, _) in NODES.iter().enumerate() {
            let stream = self.stream(node);
            let mut dealt = self.replica.dealt(stream);
            dealt.sort_unstable_by_key(|it| it.1);
            let expected = self
                .messages
                .iter()
                .filter_map(|(position, fate)| match fate {
                    Fate::Of(client, _) => {
                        let (at, number) = self.clients[*client].at?;
                        (at == node).then_some((number, *position))
                    }
                    _ => None,
                });
            assert_eq!(dealt, expected.collect::<Vec<_>>());
        }
        let members: Vec<ShareGroupId> = vec![group.id()];
        assert!(
            members
                .iter()
                .all(|id| self.replica.state.share_group(*id).is_some())
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_message_is_of_one_member_or_waits(steps in prop::collection::vec(step(), 1..80)) {
        let mut model = Model { replica: Replica::configured(), ..Model::default() };
        for step in &steps {
            model.run(step);
        }
    }
}
