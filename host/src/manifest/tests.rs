//! Manifests read whole, and every message that a wrong one gets.

use super::*;
use std::{fs, path::Path};

const WHOLE: &str = r#"
name = "order-api"
app = "shop"
component = "../../target/order_api.wasm"
migrations = "../../migrations/shop"
instances = "fresh"

[[http]]
method = "POST"
path = "/api/orders"

[[http]]
method = "GET"
path = "/api/orders/{id}"
auth = "none"

[[topic]]
name = "shop.payments"
group = "order-payments"
types = ["payment.received"]
start = "latest"

[publish]
topics = ["shop.orders"]

[topics."shop.orders"]
partitions = 3
retention = "7d"
payload = "cloudevents"
replication = 3
min_insync_replicas = 2
max_message_bytes = "2MiB"

[sql]

[jobs]
cancel = ["stock"]

[dev]
try = ["curl localhost:8080/api/orders"]
build = "make"

[retry]
retries = 5
delay = "500ms"
max_delay = "1m"

[limits]
memory = "32MiB"
cpu = "500ms"
batch = 100
"#;

const SMALL: &str = "name = 'stock'\ncomponent = 'stock.wasm'\n";

fn parse(text: &str) -> Result<Manifest, String> {
    Manifest::parse("handler.toml", text).map_err(|problems| problems.to_string())
}

/// The problem of a small manifest with something added from line 3 on.
fn problem(added: &str) -> String {
    parse(&format!("{SMALL}{added}")).unwrap_err().replace("handler.toml", "")
}

#[test]
fn a_whole_manifest_is_read() {
    let manifest = parse(WHOLE).unwrap();
    let orders = Topic {
        partitions: 3,
        retention: Duration::from_secs(7 * 86_400),
        payload: Payload::CloudEvents,
        replication: Some(3),
        min_insync_replicas: Some(2),
        max_message_bytes: Some(2 << 20),
    };
    let expected = Manifest {
        name: "order-api".into(),
        app: "shop".into(),
        component: "../../target/order_api.wasm".into(),
        migrations: Some("../../migrations/shop".into()),
        http: vec![
            Route { method: "POST".into(), path: "/api/orders".into(), auth: Auth::Jwt },
            Route { method: "GET".into(), path: "/api/orders/{id}".into(), auth: Auth::None },
        ],
        topics: vec![Subscription {
            name: "shop.payments".into(),
            group: "order-payments".into(),
            types: Some(vec!["payment.received".into()]),
            start: Start::Latest,
        }],
        publish: vec!["shop.orders".into()],
        declares: [("shop.orders".into(), orders)].into(),
        sql: true,
        jobs: Some(Jobs { cancel: vec!["stock".into()] }),
        dev_try: vec!["curl localhost:8080/api/orders".into()],
        dev_build: Some("make".into()),
        limits: Limits { memory: 32 << 20, cpu: Duration::from_millis(500), batch: 100, ..Limits::default() },
        retry: Retry { retries: 5, delay: Duration::from_millis(500), max_delay: Duration::from_secs(60), ..Retry::default() },
    };
    assert_eq!(manifest, expected);
}

#[test]
fn what_a_manifest_leaves_out_has_defaults() {
    let manifest = parse("name = 'order-api'\ncomponent = 'a.wasm'\n[[topic]]\nname = 't'\ngroup = 'g'").unwrap();
    assert_eq!((manifest.app.as_str(), manifest.sql, manifest.migrations), ("order_api", false, None));
    assert_eq!((manifest.topics[0].types.as_ref(), manifest.topics[0].start), (None, Start::Earliest));
    assert_eq!((manifest.limits, manifest.jobs), (Limits::default(), None));
    assert_eq!(parse(&format!("{SMALL}[jobs]")).unwrap().jobs, Some(Jobs::default()), "presence grants");
    assert_eq!((manifest.publish.len(), manifest.declares.len(), manifest.dev_try.len()), (0, 0, 0));
}

#[test]
fn a_topic_of_any_bytes_says_so() {
    let payload = |line: &str| {
        let manifest =
            parse(&format!("{SMALL}[topics.t]\npartitions = 1\nretention = '1d'\n{line}[sql]\n[[topic]]\nname='a'\ngroup='g'"));
        manifest.unwrap().declares["t"].payload
    };
    assert_eq!((payload(""), payload("payload = 'raw'\n")), (Payload::CloudEvents, Payload::Raw));
}

