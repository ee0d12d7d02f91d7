//! The group state machine, with time as an argument.

use super::*;

type Joining = oneshot::Receiver<JoinGroupResponse>;

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

fn asking(id: &str, metadata: &'static str) -> Join {
    Join {
        member_id: text(id),
        client_id: text("client"),
        session_timeout: Duration::from_secs(6),
        rebalance_timeout: Duration::from_secs(60),
        protocol_type: text("consumer"),
        protocols: vec![(text("range"), Bytes::from(metadata)), (text("roundrobin"), Bytes::from(metadata))],
        ..Join::default()
    }
}

fn code(error: ResponseError) -> i16 {
    error.code()
}

/// A group whose one member leads generation 1 and is stable.
fn stable(now: Instant) -> (Group, StrBytes, Instant) {
    let mut group = Group::new(now);
    let mut joining = group.join(asking("", "a"), now);
    assert!(joining.try_recv().is_err(), "the first member waits for others");
    let now = now + INITIAL_DELAY;
    group.tick(now);
    let joined = joining.try_recv().unwrap();
    assert_eq!((joined.generation_id, joined.members.len(), joined.leader.clone()), (1, 1, joined.member_id.clone()));
    let part = vec![(joined.member_id.clone(), Bytes::from("all"))];
    let synced = group.sync(&joined.member_id, None, 1, part, now).try_recv().unwrap();
    assert_eq!(synced.assignment, "all");
    (group, joined.member_id, now)
}

/// A second member has joined; both wait for generation 2 to be assigned.
fn two(now: Instant) -> (Group, StrBytes, StrBytes, Instant) {
    let (mut group, first, now) = stable(now);
    let mut second: Joining = group.join(asking("", "b"), now);
    assert_eq!(group.heartbeat(&first, None, 1, now), Err(ResponseError::RebalanceInProgress));
    let leader = group.join(asking(&first, "a"), now).try_recv().unwrap();
    assert_eq!((leader.generation_id, leader.members.len()), (2, 2));
    let follower = second.try_recv().unwrap();
    assert_eq!((follower.generation_id, follower.members.len(), follower.leader), (2, 0, first.clone()));
    (group, first, follower.member_id, now)
}

#[test]
fn a_new_member_is_given_an_id_and_must_come_again_with_it() {
    let now = Instant::now();
    let mut group = Group::new(now);
    let first = group.join(Join { id_first: true, ..asking("", "a") }, now).try_recv().unwrap();
    assert_eq!(first.error_code, code(ResponseError::MemberIdRequired));
    assert!(!group.is_unused());
    let mut again = group.join(Join { id_first: true, ..asking(&first.member_id, "a") }, now);
    group.tick(now + INITIAL_DELAY);
    assert_eq!(again.try_recv().unwrap().member_id, first.member_id);
    let unknown = group.join(asking("somebody", "a"), now).try_recv().unwrap();
    assert_eq!(unknown.error_code, code(ResponseError::UnknownMemberId));
}

#[test]
fn two_members_share_a_generation_and_wait_for_the_leaders_assignment() {
    let (mut group, first, second, now) = two(Instant::now());
    let mut waiting = group.sync(&second, None, 2, Vec::new(), now);
    assert!(waiting.try_recv().is_err());
    let parts = vec![(first.clone(), Bytes::from("1")), (second.clone(), Bytes::from("2"))];
    assert_eq!(group.sync(&first, None, 2, parts, now).try_recv().unwrap().assignment, "1");
    assert_eq!(waiting.try_recv().unwrap().assignment, "2");
    assert_eq!(group.heartbeat(&second, None, 2, now), Ok(()));
    assert_eq!(group.heartbeat(&second, None, 1, now), Err(ResponseError::IllegalGeneration));
}

#[test]
fn a_follower_that_joins_again_unchanged_keeps_the_generation_and_a_changed_one_starts_another() {
    let (mut group, first, second, now) = two(Instant::now());
    drop(group.sync(&first, None, 2, Vec::new(), now));
    assert_eq!(group.join(asking(&second, "b"), now).try_recv().unwrap().generation_id, 2);
    let mut changed = group.join(asking(&second, "owns less"), now);
    assert!(changed.try_recv().is_err());
    assert_eq!(group.join(asking(&first, "a"), now).try_recv().unwrap().generation_id, 3);
    assert_eq!(changed.try_recv().unwrap().generation_id, 3);
}

