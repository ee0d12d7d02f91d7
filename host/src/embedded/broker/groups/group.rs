//! The state machine of one group, as in Kafka's classic group coordinator.
//!
//! ```text
//! Empty ── join ─▶ Preparing ── all joined, or the rebalance timeout ─▶ Completing ── the leader's assignment ─▶ Stable
//!   ▲                 │  ▲                                                  │                                      │
//!   └─── none left ───┘  └───────────── a member joins, leaves or is overdue ┴──────────────────────────────────────┘
//! ```
//! It never waits: a caller that must wait gets a one-shot receiver, and time is an argument.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{JoinGroupResponse, SyncGroupResponse};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::oneshot;
use uuid::Uuid;

/// How long the first member of a group waits for others, so that consumers that start together share one rebalance
/// (`group.initial.rebalance.delay.ms`, 3 s in Kafka; a person is waiting here).
const INITIAL_DELAY: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Empty,
    Preparing,
    Completing,
    Stable,
}

/// What a member says of itself when it joins.
#[derive(Debug, Clone, Default)]
pub(super) struct Join {
    /// Empty at first.
    pub(super) member_id: StrBytes,
    /// The name of a static member (KIP-345).
    pub(super) instance_id: Option<StrBytes>,
    pub(super) client_id: StrBytes,
    pub(super) client_host: StrBytes,
    pub(super) session_timeout: Duration,
    pub(super) rebalance_timeout: Duration,
    pub(super) protocol_type: StrBytes,
    /// Assignors in order of preference, with the member's metadata for each.
    pub(super) protocols: Vec<(StrBytes, Bytes)>,
    /// Whether a new member must come again with the id that it is given (KIP-394).
    pub(super) id_first: bool,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) said: Join,
    pub(super) assignment: Bytes,
    /// When the session ends, unless the member waits for a rebalance.
    expires: Instant,
    join: Option<oneshot::Sender<JoinGroupResponse>>,
    sync: Option<oneshot::Sender<SyncGroupResponse>>,
}

impl Member {
    fn metadata(&self, protocol: &StrBytes) -> Option<&Bytes> {
        self.said.protocols.iter().find(|(name, _)| name == protocol).map(|(_, metadata)| metadata)
    }

    fn alive(&mut self, now: Instant) {
        self.expires = now + self.said.session_timeout;
    }
}

/// One group.
#[derive(Debug)]
pub(super) struct Group {
    phase: Phase,
    generation: i32,
    protocol: StrBytes,
    leader: StrBytes,
    members: BTreeMap<StrBytes, Member>,
    /// Ids that were given away and not used yet, and when they end.
    pending: HashMap<StrBytes, Instant>,
    earliest: Instant,
    deadline: Instant,
}

impl Group {
    pub(super) fn new(now: Instant) -> Group {
        Group {
            phase: Phase::Empty,
            generation: 0,
            protocol: StrBytes::new(),
            leader: StrBytes::new(),
            members: BTreeMap::new(),
            pending: HashMap::new(),
            earliest: now,
            deadline: now,
        }
    }

    /// Nothing would be lost with it.
    pub(super) fn is_unused(&self) -> bool {
        self.members.is_empty() && self.pending.is_empty()
    }

    pub(super) fn members(&self) -> &BTreeMap<StrBytes, Member> {
        &self.members
    }

    pub(super) fn protocol(&self) -> &StrBytes {
        &self.protocol
    }

    pub(super) fn protocol_type(&self) -> StrBytes {
        self.members.values().next().map(|m| m.said.protocol_type.clone()).unwrap_or_default()
    }