#[test]
fn each_mistake_has_its_message_with_file_and_line() {
    for (added, message) in [
        ("nam = 'x'", ":3: a manifest has no key `nam`; did you mean `name`?"),
        ("[[topics]]\nname = 'x'", ":3: `topics` must be a section `[topics]`, not a list"),
        ("[http]\npath = 'x'", ":3: `http` must be sections `[[http]]` with two brackets, not a section"),
        ("[limits]\nmemry = '1MiB'", ":4: `[limits]` has no key `memry`; did you mean `memory`?"),
        ("[dev]\ncolour = 1", ":4: `[dev]` has no key `colour`; there are build, try"),
        ("[sql]\nread = true", ":4: `[sql]` has no key `read`; it has none"),
        ("sql = true", ":3: `sql` must be a section `[sql]`, not true or false"),
        ("instances = 'reuse'", ":3: `instances`: `reuse` is not supported yet: leave it out, or write `fresh`"),
        ("instances = 'warm'", ":3: `instances`: `warm` is neither `fresh` nor `reuse`"),
        ("app = 'tidemill'", ":3: `app`: `tidemill` is the host's own schema: choose another name"),
        ("app = 'pg_shop'", ":3: `app`: `pg_shop`: PostgreSQL keeps names that begin with `pg_`: choose another name"),
        ("app = 3", ":3: `app` must be a text, not a number"),
        ("[jobs]\nx = 1", ":4: `[jobs]` has no key `x`; there are cancel"),
        (
            "[jobs]\ncancel = ['Order']",
            ":4: `cancel`: `Order` is no name: a small letter, then up to 40 small letters, digits and `-`",
        ),
        ("[config]", ":3: `config` comes with a later version: remove it for now"),
        ("[[http]]\nmethod = 'get'\npath = '/'", ":4: `method`: `get` is none of GET, POST, PUT, PATCH, DELETE, HEAD"),
        ("[[http]]\nmethod = 'GET'\npath = 'api'", ":5: `path`: `api`: a path begins with `/`"),
        ("[[http]]\nmethod = 'GET'", ":3: [[http]]: `path` is missing"),
        ("[[http]]\nmethod = 'GET'\npath = '/'\nauth = 'basic'", ":6: `auth`: `basic` is neither `jwt` nor `none`"),
        ("[[topic]]\nname = 'a'", ":3: [[topic]]: `group` is missing"),
        (
            "[[topic]]\nname = 'a b'\ngroup = 'g'",
            ":4: `name`: `a b` is no name for Kafka: 1 to 249 letters, digits, `.`, `_` and `-`",
        ),
        ("[[topic]]\nname = 'a'\ngroup = 'g'\nstart = 'now'", ":6: `start`: `now` is neither `earliest` nor `latest`"),
        (
            "[[topic]]\nname = 'a'\ngroup = 'g'\ntypes = []",
            ":3: [[topic]]: `types` names no event type that is right: leave it out to get all",
        ),
        ("[[topic]]\nname = 'a'\ngroup = 'g'\ntypes = 'x'", ":6: `types` must be a list of texts, not a text"),
        ("[publish]", ":3: [publish]: `topics` must name at least one topic"),
        ("[publish]\ntopics = ['a', 1]", ":4: `topics` must be a list of texts, not of a number"),
        ("[topics.a]\npartitions = 0\nretention = '1d'", ":4: `partitions`: 0 is not between 1 and 10000"),
        ("[topics.a]\npartitions = 1", ":3: [topics.\"a\"]: `retention` is missing"),
        (
            "[topics.'a b']\npartitions = 1\nretention = '1d'",
            ":3: [topics.\"a b\"]: `a b` is no name for Kafka: 1 to 249 letters, digits, `.`, `_` and `-`",
        ),
        (
            "[topics.a]\npartitions = 1\nretention = '1 week'",
            ":5: `retention`: `1 week` is no duration such as `500ms`, `10s`, `5m`, `12h` or `7d`",
        ),
        (
            "[topics.a]\npartitions = 1\nretention = '1d'\npayload = 'json'",
            ":6: `payload`: `json` is neither `cloudevents` nor `raw`",
        ),
        (
            "[topics.a]\npartitions = 1\nretention = '1d'\nretension = '2d'",
            ":6: `[topics.\"a\"]` has no key `retension`; did you mean `retention`?",
        ),
        (
            "[topics.a]\npartitions = 1\nretention = '1d'\nreplicaton = 3",
            ":6: `[topics.\"a\"]` has no key `replicaton`; did you mean `replication`?",
        ),
        ("[topics.a]\npartitions = 1\nretention = '1d'\nreplication = 0", ":6: `replication`: 0 is not between 1 and 32767"),
        (
            "[topics.a]\npartitions = 1\nretention = '1d'\nreplication = 1\nmin_insync_replicas = 2",
            ":3: [topics.\"a\"]: `min_insync_replicas` 2 is above `replication` 1: nobody could write",
        ),
        (
            "[topics.a]\npartitions = 1\nretention = '1d'\nmax_message_bytes = '2GiB'",
            ":6: `max_message_bytes`: `2GiB` is above `1GiB`, the most that fits",
        ),
        (
            "[topics.a]\npartitions = 1\nretention = '9999999999999999999ms'",
            ":5: `retention`: `9999999999999999999ms` is more than Kafka can count",
        ),
        ("[topics]\na = 1", ":4: `topics` has sections `[topics.\"name\"]`; `a` is a number"),
        ("[limits]\nmemory = '64MB'", ":4: `memory`: `64MB` is no size such as `512B`, `64KiB`, `1MiB` or `2GiB`"),
        ("[limits]\ncpu = '0s'", ":4: `cpu`: `0s` is nothing at all: a limit is above 0"),
        ("[limits]\nevents = -1", ":4: `events`: -1 is not between 1 and 1000000"),
        ("[limits]\nevents = '9'", ":4: `events` must be a whole number, not a text"),
    ] {
        // A trigger of its own, so that the mistake is the only one.
        let trigger = "\n[[topic]]\nname = 'own'\ngroup = 'own'\n";
        let clash = added.starts_with("[[topics]]") || added.starts_with("[http]");
        let trigger = if clash { "" } else { trigger };
        assert_eq!(problem(&format!("{added}{trigger}")), message, "{added}");
    }
}

