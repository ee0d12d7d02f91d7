//! Showing and changing topic settings: DescribeConfigs (KIP-133), IncrementalAlterConfigs (KIP-339).

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_response::CreatableTopicConfigs;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::incremental_alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{
    DescribeConfigsRequest, DescribeConfigsResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::admin::Refused;
use super::configs::{self, Kind};
use super::topics::Topics;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

/// Where a value comes from, in the numbers of the protocol.
const SET_ON_TOPIC: i8 = 1;
const DEFAULT: i8 = 5;

/// All settings of a topic: name, kind, value and where the value comes from.
fn effective(given: &BTreeMap<String, String>) -> impl Iterator<Item = (&'static str, Kind, StrBytes, i8)> {
    configs::KNOWN.iter().map(|&(name, kind, default)| match given.get(name) {
        Some(value) => (name, kind, StrBytes::from_string(value.clone()), SET_ON_TOPIC),
        None => (name, kind, StrBytes::from_static_str(default), DEFAULT),
    })
}

/// The settings of a topic in the answer that reports its creation (KIP-525).
pub(super) fn created(given: &BTreeMap<String, String>) -> Vec<CreatableTopicConfigs> {
    let one = |(name, _, value, source)| {
        CreatableTopicConfigs::default()
            .with_name(StrBytes::from_static_str(name))
            .with_value(Some(value))
            .with_config_source(source)
    };
    effective(given).map(one).collect()
}

/// The settings of topics. A broker has none to show: it answers with an empty list.
pub(super) fn describe_configs(topics: &Topics, request: DescribeConfigsRequest) -> DescribeConfigsResponse {
    let (synonyms, one) = (request.include_synonyms, |resource: DescribeConfigsResource, synonyms| {
        let answer = DescribeConfigsResult::default().with_resource_type(resource.resource_type);
        let answer = match settings(topics, &resource, synonyms) {
            Ok(settings) => answer.with_configs(settings),
            Err((error, why)) => answer.with_error_code(error.code()).with_error_message(Some(why.into())),
        };
        answer.with_resource_name(resource.resource_name)
    });
    DescribeConfigsResponse::default().with_results(request.resources.into_iter().map(|r| one(r, synonyms)).collect())
}

fn settings(
    topics: &Topics,
    resource: &DescribeConfigsResource,
    synonyms: bool,
) -> Result<Vec<DescribeConfigsResourceResult>, Refused> {
    match resource.resource_type {
        TOPIC => {}
        BROKER => return Ok(Vec::new()),
        other => {
            return Err((ResponseError::InvalidRequest, format!("resource type {other} has no settings here")));
        }
    }
    let topic = topics.get(&resource.resource_name).map_err(|error| (error, "no such topic".to_owned()))?;
    let wanted = |name: &str| resource.configuration_keys.as_ref().is_none_or(|keys| keys.iter().any(|k| k.as_str() == name));
    let one = |(name, kind, value, source): (&'static str, Kind, StrBytes, i8)| {
        let name = StrBytes::from_static_str(name);
        let answer = DescribeConfigsResourceResult::default()
            .with_config_source(source)
            .with_config_type(kind as i8)
            .with_value(Some(value.clone()));
        let answer = if synonyms {
            let same = DescribeConfigsSynonym::default().with_name(name.clone()).with_value(Some(value)).with_source(source);
            answer.with_synonyms(vec![same])
        } else {
            answer
        };
        answer.with_name(name)
    };
    Ok(effective(&topic.configs).filter(|(name, ..)| wanted(name)).map(one).collect())
}

/// Sets topic settings, or returns them to their defaults; either all that a request says of a topic or nothing.
pub(super) fn alter_configs(topics: &Topics, request: IncrementalAlterConfigsRequest) -> IncrementalAlterConfigsResponse {
    let results = request.resources.into_iter().map(|resource| {
        let answer = AlterConfigsResourceResponse::default().with_resource_type(resource.resource_type);
        let answer = match alter(topics, &resource, request.validate_only) {
            Ok(()) => answer,
            Err((error, why)) => answer.with_error_code(error.code()).with_error_message(Some(why.into())),
        };
        answer.with_resource_name(resource.resource_name)
    });
    IncrementalAlterConfigsResponse::default().with_responses(results.collect())
}

fn alter(topics: &Topics, resource: &AlterConfigsResource, validate_only: bool) -> Result<(), Refused> {
    if resource.resource_type != TOPIC {
        return Err((ResponseError::InvalidRequest, "only topics have settings here".to_owned()));
    }
    let topic = topics.get(&resource.resource_name).map_err(|error| (error, "no such topic".to_owned()))?;
    let mut changed = topic.configs.clone();
    for config in &resource.configs {
        match config.config_operation {
            0 => {
                let value = config.value.clone().unwrap_or_default();
                configs::check(&config.name, &value).map_err(|why| (ResponseError::InvalidConfig, why))?;
                changed.insert(config.name.to_string(), value.to_string());
            }
            1 => {
                changed.remove(config.name.as_str());
            }
            _ => return Err((ResponseError::InvalidRequest, "only set and delete are possible".to_owned())),
        }
    }
    if validate_only {
        return Ok(());
    }
    topics
        .change(&resource.resource_name, topic.partitions.len(), changed)
        .map_err(|error| (error, "it could not be stored".to_owned()))
}
