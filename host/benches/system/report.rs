//! The tables, printed and kept as Markdown.

use anyhow::Context;
use std::fmt::Write as _;
use std::path::PathBuf;

/// What was measured, as Markdown in the order of measuring.
#[derive(Debug, Default)]
pub(crate) struct Report(String);

impl Report {
    /// Begins a part; also says on the terminal that it runs.
    pub(crate) fn part(&mut self, title: &str) {
        self.line(&format!("\n## {title}\n"));
    }

    /// A line of text.
    pub(crate) fn line(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    /// A table. Every row has as many cells as the head.
    pub(crate) fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        self.line(&format!("| {} |", head.join(" | ")));
        self.line(&format!("|---{}", "|---:".repeat(head.len() - 1) + "|"));
        for row in rows {
            self.line(&format!("| {} |", row.join(" | ")));
        }
        self.line("");
    }

    /// Prints everything and writes it to `target/bench.md`.
    pub(crate) fn write(&self) -> anyhow::Result<()> {
        let path = target().join("bench.md");
        let text = format!("# Benchmark\n\n{}", self.0);
        println!("\n{text}");
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("written to {}", path.display());
        Ok(())
    }
}

/// The program that is measured.
pub(crate) const TIDEMILL: &str = env!("CARGO_BIN_EXE_tidemill");

/// Cargo's target folder.
pub(crate) fn target() -> PathBuf {
    PathBuf::from(TIDEMILL).ancestors().nth(2).map(PathBuf::from).unwrap_or_default()
}

/// Says on the terminal what runs now.
pub(crate) fn say(text: &str) {
    eprintln!("==> {text}");
}

/// The middle one of a few figures.
pub(crate) fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The ratio of two figures by rounds: `0.97 (0.95–1.00)`, that is the median, the lowest and the highest.
pub(crate) fn ratio(pairs: impl IntoIterator<Item = (f64, f64)>) -> String {
    let ratios: Vec<f64> = pairs.into_iter().map(|(one, other)| one / other).collect();
    let (lowest, highest) = ratios.iter().fold((f64::MAX, f64::MIN), |(low, high), ratio| (low.min(*ratio), high.max(*ratio)));
    format!("{:.2} ({lowest:.2}–{highest:.2})", median(ratios))
}

/// `1,234,567`
pub(crate) fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        let _ = write!(text, "{digit}");
    }
    if number < 0.0 { format!("-{text}") } else { text }
}

/// Microseconds as milliseconds.
pub(crate) fn ms(micros: f64) -> String {
    format!("{:.1} ms", micros / 1000.0)
}
