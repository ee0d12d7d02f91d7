//! A user's tasks through the task API, while the table has few tasks of others and very many.

use crate::Sizes;
use crate::create::{Round, cells, of};
use crate::load::{CONNECTIONS, wrk};
use crate::machine::{self, Meter};
use crate::report::{Report, grouped, ratio, say};
use crate::site::{PRODUCT, Site, free_address};
use tokio_postgres::Client;

/// Tasks of each user; the tokens are for the first of them.
const EACH: u64 = 100;
/// Users that share the requests.
const USERS: usize = 100;
/// What is asked for.
const QUERIES: [(&str, &str); 4] = [
    ("the newest 20", "/api/tasks?limit=20"),
    ("the next due 20", "/api/tasks?limit=20&sort=due_date"),
    ("open ones of a tag", "/api/tasks?limit=20&status=open&tag=home"),
    ("with a word", "/api/tasks?limit=20&text=plants"),
];
/// Tasks number `$1` to `$2`, each user's spread over the whole range.
const FILL: &str = "\
    INSERT INTO todo.tasks (id, user_id, title, description, tags, due_date, created_at, updated_at, completed_at) \
    SELECT (lpad(to_hex(1700000000000 + n), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid, \
        'user' || n % greatest($2::int8 / 100, 100) + 1, CASE n % 7 WHEN 0 THEN 'Water the plants' ELSE 'Call number ' || n END, repeat('x', 100), \
        CASE n % 3 WHEN 0 THEN ARRAY['home'] ELSE ARRAY['work', 'calls'] END, \
        CASE n % 4 WHEN 0 THEN NULL ELSE date '2027-01-01' + (n % 700)::int END, \
        to_timestamp(1700000000 + n / 1000.0), to_timestamp(1700000000 + n / 1000.0), \
        CASE n % 5 WHEN 0 THEN to_timestamp(1700001000 + n / 1000.0) END \
    FROM generate_series($1::int8, $2::int8) n";

/// Measures and reports.
pub(crate) async fn measure(sizes: &Sizes, report: &mut Report) -> anyhow::Result<()> {
    report.part("list");
    let site = Site::build().await?;
    site.migrate(&site.handlers("all", &PRODUCT)?).await?;
    let client = site.client().await?;
    let host = site.serve(&site.handlers("handlers", &["task-api"])?, &free_address()?, "127.0.0.1:0").await?;
    let http = host.said("http")?;
    let tokens = site.tokens(USERS)?;
    let mut measured: Vec<[Round; QUERIES.len()]> = Vec::new();
    for tasks in [sizes.tasks_few, sizes.tasks_many] {
        say(&format!("list: {} tasks", grouped(tasks as f64)));
        fill(&client, tasks).await?;
        machine::warn_if_busy(report);
        let mut rounds = Vec::new();
        for (number, (_, path)) in QUERIES.iter().enumerate() {
            let script = site.path(&format!("list-{number}.lua"));
            std::fs::write(&script, lua(path, &tokens))?;
            wrk(http, sizes.warm_up, Some(&script)).await?;
            let meter = Meter::start(Some(host.pid()?), site.postmaster()?)?;
            let load = wrk(http, sizes.empty, Some(&script)).await?;
            rounds.push(Round { cpu: meter.each(load.count)?, load });
        }
        measured.push(rounds.try_into().map_err(|_| anyhow::anyhow!("a query is missing"))?);
    }
    report.line(&format!(
        "`GET /api/tasks` by {USERS} users of {EACH} tasks each, {CONNECTIONS} connections, {} s each, with {} and with {} tasks in the table \
         (each user's spread over all of it).\n",
        sizes.empty.as_secs(),
        grouped(sizes.tasks_few as f64),
        grouped(sizes.tasks_many as f64),
    ));
    let mut rows = Vec::new();
    for (number, (name, _)) in QUERIES.iter().enumerate() {
        for (tasks, rounds) in [sizes.tasks_few, sizes.tasks_many].iter().zip(&measured) {
            let round = std::slice::from_ref(&rounds[number]);
            rows.push([vec![format!("{name}, {} tasks", grouped(*tasks as f64))], cells(round)].concat());
        }
    }
    report.table(&["list", "a second", "lowest–highest", "p50", "p99", "CPU server", "CPU PostgreSQL", "CPU load"], &rows);
    for (number, (name, _)) in QUERIES.iter().enumerate() {
        let [few, many] = [0, 1].map(|size| of(std::slice::from_ref(&measured[size][number]), |round| round.load.p50));
        report.line(&format!("- {name}: p50 with very many ÷ with few: **{}**", ratio([(many, few)])));
    }
    drop(client);
    host.stop().await?;
    site.end().await
}

/// Fills the table anew. Of few tasks and of many each user has [`EACH`].
async fn fill(client: &Client, tasks: u64) -> anyhow::Result<()> {
    client.batch_execute("TRUNCATE todo.tasks CASCADE").await?;
    client.execute(FILL, &[&1_i64, &i64::try_from(tasks)?]).await?;
    client.batch_execute("VACUUM ANALYZE todo.tasks").await?;
    client.batch_execute("CHECKPOINT").await?;
    Ok(())
}

/// A script of wrk that asks for the same list with one token after the other.
fn lua(path: &str, tokens: &[String]) -> String {
    let tokens: Vec<String> = tokens.iter().map(|token| format!("  \"{token}\",\n")).collect();
    format!(
        "local tokens = {{\n{}}}\nlocal requests, next = {{}}, 0\n\
         function init()\n  for i, token in ipairs(tokens) do\n    \
         wrk.headers[\"authorization\"] = \"Bearer \" .. token\n    requests[i] = wrk.format(\"GET\", \"{path}\")\n  end\nend\n\
         function request()\n  next = next % #requests + 1\n  return requests[next]\nend\n",
        tokens.concat()
    )
}
