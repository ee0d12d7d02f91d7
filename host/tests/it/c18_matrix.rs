//! Promises 18 and 19 as a matrix: a handler that is idle, running, failing or hanging is updated, taken to a revision that traps on every
//! call, and taken back again, each step followed by a restart, on one replica and on three. Every event takes effect once, in the order of
//! its key, and no request is lost.

use serde_json::json;

use crate::support::{Answer, Host, Kind, World, eventually};

/// What the handler is about when it is changed.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Idle,
    Running,
    Failing,
    Hanging,
}

/// A host for each replica, and what was sent so far.
struct Fleet {
    world: World,
    others: Vec<Host>,
    state: State,
    sent: usize,
}

impl Fleet {
    async fn new(state: State, replicas: usize) -> Self {
        let world = World::probe(Kind::Embedded).await;
        world.handlers.limit("probe", "wall", if state == State::Hanging { "3s" } else { "10s" });
        // However long a step takes here, nothing becomes a dead letter.
        for (name, value) in [("delay", "200ms"), ("max_delay", "2s")] {
            world.handlers.retry("probe", name, value);
        }
        world.handlers.retry("probe", "retries", 100);
        let mut fleet = Self { world: world.bare().await, others: Vec::new(), state, sent: 0 };
        for _ in 1..replicas {
            fleet.others.push(fleet.world.member().serve().await);
        }
        fleet.world.deploy().await;
        fleet
    }

    /// The addresses of all replicas.
    fn addresses(&mut self) -> Vec<String> {
        let first = self.world.host().http.clone();
        std::iter::once(first).chain(self.others.iter().map(|host| host.http.clone())).collect()
    }

    /// Events as the state asks for, a good one behind each in its key.
    async fn send(&mut self) {
        let kind = match self.state {
            State::Idle => return,
            State::Running => "probe.slow",
            State::Failing => "probe.fail",
            State::Hanging => "probe.hang",
        };
        for partition in 0..3 {
            for kind in [kind, "probe.ok"] {
                self.world.send_event(partition, &format!("k{partition}"), &format!("e{}", self.sent), kind).await;
                self.sent += 1;
            }
        }
    }

    /// Waits until the handler is in the state.
    async fn until_in_it(&self) {
        let world = &self.world;
        match self.state {
            State::Idle | State::Running => {}
            State::Failing | State::Hanging => {
                // Also as the trap that the broken revision makes of it.
                let failed = "SELECT count(*) FROM tidemill.waiting WHERE error_class IS NOT NULL";
                eventually("events have failed", async || (world.count(failed).await > 0).then_some(())).await;
            }
        }
    }

    /// Ends every replica as an operator would, one after the other, and starts it again.
    async fn restart(&mut self) {
        for n in 0..self.others.len() {
            assert!(self.others[n].sigterm().await.success());
            self.others[n] = self.world.member().serve().await;
        }
        assert!(self.world.host().sigterm().await.success());
        self.world.start_bare().await;
    }

    /// Every replica answers as the active revision does.
    async fn answers(&mut self, active: Active) {
        for http in self.addresses() {
            let answer = self.world.ask(&http, "query").await;
            let (status, marked) = (answer.status, answer.text.contains("424242"));
            match active {
                Active::First => assert!(status == 200 && !marked, "{answer:?}"),
                Active::Second => assert!(status == 200 && marked, "{answer:?}"),
                Active::Broken => assert_eq!((status, answer.problem()), (500, "handler-failed"), "{answer:?}"),
            }
        }
    }

    /// One step of the matrix: traffic, the change in the midst of it, a look, a restart, a look.
    async fn step(&mut self, id: &str, change: &[&str], then: Active) {
        self.send().await;
        self.until_in_it().await;
        let request = (self.state == State::Running && !id.is_empty()).then(|| {
            let body = json!({ "id": id, "ms": 1000 });
            tokio::spawn(self.world.request("alice", "POST", "/probe/insert-then-sleep").json(&body).send())
        });
        if request.is_some() {
            self.world.until_pending().await;
        }
        match change {
            [] => drop(self.world.deploy().await),
            change => drop(self.world.fleet(change).await),
        }
        self.answers(then).await;
        if let Some(request) = request {
            let answer = Answer::read(request.await.unwrap().unwrap()).await;
            assert_eq!(answer.status, 200, "a running request was not kept: {answer:?}");
            assert!(self.world.has_row(id).await);
        }
        self.restart().await;
        self.answers(then).await;
    }

    /// Everything that was sent has happened once, in the order of its key.
    async fn settle(&mut self) {
        let world = &self.world;
        world.sql().await.batch_execute("INSERT INTO probe.switches VALUES ('let-pass', true)").await.unwrap();
        let sent = i64::try_from(self.sent).unwrap();
        let seen = "SELECT count(*) FROM probe.seen";
        eventually("every event is handled", async || (world.count(seen).await >= sent).then_some(())).await;
        assert_eq!(world.count("SELECT count(DISTINCT event_id) FROM probe.seen").await, sent, "events were lost");
        assert_eq!(world.count(seen).await, sent, "events happened twice");
        let inverted = "SELECT count(*) FROM (SELECT off, lag(off) OVER (PARTITION BY part, subject_key ORDER BY seq) AS before \
                        FROM probe.seen) ordered WHERE before > off";
        assert_eq!(world.count(inverted).await, 0, "events of one key were handled out of order");
        let left = "SELECT (SELECT count(*) FROM tidemill.waiting) + (SELECT count(*) FROM tidemill.dead_letters)";
        assert_eq!(world.count(left).await, 0, "something is left behind");
    }
}

/// What is active.
#[derive(Clone, Copy)]
enum Active {
    First,
    Second,
    Broken,
}

async fn matrix(state: State, replicas: usize) {
    let mut fleet = Fleet::new(state, replicas).await;
    fleet.answers(Active::First).await;
    let good = std::fs::read(fleet.world.handlers.folder.join("probe/component.wasm")).unwrap();
    fleet.world.mark_probe(true);
    fleet.step("updated", &[], Active::Second).await;
    fleet.world.handlers.replace_component("probe", "host/tests/guests/broken");
    fleet.step("broken", &[], Active::Broken).await;
    fleet.step("", &["rollback", "probe"], Active::Second).await;
    std::fs::write(fleet.world.handlers.folder.join("probe/component.wasm"), good).unwrap();
    fleet.step("back", &[], Active::First).await;
    fleet.settle().await;
}

macro_rules! matrix {
    ($($name:ident: $state:ident, $replicas:literal;)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                matrix(State::$state, $replicas).await;
            }
        )+
    };
}

matrix! {
    c18_matrix_idle_on_one_replica: Idle, 1;
    c18_matrix_running_on_one_replica: Running, 1;
    c18_matrix_failing_on_one_replica: Failing, 1;
    c18_matrix_hanging_on_one_replica: Hanging, 1;
    c18_matrix_idle_on_three_replicas: Idle, 3;
    c18_matrix_running_on_three_replicas: Running, 3;
    c18_matrix_failing_on_three_replicas: Failing, 3;
    c18_matrix_hanging_on_three_replicas: Hanging, 3;
}
