//! Deploys: one every second under load, over three replicas, fifty handlers at a start, and the first call after a switch.

use crate::Sizes;
use crate::create::lua;
use crate::load::{CONNECTIONS, Load, wrk};
use crate::machine;
use crate::process::Process;
use crate::report::{Report, grouped, median, ms, ratio, say};
use crate::site::{PRODUCT, Site};
use std::path::Path;
use std::time::{Duration, Instant};
use tidemill::fleet::{Administration, Bundle, Deployer, Order, Report as Deployed};
use tidemill::manifest;
use tidemill::store::operate::{Actor, Via};

const USERS: usize = 1_000;
/// Switches over three replicas, and after each so many calls of which the first and the tenth are compared.
const SWITCHES: usize = 30;
const CALLS: usize = 10;
/// Between a switch and the first call, and between two calls without a switch.
const REST: Duration = Duration::from_millis(100);
const FIFTY: usize = 50;
const MOST: u64 = 64 << 20;

/// Measures and reports.
pub(crate) async fn measure(sizes: &Sizes, report: &mut Report) -> anyhow::Result<()> {
    report.part("deploys");
    machine::warn_if_busy(report);
    under_load(sizes, report).await?;
    over_replicas(report).await?;
    fifty(report).await
}

/// Two revisions of every handler of a folder: a comment tells them apart.
fn revisions(folder: &Path) -> anyhow::Result<[Vec<Bundle>; 2]> {
    let loaded = manifest::load_dir(folder)?;
    let of = |word: &str| -> anyhow::Result<Vec<Bundle>> {
        let one = |loaded: &manifest::Loaded| {
            let mut changed = loaded.clone();
            changed.text += &format!("# {word}\n");
            Bundle::read(&changed, MOST)
        };
        loaded.iter().map(one).collect()
    };
    Ok([of("tick")?, of("tock")?])
}

/// The handlers of a folder with components that no cache has: an empty custom section with this number makes them others.
fn unseen(folder: &Path, number: u32) -> anyhow::Result<Vec<Bundle>> {
    let of = |loaded: manifest::Loaded| {
        let component = [std::fs::read(&loaded.component)?, section(&format!("c{number:03}"))].concat();
        let origin = loaded.file.display().to_string();
        Bundle::new(origin, loaded.text, component, loaded.migrations, MOST)
    };
    manifest::load_dir(folder)?.into_iter().map(of).collect()
}

/// An empty custom section of a component, by name (four bytes or so).
fn section(name: &str) -> Vec<u8> {
    let length = name.len() as u8;
    [&[0, length + 1, length][..], name.as_bytes()].concat()
}

fn order() -> anyhow::Result<Order> {
    Ok(Order { actor: Actor::new("bench", Via::Cli)?, note: None })
}

async fn deploy((deployer, admin): &(Deployer, Administration), bundles: &[Bundle]) -> anyhow::Result<(Deployed, Duration)> {
    let begun = Instant::now();
    let made = deployer.deploy(bundles, &order()?, Some(admin)).await?;
    Ok((made, begun.elapsed()))
}

