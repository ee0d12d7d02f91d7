//! PostgreSQL's programs on this machine, and the account that runs them.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, anyhow, ensure};

use super::BIN_ENV;

/// The oldest version that the host works with.
const OLDEST: u32 = 15;
/// Where Debian keeps the programs, one folder a version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// Who the server runs as: PostgreSQL refuses root.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The host runs as root, the server as `postgres`.
    pub(super) root: bool,
    pub(super) setpriv: Option<PathBuf>,
}

impl Account {
    pub(super) fn find() -> anyhow::Result<Self> {
        let setpriv = in_path("setpriv");
        let uid = id(&["-u"])?;
        if uid != 0 {
            return Ok(Self { uid, gid: id(&["-g"])?, root: false, setpriv });
        }
        let missing = "PostgreSQL does not run as root, and there is no user `postgres` to run it as: \
            `apt-get install postgresql` makes it, or run tidemill as another user";
        ensure!(
            setpriv.is_some(),
            "PostgreSQL does not run as root, and there is no `setpriv` (Debian: util-linux): run tidemill as another user"
        );
        Ok(Self {
            uid: id(&["-u", "postgres"]).context(missing)?,
            gid: id(&["-g", "postgres"]).context(missing)?,
            root: true,
            setpriv,
        })
    }

    /// A program under this account; `bound`: it ends when the thread ends that starts it.
    pub(super) fn command(&self, program: &Path, bound: bool) -> Command {
        let Some(setpriv) = self.setpriv.as_ref().filter(|_| self.root || bound) else {
            return Command::new(program);
        };
        let mut command = Command::new(setpriv);
        if bound {
            command.args(["--pdeathsig", "INT"]);
        }
        if self.root {
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        }
        command.arg("--").arg(program);
        command
    }

    /// Whether the account may pass through every folder above.
    pub(super) fn reaches(&self, folder: &Path) -> bool {
        folder.ancestors().skip(1).filter_map(|above| fs::metadata(above).ok()).all(|above| {
            let bit = match (above.uid() == self.uid, above.gid() == self.gid) {
                (true, _) => 0o100,
                (false, true) => 0o010,
                (false, false) => 0o001,
            };
            above.mode() & bit != 0
        })
    }
}

fn id(arguments: &[&str]) -> anyhow::Result<u32> {
    let output = Command::new("id").args(arguments).output().context("can't run `id`")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
}

/// The folder of PostgreSQL's programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Programs(PathBuf);

impl Programs {
    /// The folder that was named, else the one in PATH, else Debian's newest; a cluster that exists needs programs of its own version.
    pub(super) fn find(bin: Option<&Path>, cluster: Option<&str>) -> anyhow::Result<Self> {
        let named = bin.map(Path::to_owned).into_iter();
        let found = in_path("postgres").and_then(|program| fs::canonicalize(program).ok()?.parent().map(Path::to_owned));
        let debian = fs::read_dir(DEBIAN).into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
        let mut debian: Vec<_> = debian.filter_map(|bin| Some((version(&bin).ok()?, bin))).collect();
        debian.sort();
        let debian = debian.into_iter().rev().map(|(_, bin)| bin);
        let searched: Vec<PathBuf> = if bin.is_some() { named.collect() } else { found.into_iter().chain(debian).collect() };
        Self::choose(&searched, bin.is_some(), cluster.and_then(|text| text.trim().parse().ok()))
    }

    pub(super) fn choose(searched: &[PathBuf], named: bool, cluster: Option<u32>) -> anyhow::Result<Self> {
        let mut looked = String::new();
        for bin in searched {
            match version(bin) {
                Ok(version) if version < OLDEST => {
                    write!(looked, "\n  {}: version {version}, at least {OLDEST} is needed", bin.display())?
                }
                Ok(version) if cluster.is_some_and(|cluster| cluster != version) => {
                    write!(
                        looked,
                        "\n  {}: version {version}, the data is of version {}",
                        bin.display(),
                        cluster.unwrap_or_default()
                    )?;
                }
                Ok(_) => return Ok(Self(bin.clone())),
                Err(error) => write!(looked, "\n  {}: {error}", bin.display())?,
            }
        }
        if !named {
            write!(looked, "\n  PATH and {DEBIAN}/*/bin: nothing else")?;
        }
        Err(anyhow!(
            "found no PostgreSQL programs (initdb, postgres, pg_ctl; version {OLDEST} or newer). Searched:{looked}\n\
             `apt-get install postgresql` installs them (scripts/dev does it too); {BIN_ENV} names another folder"
        ))
    }

    pub(super) fn postgres(&self) -> PathBuf {
        self.0.join("postgres")
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.0.join("initdb")
    }

    pub(super) fn pg_ctl(&self) -> PathBuf {
        self.0.join("pg_ctl")
    }
}

/// The major version of the programs in a folder that has all of them.
fn version(bin: &Path) -> Result<u32, String> {
    for program in ["initdb", "pg_ctl", "postgres"] {
        if !bin.join(program).is_file() {
            return Err(format!("has no program `{program}`"));
        }
    }
    let output = Command::new(bin.join("postgres")).arg("--version").output().map_err(|error| error.to_string())?;
    // postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = text.split_whitespace().find_map(|word| word.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
    number.ok_or_else(|| format!("`postgres --version` says {:?}", text.trim()))
}

fn in_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}