#[test]
fn a_text_that_is_no_toml_is_named_by_its_line() {
    let error = problem("app = \n");
    assert!(error.starts_with(":3: "), "{error}");
}

#[test]
fn all_mistakes_of_a_file_are_shown_in_the_order_of_its_lines() {
    assert_eq!(
        parse("app = 'pg_x'\nname = 'A'\n[limits]\ncpu = 1\nwal = '1s'").unwrap_err(),
        "handler.toml:1: `app`: `pg_x`: PostgreSQL keeps names that begin with `pg_`: choose another name\n\
         handler.toml:1: `component` is missing\n\
         handler.toml:2: `name`: `A` is no name: a small letter, then up to 40 small letters, digits and `-`\n\
         handler.toml:4: `cpu` must be a text, not a number\n\
         handler.toml:5: `[limits]` has no key `wal`; did you mean `wall`?"
    );
    assert_eq!(
        parse("name = 'public'\ncomponent = 'x'").unwrap_err(),
        "handler.toml:1: `app` is not given, so it is the name: `public` is a schema of PostgreSQL: choose another name"
    );
}

/// A folder of handlers, each with its component.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fs::write(folder.path().join("c.wasm"), "").unwrap();
    folder
}

fn load(folder: &tempfile::TempDir) -> Result<Vec<Loaded>, String> {
    let place = format!("{}/", folder.path().display());
    load_dir(folder.path()).map_err(|problems| problems.to_string().replace(&place, ""))
}

#[test]
fn every_manifest_below_a_folder_is_loaded_by_name() {
    let folder = folder(&[
        ("z/handler.toml", "name = 'alpha'\napp = 'shop'\ncomponent = '../c.wasm'"),
        ("z/migrations/0001_a.sql", "select 1"),
        ("a/deep/handler.toml", "name = 'beta'\napp = 'shop'\ncomponent = '../../c.wasm'\nmigrations = '../../z/migrations'"),
        ("b/handler.toml", "name = 'gamma'\ncomponent = '../c.wasm'"),
        ("target/handler.toml", "broken"),
        ("node_modules/x/handler.toml", "broken"),
        (".git/handler.toml", "broken"),
    ]);
    let loaded = load(&folder).unwrap();
    assert_eq!(loaded.iter().map(|l| l.manifest.name.as_str()).collect::<Vec<_>>(), ["alpha", "beta", "gamma"]);
    assert_eq!(loaded[0].component, folder.path().join("z/../c.wasm"));
    assert_eq!(loaded[1].migrations.as_ref().map(Vec::len), Some(1));
    assert_eq!(loaded[2].migrations, None);
    let apps = migrations_by_app(&loaded);
    assert_eq!(apps.into_iter().map(|(app, list)| (app, list.len())).collect::<Vec<_>>(), [("shop", 1)]);
}