async fn under_load(sizes: &Sizes, report: &mut Report) -> anyhow::Result<()> {
    say("deploys: starting `tidemill dev`");
    let mut site = Site::build().await?;
    let handlers = site.handlers("handlers", &PRODUCT)?;
    let requests = site.path("create.lua");
    std::fs::write(&requests, lua(&site.tokens(USERS)?))?;
    let product = site.dev(&handlers).await?;
    let url = format!("{}/api/tasks", product.said("http")?);
    let (both, driver) = (revisions(&handlers)?, site.deployer()?);
    for bundles in &both {
        deploy(&driver, bundles).await?;
    }
    let warm = wrk(&url, sizes.warm_up, Some(&requests)).await?;
    let (mut without, mut with, mut times) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=sizes.rounds {
        say(&format!("deploys: load without any, round {round} of {}", sizes.rounds));
        without.push(wrk(&url, sizes.deploys, Some(&requests)).await?);
        say(&format!("deploys: load with one every second, round {round} of {}", sizes.rounds));
        let (load, switched) =
            tokio::join!(wrk(&url, sizes.deploys, Some(&requests)), switching(&driver, &both, sizes.deploys, &mut times));
        with.push(load?);
        switched?;
    }
    say(&format!("deploys: {} s of load while components compile", sizes.deploys.as_secs()));
    let (mut compiled, mut busy) = (0u32, Duration::ZERO);
    let compiling = async {
        let until = Instant::now() + sizes.deploys - Duration::from_secs(1);
        while Instant::now() < until {
            let (made, took) = deploy(&driver, &unseen(&handlers, compiled)?).await?;
            anyhow::ensure!(made.changed && made.replicas.iter().all(|replica| replica.loaded), "{made:?}");
            (compiled, busy) = (compiled + 1, busy + took);
        }
        anyhow::Ok(())
    };
    let (beside, compiling) = tokio::join!(wrk(&url, sizes.deploys, Some(&requests)), compiling);
    let beside = beside?;
    compiling?;
    let answered = [&warm, &beside].into_iter().chain(&without).chain(&with).map(|load| load.count).sum();
    let runs = 2 * sizes.rounds + 2;
    let exact = settled(&site, answered, runs * CONNECTIONS).await?;
    let row = |name: &str, loads: &[Load]| {
        let of = |figure: fn(&Load) -> f64| median(loads.iter().map(figure));
        let count = loads.iter().map(|load| load.count).sum();
        vec![name.to_owned(), grouped(of(|load| load.rate)), grouped(count), ms(of(|load| load.p50)), ms(of(|load| load.p99))]
    };
    report.line(&format!(
        "{CONNECTIONS} connections, {} alternating rounds of {} s, medians.\n",
        sizes.rounds,
        sizes.deploys.as_secs()
    ));
    report.table(
        &["task create", "a second", "requests", "p50", "p99"],
        &[
            row("without deploys", &without),
            row("with a switch every second", &with),
            row("while components compile without a pause", &[beside]),
        ],
    );
    let pairs =
        |figure: fn(&Load) -> f64| ratio(with.iter().zip(&without).map(|(with, without)| (figure(with), figure(without))));
    report.line(&format!(
        "\n- p99 with a switch every second ÷ without: **{}** (target: at most 1.5); rate: {}",
        pairs(|load| load.p99),
        pairs(|load| load.rate)
    ));
    report.line(&format!(
        "- {} deploys of five handlers each, {} each (median; longest {}). None failed; {exact}.",
        times.len(),
        ms(median(times.iter().copied())),
        ms(times.iter().copied().fold(0.0, f64::max)),
    ));
    let usual = |figure: fn(&Load) -> f64| median(without.iter().map(figure));
    report.line(&format!(
        "- {compiled} deploys of five new components each, {:.1} s each: p99 beside compiling ÷ without: {:.2}, rate {:.2}.\n",
        busy.as_secs_f64() / f64::from(compiled.max(1)),
        beside.p99 / usual(|load| load.p99),
        beside.rate / usual(|load| load.rate),
    ));
    product.stop().await?;
    site.end().await
}

/// Deploys the two sets of revisions in turn, one every second.
async fn switching(
    driver: &(Deployer, Administration),
    both: &[Vec<Bundle>; 2],
    time: Duration,
    times: &mut Vec<f64>,
) -> anyhow::Result<()> {
    let until = Instant::now() + time - Duration::from_secs(1);
    for bundles in both.iter().cycle() {
        if Instant::now() >= until {
            break;
        }
        let (made, took) = deploy(driver, bundles).await?;
        // The first one of a round may find what the round before has left.
        anyhow::ensure!(made.replicas.iter().all(|replica| replica.loaded), "{made:?}");
        if made.changed {
            times.push(took.as_secs_f64() * 1e6);
        }
        tokio::time::sleep(Duration::from_secs(1).saturating_sub(took)).await;
    }
    Ok(())
}

