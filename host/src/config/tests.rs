//! Resolution, typed values and errors of the configuration.

use super::*;
use std::fs;

const KEY: &str = "0123456789abcdef0123456789abcdef";

/// Resolves with a given environment and an optional `tidemill.toml`.
fn resolve(command: Command, flags: &[(&str, &str)], env: &[(&str, &str)], file: Option<&str>) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    if let Some(text) = file {
        fs::write(folder.path().join(CONFIG_FILE), text).unwrap();
    }
    let of = |pairs: &[(&str, &str)], name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned());
    let sources = Sources { flag: &|key| of(flags, key), env: &|name| of(env, name), folder: folder.path() };
    let place = format!("{}/", folder.path().display());
    Config::resolve(command, &sources).map_err(|problems| problems.to_string().replace(&place, ""))
}

fn token(flags: &[(&str, &str)], env: &[(&str, &str)], file: Option<&str>) -> Result<Config, String> {
    resolve(Command::Token, flags, env, file)
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let (flag, env, file) = ([("data_dir", "flag")], [("TIDEMILL_DATA_DIR", "env")], Some("data_dir = 'file'"));
    let data_dir = |config: Result<Config, String>| config.unwrap().data_dir().display().to_string();
    assert_eq!(data_dir(token(&flag, &env, file)), "flag");
    assert_eq!(data_dir(token(&[], &env, file)), "env");
    assert_eq!(data_dir(token(&[], &[], file)), "file");
    assert_eq!(data_dir(token(&[], &[], None)), ".tidemill");
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let config =
        token(&[], &[("TIDEMILL_DATA_DIR", ""), ("TIDEMILL_JWT_HS256_KEY", ""), ("TIDEMILL_CONFIG", "")], Some("data_dir = 'x'"));
    let config = config.unwrap();
    assert_eq!((config.data_dir(), config.jwt_hs256_key_if_given()), (Path::new("x"), None));
}

#[test]
fn every_default_is_valid_and_as_documented() {
    let config = Config::from_pairs(Command::Dev, &[("handlers", "handlers")]).unwrap();
    assert_eq!(config.command(), Command::Dev);
    assert_eq!(config.handlers().unwrap(), Path::new("handlers"));
    assert_eq!(config.kafka_addr().to_string(), "127.0.0.1:9092");
    assert_eq!(config.http_addr().to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin_addr().to_string(), "127.0.0.1:9090");
    assert_eq!((config.installation(), config.db_connections(), config.concurrency()), ("tidemill", 16, 256));
    assert_eq!((config.shutdown_grace(), config.outcome_deadline()), (Duration::from_secs(10), Duration::from_secs(5)));
    assert_eq!((config.log(), config.log_format(), config.postgres_bin()), ("info", LogFormat::Text, None));
}

#[test]
fn every_setting_of_the_table_reaches_the_configuration() {
    let pem = Pem::new("hush");
    let other = [
        ("handlers", "h"),
        ("database_url", "postgres://a@b/c"),
        ("admin_database_url", "postgres://d@e/f"),
        ("kafka_brokers", "one:1, two:2"),
        ("kafka_security_protocol", "SASL_SSL"),
        ("kafka_ca_file", &pem.certificate),
        ("kafka_certificate_file", &pem.certificate),
        ("kafka_key_file", &pem.key),
        ("kafka_key_password", "hush"),
        ("kafka_sasl_mechanism", "scram-sha-512"),
        ("kafka_user", "ann"),
        ("kafka_password", "hush"),
        ("kafka_addr", "127.0.0.1:1"),
        ("http_addr", "[::1]:2"),
        ("admin_addr", "0.0.0.0:3"),
        ("data_dir", "d"),
        ("jwt_hs256_key", KEY),
        ("admin_token", KEY),
        ("installation", "blue_2"),
        ("revision_size", "3MiB"),
        ("migration_lock_timeout", "3s"),
        ("db_connections", "7"),
        ("concurrency", "8"),
        ("shutdown_grace", "1m"),
        ("outcome_deadline", "900ms"),
        ("postgres_bin", "p"),
        ("log", "debug"),
        ("log_format", "json"),
    ];
    assert_eq!(other.map(|(key, _)| key).as_slice(), SETTINGS.iter().map(|s| s.key).collect::<Vec<_>>());
    for (setting, pair) in SETTINGS.iter().zip(other) {
        for command in setting.commands {
            let needs =
                |key: &str| SETTINGS.iter().any(|s| s.key == key && s.required.contains(command)) || goes_with(pair.0, key);
            let required = other.into_iter().filter(|(key, _)| *key != pair.0 && needs(key));
            let mut pairs = required.collect::<Vec<_>>();
            let without = Config::from_pairs(*command, &pairs);
            pairs.push(pair);
            let with = Config::from_pairs(*command, &pairs).unwrap();
            match without {
                Err(problems) => assert!(problems.to_string().to_lowercase().contains(setting.key), "{problems}"),
                Ok(without) => assert_ne!(format!("{with:?}"), format!("{without:?}"), "{}", setting.key),
            }
        }
    }
}

