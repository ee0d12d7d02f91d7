//! `tidemill token`: a token for trying things out. Development only: in production an issuer makes them.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use clap::{Arg, ArgMatches};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};

use crate::config::{self, Command, Config, JWT_KEY_BYTES, Secret, units::parse_duration};

/// The key's file in the data folder.
pub const KEY_FILE: &str = "jwt.key";

/// The file of the admin API's token in the data folder.
pub const ADMIN_TOKEN_FILE: &str = "admin.token";

/// The arguments.
pub fn command() -> clap::Command {
    let clap = clap::Command::new("token")
        .about("Print a token for a user (development only)")
        .arg(Arg::new("user").long("user").value_name("NAME").required(true).help("The user: the token's subject"))
        .arg(Arg::new("ttl").long("ttl").value_name("DURATION").default_value("24h").help("How long it is valid"));
    config::args(clap, Command::Token)
}

/// Prints the token and nothing else, for `$(tidemill token --user ann)`.
pub fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let config = Config::load(Command::Token, matches)?;
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str).unwrap_or_default();
    let ttl = parse_duration(text("ttl")).map_err(anyhow::Error::msg).context("--ttl")?;
    let key = match config.jwt_hs256_key_if_given() {
        Some(key) => key.clone(),
        None => development_key(config.data_dir())?,
    };
    writeln!(std::io::stdout(), "{}", token(&key, text("user"), ttl)?)?;
    Ok(())
}

/// A token that names the user and is valid for the given time.
pub fn token(key: &Secret, user: &str, ttl: Duration) -> anyhow::Result<String> {
    let good = (1..=128).contains(&user.chars().count()) && !user.chars().any(char::is_control);
    ensure!(good, "--user: a user has 1 to 128 characters without control characters");
    ensure!(ttl.as_secs() > 0, "--ttl: a token is valid for at least `1s`");
    let now = get_current_timestamp();
    let claims = serde_json::json!({ "sub": user, "iat": now, "exp": now.saturating_add(ttl.as_secs()) });
    Ok(encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(key.expose().as_bytes()))?)
}

/// The development key of a data folder, made at the first call.
pub fn development_key(data_dir: &Path) -> anyhow::Result<Secret> {
    development_secret(data_dir, KEY_FILE, "token key")
}

/// The development token of the admin API, made at the first call.
pub fn development_admin_token(data_dir: &Path) -> anyhow::Result<Secret> {
    development_secret(data_dir, ADMIN_TOKEN_FILE, "admin token")
}

/// A secret of a data folder: 32 random bytes as hex, in a file that only its owner reads.
fn development_secret(data_dir: &Path, name: &str, what: &str) -> anyhow::Result<Secret> {
    let path = data_dir.join(name);
    let read = || fs::read_to_string(&path);
    let text = match read() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            make_key(data_dir, &path).with_context(|| format!("can't make the {what} {}", path.display()))?;
            read()
        }
        found => found,
    };
    let text = text.with_context(|| format!("can't read the {what} {}", path.display()))?;
    let key = text.trim_end();
    if key.len() < JWT_KEY_BYTES {
        let file = path.display();
        bail!("the {what} {file} has less than {JWT_KEY_BYTES} bytes: remove it, and the next start makes a new one");
    }
    Ok(Secret::new(key))
}

/// Written aside and linked into place: two processes at once end with one whole key.
fn make_key(data_dir: &Path, path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(data_dir)?;
    let mut bytes = [0; JWT_KEY_BYTES];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let key: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let aside = data_dir.join(format!("secret.{}", uuid::Uuid::now_v7()));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    let linked = file.write_all(key.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| fs::hard_link(&aside, path));
    fs::remove_file(&aside)?;
    match linked {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::triggers::http::auth::{AuthError, Verifier};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_verified_by_the_host_that_made_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let key = development_key(&folder.path().join("data")).unwrap();
        let header = format!("Bearer {}", token(&key, "ann", Duration::from_secs(60)).unwrap());
        assert_eq!(Verifier::hs256(&key).verify(Some(&header)).as_deref(), Ok("ann"));
        let other = development_key(&folder.path().join("other")).unwrap();
        assert_eq!(Verifier::hs256(&other).verify(Some(&header)), Err(AuthError::Signature));
    }

    #[test]
    fn the_key_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let keys: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| development_key(folder.path()).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0] && key.expose().len() == 64));
        let file = folder.path().join(KEY_FILE);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left aside");
        fs::write(&file, "short").unwrap();
        let error = development_key(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with("has less than 32 bytes: remove it, and the next start makes a new one"), "{error}");
    }

    #[test]
    fn users_and_times_are_checked() {
        let key = Secret::new("0123456789abcdef0123456789abcdef");
        assert!(token(&key, "", Duration::from_secs(1)).is_err());
        assert!(token(&key, "a\nb", Duration::from_secs(1)).is_err());
        assert!(token(&key, "ann", Duration::from_millis(1)).is_err());
    }

    #[test]
    fn the_arguments_are_sound() {
        command().debug_assert();
        assert!(command().try_get_matches_from(["token"]).is_err());
    }
}
