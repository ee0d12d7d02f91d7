//! A task and its event, natively: the rules of `handlers/task-api`, the form of the host's CloudEvents.

use anyhow::ensure;
use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};
use tidemill::store::Envelope;
use uuid::Uuid;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTask {
    title: String,
    description: Option<String>,
    priority: Option<String>,
    tags: Option<Vec<String>>,
    due_date: Option<String>,
    due_time: Option<String>,
    recurrence: Option<String>,
}

/// A task as it is stored and answered.
#[derive(Serialize)]
pub(crate) struct Task {
    pub(crate) id: Uuid,
    pub(crate) title: String,
    pub(crate) description: Option<String>,
    pub(crate) priority: String,
    pub(crate) tags: Vec<String>,
    pub(crate) due_date: Option<String>,
    pub(crate) due_time: Option<String>,
    pub(crate) recurrence: Option<String>,
    completed: bool,
    #[serde(serialize_with = "text")]
    pub(crate) created_at: Timestamp,
    #[serde(serialize_with = "text")]
    updated_at: Timestamp,
    completed_at: Option<()>,
    pub(crate) version: i32,
    #[serde(skip)]
    pub(crate) user: String,
}

#[derive(Serialize)]
struct Event<'a> {
    specversion: &'static str,
    id: Uuid,
    source: &'static str,
    r#type: &'static str,
    time: String,
    datacontenttype: &'static str,
    correlationid: &'a str,
    traceparent: &'a str,
    data: Created<'a>,
}

#[derive(Serialize)]
struct Created<'a> {
    task_id: Uuid,
    user_id: &'a str,
    title: &'a str,
    description: Option<&'a str>,
    priority: &'a str,
    tags: &'a [String],
    due_date: Option<&'a str>,
    recurrence: Option<&'a str>,
    #[serde(serialize_with = "text")]
    created_at: Timestamp,
}

/// RFC 3339.
fn text<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

impl Task {
    /// Reads and checks a body.
    pub(crate) fn read(body: &[u8], user: String) -> anyhow::Result<Self> {
        let new: NewTask = serde_json::from_slice(body)?;
        let title = new.title.trim().to_owned();
        let fits = |text: &str, most: usize| (1..=most).contains(&text.chars().count()) && !text.contains('\0');
        ensure!(fits(&title, 200), "title");
        ensure!(new.description.as_deref().is_none_or(|text| text.is_empty() || fits(text, 4_000)), "description");
        let priority = new.priority.unwrap_or_else(|| "medium".to_owned());
        ensure!(["low", "medium", "high"].contains(&priority.as_str()), "priority");
        let tags: Vec<String> = new.tags.unwrap_or_default().iter().map(|tag| tag.trim().to_owned()).collect();
        ensure!(tags.len() <= 20 && tags.iter().all(|tag| fits(tag, 50)), "tags");
        ensure!(tags.iter().enumerate().all(|(n, tag)| !tags[..n].contains(tag)), "tags are unique");
        ensure!(new.due_date.as_deref().is_none_or(|date| date.parse::<jiff::civil::Date>().is_ok()), "due_date");
        ensure!(
            new.due_time.as_deref().is_none_or(|time| time.len() == 5 && time.parse::<jiff::civil::Time>().is_ok()),
            "due_time"
        );
        ensure!(new.due_time.is_none() || new.due_date.is_some(), "due_time needs a due_date");
        let recurrences = ["daily", "weekly", "monthly", "yearly", "weekdays"];
        ensure!(new.recurrence.as_deref().is_none_or(|text| recurrences.contains(&text)), "recurrence");
        // PostgreSQL keeps microseconds.
        let now = Timestamp::from_microsecond(Timestamp::now().as_microsecond())?;
        Ok(Self {
            id: Uuid::now_v7(),
            title,
            description: new.description,
            priority,
            tags,
            due_date: new.due_date,
            due_time: new.due_time,
            recurrence: new.recurrence,
            completed: false,
            created_at: now,
            updated_at: now,
            completed_at: None,
            version: 1,
            user,
        })
    }

    /// The event that says that it was created.
    pub(crate) fn event(&self, correlation_id: &str) -> anyhow::Result<Envelope> {
        let span = &Uuid::new_v4().simple().to_string()[..16];
        let traceparent = format!("00-{}-{span}-01", Uuid::new_v4().simple());
        let id = Uuid::now_v7();
        let event = Event {
            specversion: "1.0",
            id,
            source: "todo-backend",
            r#type: "task.created",
            time: format!("{:.6}", self.created_at),
            datacontenttype: "application/json",
            correlationid: correlation_id,
            traceparent: &traceparent,
            data: Created {
                task_id: self.id,
                user_id: &self.user,
                title: &self.title,
                description: self.description.as_deref(),
                priority: &self.priority,
                tags: &self.tags,
                due_date: self.due_date.as_deref(),
                recurrence: self.recurrence.as_deref(),
                created_at: self.created_at,
            },
        };
        Ok(Envelope {
            topic: "todo.task-events".to_owned(),
            key: Some(self.user.clone().into_bytes()),
            value: serde_json::to_vec(&event)?,
            content_type: "application/cloudevents+json; charset=UTF-8",
            event_id: id.to_string(),
            correlation_id: Some(correlation_id.to_owned()),
            traceparent: Some(traceparent),
        })
    }
}
