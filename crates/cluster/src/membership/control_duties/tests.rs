use magpie_state::Incarnation;

use super::*;

fn members(up: &[u64], down: &[u64]) -> Vec<Member> {
    let member = |id: &u64, state| Member {
        id: NodeId(*id),
        incarnation: Incarnation::default(),
        name: String::new(),
        cluster_addr: String::new(),
        http_addr: String::new(),
        mqtt_addr: String::new(),
        state,
    };
    let up = up.iter().map(|id| member(id, MemberState::Up));
    up.chain(down.iter().map(|id| member(id, MemberState::Down)))
        .collect()
}

fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

/// `up` and `down` members, `voters` and `learners` now, those that have caught up: the next voters and learners.
fn check(
    [up, down]: [&[u64]; 2],
    [voters, learners]: [&[u64]; 2],
    caught_up: &[u64],
    expected: Option<[&[u64]; 2]>,
) {
    let now = Members {
        voters: ids(voters),
        learners: ids(learners),
        is_joint: false,
        index: 1,
    };
    let caught_up = ids(caught_up);
    let next = next_members(&members(up, down), &now, NodeId(1), |node| {
        caught_up.contains(&node)
    });
    assert_eq!(
        next,
        expected.map(|[voters, learners]| (ids(voters), ids(learners)))
    );
}

#[test]
fn nothing_to_do() {
    check([&[1, 2, 3], &[]], [&[1, 2, 3], &[]], &[1, 2, 3], None);
    check([&[1, 2], &[3]], [&[1, 2, 3], &[]], &[1, 2], None);
    check(
        [&[1, 2, 3, 4], &[]],
        [&[1, 2, 3], &[4]],
        &[1, 2, 3, 4],
        None,
    );
    check([&[1, 2], &[]], [&[1, 2], &[]], &[1, 2], None);
}

#[test]
fn a_newcomer_learns_before_it_votes() {
    check([&[1, 2, 3], &[]], [&[1], &[]], &[1], Some([&[1], &[2, 3]]));
    check([&[1, 2, 3], &[]], [&[1], &[2, 3]], &[1, 2], None);
    check(
        [&[1, 2, 3], &[]],
        [&[1], &[2, 3]],
        &[1, 2, 3],
        Some([&[1, 2, 3], &[]]),
    );
    check([&[1, 2], &[]], [&[1], &[2]], &[1, 2], Some([&[1, 2], &[]]));
}

#[test]
fn a_member_that_was_replaced_leaves_when_its_successor_has_caught_up() {
    check(
        [&[1, 2, 4], &[]],
        [&[1, 2, 3], &[]],
        &[1, 2],
        Some([&[1, 2, 3], &[4]]),
    );
    check([&[1, 2, 4], &[]], [&[1, 2, 3], &[4]], &[1, 2], None);
    check(
        [&[1, 2, 4], &[]],
        [&[1, 2, 3], &[4]],
        &[1, 2, 4],
        Some([&[1, 2, 4], &[]]),
    );
}

#[test]
fn a_removed_member_leaves() {
    check(
        [&[1, 2], &[]],
        [&[1, 2, 3], &[]],
        &[1, 2],
        Some([&[1, 2], &[]]),
    );
    check([&[1], &[]], [&[1, 2], &[]], &[1], Some([&[1], &[]]));
}

#[test]
fn a_voter_that_is_down_gives_way_to_a_learner() {
    check(
        [&[1, 2, 4], &[3]],
        [&[1, 2, 3], &[4]],
        &[1, 2, 4],
        Some([&[1, 2, 4], &[3]]),
    );
}
