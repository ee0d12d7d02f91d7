//! JoinGroup, SyncGroup, Heartbeat and LeaveGroup: from the wire to the state machine.

use std::time::{Duration, Instant};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::super::api::Client;
use super::super::locked;
use super::Groups;
use super::group::{Group, Join, refused, unsynced};

/// Kafka's `group.min.session.timeout.ms` and `group.max.session.timeout.ms`.
const SESSION_TIMEOUT: std::ops::RangeInclusive<i32> = 6_000..=1_800_000;

/// Joins a group and waits for its next generation.
pub(in super::super) async fn join(
    client: &Client<'_>,
    version: i16,
    client_id: &StrBytes,
    request: JoinGroupRequest,
) -> JoinGroupResponse {
    let id = request.member_id.clone();
    if request.group_id.is_empty() {
        return refused(ResponseError::InvalidGroupId, id);
    }
    if !SESSION_TIMEOUT.contains(&request.session_timeout_ms) {
        return refused(ResponseError::InvalidSessionTimeout, id);
    }
    let session_timeout = millis(request.session_timeout_ms);
    let join = Join {
        member_id: request.member_id,
        instance_id: request.group_instance_id,
        client_id: client_id.clone(),
        client_host: StrBytes::from_string(format!("/{}", client.peer.ip())),
        session_timeout,
        // Version 0 has one timeout for both.
        rebalance_timeout: if version == 0 { session_timeout } else { millis(request.rebalance_timeout_ms) },
        protocol_type: request.protocol_type,
        protocols: request.protocols.into_iter().map(|p| (p.name, p.metadata)).collect(),
        id_first: version >= 4,
    };
    let answer = {
        let now = Instant::now();
        let mut active = locked(&client.shared.groups.active);
        active.entry(request.group_id.0).or_insert_with(|| Group::new(now)).join(join, now)
    };
    answer.await.unwrap_or_else(|_| refused(ResponseError::UnknownMemberId, id))
}

/// Hands in the leader's assignment, or waits for it.
pub(in super::super) async fn sync(groups: &Groups, request: SyncGroupRequest) -> SyncGroupResponse {
    let assignments = request.assignments.into_iter().map(|a| (a.member_id, a.assignment)).collect();
    let answer = {
        let mut active = locked(&groups.active);
        let Some(group) = active.get_mut(&request.group_id.0) else {
            return unsynced(ResponseError::UnknownMemberId);
        };
        let (kind, protocol) = (group.protocol_type(), group.protocol());
        let differs = |said: &Option<StrBytes>, ours: &StrBytes| said.as_ref().is_some_and(|s| s != ours);
        if group.members().contains_key(&request.member_id)
            && (differs(&request.protocol_type, &kind) || differs(&request.protocol_name, protocol))
        {
            return unsynced(ResponseError::InconsistentGroupProtocol);
        }
        let instance = request.group_instance_id.as_ref();
        group.sync(&request.member_id, instance, request.generation_id, assignments, Instant::now())
    };
    answer.await.unwrap_or_else(|_| unsynced(ResponseError::UnknownMemberId))
}

/// Keeps a session alive.
pub(in super::super) fn heartbeat(groups: &Groups, request: HeartbeatRequest) -> HeartbeatResponse {
    let beat = match locked(&groups.active).get_mut(&request.group_id.0) {
        Some(group) => {
            let instance = request.group_instance_id.as_ref();
            group.heartbeat(&request.member_id, instance, request.generation_id, Instant::now())
        }
        None => Err(ResponseError::UnknownMemberId),
    };
    HeartbeatResponse::default().with_error_code(beat.err().map_or(0, |e| e.code()))
}

/// Takes members out of a group: one until version 2, a list after it (KIP-345).
pub(in super::super) fn leave(groups: &Groups, version: i16, request: LeaveGroupRequest) -> LeaveGroupResponse {
    let mut active = locked(&groups.active);
    let mut group = active.get_mut(&request.group_id.0);
    let mut leave = |id: &StrBytes, instance: Option<&StrBytes>| match &mut group {
        Some(group) => group.leave(id, instance, Instant::now()).err().map_or(0, |e| e.code()),
        None => ResponseError::UnknownMemberId.code(),
    };
    if version < 3 {
        return LeaveGroupResponse::default().with_error_code(leave(&request.member_id, None));
    }
    let members = request.members.into_iter().map(|member| {
        let code = leave(&member.member_id, member.group_instance_id.as_ref());
        MemberResponse::default()
            .with_member_id(member.member_id)
            .with_group_instance_id(member.group_instance_id)
            .with_error_code(code)
    });
    LeaveGroupResponse::default().with_members(members.collect())
}

fn millis(value: i32) -> Duration {
    Duration::from_millis(u64::try_from(value).unwrap_or(0))
}