    /// The state in Kafka's words.
    pub(super) fn state(&self) -> &'static str {
        match self.phase {
            Phase::Empty => "Empty",
            Phase::Preparing => "PreparingRebalance",
            Phase::Completing => "CompletingRebalance",
            Phase::Stable => "Stable",
        }
    }

    /// Lets a member in. The answer comes when the rebalance is complete, or at once if there is none.
    pub(super) fn join(&mut self, join: Join, now: Instant) -> oneshot::Receiver<JoinGroupResponse> {
        let (reply, answer) = oneshot::channel();
        match self.admit(join, now) {
            Ok((id, changed)) => self.rejoin(&id, changed, reply, now),
            Err((error, id)) => {
                let _ = reply.send(refused(error, id));
            }
        }
        answer
    }

    /// Finds or makes the member; says whether anything about it is new to the group.
    fn admit(&mut self, mut join: Join, now: Instant) -> Result<(StrBytes, bool), (ResponseError, StrBytes)> {
        let refuse = |error, join: &Join| Err((error, join.member_id.clone()));
        let others = || self.members.iter().filter(|(id, _)| **id != join.member_id).map(|(_, m)| m);
        let fits = |name: &StrBytes| others().all(|m| m.said.protocol_type == join.protocol_type && m.metadata(name).is_some());
        if join.protocol_type.is_empty() || !join.protocols.iter().any(|(name, _)| fits(name)) {
            return refuse(ResponseError::InconsistentGroupProtocol, &join);
        }
        let same_instance = |(_, m): &(&StrBytes, &Member)| join.instance_id.is_some() && m.said.instance_id == join.instance_id;
        let instance = self.members.iter().find(same_instance).map(|(id, _)| id.clone());
        match instance {
            // A static member that has restarted takes its former self's place, which is fenced off.
            Some(former) if join.member_id.is_empty() => {
                if let Some(waiting) = self.members.remove(&former).and_then(|m| m.join) {
                    let _ = waiting.send(refused(ResponseError::FencedInstanceId, former));
                }
            }
            Some(id) if id != join.member_id => return refuse(ResponseError::FencedInstanceId, &join),
            _ => {}
        }
        if join.member_id.is_empty() {
            let stem = join.instance_id.as_ref().unwrap_or(&join.client_id);
            let id = StrBytes::from_string(format!("{stem}-{}", Uuid::now_v7()));
            if join.id_first && join.instance_id.is_none() {
                self.pending.insert(id.clone(), now + join.session_timeout);
                return Err((ResponseError::MemberIdRequired, id));
            }
            join.member_id = id;
        } else if let Some(known) = self.members.get_mut(&join.member_id) {
            let changed = known.said.protocols != join.protocols;
            let id = join.member_id.clone();
            known.said = join;
            known.alive(now);
            return Ok((id, changed));
        } else if self.pending.remove(&join.member_id).is_none() {
            return refuse(ResponseError::UnknownMemberId, &join);
        }
        let id = join.member_id.clone();
        let expires = now + join.session_timeout;
        self.members.insert(id.clone(), Member { said: join, assignment: Bytes::new(), expires, join: None, sync: None });
        Ok((id, true))
    }

    fn rejoin(&mut self, id: &StrBytes, changed: bool, reply: oneshot::Sender<JoinGroupResponse>, now: Instant) {
        let current = match self.phase {
            // It did not get its answer, or asks again: the generation is still good.
            Phase::Completing => !changed,
            // The leader joins again to have partitions assigned anew.
            Phase::Stable => !changed && *id != self.leader,
            Phase::Empty | Phase::Preparing => false,
        };
        if current {
            let _ = reply.send(self.joined(id));
            return;
        }
        if self.phase != Phase::Preparing {
            self.prepare(now);
        }
        if let Some(member) = self.members.get_mut(id) {
            member.join = Some(reply);
        }
        self.complete_if_due(now);
    }

    fn prepare(&mut self, now: Instant) {
        for (_, member) in self.members.iter_mut() {
            if let Some(waiting) = member.sync.take() {
                let _ = waiting.send(unsynced(ResponseError::RebalanceInProgress));
            }
        }
        self.earliest = if self.phase == Phase::Empty { now + INITIAL_DELAY } else { now };
        self.phase = Phase::Preparing;
        self.deadline = now + self.patience();
    }

    fn patience(&self) -> Duration {
        self.members.values().map(|m| m.said.rebalance_timeout).max().unwrap_or_default()
    }

    fn complete_if_due(&mut self, now: Instant) {
        if self.phase != Phase::Preparing {
            return;
        }
        let all = self.pending.is_empty() && self.members.values().all(|m| m.join.is_some());
        if !(all && now >= self.earliest) && now < self.deadline {
            return;
        }
        self.members.retain(|_, m| m.join.is_some());
        self.generation += 1;
        if !self.members.contains_key(&self.leader) {
            self.leader = self.members.keys().next().cloned().unwrap_or_default();
        }
        self.protocol = self.vote();
        self.phase = if self.members.is_empty() { Phase::Empty } else { Phase::Completing };
        self.deadline = now + self.patience();
        let ids: Vec<StrBytes> = self.members.keys().cloned().collect();
        for id in ids {
            let answer = self.joined(&id);
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = Bytes::new();
                member.alive(now);
                // Should nobody be there to take the answer any more, the session runs out.
                if let Some(reply) = member.join.take() {
                    // The member has gone away meanwhile; its session will end.
                    let _ = reply.send(answer);
                }
            }
        }
    }

    /// The assignor that all members have and most prefer.
    fn vote(&self) -> StrBytes {
        let common = |name: &StrBytes| self.members.values().all(|m| m.metadata(name).is_some());
        let mut votes: BTreeMap<StrBytes, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.said.protocols.iter().find(|(name, _)| common(name)) {
                *votes.entry(name.clone()).or_default() += 1;
            }
        }
        votes.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name).unwrap_or_default()
    }

    fn joined(&self, id: &StrBytes) -> JoinGroupResponse {
        let one = |(id, m): (&StrBytes, &Member)| {
            JoinGroupResponseMember::default()
                .with_member_id(id.clone())
                .with_group_instance_id(m.said.instance_id.clone())
                .with_metadata(m.metadata(&self.protocol).cloned().unwrap_or_default())
        };
        let members = if *id == self.leader { self.members.iter().map(one).collect() } else { Vec::new() };
        JoinGroupResponse::default()
            .with_generation_id(self.generation)
            .with_protocol_type(Some(self.protocol_type()))
            .with_protocol_name(Some(self.protocol.clone()))
            .with_leader(self.leader.clone())
            .with_member_id(id.clone())
            .with_members(members)
    }

    /// Takes the leader's assignment, and hands a member its part when it is known.
    pub(super) fn sync(
        &mut self,
        id: &StrBytes,
        instance: Option<&StrBytes>,
        generation: i32,
        assignments: Vec<(StrBytes, Bytes)>,
        now: Instant,
    ) -> oneshot::Receiver<SyncGroupResponse> {
        let (reply, answer) = oneshot::channel();
        let refusal = match (self.check(id, instance, Some(generation)), self.phase) {
            (Err(error), _) => Some(error),
            (_, Phase::Empty) => Some(ResponseError::UnknownMemberId),
            (_, Phase::Preparing) => Some(ResponseError::RebalanceInProgress),
            _ => None,
        };
        if let Some(error) = refusal {
            let _ = reply.send(unsynced(error));
            return answer;
        }
        if let Some(member) = self.members.get_mut(id) {
            member.alive(now);
            member.sync = Some(reply);
        }
        if self.phase == Phase::Completing && *id == self.leader {
            for (id, assignment) in assignments {
                if let Some(member) = self.members.get_mut(&id) {
                    member.assignment = assignment;
                }
            }
            self.phase = Phase::Stable;
        }
        if self.phase == Phase::Stable {
            let (kind, protocol) = (self.protocol_type(), self.protocol.clone());
            for member in self.members.values_mut() {
                if let Some(waiting) = member.sync.take() {
                    member.alive(now);
                    let part = SyncGroupResponse::default()
                        .with_protocol_type(Some(kind.clone()))
                        .with_protocol_name(Some(protocol.clone()))
                        .with_assignment(member.assignment.clone());
                    let _ = waiting.send(part);
                }
            }
        }
        answer
    }

    /// Keeps a member's session alive, and tells it to join again while a rebalance waits for it.
    pub(super) fn heartbeat(
        &mut self,
        id: &StrBytes,
        instance: Option<&StrBytes>,
        generation: i32,
        now: Instant,
    ) -> Result<(), ResponseError> {
        self.check(id, instance, Some(generation))?;
        if let Some(member) = self.members.get_mut(id) {
            member.alive(now);
        }
        if self.phase == Phase::Preparing { Err(ResponseError::RebalanceInProgress) } else { Ok(()) }
    }

    /// Whether this member may commit offsets now.
    pub(super) fn may_commit(
        &mut self,
        id: &StrBytes,
        instance: Option<&StrBytes>,
        generation: i32,
        now: Instant,
    ) -> Result<(), ResponseError> {
        if generation < 0 && id.is_empty() && self.members.is_empty() {
            return Ok(());
        }
        self.check(id, instance, Some(generation))?;
        if let Some(member) = self.members.get_mut(id) {
            member.alive(now);
        }
        if self.phase == Phase::Completing { Err(ResponseError::RebalanceInProgress) } else { Ok(()) }
    }

    /// Removes a member; a static one may be named by its instance alone.
    pub(super) fn leave(&mut self, id: &StrBytes, instance: Option<&StrBytes>, now: Instant) -> Result<(), ResponseError> {
        let named =
            |(_, m): &(&StrBytes, &Member)| id.is_empty() && instance.is_some() && m.said.instance_id.as_ref() == instance;
        let id = self.members.iter().find(named).map_or_else(|| id.clone(), |(id, _)| id.clone());
        if self.pending.remove(&id).is_none() {
            self.check(&id, instance, None)?;
            self.remove(&[id], now);
        }
        self.complete_if_due(now);
        Ok(())
    }

    fn check(&self, id: &StrBytes, instance: Option<&StrBytes>, generation: Option<i32>) -> Result<(), ResponseError> {
        let fenced = |(other, m): (&StrBytes, &Member)| m.said.instance_id.as_ref() == instance && other != id;
        if instance.is_some() && self.members.iter().any(fenced) {
            return Err(ResponseError::FencedInstanceId);
        }
        if !self.members.contains_key(id) {
            return Err(ResponseError::UnknownMemberId);
        }
        if generation.is_some_and(|g| g != self.generation) {
            return Err(ResponseError::IllegalGeneration);
        }
        Ok(())
    }

    fn remove(&mut self, ids: &[StrBytes], now: Instant) {
        for id in ids {
            self.members.remove(id);
        }
        if matches!(self.phase, Phase::Stable | Phase::Completing) {
            self.prepare(now);
        }
    }

    /// Lets time pass: overdue members go, and rebalances end.
    pub(super) fn tick(&mut self, now: Instant) {
        self.pending.retain(|_, expires| now < *expires);
        for member in self.members.values_mut() {
            // The connection of a waiting member is gone: from now on its session counts, like anyone's.
            member.join.take_if(|reply| reply.is_closed());
            member.sync.take_if(|reply| reply.is_closed());
        }
        let unsynced = self.phase == Phase::Completing && now >= self.deadline;
        let overdue = |m: &Member| m.join.is_none() && m.sync.is_none() && (unsynced || now >= m.expires);
        let gone: Vec<StrBytes> = self.members.iter().filter(|(_, m)| overdue(m)).map(|(id, _)| id.clone()).collect();
        if !gone.is_empty() {
            tracing::debug!(members = ?gone, "members of a group are overdue");
            self.remove(&gone, now);
        }
        self.complete_if_due(now);
    }
}

/// The answer to a join that was not let in.
pub(super) fn refused(error: ResponseError, member_id: StrBytes) -> JoinGroupResponse {
    JoinGroupResponse::default()
        .with_error_code(error.code())
        .with_generation_id(-1)
        .with_protocol_name(Some(StrBytes::new()))
        .with_member_id(member_id)
}

/// The answer to a sync that has no assignment.
pub(super) fn unsynced(error: ResponseError) -> SyncGroupResponse {
    SyncGroupResponse::default().with_error_code(error.code())
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
