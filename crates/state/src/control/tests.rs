#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use super::*;

fn member(id: u64, counter: u64) -> Member {
    Member {
        id: NodeId(id),
        incarnation: Incarnation {
            counter,
            nonce: id * 1000 + counter,
        },
        name: format!("node-{id}"),
        cluster_addr: format!("10.0.0.{id}:7883"),
        http_addr: String::new(),
        mqtt_addr: String::new(),
        state: MemberState::Up,
    }
}

fn apply(state: &mut ControlState, command: ControlCommand) -> ControlAnswer {
    state.apply(0, &command.encode())
}

fn formed(nodes: u64) -> ControlState {
    let mut state = ControlState::default();
    let members = (1..=nodes).map(|id| member(id, 1)).collect();
    let form = ControlCommand::Form {
        cluster: ClusterId(u128::MAX - 1),
        settings: Settings::default(),
        members,
    };
    assert_eq!(apply(&mut state, form), ControlAnswer::Done);
    state
}

fn announce(member: Member) -> ControlCommand {
    let previous = Incarnation {
        counter: member.incarnation.counter - 1,
        nonce: member.id.0 * 1000 + member.incarnation.counter - 1,
    };
    ControlCommand::Announce { member, previous }
}

/// Takes steps until the plan is content, and gives their number.
fn settle(state: &mut ControlState) -> usize {
    for steps in 0..1000 {
        let Some((partition, replicas)) = plan(state) else {
            return steps;
        };
        assert_eq!(
            apply(
                state,
                ControlCommand::Place {
                    partition,
                    replicas
                }
            ),
            ControlAnswer::Done
        );
    }
    panic!("the plan never rests");
}

/// Replicas and leaderships per node.
fn loads(state: &ControlState) -> BTreeMap<u64, (usize, usize)> {
    let mut loads = BTreeMap::new();
    for replicas in state.placement.values() {
        for (at, node) in replicas.iter().enumerate() {
            let (load, leads) = loads.entry(node.0).or_insert((0, 0));
            *load += 1;
            *leads += usize::from(at == 0);
        }
    }
    loads
}

fn route(filter: &'static str, members: u32) -> RouteChange {
    RouteChange {
        filter: TopicFilter::from_static(filter),
        members,
    }
}

fn routes(
    state: &mut ControlState,
    id: u64,
    counter: u64,
    changes: &[RouteChange],
) -> ControlAnswer {
    let incarnation = member(id, counter).incarnation;
    apply(
        state,
        ControlCommand::Routes {
            node: NodeId(id),
            incarnation,
            changes: changes.to_vec(),
        },
    )
}

fn nodes_for(state: &ControlState, topic: &'static str) -> Vec<u64> {
    let topic = magpie_codec::TopicName::from_static(topic);
    let mut nodes: Vec<_> = state
        .routes
        .nodes_for(&topic)
        .iter()
        .map(|node| node.0)
        .collect();
    nodes.sort_unstable();
    nodes
}

#[test]
fn three_nodes_share_partitions_and_leaderships_evenly() {
    let mut state = formed(3);
    settle(&mut state);
    let loads = loads(&state);
    assert!(
        loads
            .values()
            .all(|(load, leads)| *load == 8 && (2..=3).contains(leads)),
        "{loads:?}"
    );
}

#[test]
fn one_node_that_grows_to_three_replicates_three_times() {
    let mut state = formed(1);
    settle(&mut state);
    for id in [2, 3] {
        apply(
            &mut state,
            ControlCommand::Join {
                member: member(id, 1),
                replaces: None,
            },
        );
        settle(&mut state);
    }
    let loads = loads(&state);
    assert!(
        loads
            .values()
            .all(|(load, leads)| *load == 8 && (2..=3).contains(leads)),
        "{loads:?}"
    );
}

