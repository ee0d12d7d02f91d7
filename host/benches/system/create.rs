//! Task create: through WASM, by the native twins, by pgbench with the same statements, in alternating rounds.

use crate::Sizes;
use crate::load::{CONNECTIONS, Load, pgbench, wrk};
use crate::machine::{self, Meter, Spent};
use crate::process::Process;
use crate::report::{Report, grouped, median, ms, say};
use crate::site::{PRODUCT, Site, free_address};
use crate::twin::{self, statements};
use anyhow::Context;
use std::path::PathBuf;
use std::time::Duration;
use tokio::process::Command;

/// So many users share the load: the events of one user are ordered by a lock that is held to the commit.
const USERS: usize = 1_000;
const BODY: &str = r#"{"title": "Water the plants", "tags": ["home"]}"#;

/// Everything that `create` and `empty` compare, running.
pub(crate) struct Arena {
    site: Site,
    client: tokio_postgres::Client,
    /// `tidemill serve`.
    pub(crate) host: Process,
    /// The twin on sqlx.
    pub(crate) by_sqlx: Process,
    by_unit: Process,
    /// Where `wrk` finds the requests to send.
    requests: PathBuf,
    sql: PathBuf,
}

impl Arena {
    /// Starts PostgreSQL, the host and the twins.
    pub(crate) async fn build() -> anyhow::Result<Self> {
        say("starting PostgreSQL, the host and the native twins");
        let site = Site::build().await?;
        // The product's migrations name the roles of all its handlers, which are not to run here.
        site.migrate(&site.handlers("all", &[&PRODUCT[..], &["probe"]].concat())?).await?;
        let handlers = site.handlers("handlers", &["task-api", "probe"])?;
        let host = site.serve(&handlers, &free_address()?, "127.0.0.1:0").await?;
        let open = reqwest::get(format!("{}/open", host.said("http")?)).await?.error_for_status()?.text().await?;
        let by_sqlx = start_twin(&site, "sqlx", &open).await?;
        let by_unit = start_twin(&site, "unit", &open).await?;
        let requests = site.path("create.lua");
        std::fs::write(&requests, lua(&site.tokens(USERS)?))?;
        let sql = site.path("create.sql");
        std::fs::write(&sql, statements::PGBENCH)?;
        let client = site.client().await?;
        Ok(Self { site, client, host, by_sqlx, by_unit, requests, sql })
    }

    /// Ends everything.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        for process in [self.host, self.by_sqlx, self.by_unit] {
            process.stop().await?;
        }
        self.site.end().await
    }

    /// The first process of PostgreSQL.
    pub(crate) fn postmaster(&self) -> anyhow::Result<u32> {
        self.site.postmaster()
    }

    async fn run(&self, who: Who, time: Duration) -> anyhow::Result<Load> {
        let server = match who {
            Who::Wasm => &self.host,
            Who::Sqlx => &self.by_sqlx,
            Who::Unit => &self.by_unit,
            Who::Pgbench => return self.pgbench(time).await,
        };
        wrk(&format!("{}/api/tasks", server.said("http")?), time, Some(&self.requests)).await
    }

    async fn pgbench(&self, time: Duration) -> anyhow::Result<Load> {
        // The first pipeline is prepared before it is sent, so the session begins with the handler's role and path.
        let options = format!("-c role={} -c search_path=todo,pg_temp", statements::ROLE);
        let value = format!("{{\"specversion\":\"1.0\",\"data\":\"{}\"}}", "x".repeat(560));
        let variables = [("n", "0"), ("title", "Water the plants"), ("tags", "{home}"), ("value", &value)];
        pgbench(self.site.database_url(), &options, time, &self.sql, &variables).await
    }

    fn pid(&self, who: Who) -> anyhow::Result<Option<u32>> {
        match who {
            Who::Wasm => self.host.pid().map(Some),
            Who::Sqlx => self.by_sqlx.pid().map(Some),
            Who::Unit => self.by_unit.pid().map(Some),
            Who::Pgbench => Ok(None),
        }
    }

    /// Gives the relay more than it takes at once: with no broker it then waits, and reads nothing of what the rounds publish.
    async fn fill_relay(&self) -> anyhow::Result<()> {
        let fill = "INSERT INTO tidemill.outbox (bucket, topic, key, value) SELECT 0, 'todo.task-events', '', '' FROM generate_series(1, 12000)";
        self.client.batch_execute(fill).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(())
    }

    /// One round, on empty tables.
    async fn round(&self, who: Who, time: Duration) -> anyhow::Result<Round> {
        self.client.batch_execute("TRUNCATE tidemill.outbox, todo.tasks CASCADE").await?;
        self.client.batch_execute("CHECKPOINT").await?;
        let meter = Meter::start(self.pid(who)?, self.postmaster()?)?;
        let load = self.run(who, time).await.with_context(|| who.name())?;
        let cpu = meter.each(load.count)?;
        let rows = self
            .client
            .query_one("SELECT (SELECT count(*) FROM todo.tasks), (SELECT count(*) FROM tidemill.outbox)", &[])
            .await?;
        let (tasks, events): (i64, i64) = (rows.get(0), rows.get(1));
        anyhow::ensure!(
            tasks == events && tasks as f64 >= load.count,
            "{}: {tasks} tasks, {events} events, {} answers",
            who.name(),
            load.count
        );
        Ok(Round { load, cpu })
    }
}