#[test]
fn a_leaving_member_makes_the_rest_rebalance() {
    let (mut group, first, second, now) = two(Instant::now());
    let mut waiting = group.sync(&second, None, 2, Vec::new(), now);
    assert_eq!(group.leave(&first, None, now), Ok(()));
    assert_eq!(waiting.try_recv().unwrap().error_code, code(ResponseError::RebalanceInProgress));
    let joined = group.join(asking(&second, "b"), now).try_recv().unwrap();
    assert_eq!((joined.generation_id, joined.leader, joined.members.len()), (3, second.clone(), 1));
    assert_eq!(group.leave(&second, None, now), Ok(()));
    assert!(group.is_unused());
    assert_eq!(group.state(), "Empty");
}

#[test]
fn a_silent_member_is_removed_after_its_session_timeout() {
    let (mut group, first, second, now) = two(Instant::now());
    drop(group.sync(&first, None, 2, Vec::new(), now));
    let later = now + Duration::from_secs(5);
    group.heartbeat(&first, None, 2, later).unwrap();
    group.tick(now + Duration::from_secs(6));
    assert_eq!(group.heartbeat(&first, None, 2, later), Err(ResponseError::RebalanceInProgress));
    assert_eq!(group.heartbeat(&second, None, 2, later), Err(ResponseError::UnknownMemberId));
}

#[test]
fn a_member_that_does_not_join_again_is_left_behind_at_the_rebalance_timeout() {
    let (mut group, first, now) = stable(Instant::now());
    let mut second = group.join(asking("", "b"), now);
    for seconds in 1..60 {
        let later = now + Duration::from_secs(seconds);
        let _ = group.heartbeat(&first, None, 1, later);
        group.tick(later);
        assert!(second.try_recv().is_err());
    }
    group.tick(now + Duration::from_secs(60));
    let joined = second.try_recv().unwrap();
    assert_eq!((joined.generation_id, joined.members.len()), (2, 1));
}

#[test]
fn a_member_that_hangs_up_while_it_waits_does_not_hold_the_group_up() {
    let (mut group, first, now) = stable(Instant::now());
    drop(group.join(asking("", "gone"), now));
    let mut waiting = group.join(asking(&first, "a"), now);
    let _ = waiting.try_recv();
    group.tick(now + Duration::from_secs(6));
    assert!(group.members().len() <= 1);
}

#[test]
fn a_leader_that_never_assigns_is_removed() {
    let (mut group, first, second, now) = two(Instant::now());
    let mut waiting = group.sync(&second, None, 2, Vec::new(), now);
    for seconds in 1..=60 {
        let later = now + Duration::from_secs(seconds);
        let _ = group.heartbeat(&first, None, 2, later);
        group.tick(later);
    }
    assert_eq!(waiting.try_recv().unwrap().error_code, code(ResponseError::RebalanceInProgress));
    assert!(!group.members().contains_key(&first));
}

#[test]
fn a_restarted_static_member_replaces_and_fences_its_former_self() {
    let now = Instant::now();
    let mut group = Group::new(now);
    let named = |id: &str| Join { instance_id: Some(text("one")), ..asking(id, "a") };
    let mut joining = group.join(named(""), now);
    group.tick(now + INITIAL_DELAY);
    let former = joining.try_recv().unwrap().member_id;
    let _again = group.join(named(""), now);
    assert_eq!(group.members().len(), 1);
    assert_eq!(group.heartbeat(&former, Some(&text("one")), 1, now), Err(ResponseError::FencedInstanceId));
}

#[test]
fn members_without_a_common_assignor_are_refused() {
    let (mut group, _, now) = stable(Instant::now());
    let other = Join { protocols: vec![(text("sticky"), Bytes::new())], ..asking("", "a") };
    assert_eq!(group.join(other, now).try_recv().unwrap().error_code, code(ResponseError::InconsistentGroupProtocol));
    let nothing = Join { protocols: Vec::new(), ..asking("", "a") };
    assert_eq!(group.join(nothing, now).try_recv().unwrap().error_code, code(ResponseError::InconsistentGroupProtocol));
}

#[test]
fn only_a_member_of_the_generation_commits_and_anyone_in_an_empty_group() {
    let now = Instant::now();
    let nobody = StrBytes::new();
    assert_eq!(Group::new(now).may_commit(&nobody, None, -1, now), Ok(()));
    let (mut group, first, now) = stable(now);
    assert_eq!(group.may_commit(&nobody, None, -1, now), Err(ResponseError::UnknownMemberId));
    assert_eq!(group.may_commit(&first, None, 0, now), Err(ResponseError::IllegalGeneration));
    assert_eq!(group.may_commit(&first, None, 1, now), Ok(()));
}
