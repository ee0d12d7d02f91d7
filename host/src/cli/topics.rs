//! `tidemill topics plan | apply`: the topics that the manifests ask for, against those of the brokers.

use super::plan::Plan as Handlers;
use super::with_runtime;
use crate::config::{self, Command as Name, Config, KafkaAccess};
use crate::engine::Registry;
use crate::fleet;
use crate::kafka::topics::{Applied, Cluster, Outcome, Plan, Step, Topics};
use crate::telemetry::Board;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Value as Json, json};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::sync::watch;

/// What `plan` ends with when something differs.
const DIFFERENCES: u8 = 2;

/// `topics` and its commands.
pub(super) fn command() -> Command {
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let one = |name: &'static str| {
        let moves =
            "Add partitions to topics that have too few: later records of a key go to another partition than its earlier ones";
        config::args(Command::new(name), Name::Topics)
            .arg(flag("allow-key-moves", moves))
            .arg(flag("json", "Print one JSON object instead of lines for people"))
    };
    Command::new("topics")
        .about("The topics that the handlers declare, and the dead-letter topics of those that they read")
        .subcommand_required(true)
        .subcommand(
            one("plan").about("Show what `topics apply` would do").after_help("Exit code: 0 nothing to do, 1 failed, 2 differences."),
        )
        .subcommand(one("apply").about("Make the topics as they are declared; never deletes, never takes partitions away").after_help(
            "Can be repeated. Exit code: 0 everything is as declared, 1 something is refused, held back or failed (the rest is done).",
        ))
}

/// Runs one of them; the exit code is part of the answer.
pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let (applies, matches) = match matches.subcommand() {
        Some(("plan", matches)) => (false, matches),
        Some(("apply", matches)) => (true, matches),
        _ => anyhow::bail!("`tidemill topics` needs a command: plan or apply"),
    };
    let (moves, json) = (matches.get_flag("allow-key-moves"), matches.get_flag("json"));
    with_runtime(Name::Topics, matches, async |config: Config| {
        let handlers = Handlers::load(config.handlers()?, config.installation())?;
        let topics = handlers.topics()?;
        let cluster = Cluster::connect(config.kafka()?)?;
        let plan = Plan::new(&topics, &cluster.describe(&topics.names()).await?, moves);
        let applied = if applies { Some(cluster.apply(&plan).await?) } else { None };
        match json {
            true => println!("{}", report(&plan, applied.as_deref())),
            false => lines(&plan, applied.as_deref()).iter().for_each(|line| println!("{line}")),
        }
        Ok(match applied {
            None if plan.differs() => ExitCode::from(DIFFERENCES),
            Some(applied) if applied.iter().any(|applied| !applied.outcome.is_good()) => ExitCode::FAILURE,
            _ => ExitCode::SUCCESS,
        })
    })
}

/// Checks the topics of the active handlers while the host runs, anew whenever others are active.
pub(super) async fn watch(kafka: Arc<KafkaAccess>, registry: Arc<Registry>, board: Arc<Board>, stop: watch::Receiver<bool>) {
    let (mut changes, mut stopped) = (registry.changes(), stop.clone());
    while !*stopped.borrow() {
        let topics = used(&registry);
        let checked = async {
            if let Some(topics) = topics.clone() {
                crate::kafka::topics::watch(kafka.clone(), topics, board.clone(), stop.clone()).await;
            }
            std::future::pending::<()>().await;
        };
        // Most switches change no topic: asking the brokers anew would only cost the handlers that are switched.
        let changed = async { while changes.changed().await.is_ok() && used(&registry) == topics {} };
        tokio::select! {
            () = checked => {}
            () = changed => {}
            _ = stopped.changed() => {}
        }
    }
}

/// The topics of the active handlers; none if there is no handler, or they can't be checked.
fn used(registry: &Registry) -> Option<Topics> {
    let handlers = registry.handlers();
    let topics = fleet::topics(handlers.iter().map(|handler| &handler.manifest));
    let topics = topics.inspect_err(|error| tracing::error!("the topics are not checked: {error:#}")).ok();
    topics.filter(|_| !handlers.is_empty())
}

