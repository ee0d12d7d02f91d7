//! The commands that only look.

use super::{Config, Name, finished, handler, json, pool, show, text};
use crate::engine::short;
use crate::fleet::{Diff, Difference};
use crate::store::Pool;
use crate::store::fleet::{FleetView, RevisionEntry};
use clap::{Arg, ArgMatches, Command};

pub(super) fn commands() -> Vec<Command> {
    let revision = |name: &'static str| Arg::new(name).value_name("REV").required(true).help("The beginning of its name");
    vec![
        finished(Command::new("ps").about("What is deployed, and which hosts run it"), Name::Fleet),
        finished(
            Command::new("revisions")
                .about("What was ever deployed of a handler, newest first")
                .arg(handler("Its name [default: all]")),
            Name::Fleet,
        ),
        finished(
            Command::new("diff")
                .about("What differs between two revisions: manifest, component, migrations")
                .args([revision("from"), revision("to")]),
            Name::Fleet,
        ),
    ]
}

pub(super) async fn run(name: &str, matches: &ArgMatches, config: Config) -> anyhow::Result<()> {
    let pool = pool(&config)?;
    match name {
        "ps" => {
            let view = FleetView::read(&pool).await?;
            if json(matches) { show::document(&view) } else { show::print(&fleet(&view)) }
        }
        "revisions" => {
            let handler = matches.get_one::<String>("handler").map(String::as_str);
            let entries = RevisionEntry::list(&pool, handler, "").await?;
            if json(matches) { show::document(&entries) } else { show::print(&revisions(&pool, handler, &entries).await?) }
        }
        _ => {
            let diff = Diff::read(&pool, text(matches, "from"), text(matches, "to")).await?;
            if json(matches) { show::document(&diff) } else { show::print(&difference(&diff)) }
        }
    }
}

fn fleet(view: &FleetView) -> String {
    let mut text = String::new();
    match view.handlers.is_empty() {
        true => text += "no handler is active: `tidemill deploy DIR`\n",
        false => {
            let rows = view.handlers.iter().map(|one| {
                let (since, note) = (show::distance(one.since), show::or_nothing(&one.note));
                vec![
                    one.handler.clone(),
                    one.app.clone(),
                    short(&one.revision).to_owned(),
                    one.state.clone(),
                    since,
                    one.by.clone(),
                    note,
                ]
            });
            text += &show::table(&["HANDLER", "APP", "REVISION", "STATE", "SINCE", "BY", "NOTE"], rows);
        }
    }
    text += "\n";
    match view.replicas.is_empty() {
        true => text += "no host runs\n",
        false => {
            let rows = view.replicas.iter().map(|one| {
                let loaded = match one.loaded {
                    Some(version) if version == view.version => format!("{version} (newest)"),
                    Some(version) => format!("{version} (of {})", view.version),
                    None => "nothing yet".to_owned(),
                };
                let beat = format!("{:.1} s ago{}", one.beat_age_ms as f64 / 1e3, if one.alive { "" } else { ", dead" });
                let name = format!("{}/{}", one.host, one.pid);
                vec![name, one.program.clone(), show::distance(one.started_at), beat, loaded, show::or_nothing(&one.trouble)]
            });
            text += &show::table(&["REPLICA", "PROGRAM", "UP", "HEARTBEAT", "LOADED", "TROUBLE"], rows);
        }
    }
    if let Some(under_way) = &view.candidate {
        let what = under_way
            .handlers
            .iter()
            .zip(&under_way.revisions)
            .map(|(handler, revision)| format!("{handler} {}", short(revision)));
        let what = what.collect::<Vec<_>>().join(", ");
        text +=
            &format!("\n{} under way for {}, by {}: {what}\n", under_way.action, show::distance(under_way.since), under_way.by);
    }
    text
}

async fn revisions(pool: &Pool, handler: Option<&str>, entries: &[RevisionEntry]) -> anyhow::Result<String> {
    if entries.is_empty() {
        let all = RevisionEntry::list(pool, None, "").await?;
        let near = handler.and_then(|handler| crate::config::nearest(handler, all.iter().map(|entry| entry.handler.as_str())));
        match (handler, near) {
            (Some(handler), Some(near)) => anyhow::bail!("nothing was ever deployed of `{handler}`; did you mean `{near}`?"),
            (Some(handler), None) => {
                anyhow::bail!("nothing was ever deployed of `{handler}`; `tidemill revisions` lists everything")
            }
            (None, _) => return Ok("nothing was ever deployed: `tidemill deploy DIR`\n".to_owned()),
        }
    }
    let rows = entries.iter().map(|one| {
        vec![
            one.handler.clone(),
            short(&one.revision).to_owned(),
            show::or_nothing(&one.state),
            crate::config::units::display_size(one.size.unsigned_abs()),
            show::distance(one.created_at),
            one.created_by.clone(),
            one.active_at.map(show::distance).unwrap_or_default(),
            show::or_nothing(&one.note),
        ]
    });
    Ok(show::table(&["HANDLER", "REVISION", "STATE", "SIZE", "AGE", "BY", "LAST ACTIVE", "NOTE"], rows))
}

fn difference(diff: &Diff) -> String {
    if diff.is_empty() {
        return "nothing differs\n".to_owned();
    }
    let mut text = format!("- {} {}\n+ {} {}\n", diff.from_handler, short(&diff.from), diff.to_handler, short(&diff.to));
    for (part, lines) in [("manifest", &diff.manifest), ("component", &diff.component), ("migrations", &diff.migrations)] {
        if !lines.is_empty() {
            text += &format!("\n{part}\n");
            text.extend(lines.iter().map(|Difference { sign, line }| format!("{sign} {line}\n")));
        }
    }
    text
}
