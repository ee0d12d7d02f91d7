//! Which APIs and versions this broker speaks, and who answers them.

use std::net::SocketAddr;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse, ProduceRequest};

use super::wire::{Refusal, Request};
use super::{Node, Shared, admin, cluster, describe, fetch, groups, produce};

/// The advertised versions.
///
/// Produce, Fetch, ListOffsets, OffsetCommit and OffsetFetch end before the versions that name topics by id (KIP-516) or that
/// need the new group protocol (KIP-848), so clients stay on names and on classic groups. Produce begins at 0 although 3 is
/// the first that works, as in Kafka 4: older librdkafka switches compression off when version 0 is missing (KAFKA-18659).
const APIS: &[(ApiKey, i16, i16)] = &[
    (ApiKey::Produce, 0, 12),
    (ApiKey::Fetch, 4, 12),
    (ApiKey::ListOffsets, 1, 7),
    (ApiKey::Metadata, 0, 12),
    (ApiKey::OffsetCommit, 2, 8),
    (ApiKey::OffsetFetch, 1, 8),
    (ApiKey::FindCoordinator, 0, 4),
    (ApiKey::JoinGroup, 0, 9),
    (ApiKey::Heartbeat, 0, 4),
    (ApiKey::LeaveGroup, 0, 5),
    (ApiKey::SyncGroup, 0, 5),
    (ApiKey::DescribeGroups, 0, 5),
    (ApiKey::ListGroups, 0, 5),
    (ApiKey::SaslHandshake, 0, 1),
    (ApiKey::ApiVersions, 0, 4),
    (ApiKey::CreateTopics, 2, 7),
    (ApiKey::DeleteTopics, 1, 6),
    (ApiKey::DeleteRecords, 0, 2),
    (ApiKey::InitProducerId, 0, 4),
    (ApiKey::DescribeConfigs, 1, 4),
    (ApiKey::AlterConfigs, 0, 2),
    (ApiKey::CreatePartitions, 0, 3),
    (ApiKey::DeleteGroups, 0, 2),
    (ApiKey::IncrementalAlterConfigs, 0, 1),
    (ApiKey::OffsetDelete, 0, 0),
    (ApiKey::DescribeCluster, 0, 1),
];

/// Where a request came from, and what it works on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client<'a> {
    pub(super) shared: &'a Shared,
    pub(super) node: &'a Node,
    pub(super) peer: SocketAddr,
}

/// Whether this version can be read and answered.
pub(super) fn supported(key: i16, version: i16) -> bool {
    let usable = |(api, least, most): &(ApiKey, i16, i16)| {
        let least = if *api == ApiKey::Produce { 3 } else { *least };
        *api as i16 == key && (least..=*most).contains(&version)
    };
    APIS.iter().any(usable)
}

/// Answers one request. `None` means that the client expects no answer (acks=0).
///
/// # Errors
/// The connection has to be closed: this is also how Kafka refuses an API or version that it did not advertise. Only
/// ApiVersions is answered in whatever version, with the error and the versions that would do (KIP-511).
pub(super) async fn answer(client: &Client<'_>, request: Request) -> Result<Option<Bytes>, Refusal> {
    let key = ApiKey::try_from(request.key).map_err(|()| request.unsupported())?;
    if !supported(request.key, request.version) {
        if key == ApiKey::ApiVersions {
            return request.encode_as(0, &versions(ResponseError::UnsupportedVersion.code())).map(Some);
        }
        return Err(request.unsupported());
    }
    tracing::trace!(peer = %client.peer, ?key, version = request.version, "request");
    let (topics, groups) = (&client.shared.topics, &client.shared.groups);
    let version = request.version;
    let encoded = match key {
        ApiKey::Produce => {
            let body: ProduceRequest = request.decode()?;
            let silent = body.acks == 0;
            let answer = produce::produce(topics, body);
            return if silent { produce::silent(&answer).map(|()| None) } else { request.encode(&answer).map(Some) };
        }
        ApiKey::Fetch => request.encode(&fetch::fetch(topics, request.decode()?).await),
        ApiKey::ListOffsets => request.encode(&fetch::list_offsets(topics, request.decode()?)),
        ApiKey::ApiVersions => {
            request.decode::<ApiVersionsRequest>()?;
            request.encode(&versions(0))
        }
        ApiKey::Metadata => request.encode(&cluster::metadata(client, version, request.decode()?)),
        ApiKey::DescribeCluster => request.encode(&cluster::describe(client, request.decode()?)),
        ApiKey::FindCoordinator => request.encode(&cluster::find_coordinator(client, version, request.decode()?)),
        ApiKey::InitProducerId => request.encode(&cluster::init_producer_id(client, request.decode()?)),
        ApiKey::SaslHandshake => request.encode(&cluster::sasl_handshake(request.decode()?)),
        ApiKey::CreateTopics => request.encode(&admin::create_topics(topics, version, request.decode()?)),
        ApiKey::DeleteTopics => request.encode(&admin::delete_topics(client, version, request.decode()?)),
        ApiKey::CreatePartitions => request.encode(&admin::create_partitions(topics, request.decode()?)),
        ApiKey::DeleteRecords => request.encode(&admin::delete_records(topics, request.decode()?)),
        ApiKey::DescribeConfigs => request.encode(&describe::describe_configs(topics, request.decode()?)),
        ApiKey::AlterConfigs => request.encode(&describe::replace_configs(topics, request.decode()?)),
        ApiKey::IncrementalAlterConfigs => request.encode(&describe::alter_configs(topics, request.decode()?)),
        ApiKey::JoinGroup => {
            let answer = groups::members::join(client, version, &request.client_id, request.decode()?).await;
            request.encode(&answer)
        }
        ApiKey::SyncGroup => request.encode(&groups::members::sync(groups, request.decode()?).await),
        ApiKey::Heartbeat => request.encode(&groups::members::heartbeat(groups, request.decode()?)),
        ApiKey::LeaveGroup => request.encode(&groups::members::leave(groups, version, request.decode()?)),
        ApiKey::OffsetCommit => request.encode(&groups::commits::commit(client, request.decode()?)),
        ApiKey::OffsetFetch => request.encode(&groups::commits::fetch(groups, version, request.decode()?)),
        ApiKey::OffsetDelete => request.encode(&groups::commits::delete(groups, request.decode()?)),
        ApiKey::ListGroups => request.encode(&groups::overview::list(groups, request.decode()?)),
        ApiKey::DescribeGroups => request.encode(&groups::overview::describe(groups, request.decode()?)),
        ApiKey::DeleteGroups => request.encode(&groups::overview::delete(groups, request.decode()?)),
        _ => Err(request.unsupported()),
    };
    encoded.map(Some)
}

fn versions(error_code: i16) -> ApiVersionsResponse {
    let entry = |&(key, least, most): &(ApiKey, i16, i16)| {
        ApiVersion::default().with_api_key(key as i16).with_min_version(least).with_max_version(most)
    };
    ApiVersionsResponse::default().with_error_code(error_code).with_api_keys(APIS.iter().map(entry).collect())
}
