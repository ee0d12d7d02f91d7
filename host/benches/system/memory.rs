//! What the host has resident while very much waits: in the outbox, with the broker away, and in a topic, with the handler held up.

use crate::Sizes;
use crate::kafka::Apache;
use crate::machine::{self, forget_peak, peak, resident};
use crate::relay::FILL;
use crate::report::{Report, grouped, say};
use crate::site::{PRODUCT, Site, free_address};
use crate::topic::TOPIC;
use std::path::Path;

/// Resident memory in MB.
struct Scene {
    name: &'static str,
    idle: f64,
    now: f64,
    peak: f64,
}

/// Measures and reports.
pub(crate) async fn measure(sizes: &Sizes, report: &mut Report) -> anyhow::Result<()> {
    report.part("memory");
    let site = Site::build().await?;
    site.migrate(&site.handlers("all", &PRODUCT)?).await?;
    let handlers = site.handlers("handlers", &["task-api", "audit"])?;
    machine::warn_if_busy(report);
    // The first start compiles the components, and what that leaves behind would be in the figures of one scene only.
    site.serve(&handlers, &free_address()?, "127.0.0.1:0").await?.stop().await?;
    let scenes = [outbox(&site, &handlers, sizes).await?, topic(&site, &handlers, sizes).await?];
    for Scene { name, idle, now, .. } in &scenes {
        report.line(&format!("- {name}, resident ÷ idle: **{:.2}**", now / idle));
    }
    report.line(&format!(
        "\nThe host with two handlers while {} events of about 400 bytes wait, {} s after the last of them came. The peak is that since it \
         was idle.\n",
        grouped(sizes.waiting as f64),
        sizes.watch.as_secs(),
    ));
    let mb = |mb: f64| format!("{mb:.0} MB");
    let row = |scene: &Scene| vec![scene.name.to_owned(), mb(scene.idle), mb(scene.now), mb(scene.peak)];
    report.table(&["waiting", "idle before", "resident", "peak"], &scenes.iter().map(row).collect::<Vec<_>>());
    site.end().await
}

/// Records wait in Apache Kafka; the table of the handler is locked.
async fn topic(site: &Site, handlers: &Path, sizes: &Sizes) -> anyhow::Result<Scene> {
    say(&format!("memory: {} events in the topic", grouped(sizes.waiting as f64)));
    let broker = Apache::start(&site.path("kafka")).await?;
    site.topics(handlers, &broker.addr).await?;
    let locking = site.client().await?;
    locking.batch_execute("BEGIN; LOCK TABLE todo.audit_log IN SHARE MODE").await?;
    let host = site.serve(handlers, &broker.addr, "127.0.0.1:0").await?;
    let pid = host.pid()?;
    let idle = settle(pid, sizes).await?;
    broker.fill(TOPIC, sizes.waiting, |_| "task.created").await?;
    tokio::time::sleep(sizes.watch).await;
    let scene = Scene { name: "in the topic, the handler held up", idle, now: resident(pid)?, peak: peak(pid)? };
    let rows: i64 = locking.query_one("SELECT count(*) FROM todo.audit_log", &[]).await?.get(0);
    anyhow::ensure!(rows == 0, "{rows} events were handled, and none should be");
    locking.batch_execute("COMMIT").await?;
    host.stop().await?;
    broker.stop().await?;
    Ok(scene)
}

/// Rows wait in the outbox; nobody is at the broker's address.
async fn outbox(site: &Site, handlers: &Path, sizes: &Sizes) -> anyhow::Result<Scene> {
    say(&format!("memory: {} events in the outbox", grouped(sizes.waiting as f64)));
    let client = site.client().await?;
    let host = site.serve(handlers, &free_address()?, "127.0.0.1:0").await?;
    let pid = host.pid()?;
    let idle = settle(pid, sizes).await?;
    client.execute(FILL, &[&i64::try_from(sizes.waiting)?]).await?;
    tokio::time::sleep(sizes.watch).await;
    let scene = Scene { name: "in the outbox, the broker away", idle, now: resident(pid)?, peak: peak(pid)? };
    let rows: i64 = client.query_one("SELECT count(*) FROM tidemill.outbox", &[]).await?.get(0);
    anyhow::ensure!(u64::try_from(rows)? == sizes.waiting, "{rows} events wait");
    host.stop().await?;
    client.batch_execute("TRUNCATE tidemill.outbox").await?;
    Ok(scene)
}

/// The memory of a host that has started and has nothing to do.
async fn settle(pid: u32, sizes: &Sizes) -> anyhow::Result<f64> {
    tokio::time::sleep(sizes.watch / 3).await;
    forget_peak(pid)?;
    resident(pid)
}