#[test]
fn what_manifests_get_wrong_together_is_shown_at_once() {
    let one = "name = 'one'\napp = 'shop'\ncomponent = '../c.wasm'\n[[http]]\nmethod = 'GET'\npath = '/a/{id}'\n\
        [[topic]]\nname = 't'\ngroup = 'g'\n[topics.t]\npartitions = 1\nretention = '1d'";
    let two = "name = 'two'\napp = 'shop'\ncomponent = '../c.wasm'\n[[http]]\nmethod = 'GET'\npath = '/a/{name}'\n\
        [[topic]]\nname = 'u'\ngroup = 'g'\n[[topic]]\nname = 'u'\ngroup = 'g'\n[topics.t]\npartitions = 2\nretention = '1d'";
    let folder = folder(&[
        ("1/handler.toml", one),
        ("1/migrations/0001_a.sql", "select 1"),
        ("2/handler.toml", two),
        ("2/migrations/0001_a.sql", "select 2"),
        ("3/handler.toml", "name = 'one'\ncomponent = 'lost.wasm'\nmigrations = 'lost'"),
        ("4/handler.toml", "name = 'two'\ncomponent = '../c.wasm'"),
        ("5/handler.toml", "nme = 'x'\ncomponent = 'x'"),
    ]);
    assert_eq!(
        load(&folder).unwrap_err(),
        "3/handler.toml: component 3/lost.wasm does not exist: build it with `tidemill build 3`\n\
         3/handler.toml: folder 3/lost of `migrations` does not exist\n\
         5/handler.toml:1: `name` is missing\n\
         5/handler.toml:1: a manifest has no key `nme`; did you mean `name`?\n\
         2/handler.toml: route `GET /a/{name}` is already in 1/handler.toml\n\
         2/handler.toml: group `g` is used by 1/handler.toml too: every handler has groups of its own\n\
         2/handler.toml: group `g` is used by 1/handler.toml too: every handler has groups of its own\n\
         2/handler.toml: topic `u` is read twice by group `g`\n\
         2/handler.toml: topic `t` is declared differently in 1/handler.toml: declare it once, at its owner\n\
         2/handler.toml: app `shop` has other migrations in 1/handler.toml: let both name one folder\n\
         4/handler.toml: handler `two` is already in 2/handler.toml"
    );
}

#[test]
fn jobs_of_other_handlers_are_within_reach_in_ones_own_app_only() {
    let jobs = "name = 'one'\napp = 'shop'\ncomponent = '../c.wasm'\n[jobs]\ncancel = ['two', 'three', 'four']";
    let folder = folder(&[
        ("1/handler.toml", jobs),
        ("2/handler.toml", "name = 'two'\napp = 'shop'\ncomponent = '../c.wasm'"),
        ("3/handler.toml", "name = 'three'\ncomponent = '../c.wasm'"),
    ]);
    assert_eq!(
        load(&folder).unwrap_err(),
        "1/handler.toml: [jobs]: `cancel` names handler `three` of app `three`: only jobs of its own app `shop` are within reach\n\
         1/handler.toml: [jobs]: `cancel` names handler `four`, which is not here"
    );
}

#[test]
fn a_folder_without_handlers_is_an_error() {
    let empty = folder(&[]);
    let error = load_dir(empty.path()).unwrap_err().to_string();
    assert_eq!(error, format!("{}: there is no handler.toml below this folder", empty.path().display()));
    let error = load_dir(Path::new("/no/such")).unwrap_err().to_string();
    assert!(error.starts_with("/no/such: can't read the folder of the handlers: No such file"), "{error}");
}

#[test]
fn the_topics_of_a_group_may_start_differently() {
    let folder = tempfile::tempdir().unwrap();
    let topic = |name: &str, start: &str| format!("[[topic]]\nname = '{name}'\ngroup = 'g'\nstart = '{start}'\n");
    let text = format!("name = 'a'\ncomponent = 'a.wasm'\n{}{}", topic("t", "earliest"), topic("u", "latest"));
    std::fs::write(folder.path().join("handler.toml"), text).unwrap();
    std::fs::write(folder.path().join("a.wasm"), "").unwrap();
    let loaded = load_dir(folder.path()).unwrap();
    assert_eq!(loaded[0].manifest.topics.iter().map(|topic| topic.start).collect::<Vec<_>>(), [Start::Earliest, Start::Latest]);
}
