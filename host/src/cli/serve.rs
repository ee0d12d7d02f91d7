//! `tidemill serve`: the host against a database and brokers that exist. Nothing embedded.

use super::host::{Host, Setup, Signals};
use super::plan::Plan;
use crate::config::Config;

pub(super) async fn run(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let setup = Setup {
        database_url: config.database_url()?.expose().to_owned(),
        kafka: config.kafka()?.clone(),
        key: config.jwt_hs256_key()?.clone(),
        admin_token: config.admin_token().cloned(),
        plan: Plan::load(config.handlers()?, config.installation())?,
    };
    let host = Host::start(&config, setup).await?;
    tracing::info!(http = %host.http, admin = %host.admin, "listening");
    let waited = host.wait_for_database(&mut signals).await;
    if let Ok(true) = waited {
        println!("ready http=http://{} admin=http://{}", host.http, host.admin);
        signals.wait().await;
    }
    waited.map(drop).and(host.stop().await)
}
