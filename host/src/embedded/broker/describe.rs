//! Showing and changing topic settings: DescribeConfigs and AlterConfigs (KIP-133), IncrementalAlterConfigs (KIP-339).

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse as ReplacedConfigs;
use kafka_protocol::messages::create_topics_response::CreatableTopicConfigs;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
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
        let changed = change(topics, resource.resource_type, &resource.resource_name, request.validate_only, |given| {
            resource.configs.iter().try_for_each(|config| match config.config_operation {
                0 => set(given, &config.name, config.value.as_deref()),
                1 => {
                    given.remove(config.name.as_str());
                    Ok(())
                }
                _ => Err((ResponseError::InvalidRequest, "only set and delete are possible".to_owned())),
            })
        });
        let answer = match changed {
            Ok(()) => answer,
            Err((error, why)) => answer.with_error_code(error.code()).with_error_message(Some(why.into())),
        };
        answer.with_resource_name(resource.resource_name)
    });
    IncrementalAlterConfigsResponse::default().with_responses(results.collect())
}

/// Gives topics these settings and no others: what older clients have in place of single changes.
pub(super) fn replace_configs(topics: &Topics, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let results = request.resources.into_iter().map(|resource| {
        let answer = ReplacedConfigs::default().with_resource_type(resource.resource_type);
        let changed = change(topics, resource.resource_type, &resource.resource_name, request.validate_only, |given| {
            given.clear();
            resource.configs.iter().try_for_each(|config| set(given, &config.name, config.value.as_deref()))
        });
        let answer = match changed {
            Ok(()) => answer,
            Err((error, why)) => answer.with_error_code(error.code()).with_error_message(Some(why.into())),
        };
        answer.with_resource_name(resource.resource_name)
    });
    AlterConfigsResponse::default().with_responses(results.collect())
}

fn set(given: &mut BTreeMap<String, String>, name: &str, value: Option<&str>) -> Result<(), Refused> {
    let value = value.unwrap_or_default();
    configs::check(name, value).map_err(|why| (ResponseError::InvalidConfig, why))?;
    given.insert(name.to_owned(), value.to_owned());
    Ok(())
}

fn change(
    topics: &Topics,
    kind: i8,
    name: &str,
    validate_only: bool,
    edit: impl FnOnce(&mut BTreeMap<String, String>) -> Result<(), Refused>,
) -> Result<(), Refused> {
    if kind != TOPIC {
        return Err((ResponseError::InvalidRequest, "only topics have settings here".to_owned()));
    }
    let topic = topics.get(name).map_err(|error| (error, "no such topic".to_owned()))?;
    let mut given = topic.configs.clone();
    edit(&mut given)?;
    if validate_only {
        return Ok(());
    }
    topics.change(name, topic.partitions.len(), given).map_err(|error| (error, "it could not be stored".to_owned()))
}