/// What a setting is nothing without.
fn goes_with(setting: &str, other: &str) -> bool {
    let login = ["kafka_sasl_mechanism", "kafka_user", "kafka_password"];
    let certificate = ["kafka_certificate_file", "kafka_key_file", "kafka_key_password"];
    if other == "kafka_brokers" {
        // How brokers are reached matters to whoever reaches some.
        return setting.starts_with("kafka_") && !["kafka_brokers", "kafka_addr"].contains(&setting);
    }
    match setting {
        "kafka_ca_file" => other == "kafka_security_protocol" || login.contains(&other),
        _ if login.contains(&setting) || setting == "kafka_security_protocol" => {
            login.contains(&other) || (other == "kafka_security_protocol" && setting != other)
        }
        _ if certificate.contains(&setting) => {
            certificate.contains(&other) || other == "kafka_security_protocol" || login.contains(&other)
        }
        _ => false,
    }
}

/// A certificate that signs itself, with its encrypted key, as files.
struct Pem {
    certificate: String,
    key: String,
    _folder: tempfile::TempDir,
}

impl Pem {
    fn new(password: &str) -> Self {
        use openssl::{asn1::Asn1Time, ec, hash::MessageDigest, nid::Nid, pkey::PKey, symm::Cipher, x509::X509Builder};
        let group = ec::EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(ec::EcKey::generate(&group).unwrap()).unwrap();
        let mut certificate = X509Builder::new().unwrap();
        certificate.set_pubkey(&key).unwrap();
        certificate.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
        certificate.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
        certificate.sign(&key, MessageDigest::sha256()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: Vec<u8>| {
            fs::write(folder.path().join(name), bytes).unwrap();
            folder.path().join(name).display().to_string()
        };
        let encrypted = key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_128_cbc(), password.as_bytes()).unwrap();
        let (certificate, key) = (write("cert", certificate.build().to_pem().unwrap()), write("key", encrypted));
        Self { certificate, key, _folder: folder }
    }
}

fn kafka(env: &[(&str, &str)]) -> Result<KafkaAccess, String> {
    let flags = [("handlers", "h"), ("kafka_brokers", "b:1")];
    resolve(Command::Topics, &flags, env, None).map(|config| config.kafka().unwrap().clone())
}

