//! Handlers that cannot be used: each is refused with a message that names the fault and the way out.

use crate::support::host::fails_naming;
use crate::support::postgres::Database;
use crate::support::{Broker, Kind, World};

/// Changes the probe's manifest; every command has to refuse it with these words.
async fn refused_manifest(change: impl FnOnce(String) -> String, words: &[&str]) {
    let world = World::probe(Kind::Embedded).await;
    world.handlers.rewrite("probe", change);
    for command in [&["migrate"][..], &["serve"]] {
        fails_naming(&world.command(command).finish().await, &[&["handler.toml"], words].concat());
    }
}

#[tokio::test]
async fn an_unknown_manifest_key_is_refused_and_the_nearest_right_one_named() {
    refused_manifest(|text| format!("compnent = \"x\"\n{text}"), &["compnent", "`component`"]).await;
    refused_manifest(|text| text.replace("wall =", "wal ="), &["wal", "`wall`"]).await;
    refused_manifest(|text| text.replace("group =", "groop ="), &["groop", "`group`"]).await;
}

#[tokio::test]
async fn a_broken_manifest_is_refused_with_the_place_of_the_fault() {
    refused_manifest(|text| text.replacen("name = \"probe\"", "name = ", 1), &["handler.toml:"]).await;
    refused_manifest(|text| text.replacen("name = \"probe\"", "nome = \"probe\"", 1), &["name"]).await;
    refused_manifest(|text| text.replace("\"10s\"", "\"soon\""), &["wall", "soon"]).await;
    refused_manifest(|text| text.replace("\"earliest\"", "\"somewhere\""), &["somewhere", "earliest", "latest"]).await;
}

#[tokio::test]
async fn a_component_that_is_not_there_or_is_none_is_named() {
    let world = World::probe(Kind::Embedded).await;
    world.prepared().await;
    let component = world.handlers.folder.join("probe/component.wasm");
    std::fs::write(&component, b"no component").unwrap();
    fails_naming(&world.command(&["serve"]).finish().await, &["probe", "component"]);
    std::fs::remove_file(&component).unwrap();
    fails_naming(&world.command(&["serve"]).finish().await, &["probe", "component.wasm"]);
}

#[tokio::test]
async fn a_component_that_imports_an_unknown_interface_is_refused_by_name() {
    let world = World::new(Database::create().await, Broker::shared(Kind::Embedded).await);
    world.handlers.add("host/tests/guests/stranger");
    let ended = world.command(&["migrate"]).finish().await;
    if ended.status.success() {
        fails_naming(&world.command(&["serve"]).finish().await, &["stranger", "example:unknown/thing"]);
    } else {
        fails_naming(&ended, &["stranger", "example:unknown/thing"]);
    }
}

#[tokio::test]
async fn a_component_that_imports_what_its_manifest_does_not_grant_is_refused_by_name() {
    let world = World::probe(Kind::Embedded).await;
    world.prepared().await;
    world.handlers.rewrite("probe", |text| text.replace("[sql]\n", ""));
    fails_naming(&world.command(&["serve"]).finish().await, &["probe", "tidemill:sql", "[sql]"]);
}

#[tokio::test]
async fn no_handlers_and_no_folder_are_named() {
    let world = World::new(Database::create().await, Broker::shared(Kind::Embedded).await);
    fails_naming(&world.command(&["serve"]).finish().await, &["handler.toml", world.handlers.folder.to_str().unwrap()]);
    std::fs::remove_dir(&world.handlers.folder).unwrap();
    fails_naming(&world.command(&["serve"]).finish().await, &[world.handlers.folder.to_str().unwrap()]);
}
