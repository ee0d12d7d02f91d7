//! An authority of the tests' own, and certificates that it signs.

use std::path::{Path, PathBuf};

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, KeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509Name};

use super::process;

/// Signs certificates.
pub struct Authority {
    key: PKey<Private>,
    certificate: X509,
    folder: PathBuf,
    /// Its own certificate as a file.
    pub file: PathBuf,
}

/// A certificate with its key, as files.
pub struct Issued {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key, not encrypted.
    pub key: PathBuf,
    /// Key and certificate in one file, as Kafka wants them.
    pub both: PathBuf,
}

impl Authority {
    /// A new one that nobody trusts yet.
    pub fn new(name: &str) -> Self {
        let key = new_key();
        let mut builder = builder(name, &key);
        let issuer = subject(name);
        builder.set_issuer_name(&issuer).unwrap();
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build().unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        let (certificate, folder) = (builder.build(), process::folder("ca"));
        let file = write(&folder, "ca.pem", &certificate.to_pem().unwrap());
        Self { key, certificate, folder, file }
    }

    /// A certificate for hosts, each a name or an address; the first is also its subject.
    pub fn issue(&self, hosts: &[&str]) -> Issued {
        let key = new_key();
        let mut builder = builder(hosts[0], &key);
        builder.set_issuer_name(self.certificate.subject_name()).unwrap();
        let mut names = SubjectAlternativeName::new();
        for host in hosts {
            if host.parse::<std::net::IpAddr>().is_ok() {
                names.ip(host)
            } else {
                names.dns(host)
            };
        }
        let names = names.build(&builder.x509v3_context(Some(&self.certificate), None)).unwrap();
        builder.append_extension(names).unwrap();
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        let certificate = builder.build().to_pem().unwrap();
        let key = key.private_key_to_pem_pkcs8().unwrap();
        let both = [key.clone(), certificate.clone()].concat();
        let file = |end: &str, bytes: &[u8]| write(&self.folder, &format!("{}{end}", hosts[0]), bytes);
        Issued { certificate: file(".pem", &certificate), key: file(".key", &key), both: file(".both", &both) }
    }
}

fn new_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn subject(name: &str) -> X509Name {
    let mut subject = X509Name::builder().unwrap();
    subject.append_entry_by_nid(Nid::COMMONNAME, name).unwrap();
    subject.build()
}

fn builder(name: &str, key: &PKey<Private>) -> X509Builder {
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let mut serial = BigNum::new().unwrap();
    serial.rand(120, MsbOption::MAYBE_ZERO, false).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&subject(name)).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(super::http::now() - 3_600).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
    builder
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}
