//! A request that needs no database: what the way through the host and a fresh instance costs.

use crate::Sizes;
use crate::create::{Arena, Round, cells, of};
use crate::load::{CONNECTIONS, wrk};
use crate::machine::{self, Meter};
use crate::process::Process;
use crate::report::{Report, say};

/// Measures and reports.
pub(crate) async fn measure(arena: &Arena, sizes: &Sizes, report: &mut Report) -> anyhow::Result<()> {
    report.part("empty");
    let who = [("WASM host", &arena.host), ("native axum", &arena.by_sqlx)];
    let mut rounds: [Vec<Round>; 2] = Default::default();
    for (_, server) in who {
        round(arena, server, sizes.warm_up).await?;
    }
    for number in 1..=sizes.rounds {
        for ((name, server), rounds) in who.into_iter().zip(&mut rounds) {
            say(&format!("empty, round {number} of {}: {name}", sizes.rounds));
            machine::warn_if_busy(report);
            rounds.push(round(arena, server, sizes.empty).await?);
        }
    }
    report.line(&format!(
        "`GET /open`, no token, no database, the same bytes from both, {CONNECTIONS} connections, {} rounds of {} s, medians.\n",
        sizes.rounds,
        sizes.empty.as_secs()
    ));
    let rate = |rounds: &[Round]| of(rounds, |round| round.load.rate);
    let rows: Vec<Vec<String>> = who
        .iter()
        .zip(&rounds)
        .map(|((name, _), all)| {
            let mut row = vec![(*name).to_owned()];
            row.extend(cells(all));
            row.push(format!("{:.2}", rate(&rounds[0]) / rate(all)));
            row
        })
        .collect();
    report.table(
        &["who", "a second", "lowest–highest", "p50", "p99", "CPU server", "CPU PostgreSQL", "CPU load", "WASM ÷ it"],
        &rows,
    );
    let each = of(&rounds[0], |round| round.cpu.server);
    report.line(&format!(
        "By the host's own CPU alone ({each:.0} µs a request), two cores for the host beside the load generator would answer {:.0} a second.",
        2e6 / each
    ));
    Ok(())
}

async fn round(arena: &Arena, server: &Process, time: std::time::Duration) -> anyhow::Result<Round> {
    let meter = Meter::start(Some(server.pid()?), arena.postmaster()?)?;
    let load = wrk(&format!("{}/open", server.said("http")?), time, None).await?;
    Ok(Round { load, cpu: meter.each(load.count)? })
}