#[test]
fn a_fourth_node_takes_its_share_one_replica_at_a_time() {
    let mut state = formed(3);
    settle(&mut state);
    apply(
        &mut state,
        ControlCommand::Join {
            member: member(4, 1),
            replaces: None,
        },
    );
    let before = state.placement.clone();
    let (partition, replicas) = plan(&state).unwrap();
    let kept = replicas
        .iter()
        .filter(|node| before[&partition].contains(node))
        .count();
    assert_eq!(kept, 2, "one replica moves");
    settle(&mut state);
    assert!(loads(&state).values().all(|(load, _)| *load == 6));
    assert!(state.placement.values().all(|replicas| replicas.len() == 3));
}

#[test]
fn a_node_that_is_down_keeps_its_replicas_until_it_is_removed() {
    let mut state = formed(4);
    settle(&mut state);
    apply(
        &mut state,
        ControlCommand::Down {
            node: NodeId(4),
            incarnation: member(4, 1).incarnation,
        },
    );
    assert_eq!(settle(&mut state), 0);
    assert_eq!(
        apply(&mut state, ControlCommand::Remove { node: NodeId(4) }),
        ControlAnswer::Done
    );
    settle(&mut state);
    let loads = loads(&state);
    assert_eq!(loads.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    assert!(loads.values().all(|(load, _)| *load == 8));
    let back = apply(
        &mut state,
        ControlCommand::Join {
            member: member(4, 2),
            replaces: None,
        },
    );
    assert!(
        matches!(back, ControlAnswer::Left),
        "an identity that left never comes back"
    );
}

#[test]
fn a_wiped_node_takes_the_place_of_its_former_self_only_when_that_is_down() {
    let mut state = formed(3);
    settle(&mut state);
    let newcomer = Member {
        cluster_addr: member(3, 1).cluster_addr,
        ..member(9, 1)
    };
    let join = ControlCommand::Join {
        member: newcomer.clone(),
        replaces: Some(NodeId(3)),
    };
    assert!(matches!(
        apply(&mut state, join.clone()),
        ControlAnswer::Refused(_)
    ));
    let without = ControlCommand::Join {
        member: newcomer,
        replaces: None,
    };
    assert!(
        matches!(apply(&mut state, without), ControlAnswer::Refused(_)),
        "an address has one member"
    );
    apply(
        &mut state,
        ControlCommand::Down {
            node: NodeId(3),
            incarnation: member(3, 1).incarnation,
        },
    );
    let before = loads(&state)[&3];
    assert_eq!(apply(&mut state, join), ControlAnswer::Done);
    assert_eq!(settle(&mut state), 0, "nothing else moves");
    assert_eq!(loads(&state)[&9], before);
    assert!(state.is_former(NodeId(3)));
    assert!(state.is_over(StreamId {
        node: NodeId(3),
        incarnation: member(3, 1).incarnation
    }));
}

#[test]
fn a_restored_or_copied_directory_is_fenced() {
    let mut state = formed(3);
    assert_eq!(
        apply(&mut state, announce(member(2, 5))),
        ControlAnswer::Done
    );
    let newest = member(2, 5).incarnation;
    let fenced = ControlAnswer::Fenced { newest };
    assert_eq!(apply(&mut state, announce(member(2, 4))), fenced, "older");
    let mut copy = member(2, 5);
    copy.incarnation.nonce += 1;
    assert_eq!(
        apply(&mut state, announce(copy)),
        fenced,
        "same counter, other nonce"
    );
    assert_eq!(
        apply(&mut state, announce(member(2, 5))),
        ControlAnswer::Done,
        "a repeat"
    );
    let second_start_of_a_copy = ControlCommand::Announce {
        member: member(2, 6),
        previous: Incarnation {
            nonce: 1,
            ..member(2, 5).incarnation
        },
    };
    assert_eq!(apply(&mut state, second_start_of_a_copy), fenced);
}

#[test]
fn only_the_first_replicas_found_a_partition_and_only_once() {
    let mut state = formed(3);
    settle(&mut state);
    let partition = PartitionId(0);
    let first = state.placement()[&partition].clone();
    let replicas = vec![first[1]];
    apply(
        &mut state,
        ControlCommand::Place {
            partition,
            replicas: replicas.clone(),
        },
    );
    assert!(state.founders()[&partition].len() == 3);
    apply(
        &mut state,
        ControlCommand::Founded {
            partitions: vec![partition],
        },
    );
    apply(
        &mut state,
        ControlCommand::Place {
            partition,
            replicas: first,
        },
    );
    assert!(!state.founders().contains_key(&partition));
}

#[test]
fn a_life_declared_down_comes_back_only_as_a_new_one() {
    let mut state = formed(3);
    let stream = |counter| StreamId {
        node: NodeId(2),
        incarnation: member(2, counter).incarnation,
    };
    apply(
        &mut state,
        ControlCommand::Down {
            node: NodeId(2),
            incarnation: member(2, 7).incarnation,
        },
    );
    assert!(!state.is_over(stream(1)), "another life was meant");
    apply(
        &mut state,
        ControlCommand::Down {
            node: NodeId(2),
            incarnation: member(2, 1).incarnation,
        },
    );
    assert!(state.is_over(stream(1)));
    assert_eq!(
        apply(&mut state, announce(member(2, 1))),
        ControlAnswer::Down
    );
    assert_eq!(
        apply(&mut state, announce(member(2, 2))),
        ControlAnswer::Done
    );
    assert!(state.is_over(stream(1)) && !state.is_over(stream(2)));
    assert!(!state.is_over(stream(3)), "not heard of yet");
}

#[test]
fn a_route_that_does_not_fit_is_refused_alone() {
    let mut state = formed(1);
    let mut too_many: Vec<RouteChange> = Vec::new();
    // Three `+` at ever other places: shapes beyond those that are always taken.
    'all: for a in 0..14 {
        for b in a + 1..14 {
            for c in b + 1..14 {
                let level = |at| if [a, b, c].contains(&at) { "+" } else { "x" };
                let levels: Vec<&str> = (0..14).map(level).collect();
                let filter = TopicFilter::try_from(levels.join("/")).unwrap();
                too_many.push(RouteChange { filter, members: 1 });
                if too_many.len() == ROUTE_LIMITS.shapes_max + 1 {
                    break 'all;
                }
            }
        }
    }
    let last = u32::try_from(too_many.len() - 1).unwrap();
    too_many.push(route("chat/#", 1));
    let answer = routes(&mut state, 1, 1, &too_many);
    assert_eq!(
        answer,
        ControlAnswer::RoutesRefused {
            ordinals: vec![last]
        }
    );
    let topic = magpie_codec::TopicName::from_static("chat/1");
    assert_eq!(state.routes().nodes_for(&topic).len(), 1);
}

