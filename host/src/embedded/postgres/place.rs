//! Where the private server lives, and that only one host uses it.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};

use super::programs::Account;

/// A Unix socket's path ends here (`sun_path` has 108 bytes with its end).
const SOCKET_BYTES: usize = 107;
const SOCKET: &str = ".s.PGSQL.5432";

/// Takes the data folder for this host.
pub(super) fn lock(data_dir: &Path) -> anyhow::Result<fs::File> {
    let path = data_dir.join("postgres.lock");
    let file = fs::File::create(&path).with_context(|| format!("can't write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            bail!(
                "another tidemill runs with the data folder {}: end it, or give this one its own (--data-dir)",
                data_dir.display()
            )
        }
        Err(fs::TryLockError::Error(error)) => Err(error).with_context(|| format!("can't lock {}", path.display())),
    }
}

/// Makes the server's folder: `<data_dir>/postgres`, or a place under /var/tmp where the account or the socket can't be there.
pub(super) fn place(data_dir: &Path, account: &Account) -> anyhow::Result<PathBuf> {
    let mut folder = data_dir.join("postgres");
    let socket = folder.join(SOCKET);
    // libpq reads a comma as the end of one host, and an URL is text.
    let nameable = socket.to_str().is_some_and(|path| !path.contains(',') && path.len() <= SOCKET_BYTES);
    if !nameable || !account.reaches(&folder) {
        let hash = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
        let hash = hash.iter().take(8).fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        folder = PathBuf::from(format!("/var/tmp/tidemill-{hash}"));
        fs::write(data_dir.join("postgres.path"), format!("{}\n", folder.display()))?;
    }
    if let Err(error) = fs::DirBuilder::new().mode(0o700).create(&folder)
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(error).with_context(|| format!("can't make the folder {}", folder.display()));
    }
    // Under /var/tmp anybody could have been there first.
    let found = fs::symlink_metadata(&folder)?;
    let ours = found.is_dir() && (found.uid() == account.uid || (account.root && found.uid() == 0));
    ensure!(ours, "{} belongs to somebody else: remove it, or give another data folder (--data-dir)", folder.display());
    if account.root {
        chown(&folder, Some(account.uid), Some(account.gid))?;
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
    Ok(folder)
}
