//! What a piece of code allocates.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use allocation_counter::AllocationInfo;

/// Runs it, and says what was allocated on this thread meanwhile.
pub(crate) fn allocated(run: impl FnOnce()) -> AllocationInfo {
    // A panic must not pass through the counter: it would count on, and give up after some of them.
    let mut outcome = Ok(());
    let info = allocation_counter::measure(|| outcome = catch_unwind(AssertUnwindSafe(run)));
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_panics_do_not_disturb_the_count() {
        for _ in 0..100 {
            assert!(catch_unwind(|| allocated(|| resume_unwind(Box::new("a panic")))).is_err());
        }
        let info = allocated(|| drop(std::hint::black_box(Vec::<u8>::with_capacity(1_000))));
        assert_eq!((info.count_total, info.bytes_max, info.bytes_current), (1, 1_000, 0));
    }
}
