//! Lists what `tidemill new` gives to handlers outside the checkout: the SDK, its WIT packages and the test crate.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Of the checkout's root.
const KIT: [&str; 7] = [
    "LICENSE",
    "handlers/sdk/Cargo.toml",
    "handlers/sdk/src",
    "host/testing/Cargo.toml",
    "host/testing/src",
    "wit",
    "Cargo.toml",
];

fn main() {
    let host = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = host.parent().expect("the host is a folder of the checkout").to_owned();
    let mut files = Vec::new();
    for part in KIT {
        println!("cargo:rerun-if-changed={}", root.join(part).display());
        find(&root.join(part), &mut files);
    }
    files.sort();
    let mut list = String::from("[\n");
    for file in files {
        let name = file.strip_prefix(&root).expect("found below the root").display().to_string();
        writeln!(list, "    ({name:?}, include_str!({:?})),", file.display().to_string()).expect("text can be written to");
    }
    list.push(']');
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    std::fs::write(out.join("kit.rs"), list).expect("cargo's folder can be written to");
}

fn find(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        entries.flatten().for_each(|entry| find(&entry.path(), files));
    } else {
        files.push(path.to_owned());
    }
}
