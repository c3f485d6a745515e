//! What a panic said, without printing it: thousands of runs end in one while a failure is shrunk.

#![allow(
    clippy::missing_const_for_thread_local,
    reason = "they are const; clippy 1.96 does not see it for Windows"
)]

use std::{
    any::Any,
    cell::{Cell, RefCell},
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Calls `run`, and gives what a panic in it said, and where, instead of printing it.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                return others(info);
            }
            let place =
                info.location().map(|at| format!(" ({}:{})", at.file(), at.line())).unwrap_or_default();
            let what = said(info.payload()).unwrap_or("without words");
            LAST.set(Some(format!("{what}{place}")));
        }));
    });
    QUIET.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    QUIET.set(false);
    result.map_err(|payload| {
        LAST.take().unwrap_or_else(|| said(&*payload).unwrap_or("without words").to_owned())
    })
}

fn said(payload: &dyn Any) -> Option<&str> {
    payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_with_its_place() {
        assert_eq!(caught(|| 7), Ok(7));
        let told = caught(|| panic!("number {}", 3)).unwrap_err();
        assert!(told.starts_with("number 3 (") && told.contains("panics.rs:"), "{told}");
    }
}