/// Who creates tasks.
#[derive(Debug, Clone, Copy)]
enum Who {
    Wasm,
    Sqlx,
    Unit,
    Pgbench,
}

impl Who {
    const ALL: [Self; 4] = [Self::Wasm, Self::Sqlx, Self::Unit, Self::Pgbench];

    fn name(self) -> &'static str {
        match self {
            Self::Wasm => "WASM host",
            Self::Sqlx => "native, axum + sqlx",
            Self::Unit => "native, axum + the host's unit of work",
            Self::Pgbench => "pgbench",
        }
    }
}

/// One round of one contestant.
pub(crate) struct Round {
    /// What the load generator says.
    pub(crate) load: Load,
    /// CPU microseconds a request.
    pub(crate) cpu: Spent,
}

/// Measures and reports.
pub(crate) async fn measure(arena: &Arena, sizes: &Sizes, report: &mut Report) -> anyhow::Result<()> {
    report.part("create");
    let (resident, took) = (machine::resident(arena.host.pid()?)?, arena.host.took);
    arena.fill_relay().await?;
    for who in Who::ALL {
        arena.round(who, sizes.warm_up).await?;
    }
    let mut rounds: [Vec<Round>; 4] = Default::default();
    for number in 1..=sizes.rounds {
        for (who, rounds) in Who::ALL.into_iter().zip(&mut rounds) {
            say(&format!("create, round {number} of {}: {}", sizes.rounds, who.name()));
            machine::warn_if_busy(report);
            rounds.push(arena.round(who, sizes.create).await?);
        }
    }
    report.line(&format!(
        "`POST /api/tasks`, {CONNECTIONS} keep-alive connections, {USERS} users, {} rounds of {} s, medians. The broker's address is dead, \
         so that the relay idles. CPU is time of all cores for each request.\n",
        sizes.rounds,
        sizes.create.as_secs(),
    ));
    let rates: Vec<f64> = rounds.iter().map(|rounds| of(rounds, |round| round.load.rate)).collect();
    let rows: Vec<Vec<String>> = Who::ALL
        .iter()
        .zip(&rounds)
        .map(|(who, rounds)| {
            let mut row = vec![who.name().to_owned()];
            row.extend(cells(rounds));
            row.push(format!("{:.2}", rates[0] / of(rounds, |round| round.load.rate)));
            row
        })
        .collect();
    report.table(
        &["who", "a second", "lowest–highest", "p50", "p99", "CPU server", "CPU PostgreSQL", "CPU load", "WASM ÷ it"],
        &rows,
    );
    report.line(&format!(
        "Idle host with two handlers: {resident:.0} MB resident; ready {:.1} s after its start with nothing compiled.",
        took.as_secs_f64()
    ));
    Ok(())
}

/// Rate, spread, percentiles and CPU of one contestant.
pub(crate) fn cells(rounds: &[Round]) -> Vec<String> {
    let rates = || rounds.iter().map(|round| round.load.rate);
    let time = |micros: f64| if micros.is_nan() { "–".to_owned() } else { ms(micros) };
    let cpu = |pick: fn(&Round) -> f64| match of(rounds, pick) {
        0.0 => "–".to_owned(),
        micros => format!("{micros:.0} µs"),
    };
    vec![
        grouped(of(rounds, |round| round.load.rate)),
        format!("{}–{}", grouped(rates().fold(f64::MAX, f64::min)), grouped(rates().fold(0.0, f64::max))),
        time(of(rounds, |round| round.load.p50)),
        time(of(rounds, |round| round.load.p99)),
        cpu(|round| round.cpu.server),
        cpu(|round| round.cpu.postgres),
        cpu(|round| round.cpu.load),
    ]
}

/// The median of a figure over the rounds.
pub(crate) fn of(rounds: &[Round], pick: fn(&Round) -> f64) -> f64 {
    median(rounds.iter().map(pick))
}

async fn start_twin(site: &Site, kind: &str, open: &str) -> anyhow::Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["twin", kind]).env(twin::DATABASE_URL, site.database_url()).env(twin::OPEN, open);
    command.env(twin::KEY, site.key()?.expose());
    Process::start(command, &site.path(&format!("twin-{kind}.log"))).await
}

/// A script of wrk that sends one request for each token in turn.
pub(crate) fn lua(tokens: &[String]) -> String {
    let tokens: Vec<String> = tokens.iter().map(|token| format!("  \"{token}\",\n")).collect();
    format!(
        "local tokens = {{\n{}}}\nlocal requests, next = {{}}, 0\n\
         function init()\n  for i, token in ipairs(tokens) do\n    \
         wrk.headers[\"authorization\"] = \"Bearer \" .. token\n    wrk.headers[\"content-type\"] = \"application/json\"\n    \
         requests[i] = wrk.format(\"POST\", nil, nil, [[{BODY}]])\n  end\nend\n\
         function request()\n  next = next % #requests + 1\n  return requests[next]\nend\n",
        tokens.concat()
    )
}