/// The answer for people: a line for each step and each topic without one, the warnings, a summary.
fn lines(plan: &Plan, applied: Option<&[Applied]>) -> Vec<String> {
    let mut lines = Vec::new();
    let width = plan.topics.keys().map(String::len).max().unwrap_or(0);
    let mut line =
        |word: &str, topic: &str, text: &str| lines.push(format!("{word:<10} {topic:<width$}  {text}").trim_end().to_owned());
    for (topic, steps) in &plan.topics {
        if steps.is_empty() {
            line("unchanged", topic, "");
        }
        if applied.is_none() {
            steps.iter().for_each(|step| line(intention(step), topic, &with_way_out(step)));
        }
        for Applied { step, outcome, .. } in applied.unwrap_or_default().iter().filter(|applied| applied.topic == *topic) {
            let (word, text) = result(step, outcome);
            line(word, topic, &text);
        }
    }
    lines.extend(plan.warnings.iter().map(|warning| format!("warning: {warning}")));
    lines.push(summary(plan, applied));
    lines
}

fn summary(plan: &Plan, applied: Option<&[Applied]>) -> String {
    let topics = plan.topics.len();
    if topics == 0 {
        return "nothing to do: no manifest declares or reads a topic".to_owned();
    }
    if !plan.differs() {
        return format!("nothing to do: {topics} topic(s) are as declared");
    }
    match applied {
        None => {
            let steps = plan.topics.values().flatten();
            let (possible, others): (Vec<_>, Vec<_>) = steps.partition(|step| can_be_done(step));
            format!("{} step(s) for `tidemill topics apply`, {} that it will not do", possible.len(), others.len())
        }
        Some(applied) => {
            let good = applied.iter().filter(|applied| applied.outcome.is_good()).count();
            format!("{good} step(s) done, {} not done", applied.len() - good)
        }
    }
}

fn can_be_done(step: &Step) -> bool {
    !matches!(step, Step::Refuse { .. } | Step::Grow { allowed: false, .. })
}

/// What `apply` would do with a step.
fn intention(step: &Step) -> &'static str {
    match step {
        Step::Create { .. } => "create",
        Step::Grow { allowed: true, .. } => "grow",
        Step::Grow { allowed: false, .. } => "held back",
        Step::Set { .. } => "change",
        Step::Refuse { .. } => "refused",
    }
}

/// What became of a step, in a word, and the step.
fn result(step: &Step, outcome: &Outcome) -> (&'static str, String) {
    match (outcome, step) {
        (Outcome::Done, Step::Create { .. }) => ("created", step.to_string()),
        (Outcome::Done, Step::Grow { .. }) => ("grown", step.to_string()),
        (Outcome::Done, _) => ("changed", step.to_string()),
        (Outcome::Overtaken, _) => {
            ("present", "somebody else has made it just now; `tidemill topics plan` compares it".to_owned())
        }
        (Outcome::HeldBack | Outcome::Refused, _) => (intention(step), with_way_out(step)),
        (Outcome::Failed(why), _) => ("failed", format!("{step}: {why}")),
    }
}

fn with_way_out(step: &Step) -> String {
    match step {
        Step::Grow { allowed: false, .. } => format!(
            "{step}. Stop what publishes and let the consumers read to the end, then: tidemill topics apply --allow-key-moves"
        ),
        _ => step.to_string(),
    }
}

/// The answer for programs.
fn report(plan: &Plan, applied: Option<&[Applied]>) -> Json {
    let topics = plan.topics.iter().map(|(topic, steps)| {
        let steps: Vec<Json> = match applied {
            None => steps.iter().map(|step| described(step, None)).collect(),
            Some(applied) => applied
                .iter()
                .filter(|applied| applied.topic == *topic)
                .map(|applied| described(&applied.step, Some(&applied.outcome)))
                .collect(),
        };
        json!({ "topic": topic, "steps": steps })
    });
    let warnings: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
    let mut report = json!({ "topics": topics.collect::<Vec<_>>(), "warnings": warnings });
    match applied {
        None => report["differs"] = json!(plan.differs()),
        Some(applied) => report["complete"] = json!(applied.iter().all(|applied| applied.outcome.is_good())),
    }
    report
}

fn described(step: &Step, outcome: Option<&Outcome>) -> Json {
    let mut described = json!(step);
    described["text"] = json!(with_way_out(step));
    if let Some(outcome) = outcome {
        described["outcome"] = match outcome {
            Outcome::Failed(why) => json!({ "failed": why }),
            outcome => json!(outcome),
        };
    }
    described
}