/// Waits until every task has its audit row, and counts what is lost, repeated or failed. So many requests were answered with success; so many at most that were under
/// way when the load generator stopped may have left a task, too.
async fn settled(site: &Site, answered: f64, under_way: usize) -> anyhow::Result<String> {
    let client = site.client().await?;
    let sql = "SELECT (SELECT count(*) FROM todo.tasks), (SELECT count(*) FROM todo.audit_log), \
               (SELECT count(DISTINCT task_id) FROM todo.audit_log), (SELECT count(*) FROM tidemill.dead_letters)";
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        let row = client.query_one(sql, &[]).await?;
        let (tasks, rows, distinct, dead): (i64, i64, i64, i64) = (row.get(0), row.get(1), row.get(2), row.get(3));
        if rows >= tasks || Instant::now() >= until {
            let (lost, repeated) = (tasks - distinct, rows - distinct);
            anyhow::ensure!((lost, repeated, dead) == (0, 0, 0), "{lost} events lost, {repeated} repeated, {dead} given up");
            let unanswered = tasks as f64 - answered;
            anyhow::ensure!(unanswered >= 0.0, "{} acknowledged requests lost", -unanswered);
            anyhow::ensure!(unanswered <= under_way as f64, "{unanswered} tasks more than were asked for");
            return Ok(format!(
                "of {} acknowledged requests and {} events 0 were lost, 0 repeated, 0 given up",
                grouped(answered),
                grouped(tasks as f64)
            ));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn over_replicas(report: &mut Report) -> anyhow::Result<()> {
    say("deploys: three replicas");
    let site = Site::build().await?;
    let handlers = site.handlers("handlers", &["probe"])?;
    site.migrate(&handlers).await?;
    let mut replicas: Vec<Process> = Vec::new();
    for name in ["one", "two", "three"] {
        replicas.push(site.serve_active(name).await?);
    }
    let (both, driver) = (revisions(&handlers)?, site.deployer()?);
    let (cold, _) = deploy(&driver, &both[0]).await?;
    deploy(&driver, &both[1]).await?;
    let url = format!("{}/open", replicas[0].said("http")?);
    let client = reqwest::Client::builder().no_proxy().build()?;
    let (mut switches, mut rollbacks) = (Vec::new(), Vec::new());
    let (mut first, mut later, mut tenth, mut rested) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let call = async || {
        let begun = Instant::now();
        client.get(&url).send().await?.error_for_status()?.bytes().await?;
        anyhow::Ok(begun.elapsed().as_secs_f64() * 1e6)
    };
    for number in 0..SWITCHES {
        let (made, _) = deploy(&driver, &both[number % 2]).await?;
        switches.push((made.switched_ms + made.loaded_ms) * 1e3);
        // At once, while three replicas on this machine put the old revision away, and when they have.
        match number / 2 % 2 {
            0 => first.push(call().await?),
            _ => {
                tokio::time::sleep(REST).await;
                later.push(call().await?);
            }
        }
        for _ in 2..CALLS {
            call().await?;
        }
        tenth.push(call().await?);
        // What a call costs that comes after the same time in which nothing was asked, without a switch.
        tokio::time::sleep(REST).await;
        rested.push(call().await?);
    }
    for _ in 0..SWITCHES {
        let begun = Instant::now();
        let made = driver.0.rollback("probe", None, &order()?).await?;
        anyhow::ensure!(made.changed && made.replicas.len() == 3, "{made:?}");
        rollbacks.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    let row = |name: &str, times: &[f64]| {
        vec![name.to_owned(), ms(median(times.iter().copied())), ms(times.iter().copied().fold(0.0, f64::max))]
    };
    let rows = [
        row("switch of a compiled revision, until all three replicas work by it", &switches),
        row("rollback, from the call to its answer", &rollbacks),
        row("first call after a switch, at once", &first),
        row("first call after a switch, 100 ms later", &later),
        row("a call after 100 ms without any, and no switch", &rested),
        row("tenth call in a row", &tenth),
    ];
    report.table(&["three replicas", "median", "longest"], &rows);
    report.line(&format!(
        "The first deploy, which three replicas compile at once on this machine, was prepared in {:.0} ms.\n",
        cold.prepared_ms
    ));
    for replica in replicas {
        replica.stop().await?;
    }
    site.end().await
}

async fn fifty(report: &mut Report) -> anyhow::Result<()> {
    say("deploys: fifty handlers");
    let site = Site::build().await?;
    let handlers = site.handlers("handlers", &["probe"])?;
    site.migrate(&handlers).await?;
    let (component, text) =
        (std::fs::read(handlers.join("probe/probe.wasm"))?, std::fs::read_to_string(handlers.join("probe/handler.toml"))?);
    let many = site.path("many");
    for number in 0..FIFTY {
        let folder = many.join(format!("probe-{number}"));
        std::fs::create_dir_all(&folder)?;
        let mut manifest: toml::Table = text.parse()?;
        manifest.insert("name".into(), format!("probe-{number}").into());
        // The tables are there, and a group or a route is one handler's.
        for key in ["migrations", "topic", "topics"] {
            manifest.remove(key);
        }
        let route = toml::Table::from_iter([
            ("method".to_owned(), "GET".into()),
            ("path".to_owned(), format!("/open/{number}").into()),
            ("auth".to_owned(), "none".into()),
        ]);
        manifest.insert("http".into(), toml::Value::Array(vec![route.into()]));
        std::fs::write(folder.join("handler.toml"), manifest.to_string())?;
        // Each its own component.
        std::fs::write(folder.join("probe.wasm"), [component.clone(), section(&format!("n{number:02}"))].concat())?;
    }
    let bundles =
        manifest::load_dir(&many)?.iter().map(|loaded| Bundle::read(loaded, MOST)).collect::<anyhow::Result<Vec<_>>>()?;
    let first = site.serve_active("host").await?;
    let (made, _) = deploy(&site.deployer()?, &bundles).await?;
    first.stop().await?;
    let again = site.serve_active("host").await?;
    report.line(&format!(
        "{FIFTY} handlers, each another component: prepared in {:.1} s (compiled), and with the compiled code kept, a host is ready {:.0} ms after its start.",
        made.prepared_ms / 1e3,
        again.took.as_secs_f64() * 1e3
    ));
    again.stop().await?;
    site.end().await
}