#[test]
fn kafka_settings_that_do_not_go_together_are_named_in_pairs() {
    let (protocol, user) = (("TIDEMILL_KAFKA_SECURITY_PROTOCOL", "sasl_ssl"), ("TIDEMILL_KAFKA_USER", "ann"));
    let password = ("TIDEMILL_KAFKA_PASSWORD", "hush");
    assert_eq!(
        kafka(&[user]).unwrap_err(),
        "TIDEMILL_KAFKA_USER: TIDEMILL_KAFKA_SECURITY_PROTOCOL is `plaintext`, which has no login; set that to `sasl_ssl`, or leave this out"
    );
    assert_eq!(
        kafka(&[protocol, password]).unwrap_err(),
        "TIDEMILL_KAFKA_SECURITY_PROTOCOL is `sasl_ssl`, which needs `kafka_sasl_mechanism`: give --kafka-sasl-mechanism MECHANISM, \
         TIDEMILL_KAFKA_SASL_MECHANISM or `kafka_sasl_mechanism` in tidemill.toml\n\
         TIDEMILL_KAFKA_SECURITY_PROTOCOL is `sasl_ssl`, which needs `kafka_user`: give --kafka-user NAME, TIDEMILL_KAFKA_USER or \
         `kafka_user` in tidemill.toml"
    );
    let plain =
        [("TIDEMILL_KAFKA_SECURITY_PROTOCOL", "sasl_plaintext"), ("TIDEMILL_KAFKA_SASL_MECHANISM", "PLAIN"), user, password];
    let tls = kafka(&[&plain[..], &[("TIDEMILL_KAFKA_CA_FILE", "/ca")]].concat()).unwrap_err();
    assert!(
        tls.starts_with("TIDEMILL_KAFKA_CA_FILE: TIDEMILL_KAFKA_SECURITY_PROTOCOL is `sasl_plaintext`, which has no TLS"),
        "{tls}"
    );
    assert!(kafka(&plain).unwrap().warning().unwrap().contains("b:1"), "PLAIN to another machine is worth a warning");
    let near = KafkaAccess { brokers: "localhost:1,127.0.0.9:1,[::1]:1".to_owned(), ..kafka(&plain).unwrap() };
    assert_eq!(near.warning(), None);
    let odd = kafka(&[("TIDEMILL_KAFKA_SECURITY_PROTOCOL", "tls"), ("TIDEMILL_KAFKA_SASL_MECHANISM", "GSSAPI")]).unwrap_err();
    assert!(odd.contains("`tls` is none of") && odd.contains("`GSSAPI` is none of"), "{odd}");
}

#[test]
fn kafka_files_are_checked_at_the_start() {
    let pem = Pem::new("hush");
    let other = Pem::new("hush");
    let ssl = ("TIDEMILL_KAFKA_SECURITY_PROTOCOL", "ssl");
    let certificate = ("TIDEMILL_KAFKA_CERTIFICATE_FILE", &*pem.certificate);
    let key = ("TIDEMILL_KAFKA_KEY_FILE", &*pem.key);
    let password = ("TIDEMILL_KAFKA_KEY_PASSWORD", "hush");
    let whole = kafka(&[ssl, certificate, key, password, ("TIDEMILL_KAFKA_CA_FILE", &pem.certificate)]).unwrap();
    assert!(whole.tls.as_ref().unwrap().certificate.is_some() && whole.login.is_none());
    assert!(!format!("{whole:?}").contains("hush"));
    let refused = |env: &[(&str, &str)], words: &[&str]| {
        let error = kafka(&[&[ssl], env].concat()).unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)) && !error.contains("hush"), "{error}");
    };
    refused(&[("TIDEMILL_KAFKA_CA_FILE", "/no/ca")], &["TIDEMILL_KAFKA_CA_FILE: /no/ca cannot be read"]);
    refused(&[("TIDEMILL_KAFKA_CA_FILE", &pem.key)], &["no certificate in PEM form"]);
    refused(&[certificate], &["TIDEMILL_KAFKA_CERTIFICATE_FILE", "needs `kafka_key_file`"]);
    refused(&[key], &["TIDEMILL_KAFKA_KEY_FILE", "needs `kafka_certificate_file`"]);
    refused(&[password], &["TIDEMILL_KAFKA_KEY_PASSWORD", "needs `kafka_key_file`"]);
    refused(&[certificate, key], &["TIDEMILL_KAFKA_KEY_FILE", "is encrypted", "TIDEMILL_KAFKA_KEY_PASSWORD[_FILE]"]);
    refused(&[certificate, key, ("TIDEMILL_KAFKA_KEY_PASSWORD", "hush-hush")], &["cannot be decrypted"]);
    refused(&[certificate, ("TIDEMILL_KAFKA_KEY_FILE", &other.key), password], &["is not the key of"]);
}

