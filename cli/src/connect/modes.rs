//! The terminal's modes. The line editor gives them back when a line has ended; what ends the program while a line is
//! being typed gives them back here, or the shell would find a terminal that shows nothing of what is typed.

/// Modes to be given back. Elsewhere than on Unix, shells set their own.
pub(crate) use imp::Modes;

#[cfg(unix)]
mod imp {
    use std::{
        io,
        sync::{Mutex, PoisonError},
    };

    use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};

    /// What the editor asked for besides: that pasted text is marked. And the prompt of the shell has its own line.
    const AFTERWARDS: &[u8] = b"\x1b[?2004l\r\n";

    pub(crate) struct Modes(Mutex<Option<Termios>>);

    impl Modes {
        /// Nothing to be given back.
        pub(crate) fn none() -> Self {
            Self(Mutex::new(None))
        }

        /// Those of now, if standard input is a terminal.
        pub(crate) fn of_now() -> Self {
            Self(Mutex::new(tcgetattr(io::stdin()).ok()))
        }

        /// The editor has given them back itself.
        pub(crate) fn forget(&self) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        }

        /// Sets them again, once, and only if they were not forgotten.
        pub(crate) fn give_back(&self) {
            let Some(modes) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
            // In the background the terminal is somebody else's, and who touches it is stopped.
            if tcgetpgrp(io::stdin()).is_ok_and(|group| group != rustix::process::getpgrp()) {
                return;
            }
            // If that fails the terminal has gone.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &modes);
            // Not by way of `Stdout`: another thread may hold its lock for as long as it likes.
            let _ = rustix::io::write(io::stdout(), AFTERWARDS);
        }
    }
}

#[cfg(not(unix))]
mod imp {
    pub(crate) struct Modes;

    impl Modes {
        pub(crate) fn none() -> Self {
            Self
        }

        pub(crate) fn of_now() -> Self {
            Self
        }

        #[expect(clippy::unused_self, reason = "as on Unix")]
        pub(crate) fn forget(&self) {}

        #[expect(clippy::unused_self, reason = "as on Unix")]
        pub(crate) fn give_back(&self) {}
    }
}
