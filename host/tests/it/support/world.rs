//! One test's world: a database, a broker, a folder of handlers and a host.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use serde_json::{Value as Json, json};
use tokio_postgres::Client;

use super::handlers::Handlers;
use super::host::{Run, succeeded};
use super::http::{KEY, token};
use super::postgres::Database;
use super::schemas::Checked;
use super::{Answer, Broker, Host, Kind, Proxy, process, records};

/// Everything that a test needs. Prepared by `probe` or `todo`, changed as the test likes, then started.
pub struct World {
    events: Option<Checked>,
    /// The test's own database.
    pub database: Database,
    /// Its broker, shared or its own.
    pub broker: Arc<Broker>,
    /// Its handlers.
    pub handlers: Handlers,
    /// What stands between the host and PostgreSQL, if anything.
    pub proxy: Option<Proxy>,
    host: Option<Host>,
    run: Run,
    client: reqwest::Client,
}

impl World {
    /// A running host with the probe, on the shared embedded broker.
    pub async fn with_probe() -> Self {
        Self::probe(Kind::Embedded).await.started().await
    }

    /// A world with the probe on a shared broker, not started.
    pub async fn probe(kind: Kind) -> Self {
        Self::probe_on(Broker::shared(kind).await).await
    }

    /// A world with the probe on this broker, not started.
    pub async fn probe_on(broker: Arc<Broker>) -> Self {
        Self::with_database(Database::create().await, broker)
    }

    /// A world with the probe on this database and broker, not started.
    pub fn with_database(database: Database, broker: Arc<Broker>) -> Self {
        let world = Self::new(database, broker);
        world.handlers.add_probe(&world.database.name);
        world
    }

    /// A running host with the todo product, on a broker of its own: its topics and groups have the same names in every world.
    pub async fn with_todo(kind: Kind) -> Self {
        Self::todo(kind).await.started().await
    }

    /// The same, not started.
    pub async fn todo(kind: Kind) -> Self {
        let mut world = Self::new(Database::create().await, Broker::dedicated(kind).await);
        world.handlers.add_todo();
        world.events = Some(Checked { broker: Arc::clone(&world.broker), database: world.database.admin_url() });
        world
    }

    /// A world without handlers, not started.
    pub fn new(database: Database, broker: Arc<Broker>) -> Self {
        let handlers = Handlers::none();
        // Compiled components are cached under the data folder by their content, so one for all spares compiling.
        static DATA: OnceLock<PathBuf> = OnceLock::new();
        let data = DATA.get_or_init(|| process::folder("data"));
        let run = Run::default()
            .env("TIDEMILL_DATABASE_URL", database.url(database.port))
            .env("TIDEMILL_ADMIN_DATABASE_URL", database.admin_url())
            .env("TIDEMILL_KAFKA_BROKERS", broker.address())
            .env("TIDEMILL_HTTP_ADDR", format!("127.0.0.1:{}", process::free_port()))
            .env("TIDEMILL_ADMIN_ADDR", format!("127.0.0.1:{}", process::free_port()))
            .env("TIDEMILL_DATA_DIR", data.display().to_string())
            .env("TIDEMILL_JWT_HS256_KEY", KEY)
            .env("TIDEMILL_INSTALLATION", &database.name);
        let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        // A connection kept from before a restart would fail a request that the new host would have answered.
        let client = client.pool_max_idle_per_host(0).build().unwrap();
        Self { events: None, database, broker, handlers, proxy: None, host: None, run, client }
    }

    /// Puts a proxy between the host (not the migrations) and PostgreSQL.
    pub async fn proxied(mut self) -> Self {
        let proxy = Proxy::start(self.database.port).await;
        self.run = self.run.env("TIDEMILL_DATABASE_URL", self.database.url(proxy.port));
        self.proxy = Some(proxy);
        self
    }