#[test]
fn unknown_keys_of_the_file_are_errors_that_name_the_nearest() {
    let file = "data_dir = 'x'\nhtp_addr = '127.0.0.1:1'\n[colours]\njwt_hs256_key = 'x'\n";
    assert_eq!(
        token(&[], &[], Some(file)).unwrap_err(),
        "tidemill.toml:3: there is no setting `colours`\n\
         tidemill.toml:2: there is no setting `htp_addr`; did you mean `http_addr`?"
    );
    assert_eq!(
        token(&[], &[], Some("\ndata_dir = true\nconcurrency = [1]")).unwrap_err(),
        "tidemill.toml:3: `concurrency` is a text or a whole number, not array\n\
         tidemill.toml:2: `data_dir` is a text or a whole number, not boolean"
    );
    let broken = token(&[], &[], Some("jwt_hs256_key = \"hush\nx = 1")).unwrap_err();
    assert!(broken.starts_with("tidemill.toml:1: ") && !broken.contains("hush"), "{broken}");
}

#[test]
fn a_named_file_must_exist() {
    for (flags, env, place) in [
        (&[("config", "/no/such.toml")][..], &[][..], "--config"),
        (&[][..], &[("TIDEMILL_CONFIG", "/no/such.toml")][..], "TIDEMILL_CONFIG"),
    ] {
        let error = token(flags, env, None).unwrap_err();
        assert!(error.starts_with(&format!("{place}: can't read /no/such.toml: No such file")), "{error}");
    }
}

#[test]
fn whole_numbers_may_stand_bare_in_the_file() {
    let config = resolve(Command::Dev, &[("handlers", "h")], &[], Some("concurrency = 12")).unwrap();
    assert_eq!(config.concurrency(), 12);
}

#[test]
fn what_is_missing_is_named_with_all_its_ways() {
    assert_eq!(
        resolve(Command::Serve, &[], &[], None).unwrap_err(),
        "`tidemill serve` needs `database_url`: give --database-url URL, TIDEMILL_DATABASE_URL[_FILE] or `database_url` in tidemill.toml\n\
         `tidemill serve` needs `kafka_brokers`: give --kafka-brokers HOST:PORT,…, TIDEMILL_KAFKA_BROKERS or `kafka_brokers` in tidemill.toml\n\
         `tidemill serve` needs `jwt_hs256_key`: give --jwt-hs256-key-file FILE, TIDEMILL_JWT_HS256_KEY[_FILE] or `jwt_hs256_key` in tidemill.toml"
    );
    let config = token(&[], &[], None).unwrap();
    assert!(config.database_url().unwrap_err().to_string().starts_with("`tidemill token` needs `database_url`"));
}

#[test]
fn bad_values_are_named_with_their_place_all_at_once() {
    let flags = [
        ("handlers", "h"),
        ("http_addr", "localhost"),
        ("concurrency", "0"),
        ("shutdown_grace", "10"),
        ("installation", "Blue"),
        ("log_format", "xml"),
    ];
    assert_eq!(
        resolve(Command::Dev, &flags, &[("TIDEMILL_KAFKA_ADDR", ":1")], Some("db_connections = 5000")).unwrap_err(),
        "TIDEMILL_KAFKA_ADDR: `:1` is no address of the form IP:PORT, such as 127.0.0.1:8080\n\
         --http-addr: `localhost` is no address of the form IP:PORT, such as 127.0.0.1:8080\n\
         --installation: `Blue` is no installation name: a small letter, then up to 30 small letters, digits and `_`\n\
         tidemill.toml:1: `db_connections`: `5000` is no whole number from 1 to 1000\n\
         --concurrency: `0` is no whole number from 1 to 900\n\
         --shutdown-grace: `10` is no duration such as `500ms`, `10s`, `5m`, `12h` or `7d`\n\
         --log-format: `xml` is neither `text` nor `json`"
    );
    let brokers = resolve(Command::Topics, &[("handlers", "h"), ("kafka_brokers", "a:1,b")], &[], None);
    assert_eq!(brokers.unwrap_err(), "--kafka-brokers: `b` is no broker of the form HOST:PORT, such as localhost:9092");
}

