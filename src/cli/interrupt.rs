//! Ctrl-C as a flag that long work looks at.

use super::usage;
use crate::Error;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static RAISED: AtomicBool = AtomicBool::new(false);
static WATCHED: OnceLock<Result<(), String>> = OnceLock::new();

/// The flag that the first Ctrl-C raises; the second ends the process at once.
pub fn flag() -> Result<&'static AtomicBool, Error> {
    let handler = || {
        if RAISED.swap(true, Ordering::SeqCst) {
            std::process::exit(1);
        }
    };
    match WATCHED.get_or_init(|| ctrlc::set_handler(handler).map_err(|e| e.to_string())) {
        Ok(()) => Ok(&RAISED),
        Err(e) => Err(usage(format!("cannot watch for Ctrl-C: {e}"))),
    }
}
