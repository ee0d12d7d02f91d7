//! The cluster as clients see it: one node, which leads and coordinates everything; and producer ids.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic};
use kafka_protocol::messages::{
    BrokerId, DescribeClusterRequest, DescribeClusterResponse, FindCoordinatorRequest, FindCoordinatorResponse,
    InitProducerIdRequest, InitProducerIdResponse, MetadataRequest, MetadataResponse, ProducerId, SaslHandshakeRequest,
    SaslHandshakeResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::NODE_ID;
use super::api::Client;
use super::topics::Topic;

const ME: BrokerId = BrokerId(NODE_ID);

/// The key type of FindCoordinator that asks for a consumer group's coordinator.
const GROUP: i8 = 0;

const NO_TRANSACTIONS: StrBytes = StrBytes::from_static_str("this development broker has no transactions");

/// Nodes and topics. A topic that does not exist is an error and never created: its owner declares it.
pub(super) fn metadata(client: &Client<'_>, version: i16, request: MetadataRequest) -> MetadataResponse {
    let topics = &client.shared.topics;
    let all = || topics.all().iter().map(|t| found(t)).collect();
    let answers = match request.topics {
        None => all(),
        // Version 0 has no null and asks for everything with an empty list.
        Some(asked) if version == 0 && asked.is_empty() => all(),
        Some(asked) => asked.into_iter().map(|topic| asked_for(client, topic)).collect(),
    };
    let broker =
        MetadataResponseBroker::default().with_node_id(ME).with_host(client.node.host.clone()).with_port(client.node.port);
    MetadataResponse::default()
        .with_brokers(vec![broker])
        .with_cluster_id(Some(StrBytes::from_string(client.shared.state.cluster_id.clone())))
        .with_controller_id(ME)
        .with_topics(answers)
}

fn asked_for(client: &Client<'_>, asked: MetadataRequestTopic) -> MetadataResponseTopic {
    let topics = &client.shared.topics;
    let known = match &asked.name {
        Some(name) => topics.get(name),
        None => topics.get_by_id(asked.topic_id),
    };
    match known {
        Ok(topic) => found(&topic),
        Err(error) => {
            MetadataResponseTopic::default().with_error_code(error.code()).with_topic_id(asked.topic_id).with_name(asked.name)
        }
    }
}

fn found(topic: &Topic) -> MetadataResponseTopic {
    let partition = |index: usize| {
        MetadataResponsePartition::default()
            .with_partition_index(i32::try_from(index).unwrap_or(i32::MAX))
            .with_leader_id(ME)
            .with_leader_epoch(0)
            .with_replica_nodes(vec![ME])
            .with_isr_nodes(vec![ME])
    };
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(StrBytes::from_string(topic.name.clone()))))
        .with_topic_id(topic.id)
        .with_partitions((0..topic.partitions.len()).map(partition).collect())
}

/// The cluster without its topics (KIP-700).
pub(super) fn describe(client: &Client<'_>, request: DescribeClusterRequest) -> DescribeClusterResponse {
    // Endpoint type 1 is the brokers; the controllers of a KRaft cluster have no listener here (KIP-919).
    if request.endpoint_type != 1 {
        return DescribeClusterResponse::default()
            .with_error_code(ResponseError::UnsupportedEndpointType.code())
            .with_error_message(Some(StrBytes::from_static_str("only broker endpoints exist")));
    }
    let broker =
        DescribeClusterBroker::default().with_broker_id(ME).with_host(client.node.host.clone()).with_port(client.node.port);
    DescribeClusterResponse::default()
        .with_cluster_id(StrBytes::from_string(client.shared.state.cluster_id.clone()))
        .with_controller_id(ME)
        .with_brokers(vec![broker])
}

/// This node, for every group; several keys at once since version 4 (KIP-699).
pub(super) fn find_coordinator(client: &Client<'_>, version: i16, request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    let node = client.node;
    if version >= 4 {
        let one = |key: StrBytes| {
            let answer = Coordinator::default().with_key(key);
            if request.key_type == GROUP {
                return answer.with_node_id(ME).with_host(node.host.clone()).with_port(node.port);
            }
            answer
                .with_node_id(BrokerId(-1))
                .with_port(-1)
                .with_error_code(ResponseError::TransactionalIdAuthorizationFailed.code())
                .with_error_message(Some(NO_TRANSACTIONS))
        };
        return FindCoordinatorResponse::default().with_coordinators(request.coordinator_keys.into_iter().map(one).collect());
    }
    if request.key_type == GROUP {
        return FindCoordinatorResponse::default().with_node_id(ME).with_host(node.host.clone()).with_port(node.port);
    }
    FindCoordinatorResponse::default()
        .with_node_id(BrokerId(-1))
        .with_port(-1)
        .with_error_code(ResponseError::TransactionalIdAuthorizationFailed.code())
        .with_error_message(Some(NO_TRANSACTIONS))
}

/// A fresh id for an idempotent producer, also when it asks to go on with an old one (KIP-360): as good, and simpler.
///
/// Transactions get the one error that every client takes as final; others make them ask again until they time out.
pub(super) fn init_producer_id(client: &Client<'_>, request: InitProducerIdRequest) -> InitProducerIdResponse {
    let answer = InitProducerIdResponse::default().with_producer_id(ProducerId(-1)).with_producer_epoch(-1);
    if request.transactional_id.is_some() {
        return answer.with_error_code(ResponseError::TransactionalIdAuthorizationFailed.code());
    }
    match client.shared.state.next_producer_id() {
        Ok(id) => answer.with_producer_id(ProducerId(id)).with_producer_epoch(0),
        Err(error) => {
            tracing::error!(%error, "a producer id could not be reserved");
            answer.with_error_code(ResponseError::CoordinatorNotAvailable.code())
        }
    }
}

/// What Kafka answers on a listener without SASL.
pub(super) fn sasl_handshake(_: SaslHandshakeRequest) -> SaslHandshakeResponse {
    SaslHandshakeResponse::default().with_error_code(ResponseError::IllegalSaslState.code())
}
