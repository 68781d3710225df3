//! Dependencies that panic on hostile input must not look like our bugs.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// This thread is in [`quietly`], where a panic becomes `None` and has nothing to print.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What `work` returns, or `None` if it panicked; nothing is printed then. For calls into libraries that trust their
/// files. What `work` was changing when it panicked must not be used any more.
pub(crate) fn quietly<T>(work: impl FnOnce() -> T) -> Option<T> {
    static QUIET_HOOK: Once = Once::new();
    QUIET_HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                usual(panic);
            }
        }));
    });
    let outer = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(outer);
    result.ok()
}