#[test]
fn a_key_is_read_from_the_named_file_and_trimmed_at_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    fs::write(&path, format!("{KEY}\n\n")).unwrap();
    let path = path.display().to_string();
    let key = |config: Result<Config, String>| config.unwrap().jwt_hs256_key().unwrap().expose().to_owned();
    assert_eq!(key(token(&[("jwt_hs256_key_file", &path)], &[], None)), KEY);
    assert_eq!(key(token(&[], &[("TIDEMILL_JWT_HS256_KEY_FILE", &path)], None)), KEY);
    assert_eq!(key(token(&[], &[], Some(&format!("jwt_hs256_key_file = '{path}'")))), KEY);
    assert_eq!(
        token(&[], &[("TIDEMILL_JWT_HS256_KEY_FILE", &path), ("TIDEMILL_JWT_HS256_KEY", KEY)], None).unwrap_err(),
        "TIDEMILL_JWT_HS256_KEY and TIDEMILL_JWT_HS256_KEY_FILE are both given: give one"
    );
    let lost = token(&[], &[("TIDEMILL_JWT_HS256_KEY_FILE", "/no/key")], None).unwrap_err();
    assert!(lost.starts_with("TIDEMILL_JWT_HS256_KEY_FILE: can't read the file that it names: No such file"), "{lost}");
    let over = [("TIDEMILL_JWT_HS256_KEY", "ffffffffffffffffffffffffffffffff")];
    assert_eq!(key(token(&[("jwt_hs256_key_file", &path)], &over, None)), KEY, "a flag wins over the environment");
}

#[test]
fn secrets_are_in_no_output() {
    let env = [
        ("TIDEMILL_JWT_HS256_KEY", "hush-hush-hush-hush-hush-hush-hush"),
        ("TIDEMILL_DATABASE_URL", "postgres://a:hush@b/c"),
        ("TIDEMILL_ADMIN_TOKEN", "hush-hush-hush-hush-hush-hush-hush"),
    ];
    let config = resolve(Command::Serve, &[("handlers", "h"), ("kafka_brokers", "a:1")], &env, None).unwrap();
    assert!(!format!("{config:?} {config:#?}").contains("hush"), "{config:?}");
    let env = [("TIDEMILL_JWT_HS256_KEY", "hush"), ("TIDEMILL_DATABASE_URL", "hush"), ("TIDEMILL_ADMIN_TOKEN", "hush")];
    assert_eq!(
        resolve(Command::Serve, &[("handlers", "h"), ("kafka_brokers", "a:1")], &env, None).unwrap_err(),
        "TIDEMILL_DATABASE_URL: it is no URL of the form postgres://user:password@host:5432/database (special characters in the \
         password are percent-encoded)\n\
         TIDEMILL_JWT_HS256_KEY: the key has 4 bytes, HS256 needs at least 32 (`openssl rand -hex 32` makes one)\n\
         TIDEMILL_ADMIN_TOKEN: the token has 4 characters, it needs at least 32 (`openssl rand -hex 32` makes one)"
    );
}

#[test]
fn flags_come_from_clap_by_the_key_of_their_setting() {
    let clap = args(clap::Command::new("token"), Command::Token);
    let matches = clap.try_get_matches_from(["token", "--data-dir", "there", "--config", "/dev/null"]).unwrap();
    assert_eq!(Config::load(Command::Token, &matches).unwrap().data_dir(), Path::new("there"));
}
