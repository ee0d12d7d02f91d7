//! Promise 18: what can't run is refused by name, with the way out, and nothing is switched.

use crate::support::fleet::replaced;
use crate::support::{Kind, World};

/// Everything that a deploy may bring and that no host can run. The handler that is active goes on through all of it.
#[tokio::test]
async fn c18_what_cannot_run_is_refused_by_name_and_what_runs_goes_on() {
    let mut world = World::probe(Kind::Embedded).await.bare().await;
    world.deploy().await;
    let active = world.active("probe").await;
    let file = world.handlers.folder.join("probe/component.wasm");
    let good = std::fs::read(&file).unwrap();
    let newer = |interface: &str| {
        let (from, to) = (format!("{interface}@0.1.0"), format!("{interface}@0.2.0"));
        replaced(&good, from.as_bytes(), to.as_bytes())
    };
    let components: Vec<(Vec<u8>, &[&str])> = vec![
        (b"no component".to_vec(), &["`probe`", "no WebAssembly component"]),
        (Vec::new(), &["`probe`", "no WebAssembly component"]),
        (b"\0asm\x01\0\0\0".to_vec(), &["`probe`", "core WebAssembly module", "wasm32-wasip2"]),
        (good[..good.len() / 2].to_vec(), &["`probe`", "does not compile"]),
        (newer("tidemill:sql/sql"), &["`probe`", "tidemill:sql/sql@0.2.0", "0.1.0"]),
        (newer("tidemill:http/http"), &["`probe`", "tidemill:http/http@0.2.0"]),
        ([&good[..], &vec![0; 65 << 20]].concat(), &["64MiB", "revision_size", "TIDEMILL_REVISION_SIZE"]),
    ];
    for (bytes, words) in components {
        std::fs::write(&file, bytes).unwrap();
        world.deploy_refused(words).await;
    }
    std::fs::write(&file, &good).unwrap();
    let large = world.deploy_run().env("TIDEMILL_REVISION_SIZE", "100KiB").finish().await;
    crate::support::host::fails_naming(&large, &["revision_size", "100KiB"]);
    let manifests: [(&str, &str, &[&str]); 4] = [
        ("component =", "compnent =", &["compnent", "did you mean `component`?"]),
        ("[sql]", "", &["`probe`", "tidemill:sql/sql", "[sql]"]),
        ("wall = \"10s\"", "memory = \"64KiB\"", &["`probe`", "no instance", "`memory`"]),
        ("retention = \"1d\"", "retention = \"0s\"", &["retention"]),
    ];
    let path = world.handlers.folder.join("probe/handler.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to, words) in manifests {
        world.handlers.rewrite("probe", |text| text.replacen(from, to, 1));
        assert_ne!(std::fs::read_to_string(&path).unwrap(), text, "{from} is not in the manifest");
        world.deploy_refused(words).await;
        std::fs::write(&path, &text).unwrap();
    }
    world.fleet_refused(&["deploy", "/no/such/folder"], &["/no/such/folder"]).await;
    world.fleet_refused(&["deploy", file.to_str().unwrap()], &["handler.toml"]).await;
    assert_eq!(world.active("probe").await, active);
    assert_eq!(world.steps("ok", serde_json::json!({})).await.status, 200);
    assert_eq!(world.count("SELECT count(*) FROM tidemill.candidates WHERE state = 'preparing'").await, 0);
    assert!(world.host().sigterm().await.success());
    world.start_bare().await;
    assert_eq!(world.steps("ok", serde_json::json!({})).await.status, 200);
}

/// Another handler with a part of the probe's manifest, by the words that it is refused with.
async fn taken(change: impl FnOnce(&mut toml::Table), words: &[&str]) {
    let mut world = World::probe(Kind::Embedded).await;
    world.prepared().await;
    world.deploy().await;
    world.start_bare().await;
    let probe = std::fs::read_to_string(world.handlers.folder.join("probe/handler.toml")).unwrap();
    std::fs::remove_dir_all(world.handlers.folder.join("probe")).unwrap();
    world.handlers.add("host/tests/guests/broken");
    let probe: toml::Table = probe.parse().unwrap();
    world.handlers.change("broken", |manifest| {
        for key in ["http", "topic", "topics"] {
            manifest.insert(key.into(), probe[key].clone());
        }
        change(manifest);
    });
    world.deploy_refused(&[words, &["of `probe`, which is deployed"]].concat()).await;
    assert_eq!(world.active("broken").await, None);
}

#[tokio::test]
async fn c18_a_route_that_another_handler_has_is_refused() {
    let without = |manifest: &mut toml::Table| {
        manifest.remove("topic");
        manifest.remove("topics");
    };
    taken(without, &["route", "POST /probe/{action}"]).await;
}

#[tokio::test]
async fn c18_a_consumer_group_that_another_handler_has_is_refused() {
    let without = |manifest: &mut toml::Table| {
        manifest.remove("http");
        manifest.remove("topics");
    };
    taken(without, &["group", "-group"]).await;
}

#[tokio::test]
async fn c18_another_declaration_of_a_topic_is_refused() {
    let other = |manifest: &mut toml::Table| {
        manifest.remove("http");
        manifest.remove("topic");
        let topics = manifest["topics"].as_table_mut().unwrap();
        topics.iter_mut().for_each(|(_, topic)| drop(topic.as_table_mut().unwrap().insert("partitions".into(), 7.into())));
        manifest.insert("http".into(), toml::Value::Array(vec![toml::toml! { method = "GET" path = "/other" }.into()]));
    };
    taken(other, &["topic", "declared differently"]).await;
}