    /// The proxy that was asked for.
    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("a proxied world")
    }

    /// Sets a variable for every following command.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.run = self.run.env(name, value);
        self
    }

    /// One of the program's commands on this world's handlers.
    pub fn command(&self, args: &[&str]) -> Run {
        let folder = self.handlers.folder.display().to_string();
        let args = args.iter().map(|&arg| arg.to_owned()).chain(["--handlers".to_owned(), folder]).collect();
        Run { args, ..self.run.clone() }
    }

    /// One of the program's commands that needs no handlers.
    pub fn tool(&self, args: &[&str]) -> Run {
        Run { args: args.iter().map(|&arg| arg.to_owned()).collect(), ..self.run.clone() }
    }

    /// Migrates, creates the topics and starts the host.
    pub async fn started(mut self) -> Self {
        self.prepared().await;
        self.start().await;
        self
    }

    /// Migrates and creates the topics.
    pub async fn prepared(&self) {
        succeeded(self.command(&["migrate"]).finish().await);
        succeeded(self.command(&["topics", "apply"]).finish().await);
    }

    /// Starts the host, again on the same ports if it ran before.
    pub async fn start(&mut self) {
        self.host = Some(self.command(&["serve"]).serve().await);
    }

    /// Puts a host into the world that runs on its ports.
    pub fn put_host(&mut self, host: Host) {
        self.host = Some(host);
    }

    /// The running host.
    pub fn host(&mut self) -> &mut Host {
        self.host.as_mut().expect("a started world")
    }

    /// Takes the running host out of the world, as one of several.
    pub fn take_host(&mut self) -> Host {
        self.host.take().expect("a started world")
    }

    /// The process id of the running host.
    pub fn pid(&self) -> u32 {
        self.host.as_ref().expect("a started world").pid()
    }

    /// What the host has logged so far.
    pub fn log(&self) -> String {
        self.host.as_ref().expect("a started world").log()
    }

    /// Waits until the host has logged this.
    pub async fn until_logged(&self, text: &str) {
        super::eventually(&format!("the log has `{text}`"), async || self.log().to_lowercase().contains(text).then_some(()))
            .await;
    }

    /// A superuser's connection to the database, past any proxy.
    pub async fn sql(&self) -> Client {
        self.database.connect().await
    }

    /// One number out of the database.
    pub async fn count(&self, query: &str) -> i64 {
        self.sql().await.query_one(query, &[]).await.unwrap().get(0)
    }

    /// The name of one of the probe's topics (`in`, `out`, `missing`) in this world.
    pub fn topic(&self, end: &str) -> String {
        format!("probe-{}.{end}", self.database.name)
    }

    /// The name of the probe's consumer group in this world.
    pub fn group(&self) -> String {
        format!("probe-{}-group", self.database.name)
    }

    /// Puts an event for the probe into a partition of its topic.
    pub async fn send_event(&self, partition: i32, key: &str, id: &str, kind: &str) -> (i32, i64) {
        let event = records::event(id, kind, &json!({ "id": id }));
        records::produce_event(&self.broker.address(), &self.topic("in"), Some(partition), key, &event).await
    }

    /// How often the probe has handled an event.
    pub async fn seen(&self, id: &str) -> i64 {
        self.sql().await.query_one("SELECT count(*) FROM probe.seen WHERE event_id = $1", &[&id]).await.unwrap().get(0)
    }

    /// Waits until the probe has handled an event.
    pub async fn until_seen(&self, id: &str) {
        super::eventually(&format!("event {id} is handled"), async || (self.seen(id).await > 0).then_some(())).await;
    }

    /// Waits until every outbox row has left.
    pub async fn until_outbox_is_empty(&self) {
        let query = "SELECT count(*) FROM tidemill.outbox";
        super::eventually("the outbox is empty", async || (self.count(query).await == 0).then_some(())).await;
    }

    /// A request of a user.
    pub fn request(&self, user: &str, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.anonymous(method, path).bearer_auth(token(user, false))
    }

    /// A request of nobody.
    pub fn anonymous(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}{path}", self.host.as_ref().expect("a started world").http);
        self.client.request(method.parse().unwrap(), url)
    }

    /// Lets the probe run these steps for user `alice`; `None` when the connection broke.
    pub async fn try_probe(&self, steps: &str, body: &Json) -> Option<Answer> {
        let request = self.request("alice", "POST", &format!("/probe/{steps}")).json(body);
        Some(Answer::read(request.send().await.ok()?).await)
    }

    /// Lets the probe run these steps for user `alice`.
    pub async fn steps(&self, steps: &str, body: Json) -> Answer {
        self.try_probe(steps, &body).await.expect("the host answers")
    }

    /// Whether the probe's table has this row.
    pub async fn has_row(&self, id: &str) -> bool {
        self.count(&format!("SELECT count(*) FROM probe.rows WHERE id = '{id}'")).await == 1
    }

    /// How many unfinished transactions have written to the probe's table.
    pub async fn pending(&self) -> i64 {
        self.count(
            "SELECT count(DISTINCT pid) FROM pg_locks WHERE relation = 'probe.rows'::regclass AND mode = 'RowExclusiveLock'",
        )
        .await
    }

    /// Waits until a request has written to the probe's table and is not over.
    pub async fn until_pending(&self) {
        super::eventually("a unit of work is open", async || (self.pending().await > 0).then_some(())).await;
    }

    /// The body of `/readyz`.
    pub async fn readyz(&self) -> Answer {
        self.admin("/readyz").await
    }

    /// Waits until `/readyz` shows a partition of the probe's topic as paused, and returns that entry.
    pub async fn until_paused(&self, partition: i32) -> Json {
        super::eventually("the partition is shown as paused", async || {
            let ready = self.readyz().await;
            assert_eq!(ready.status, 200, "a paused partition does not keep the host from answering requests: {ready:?}");
            let paused = ready.body["paused"].as_array().cloned().unwrap_or_default();
            paused.into_iter().find(|one| one["topic"] == self.topic("in") && one["partition"] == partition)
        })
        .await
    }

    /// The sum of a metric's values over all its labels; 0 when there are none.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.admin("/metrics").await.text;
        let values = text.lines().filter_map(|line| line.strip_prefix(&format!("tidemill_{name}{{"))?.rsplit(' ').next());
        values.map(|value| value.parse::<f64>().unwrap()).sum()
    }

    /// The value of a metric without labels.
    pub async fn metric_of(&self, name: &str) -> f64 {
        let text = self.admin("/metrics").await.text;
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("tidemill_{name} ")).map(str::to_owned));
        value.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
    }

    /// A page of the admin port.
    pub async fn admin(&self, path: &str) -> Answer {
        let url = format!("{}{path}", self.host.as_ref().expect("a started world").admin);
        Answer::read(self.client.get(url).send().await.unwrap()).await
    }
}
