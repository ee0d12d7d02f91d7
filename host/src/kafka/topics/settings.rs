//! Changing single settings of a topic.
//!
//! `rdkafka` wraps AlterConfigs only, which puts every setting back to its default that it is not given; reading them all first and
//! writing them back would undo what somebody else sets in between. IncrementalAlterConfigs (KIP-339) names one setting and leaves the
//! others alone, so it is called at librdkafka itself.

use rdkafka::bindings as ffi;
use rdkafka::client::{Client, ClientContext};
use rdkafka::types::{RDKafkaAdminOp, RDKafkaResourceType, RDKafkaRespErr};
use std::ffi::{CStr, CString, c_char};
use std::time::Duration;

/// Sets one setting of a topic and waits for the answer, or says why it is refused. Blocks.
#[expect(unsafe_code, reason = "rdkafka has no safe form of this call")]
pub(super) fn set<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    setting: &str,
    value: &str,
    patience: Duration,
) -> Result<(), String> {
    let text = |text: &str| CString::new(text).map_err(|_| format!("`{text}` has a zero byte"));
    let (topic, setting, value) = (text(topic)?, text(setting)?, text(value)?);
    let patience = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX - 1_000);
    // SAFETY: every pointer given to librdkafka is one that it made and `Native` has not destroyed yet, or a text that outlives the call;
    // `client` outlives them all, as librdkafka asks. The answer is read while its event lives.
    unsafe {
        let client = client.native_ptr();
        let queue = Native::new(ffi::rd_kafka_queue_new(client), ffi::rd_kafka_queue_destroy)?;
        let options = ffi::rd_kafka_AdminOptions_new(client, RDKafkaAdminOp::RD_KAFKA_ADMIN_OP_INCREMENTALALTERCONFIGS);
        let options = Native::new(options, ffi::rd_kafka_AdminOptions_destroy)?;
        let mut why: [c_char; 256] = [0; 256];
        let refused = ffi::rd_kafka_AdminOptions_set_request_timeout(options.0, patience, why.as_mut_ptr(), why.len());
        ensure(refused, why.as_ptr())?;
        let resource = ffi::rd_kafka_ConfigResource_new(RDKafkaResourceType::RD_KAFKA_RESOURCE_TOPIC, topic.as_ptr());
        let mut resource = Native::new(resource, ffi::rd_kafka_ConfigResource_destroy)?;
        let set = ffi::rd_kafka_AlterConfigOpType_t::RD_KAFKA_ALTER_CONFIG_OP_TYPE_SET;
        let refused = ffi::rd_kafka_ConfigResource_add_incremental_config(resource.0, setting.as_ptr(), set, value.as_ptr());
        if let Ok(refused) = Native::new(refused, ffi::rd_kafka_error_destroy) {
            return Err(owned(ffi::rd_kafka_error_string(refused.0)));
        }
        ffi::rd_kafka_IncrementalAlterConfigs(client, &mut resource.0, 1, options.0, queue.0);
        // The request's own time-out answers first.
        let event = ffi::rd_kafka_queue_poll(queue.0, patience + 1_000);
        let event = Native::new(event, ffi::rd_kafka_event_destroy).map_err(|_| "the broker did not answer in time")?;
        ensure(ffi::rd_kafka_event_error(event.0), ffi::rd_kafka_event_error_string(event.0))?;
        let result = ffi::rd_kafka_event_IncrementalAlterConfigs_result(event.0);
        if result.is_null() {
            return Err("librdkafka answered another question".to_owned());
        }
        let mut count = 0;
        let changed = ffi::rd_kafka_IncrementalAlterConfigs_result_resources(result, &mut count);
        for index in 0..count {
            let topic = *changed.add(index);
            ensure(ffi::rd_kafka_ConfigResource_error(topic), ffi::rd_kafka_ConfigResource_error_string(topic))?;
        }
    }
    Ok(())
}

/// Something of librdkafka's that is destroyed when it goes out of scope.
struct Native<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Native<T> {
    fn new(pointer: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Result<Self, String> {
        if pointer.is_null() { Err("librdkafka has no memory".to_owned()) } else { Ok(Self(pointer, destroy)) }
    }
}

impl<T> Drop for Native<T> {
    #[expect(unsafe_code, reason = "librdkafka frees what it made")]
    fn drop(&mut self) {
        // SAFETY: the pointer is not null and is destroyed here only.
        unsafe { (self.1)(self.0) }
    }
}

/// # Safety
///
/// `why` is null or a text that ends with a zero byte.
#[expect(unsafe_code, reason = "reads a text of librdkafka")]
unsafe fn ensure(error: RDKafkaRespErr, why: *const c_char) -> Result<(), String> {
    match error {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        // SAFETY: the caller's promise.
        _ => Err(unsafe { owned(why) }),
    }
}

/// # Safety
///
/// See [`ensure`].
#[expect(unsafe_code, reason = "reads a text of librdkafka")]
unsafe fn owned(text: *const c_char) -> String {
    if text.is_null() {
        return "the broker refuses it without a reason".to_owned();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
