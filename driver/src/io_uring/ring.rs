//! The ring itself: submission entries in, completion entries out, one system call between.

use std::{io, time::Duration};

use io_uring::{IoUring, cqueue, squeue, types};

/// Entries of the submission queue; a turn with more is submitted in parts.
const SUBMISSIONS: u32 = 1024;
/// Entries of the completion queue. Generous, because what overflows costs the kernel an allocation each (bug class R11).
const COMPLETIONS: u32 = 8192;
/// `IORING_ENTER_GETEVENTS`: run deferred task work and look for completions.
const ENTER_GETEVENTS: u32 = 1;

/// A ring of one thread.
pub(super) struct Ring {
    uring: IoUring,
    /// Completions taken off the queue to make room while submitting.
    stash: std::collections::VecDeque<cqueue::Entry>,
    /// Operations whose terminal completion the kernel still owes.
    owed: usize,
}

impl Ring {
    /// The set-up that measurements on 6.18 favour: single issuer, deferred task work. With `looks`,
    /// [`has_news`](Self::has_news) tells all that there is.
    pub(super) fn new(looks: bool) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        if looks {
            // Else what is to be done for a completion shows only to who asks the kernel.
            builder.setup_taskrun_flag();
        }
        let uring = builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(COMPLETIONS)
            .dontfork()
            .build(SUBMISSIONS)?;
        Ok(Self { uring, stash: std::collections::VecDeque::new(), owed: 0 })
    }

    pub(super) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.uring.submitter()
    }

    /// True if the kernel can wait with a time-out in the same call (5.11).
    pub(super) fn has_wait_timeouts(&self) -> bool {
        self.uring.params().is_feature_ext_arg() && self.uring.params().is_feature_nodrop()
    }

    /// True if the kernel knows accepts that wait before they are tried: they came with bundles (6.10).
    pub(super) fn has_accepts_that_wait_first(&self) -> bool {
        self.uring.params().is_feature_recvsend_bundle()
    }

    /// Operations whose terminal completion the kernel still owes.
    pub(super) fn owed(&self) -> usize {
        self.owed
    }

    /// Queues an operation that will have a terminal completion; see [`Self::settle`].
    ///
    /// # Safety
    /// What `entry` points at must stay valid and unmoved, and what the kernel writes must be read by nobody,
    /// until the terminal completion has come back.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) {
        self.owe();
        // SAFETY: the caller's promise is the same.
        unsafe { self.push_unowed(entry) }
    }

    /// Counts an operation that was queued by [`push_unowed`](Self::push_unowed), and whose completion is waited for.
    pub(super) fn owe(&mut self) {
        self.owed += 1;
    }

    /// True if the kernel has taken every entry, and every completion was taken.
    pub(super) fn is_read_out(&mut self) -> bool {
        let submission = self.uring.submission();
        let taken = submission.is_empty() && !submission.cq_overflow();
        drop(submission);
        taken && !self.has_completions()
    }

    /// Queues a request that completes only in failure, or whose completion nobody waits for.
    ///
    /// # Safety
    /// As for [`Self::push`]; such an entry should point at nothing.
    pub(super) unsafe fn push_unowed(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: the caller keeps what the entry points at alive; the entry itself is copied.
            if unsafe { self.uring.submission().push(entry) }.is_ok() {
                return;
            }
            self.make_room();
        }
    }

    /// The queue is full in the middle of a turn: hand over what is there.
    fn make_room(&mut self) {
        match self.enter(0, 0, None) {
            Ok(()) => {}
            // The kernel wants its completions taken first.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                let stash = &mut self.stash;
                stash.extend(self.uring.completion());
            }
            // Interrupted, or the kernel is short of memory for the moment: the caller tries again.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {}
            Err(error) => panic!("io_uring_enter cannot submit: {error}"),
        }
    }

    /// Records a terminal completion.
    pub(super) fn settle(&mut self) {
        assert!(self.owed > 0, "a terminal completion that no operation is owed");
        self.owed -= 1;
    }

    /// Hands over what is queued and takes what is complete, without waiting.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        pass(self.enter(0, ENTER_GETEVENTS, None))
    }

    /// Hands over what is queued and waits for a completion, at most for `timeout`.
    pub(super) fn flush_and_wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        pass(self.enter(1, ENTER_GETEVENTS, timeout))
    }

    fn enter(&mut self, want: u32, flags: u32, timeout: Option<Duration>) -> io::Result<()> {
        let submit = self.uring.submission().len() as u32;
        let submitter = self.uring.submitter();
        match timeout {
            // `submit_with_args` counts the entries itself.
            Some(timeout) if want > 0 => {
                let timespec = types::Timespec::from(timeout);
                submitter.submit_with_args(want as usize, &types::SubmitArgs::new().timespec(&timespec))?;
            }
            _ => {
                // SAFETY: no argument block is passed, and the entries' pointers are valid by the promise
                // given to `push`.
                unsafe { submitter.enter::<libc::sigset_t>(submit, want, flags, None) }?;
            }
        }
        Ok(())
    }

    /// True if a completion can be taken without a system call.
    pub(super) fn has_completions(&mut self) -> bool {
        !self.stash.is_empty() || !self.uring.completion().is_empty()
    }

    /// True if entries wait to be handed over.
    pub(super) fn has_submissions(&mut self) -> bool {
        !self.uring.submission().is_empty()
    }

    /// True if a call into the kernel would give something: a look at memory that the kernel shares. Only of a ring that
    /// was made to look.
    pub(super) fn has_news(&mut self) -> bool {
        let submission = self.uring.submission();
        if submission.taskrun() || submission.cq_overflow() {
            return true;
        }
        drop(submission);
        self.has_completions()
    }

    /// Picks one completion out of turn; the others keep their order.
    pub(super) fn pick(&mut self, user_data: u64) -> Option<i32> {
        self.stash.extend(self.uring.completion());
        let at = self.stash.iter().position(|entry| entry.user_data() == user_data)?;
        self.stash.remove(at).map(|entry| entry.result())
    }

    /// Moves at most `most` completions to `out`, oldest first.
    pub(super) fn take(&mut self, out: &mut Vec<cqueue::Entry>, most: usize) {
        let stashed = self.stash.len().min(most);
        if stashed > 0 {
            out.extend(self.stash.drain(..stashed));
        }
        out.extend(self.uring.completion().take(most - stashed));
    }
}

/// Time-outs, signals and a full completion queue end a wait, and are no failures.
fn pass(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}
