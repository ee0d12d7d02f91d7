//! Certificates and keys in PEM files, checked where they are named, so that a wrong one ends the start instead of every connection.

use super::Secret;
use openssl::pkey::{PKey, Private};
use openssl::x509::X509;
use openssl::x509::store::{X509Store, X509StoreBuilder};
use std::path::{Path, PathBuf};

/// The certificate that this process shows, with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, followed by those between it and its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// What the key is encrypted with.
    pub key_password: Option<Secret>,
}

/// All certificates of a file; at least one.
pub fn certificates(path: &Path) -> Result<Vec<X509>, String> {
    let found = X509::stack_from_pem(&read(path)?).unwrap_or_default();
    if found.is_empty() {
        return Err(format!("{} has no certificate in PEM form (-----BEGIN CERTIFICATE-----)", path.display()));
    }
    Ok(found)
}

/// A store that trusts the authorities of a file and no other.
pub fn authorities(path: &Path) -> Result<X509Store, String> {
    let failed = |error| format!("{} cannot be used: {error}", path.display());
    let mut store = X509StoreBuilder::new().map_err(failed)?;
    for certificate in certificates(path)? {
        store.add_cert(certificate).map_err(failed)?;
    }
    Ok(store.build())
}

impl ClientCertificate {
    /// The certificates and the key, read and checked to belong together.
    pub fn load(&self) -> Result<(Vec<X509>, PKey<Private>), String> {
        let (chain, key) = (certificates(&self.certificate)?, self.load_key()?);
        let fits = chain.first().and_then(|first| first.public_key().ok()).is_some_and(|public| public.public_eq(&key));
        match fits {
            true => Ok((chain, key)),
            false => Err(format!(
                "{} is not the key of {}, whose first certificate has to be this process's own",
                self.key.display(),
                self.certificate.display()
            )),
        }
    }

    fn load_key(&self) -> Result<PKey<Private>, String> {
        let (text, path) = (read(&self.key)?, self.key.display());
        let mut asked = false;
        // Without a callback OpenSSL asks the terminal.
        let key = PKey::private_key_from_pem_callback(&text, |buffer| {
            asked = true;
            let password = self.key_password.as_ref().map_or(&[][..], |password| password.expose().as_bytes());
            let length = password.len().min(buffer.len());
            buffer[..length].copy_from_slice(&password[..length]);
            Ok(length)
        });
        key.map_err(|_| match (asked, &self.key_password) {
            (false, _) => format!("{path} has no private key in PEM form (-----BEGIN PRIVATE KEY-----)"),
            (true, None) => format!("the key in {path} is encrypted: its password is missing"),
            (true, Some(_)) => format!("the key in {path} cannot be decrypted with the given password"),
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}
