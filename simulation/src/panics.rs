//! What a panic said, without printing it: thousands of runs end in one while a failure is shrunk.

use std::{any::Any, cell::RefCell, panic};

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps what panics say instead of printing it, in the whole process.
pub fn keep_quiet() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(|at| format!(" ({}:{})", at.file(), at.line())).unwrap_or_default();
        let what = said(info.payload()).unwrap_or("without words");
        LAST.with_borrow_mut(|last| *last = Some(format!("{what}{place}")));
    }));
}

/// What the panic that was just caught said.
pub(crate) fn text(payload: &(dyn Any + Send)) -> String {
    let kept = LAST.with_borrow_mut(Option::take);
    kept.unwrap_or_else(|| said(payload).unwrap_or("without words").to_owned())
}

fn said(payload: &dyn Any) -> Option<&str> {
    payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}
