//! A handler packed into a revision.

use crate::config::units::display_size;
use crate::engine::check_form;
use crate::manifest::{Loaded, Manifest, Migration};
use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};

/// Everything that one deploy brings of one handler.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Where it comes from, for problems.
    pub origin: String,
    /// What its manifest says.
    pub manifest: Manifest,
    /// Its manifest as it was written.
    pub text: String,
    /// Its component.
    pub component: Vec<u8>,
    /// SHA-256 of the component.
    pub digest: [u8; 32],
    /// The app's migrations, if it gives them.
    pub migrations: Option<Vec<Migration>>,
    /// Its name: 64 hex digits.
    pub revision: String,
}

impl Bundle {
    /// Packs what was read from a folder; at most `most` bytes.
    pub fn read(loaded: &Loaded, most: u64) -> anyhow::Result<Self> {
        let Loaded { file, text, manifest, component, migrations } = loaded;
        let (origin, shown) = (file.display().to_string(), component.display());
        // Before it is read: it may be anything.
        let size = std::fs::metadata(component).with_context(|| format!("cannot read {shown}"))?.len();
        check_size(&format!("{origin}: {shown}"), size, most)?;
        let component = std::fs::read(component).with_context(|| format!("cannot read {shown}"))?;
        Self::pack(origin, manifest.clone(), text.clone(), component, migrations.clone(), most)
    }

    /// Packs what was sent.
    pub fn new(
        origin: String,
        text: String,
        component: Vec<u8>,
        migrations: Option<Vec<Migration>>,
        most: u64,
    ) -> anyhow::Result<Self> {
        let manifest = Manifest::parse(&origin, &text)?;
        Self::pack(origin, manifest, text, component, migrations, most)
    }

    fn pack(
        origin: String,
        manifest: Manifest,
        text: String,
        component: Vec<u8>,
        migrations: Option<Vec<Migration>>,
        most: u64,
    ) -> anyhow::Result<Self> {
        check_form(&component).with_context(|| format!("{origin}: handler `{}` cannot be used", manifest.name))?;
        let digest = Sha256::digest(&component).into();
        let revision = name(&text, &component, migrations.as_deref());
        let bundle = Self { origin, manifest, text, component, digest, migrations, revision };
        check_size(&bundle.origin, bundle.size(), most)?;
        Ok(bundle)
    }

    /// Bytes of all of it.
    pub fn size(&self) -> u64 {
        let migrations = self.migrations.iter().flatten().map(|one| one.text.len()).sum::<usize>();
        (self.text.len() + self.component.len() + migrations) as u64
    }
}

/// Refuses what has more than `most` bytes, by name.
pub fn check_size(what: &str, size: u64, most: u64) -> anyhow::Result<()> {
    ensure!(
        size <= most,
        "{what}: a revision of {} is more than `revision_size` allows ({}): make the component smaller (opt-level = \"s\", strip = true), or \
         set TIDEMILL_REVISION_SIZE",
        display_size(size),
        display_size(most)
    );
    Ok(())
}

/// SHA-256 over the manifest, the component and the migrations, each with its length in front, so that nothing can move from one to another.
fn name(text: &str, component: &[u8], migrations: Option<&[Migration]>) -> String {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(text.as_bytes());
    part(component);
    part(if migrations.is_some() { b"migrations" } else { b"" });
    for migration in migrations.unwrap_or_default() {
        part(&migration.number.to_be_bytes());
        part(migration.name.as_bytes());
        part(migration.text.as_bytes());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    fn bundle(text: &str, component: &[u8], migrations: Option<&[(i32, &str, &str)]>) -> anyhow::Result<Bundle> {
        let migrations = migrations
            .map(|list| list.iter().map(|(n, name, text)| Migration::new(*n, (*name).into(), (*text).into())).collect());
        Bundle::new("handler.toml".into(), text.into(), component.into(), migrations, 1_000)
    }

    #[test]
    fn c18_a_revision_is_named_by_all_of_its_content() {
        let text = "name = \"a\"\ncomponent = \"a.wasm\"\n";
        let of = |text: &str, component: &[u8], migrations: Option<&[(i32, &str, &str)]>| {
            bundle(text, component, migrations).unwrap().revision
        };
        let first = of(text, COMPONENT, Some(&[(1, "a", "bc")]));
        assert_eq!(first, of(text, COMPONENT, Some(&[(1, "a", "bc")])));
        assert_eq!(first.len(), 64);
        let others = [
            of(&format!("{text}\n"), COMPONENT, Some(&[(1, "a", "bc")])),
            of(text, &[COMPONENT, &[0, 2, 1, b'x']].concat(), Some(&[(1, "a", "bc")])),
            of(text, COMPONENT, None),
            of(text, COMPONENT, Some(&[])),
            of(text, COMPONENT, Some(&[(1, "ab", "c")])),
            of(text, COMPONENT, Some(&[(2, "a", "bc")])),
        ];
        let distinct: std::collections::HashSet<_> = others.iter().chain([&first]).collect();
        assert_eq!(distinct.len(), 7);
    }

    #[test]
    fn what_is_too_large_or_no_component_is_refused_by_name() {
        let text = "name = \"a\"\ncomponent = \"a.wasm\"\n";
        let large = [COMPONENT, &[0; 2_000]].concat();
        let error = bundle(text, &large, None).unwrap_err().to_string();
        assert!(error.contains("revision_size") && error.contains("TIDEMILL_REVISION_SIZE"), "{error}");
        let error = format!("{:#}", bundle(text, b"\0asm\x01\0\0\0", None).unwrap_err());
        assert!(error.contains("`a`") && error.contains("core WebAssembly module"), "{error}");
        let error = format!("{:#}", bundle("name = 1", COMPONENT, None).unwrap_err());
        assert!(error.contains("handler.toml:1"), "{error}");
    }
}
