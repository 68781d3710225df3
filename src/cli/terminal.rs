//! What reaches the terminal: results on standard output, everything else on standard error.

use crate::model::hub::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

/// Prints to standard output. A reader that has gone away (`| head`) is not an error.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
}

pub fn warn(text: &str) {
    let _ = writeln!(std::io::stderr(), "warning: {}", one_line(text));
}

/// Something worth knowing while one waits; like a progress bar, only where standard error is a terminal.
pub fn note(text: &str) {
    let mut err = std::io::stderr();
    if err.is_terminal() {
        let _ = writeln!(err, "{}", one_line(text));
    }
}

pub fn error(text: &str) {
    let _ = writeln!(std::io::stderr(), "error: {}", one_line(text));
}

/// Paths and names may hold line breaks and terminal controls; a message is one line all the same.
fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// A bar with cells, a message and the time left; hidden where standard error is no terminal.
pub fn bar(total: u64, unit: &str) -> ProgressBar {
    let template = format!("{{bar:32}} {{human_pos}}/{{human_len}} {unit}{{msg}}  {{eta}} left");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style.progress_chars("█▉▊▋▌▍▎▏ "))
}

/// A bar for each file that is downloaded; it goes when the file is there.
#[derive(Default)]
pub struct DownloadBars {
    bar: Mutex<Option<ProgressBar>>,
}

impl DownloadBars {
    fn with(&self, act: impl FnOnce(&mut Option<ProgressBar>)) {
        act(&mut self.bar.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Progress for DownloadBars {
    fn begin(&self, file: &str, bytes: u64) {
        let template = "{msg} {bar:32} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}  {eta} left";
        self.with(|bar| {
            let bar = bar.get_or_insert_with(|| {
                let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
                ProgressBar::new(bytes).with_style(style.progress_chars("█▉▊▋▌▍▎▏ ")).with_message(one_line(file))
            });
            bar.set_position(0);
        });
    }

    fn advance(&self, bytes: u64) {
        self.with(|bar| bar.iter().for_each(|bar| bar.inc(bytes)));
    }

    fn end(&self) {
        self.with(|bar| bar.take().iter().for_each(ProgressBar::finish_and_clear));
    }
}

/// 12345678 → 12,345,678.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Bytes in the unit that reads best.
pub fn size(bytes: u64) -> String {
    match bytes {
        b if b >= 10 << 30 => format!("{:.0} GiB", b as f64 / (1u64 << 30) as f64),
        b if b >= 1 << 30 => format!("{:.1} GiB", b as f64 / (1u64 << 30) as f64),
        b if b >= 10 << 20 => format!("{:.0} MiB", b as f64 / (1u64 << 20) as f64),
        b if b >= 1 << 20 => format!("{:.1} MiB", b as f64 / (1u64 << 20) as f64),
        b => format!("{:.1} KiB", b as f64 / (1u64 << 10) as f64),
    }
}