#[test]
fn routes_go_with_the_life_that_made_them() {
    let mut state = formed(3);
    routes(
        &mut state,
        1,
        1,
        &[route("chat/#", 1), route("$share/g/chat/+", 2)],
    );
    routes(&mut state, 2, 1, &[route("chat/#", 1)]);
    assert_eq!(nodes_for(&state, "chat/1"), [1, 2]);
    assert!(
        matches!(
            routes(&mut state, 2, 9, &[route("a", 1)]),
            ControlAnswer::Refused(_)
        ),
        "another life"
    );
    routes(&mut state, 2, 1, &[route("chat/#", 0)]);
    assert_eq!(nodes_for(&state, "chat/1"), [1]);
    routes(&mut state, 2, 1, &[route("chat/#", 1)]);
    apply(&mut state, announce(member(1, 2)));
    assert_eq!(nodes_for(&state, "chat/1"), [2]);
    assert_eq!(state.routes.shares().count(), 0);
}

#[test]
fn only_the_first_form_counts() {
    let mut state = formed(3);
    let form = |cluster| ControlCommand::Form {
        cluster,
        settings: Settings::default(),
        members: vec![member(7, 1)],
    };
    assert_eq!(
        apply(&mut state, form(ClusterId(u128::MAX - 1))),
        ControlAnswer::Done,
        "a repeat"
    );
    assert!(matches!(
        apply(&mut state, form(ClusterId(1))),
        ControlAnswer::Refused(_)
    ));
    assert_eq!(state.members.len(), 3);
}

