//! The numbered SQL files of an app.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::config::Problems;

/// The folder beside a manifest that is taken if the manifest names none.
pub const MIGRATIONS_DIR: &str = "migrations";

/// One file `NNNN_name.sql`.
#[derive(Clone, PartialEq, Eq)]
pub struct Migration {
    /// Its number: the order, and what says whether it was applied.
    pub number: i32,
    /// The name after the number.
    pub name: String,
    /// The SQL.
    pub text: String,
    /// SHA-256 of the text: another content under a known number is refused.
    pub checksum: [u8; 32],
}

impl std::fmt::Debug for Migration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}_{} ({} bytes)", self.number, self.name, self.text.len())
    }
}

impl Migration {
    /// A migration with this text.
    pub fn new(number: i32, name: String, text: String) -> Self {
        Self { number, name, checksum: Sha256::digest(&text).into(), text }
    }

    /// The migrations of a folder by number; gaps are fine.
    pub fn load(folder: &Path) -> Result<Vec<Self>, Problems> {
        let shown = folder.display();
        let entries = std::fs::read_dir(folder).map_err(|error| format!("{shown}: can't read the migrations: {error}"))?;
        let mut problems = Problems::default();
        let mut list = Vec::<Self>::new();
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "sql")) {
            let Some((number, name)) = file.file_stem().and_then(|stem| numbered(stem.to_str()?)) else {
                problems.add(format!(
                    "{}: a migration is named like `0001_orders.sql`: four digits from 0001 on, `_`, a name",
                    file.display()
                ));
                continue;
            };
            if let Some(other) = list.iter().find(|other| other.number == number) {
                problems.add(format!("{}: number {number:04} is taken by {}", file.display(), other.file()));
                continue;
            }
            match std::fs::read_to_string(file) {
                Ok(text) => list.push(Self::new(number, name, text)),
                Err(error) => problems.add(format!("{}: {error}", file.display())),
            }
        }
        problems.into_result(Some(list))
    }

    /// The file's name.
    pub fn file(&self) -> String {
        format!("{:04}_{}.sql", self.number, self.name)
    }
}

fn numbered(stem: &str) -> Option<(i32, String)> {
    let (digits, name) = stem.split_once('_')?;
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if digits.len() != 4 || !digits.chars().all(|c| c.is_ascii_digit()) || name.is_empty() || !name.chars().all(good) {
        return None;
    }
    digits.parse().ok().filter(|number| *number > 0).map(|number| (number, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_are_read_by_number_with_gaps_and_other_files_beside() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("0010_more.sql", "select 2;"), ("0001_orders.sql", "select 1;"), ("README.md", "")] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let list = Migration::load(folder.path()).unwrap();
        assert_eq!(format!("{list:?}"), "[0001_orders (9 bytes), 0010_more (9 bytes)]");
        let hex: String = list[0].checksum.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "354b7196c9ba5fb4b21cf615bb6ec4cd5c07503c34229feef033fc081a8c03f4");
    }

    #[test]
    fn wrong_names_and_double_numbers_are_refused_together() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["0001_a.sql", "0001_b.sql", "0000_zero.sql", "2_short.sql", "0003.sql"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let shown = Migration::load(folder.path()).unwrap_err().to_string().replace(&format!("{}/", folder.path().display()), "");
        let rule = "a migration is named like `0001_orders.sql`: four digits from 0001 on, `_`, a name";
        assert_eq!(
            shown,
            format!(
                "0000_zero.sql: {rule}\n0001_b.sql: number 0001 is taken by 0001_a.sql\n0003.sql: {rule}\n2_short.sql: {rule}"
            )
        );
        assert!(
            Migration::load(Path::new("/no/such")).unwrap_err().to_string().starts_with("/no/such: can't read the migrations: ")
        );
    }
}
