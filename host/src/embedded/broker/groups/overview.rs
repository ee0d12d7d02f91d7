//! ListGroups, DescribeGroups and DeleteGroups.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, GroupId, ListGroupsRequest,
    ListGroupsResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::super::{locked, now};
use super::Groups;
use super::group::Group;

const EMPTY: &str = "Empty";
/// The only type of group here (KIP-848 has others).
const CLASSIC: StrBytes = StrBytes::from_static_str("classic");

/// Every group that has members or has committed something, filtered by state (KIP-518) and type.
pub(in super::super) fn list(groups: &Groups, request: ListGroupsRequest) -> ListGroupsResponse {
    let mut known = BTreeMap::new();
    let active = locked(&groups.active);
    for group in locked(&groups.offsets).groups() {
        known.insert(StrBytes::from_string(group.clone()), (EMPTY, StrBytes::new()));
    }
    // One that the last member has just left is forgotten at the next tick.
    for (id, group) in active.iter().filter(|(_, group)| !group.is_unused()) {
        known.insert(id.clone(), (group.state(), group.protocol_type()));
    }
    let fits = |filter: &[StrBytes], value: &str| filter.is_empty() || filter.iter().any(|f| f.eq_ignore_ascii_case(value));
    let listed = known
        .into_iter()
        .filter(|(_, (state, _))| fits(&request.states_filter, state) && fits(&request.types_filter, &CLASSIC))
        .map(|(id, (state, kind))| {
            ListedGroup::default()
                .with_group_id(GroupId(id))
                .with_protocol_type(kind)
                .with_group_state(StrBytes::from_static_str(state))
                .with_group_type(CLASSIC)
        });
    ListGroupsResponse::default().with_groups(listed.collect())
}

/// State and members of groups. A group that nobody knows is "Dead", which is no error.
pub(in super::super) fn describe(groups: &Groups, request: DescribeGroupsRequest) -> DescribeGroupsResponse {
    let active = locked(&groups.active);
    let offsets = locked(&groups.offsets);
    let described = request.groups.into_iter().map(|id| {
        let answer = match active.get(&id.0).filter(|group| !group.is_unused()) {
            Some(group) => described(group),
            None if offsets.of(&id).is_some() => DescribedGroup::default().with_group_state(StrBytes::from_static_str(EMPTY)),
            None => DescribedGroup::default().with_group_state(StrBytes::from_static_str("Dead")),
        };
        answer.with_group_id(id)
    });
    DescribeGroupsResponse::default().with_groups(described.collect())
}

fn described(group: &Group) -> DescribedGroup {
    let members = group.members().iter().map(|(id, member)| {
        let metadata = member.said.protocols.iter().find(|(name, _)| name == group.protocol());
        DescribedGroupMember::default()
            .with_member_id(id.clone())
            .with_group_instance_id(member.said.instance_id.clone())
            .with_client_id(member.said.client_id.clone())
            .with_client_host(member.said.client_host.clone())
            .with_member_metadata(metadata.map(|(_, m)| m.clone()).unwrap_or_default())
            .with_member_assignment(member.assignment.clone())
    });
    DescribedGroup::default()
        .with_group_state(StrBytes::from_static_str(group.state()))
        .with_protocol_type(group.protocol_type())
        .with_protocol_data(group.protocol().clone())
        .with_members(members.collect())
}

/// Forgets what groups without members have committed.
pub(in super::super) fn delete(groups: &Groups, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let active = locked(&groups.active);
    let mut offsets = locked(&groups.offsets);
    let results = request.groups_names.into_iter().map(|id| {
        let deleted = if active.get(&id.0).is_some_and(|g| !g.is_unused()) {
            Err(ResponseError::NonEmptyGroup)
        } else if offsets.of(&id).is_none() {
            Err(ResponseError::GroupIdNotFound)
        } else {
            offsets.forget_group(&id, now()).map_err(|error| {
                tracing::error!(group = %id.as_str(), %error, "a group's offsets could not be removed");
                ResponseError::KafkaStorageError
            })
        };
        DeletableGroupResult::default().with_error_code(deleted.err().map_or(0, |e| e.code())).with_group_id(id)
    });
    DeleteGroupsResponse::default().with_results(results.collect())
}
