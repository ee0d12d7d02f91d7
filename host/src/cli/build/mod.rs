//! `tidemill build`: handlers' sources → the components that their manifests name. `dev --watch` and `test-host` build the same way.
//!
//! A handler is built by its manifest's `[dev] build`, or else by cargo if it has a `Cargo.toml`; one with neither is there already.

mod cargo;
mod leash;

use crate::manifest::{Manifest, manifest_files};
use anyhow::Context;
use cargo::{Crate, Workspaces};
use clap::{Arg, ArgAction, ArgMatches, Command};
pub(super) use leash::Leash;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::Instant;

pub(super) fn command() -> Command {
    Command::new("build")
        .about("Build the components of handlers")
        .after_help(
            "Each is made by its manifest's `[dev] build`, a command of the shell that runs in its folder, or by cargo for wasm32-wasip2, and \
             put where the manifest says.",
        )
        .arg(Arg::new("dir").value_name("DIR").num_args(1..).default_value(".").help("Every handler.toml below it"))
        .arg(Arg::new("release").long("release").action(ArgAction::SetTrue).help("Optimised (cargo build --release)"))
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let started = Instant::now();
    let folders: Vec<&String> = matches.get_many("dir").into_iter().flatten().collect();
    let mut sources = Vec::new();
    for folder in folders {
        sources.extend(Source::below(Path::new(folder))?);
    }
    let built = build(&sources, &Options { release: matches.get_flag("release"), show: true, leash: None })?;
    for source in &sources {
        let state = if built.contains(&source.component) { "built" } else { "unchanged" };
        println!("{}: {} {state}", source.name, source.component.display());
    }
    println!("{} in {:.1?}", if sources.len() == 1 { "1 handler" } else { "all" }, started.elapsed());
    Ok(())
}

/// A handler, as far as building it goes.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Its name.
    pub(super) name: String,
    /// The folder of its manifest.
    pub(super) folder: PathBuf,
    /// Where the component belongs.
    pub(super) component: PathBuf,
    /// The folder of its migrations, if it names one.
    pub(super) migrations: Option<PathBuf>,
    command: Option<String>,
    /// What cargo knows of it, if cargo builds it.
    krate: Option<Crate>,
}

/// How to build.
#[derive(Debug, Clone, Default)]
pub(super) struct Options {
    /// Optimised.
    pub(super) release: bool,
    /// Let the compiler speak to the terminal; otherwise its words are in the error.
    pub(super) show: bool,
    /// What the compilers end with; otherwise they end as a terminal ends them.
    pub(super) leash: Option<Leash>,
}

impl Source {
    /// Every handler below a folder. The first manifest that is wrong is the error.
    pub(super) fn below(folder: &Path) -> anyhow::Result<Vec<Self>> {
        let mut workspaces = Workspaces::default();
        manifest_files(folder)?.into_iter().map(|file| Self::read(&file, &mut workspaces)).collect()
    }

    fn read(file: &Path, workspaces: &mut Workspaces) -> anyhow::Result<Self> {
        let shown = file.display().to_string();
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {shown}"))?;
        let manifest = Manifest::parse(&shown, &text)?;
        let folder = file
            .parent()
            .unwrap_or(Path::new("."))
            .canonicalize()
            .with_context(|| format!("cannot find the folder of {shown}"))?;
        let cargos = manifest.dev_build.is_none() && folder.join("Cargo.toml").is_file();
        let krate =
            cargos.then(|| workspaces.find(&folder)).transpose().with_context(|| format!("handler `{}`", manifest.name))?;
        Ok(Self {
            krate,
            name: manifest.name,
            component: folder.join(manifest.component),
            migrations: manifest.migrations.map(|path| folder.join(path)),
            command: manifest.dev_build,
            folder,
        })
    }

    /// The folders whose files decide about the component and what goes with it.
    pub(super) fn made_of(&self) -> Vec<PathBuf> {
        let crates = self.krate.iter().flat_map(|krate| krate.folders.iter().cloned());
        crates.chain([self.folder.clone()]).chain(self.migrations.clone()).collect()
    }

    /// The folder that the compiler writes to.
    pub(super) fn target(&self) -> Option<&Path> {
        self.krate.as_ref().map(|krate| krate.target.as_path())
    }
}

/// Builds all of them; what can be built is built even if another fails. Returns the components that are other than before.
pub(super) fn build(sources: &[Source], options: &Options) -> anyhow::Result<Vec<PathBuf>> {
    let (mut changed, mut failures) = (Vec::new(), Vec::new());
    for source in sources.iter().filter(|source| source.krate.is_none()) {
        match &source.command {
            Some(command) => match run_command(source, command, options) {
                Ok(true) => changed.push(source.component.clone()),
                Ok(false) => {}
                Err(error) => failures.push(format!("{error:#}")),
            },
            None if source.component.is_file() => {}
            None => failures.push(format!(
                "handler `{}` has no component {}, and nothing says how to build it: put it there, or give `[dev] build = \"…\"` in handler.toml",
                source.name,
                source.component.display()
            )),
        }
    }
    let (installed, failed) = cargo::build(sources, options)?;
    changed.extend(installed);
    failures.extend(failed);
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(changed)
}

/// Runs the manifest's own command; true if the component is other than before.
fn run_command(source: &Source, command: &str, options: &Options) -> anyhow::Result<bool> {
    let before = std::fs::read(&source.component).ok();
    let mut process = Process::new("sh");
    process.args(["-c", command]).current_dir(&source.folder).stdin(Stdio::null());
    // Many compilers report on their standard output.
    process.stdout(if options.show { Stdio::inherit() } else { Stdio::piped() });
    let said = finish(process, options).with_context(|| format!("cannot run `{command}` for handler `{}`", source.name))?;
    let words = behind(&[said.output, said.errors].concat());
    anyhow::ensure!(said.success, "handler `{}` does not build: `{command}` failed{words}", source.name);
    let after = std::fs::read(&source.component).with_context(|| {
        let path = source.component.display();
        format!("`{command}` made no {path}, which the manifest of handler `{}` names as its component", source.name)
    })?;
    Ok(before.as_ref() != Some(&after))
}

/// What a compiler did.
struct Said {
    success: bool,
    output: Vec<u8>,
    errors: Vec<u8>,
}

impl Said {
    /// Its words behind an error, if they were kept.
    fn tail(&self) -> String {
        behind(&self.errors)
    }
}

fn behind(words: &[u8]) -> String {
    match String::from_utf8_lossy(words).trim_end() {
        "" => String::new(),
        words => format!(":\n{words}"),
    }
}

/// Runs a compiler to its end. Its standard output is kept if it is piped.
fn finish(mut process: Process, options: &Options) -> std::io::Result<Said> {
    process.stderr(if options.show { Stdio::inherit() } else { Stdio::piped() });
    let output = match &options.leash {
        None => process.spawn()?.wait_with_output()?,
        Some(leash) => {
            let ended = leash.spawn(&mut process)?.wait_with_output();
            leash.ended();
            ended?
        }
    };
    Ok(Said { success: output.status.success(), output: output.stdout, errors: output.stderr })
}
