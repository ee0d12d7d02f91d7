//! `tidemill serve`: the host against a database and brokers that exist. Nothing embedded.

use super::host::{Claim, Host, Setup, Signals};
use super::plan::Plan;
use crate::config::Config;
use crate::fleet::Bundle;

pub(super) async fn run(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let setup = Setup {
        database_url: config.database_url()?.expose().to_owned(),
        kafka: config.kafka()?.clone(),
        key: config.jwt_hs256_key()?.clone(),
        admin_token: config.admin_token().cloned(),
    };
    // Read before anything starts: what is wrong in the folder is said at once.
    let bundles = match config.handlers_if_given() {
        Some(folder) => Plan::load(folder, config.installation())?.bundles(config.revision_size())?,
        None => Vec::new(),
    };
    let mut host = Host::start(&config, setup).await?;
    tracing::info!(http = %host.http, admin = %host.admin, "listening");
    match run_host(&mut host, &bundles, &mut signals).await {
        Ok(Some(broken)) => Err(broken),
        ran => ran.map(drop).and(host.stop().await),
    }
}

/// Runs until the process is told to stop; what it returns has ended it by itself.
async fn run_host(host: &mut Host, bundles: &[Bundle], signals: &mut Signals) -> anyhow::Result<Option<anyhow::Error>> {
    if !host.wait_for_database(signals).await? || !host.begin(bundles, Claim::Beside, None, signals).await? {
        return Ok(None);
    }
    println!("ready http=http://{} admin=http://{}", host.http, host.admin);
    tokio::select! {
        () = signals.wait() => Ok(None),
        broken = host.broken() => Ok(Some(broken)),
    }
}