#[test]
fn changed_rows_carry_the_state_to_a_checkpoint() {
    let mut state = formed(3);
    let mut checkpoint = BTreeMap::new();
    let mut save = |state: &mut ControlState| {
        for Row { key, value } in state.take_changed() {
            match value {
                Some(value) => checkpoint.insert(key, value),
                None => checkpoint.remove(&key),
            };
        }
        let as_map = |state: &ControlState| -> BTreeMap<_, _> {
            state
                .rows()
                .into_iter()
                .map(|row| (row.key, row.value.unwrap()))
                .collect()
        };
        assert_eq!(checkpoint, as_map(state));
        let mut again = ControlState::default();
        state
            .rows()
            .into_iter()
            .for_each(|row| again.load(row).unwrap());
        assert_eq!(as_map(&again), checkpoint, "rows load to the same state");
    };
    settle(&mut state);
    routes(
        &mut state,
        1,
        1,
        &[route("chat/#", 1), route("$share/g/chat/+", 2)],
    );
    routes(&mut state, 2, 1, &[route("chat/#", 1)]);
    save(&mut state);
    apply(
        &mut state,
        ControlCommand::Down {
            node: NodeId(1),
            incarnation: member(1, 1).incarnation,
        },
    );
    apply(
        &mut state,
        ControlCommand::SetDirect {
            filters: vec!["telemetry/#".to_owned()],
        },
    );
    save(&mut state);
    apply(&mut state, ControlCommand::Remove { node: NodeId(1) });
    settle(&mut state);
    save(&mut state);
}

#[test]
fn users_rules_and_bans_survive_in_rows() {
    let mut state = formed(1);
    state.take_changed();
    let rule = serde_json::from_str(
        r#"{"effect":"allow","action":"all","who":"user:anna","pattern":"a/%u/#"}"#,
    )
    .unwrap();
    let add = ControlCommand::Access(Change::AddRule { rule });
    let answer = apply(&mut state, add.clone());
    let ControlAnswer::Access(magpie_access::Changed::Rule(id)) = answer else {
        panic!("{answer:?}");
    };
    // A repeat, because the answer was lost, adds nothing and touches no row.
    assert_eq!(state.take_changed().len(), 2);
    assert_eq!(apply(&mut state, add), answer);
    assert!(state.take_changed().is_empty());

    let ban = |now_ms| {
        ControlCommand::Access(Change::AddBan {
            target: "address:10.0.0.1".parse().unwrap(),
            ban: magpie_access::Ban {
                reason: String::new(),
                until_ms: Some(10),
            },
            now_ms,
        })
    };
    apply(&mut state, ban(0));
    let mut copy = ControlState::default();
    for row in state.rows() {
        copy.load(row).unwrap();
    }
    assert_eq!(copy.access().revision(), state.access().revision());
    let rules = copy.access().snapshot();
    assert!(rules.rules().contains_key(&id));
    assert_eq!(rules.ban_count(), 1);

    // What was removed is a row without value.
    state.take_changed();
    let remove = ControlCommand::Access(Change::RemoveRule { id });
    apply(&mut state, remove);
    let gone = state
        .take_changed()
        .into_iter()
        .filter(|row| row.value.is_none());
    assert_eq!(gone.count(), 1);
}

#[test]
fn a_change_that_breaks_a_limit_is_refused_in_words() {
    let mut state = formed(1);
    let long = ControlCommand::Access(Change::AddBan {
        target: "user:x".parse().unwrap(),
        ban: magpie_access::Ban {
            reason: "x".repeat(1000),
            until_ms: None,
        },
        now_ms: 0,
    });
    let answer = apply(&mut state, long);
    let ControlAnswer::Refused(why) = answer else {
        panic!("{answer:?}");
    };
    assert!(why.contains("256 bytes"), "{why}");
}
