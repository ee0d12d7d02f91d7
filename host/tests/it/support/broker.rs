//! The two brokers that every broker test runs on: the embedded one and Apache Kafka.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use super::{apache, process, records};

/// Which broker a test talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The host's own, for development.
    Embedded,
    /// Apache Kafka.
    Apache,
}

enum Running {
    Embedded { stop: oneshot::Sender<()>, thread: std::thread::JoinHandle<()> },
    Apache(Child),
}

/// A broker on a loopback port that can go away and come back with its data.
pub struct Broker {
    kind: Kind,
    folder: PathBuf,
    port: u16,
    running: Mutex<Option<Running>>,
    _turn: Option<SemaphorePermit<'static>>,
}

impl Broker {
    /// The broker that all tests of this process share; their topics and groups have names of their own.
    pub async fn shared(kind: Kind) -> Arc<Self> {
        static EMBEDDED: OnceLock<Arc<Broker>> = OnceLock::new();
        static APACHE: OnceLock<Arc<Broker>> = OnceLock::new();
        let cell = if kind == Kind::Embedded { &EMBEDDED } else { &APACHE };
        let broker = cell.get_or_init(|| {
            let broker = Self::new(kind, None);
            if let Some(Running::Apache(server)) = &*broker.running.lock().unwrap() {
                process::outlives_tests(server);
            }
            Arc::new(broker)
        });
        broker.ready().await;
        Arc::clone(broker)
    }

    /// A broker for one test alone, which may stop it. Apache Kafka is heavy: one such test at a time.
    pub async fn dedicated(kind: Kind) -> Arc<Self> {
        static TURN: Semaphore = Semaphore::const_new(1);
        let turn = if kind == Kind::Apache { Some(TURN.acquire().await.unwrap()) } else { None };
        let broker = Self::new(kind, turn);
        broker.ready().await;
        Arc::new(broker)
    }

    fn new(kind: Kind, turn: Option<SemaphorePermit<'static>>) -> Self {
        let folder = process::folder("kafka");
        let port = process::free_port();
        if kind == Kind::Apache {
            apache::format(&folder, port, &apache::Listeners::default(), &[]);
        }
        let broker = Self { kind, folder, port, running: Mutex::new(None), _turn: turn };
        broker.launch();
        broker
    }

    /// Apache Kafka with more listeners and with SCRAM logins, for all tests of this process.
    pub fn with_settings(listeners: &apache::Listeners, scram: &[String]) -> Self {
        let (folder, port) = (process::folder("kafka"), process::free_port());
        apache::format(&folder, port, listeners, scram);
        let broker = Self { kind: Kind::Apache, folder, port, running: Mutex::new(None), _turn: None };
        broker.launch();
        if let Some(Running::Apache(server)) = &*broker.running.lock().unwrap() {
            process::outlives_tests(server);
        }
        broker
    }

    /// Apache Kafka's second node, beside this one: its number is 2.
    pub async fn second(&self) -> Self {
        let (folder, port) = (process::folder("kafka"), process::free_port());
        apache::format_second(&folder, port, &self.folder);
        let broker = Self { kind: Kind::Apache, folder, port, running: Mutex::new(None), _turn: None };
        broker.start().await;
        broker
    }

    /// `TIDEMILL_KAFKA_BROKERS`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Whether it was not taken away.
    pub fn is_running(&self) -> bool {
        self.running.lock().unwrap().is_some()
    }

    /// Takes the broker away; its data stay.
    pub async fn stop(&self) {
        let running = self.running.lock().unwrap().take();
        let ended = tokio::task::spawn_blocking(move || match running {
            Some(Running::Embedded { stop, thread }) => {
                let _ = stop.send(());
                let _ = thread.join();
            }
            Some(Running::Apache(mut server)) => {
                let _ = server.kill();
                let _ = server.wait();
            }
            None => {}
        });
        ended.await.unwrap();
    }

    /// Brings the broker back on the same port with the same data.
    pub async fn start(&self) {
        self.launch();
        self.ready().await;
    }

    fn launch(&self) {
        let running = match self.kind {
            Kind::Embedded => embedded(&self.folder, SocketAddr::from(([127, 0, 0, 1], self.port))),
            Kind::Apache => Running::Apache(apache::start(&self.folder)),
        };
        *self.running.lock().unwrap() = Some(running);
    }

    /// Waits until it answers.
    pub async fn ready(&self) {
        let log = self.folder.join("log");
        let alive = tokio::time::timeout(super::PATIENCE, async {
            while !records::answers(&self.address()).await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        assert!(alive.await.is_ok(), "the broker does not answer: {}", std::fs::read_to_string(log).unwrap_or_default());
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        match self.running.lock().unwrap().take() {
            Some(Running::Apache(mut server)) => {
                let _ = server.kill();
                let _ = server.wait();
            }
            Some(Running::Embedded { stop, .. }) => drop(stop.send(())),
            None => {}
        }
    }
}

/// Runs the host's embedded broker on a thread and a runtime of its own, so that a busy test never holds it up.
fn embedded(folder: &Path, address: SocketAddr) -> Running {
    let (stop, stopped) = oneshot::channel::<()>();
    let folder = folder.to_owned();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = bind(address).await;
            serve_embedded(&folder, listener, async { drop(stopped.await) }).await;
        });
        runtime.shutdown_timeout(Duration::from_secs(5));
    });
    Running::Embedded { stop, thread }
}

/// A child that is just being started may still hold a copy of the socket that has tried the port.
async fn bind(address: SocketAddr) -> tokio::net::TcpListener {
    for _ in 0..100 {
        if let Ok(listener) = tokio::net::TcpListener::bind(address).await {
            return listener;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{address} stays in use")
}

/// The only place that names the embedded broker.
async fn serve_embedded(folder: &Path, listener: tokio::net::TcpListener, shutdown: impl Future<Output = ()> + Send + 'static) {
    let broker = tidemill::embedded::broker::Broker::open(folder).await.unwrap();
    broker.serve(listener, shutdown).await.unwrap();
}
