//! How the program ends: one line for a person, one number for a script.

use std::{
    io::{self, Write},
    process::ExitCode,
};

/// Why the program does not end well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is wrong in a way that the parser cannot see: exit code 2.
    Usage(String),
    /// It failed while running: exit code 1.
    Run(String),
    /// Everything was said already, on standard output: exit code 1.
    Said,
    /// The reader of standard output went away. Nobody is left to tell: exit code 0, as `head` expects.
    OutputClosed,
}

/// What a command gives back.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl From<anyport::Error> for Failure {
    fn from(error: anyport::Error) -> Self {
        use anyport::Error;
        match error {
            // It is written as an address is, but nobody knows the name, or the resolver does not answer.
            Error::Address { address, source } if source.kind() != io::ErrorKind::InvalidInput => {
                Self::Run(format!("cannot find the host of {address}: {source}: is the name right?"))
            }
            Error::Address { .. } | Error::Limit(_) | Error::Shards { .. } => Self::Usage(error.to_string()),
            // As it is typed, and not as a program says it.
            Error::Spread { driver } => Self::Run(format!(
                "--spread reuse-port needs listeners that share a port, which driver {driver} cannot have: leave \
                 --spread out, or choose hand-over"
            )),
            error => Self::Run(error.to_string()),
        }
    }
}

/// Says what went wrong and gives the exit code.
pub(crate) fn report(outcome: Outcome) -> ExitCode {
    let (code, text) = match outcome {
        Ok(()) | Err(Failure::OutputClosed) => return ExitCode::SUCCESS,
        Err(Failure::Said) => return ExitCode::FAILURE,
        Err(Failure::Run(text)) => (ExitCode::FAILURE, text),
        Err(Failure::Usage(text)) => (ExitCode::from(2), text),
    };
    // One line, whatever an error of the system holds.
    let text = text.replace(['\r', '\n'], " ");
    let _ = writeln!(io::stderr(), "error: {text}");
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_without_permission_is_a_failure_that_says_what_to_do() {
        let address = "0.0.0.0:80".parse().expect("an address");
        let source = io::Error::from(io::ErrorKind::PermissionDenied);
        match Failure::from(anyport::Error::Listen { address, source }) {
            Failure::Run(text) => {
                let advice = if cfg!(windows) { "excludedportrange" } else { "1024 up" };
                assert!(text.contains("0.0.0.0:80") && text.contains(advice), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_name_that_is_not_found_is_no_usage_error() {
        let failure = |source| {
            Failure::from(anyport::Error::Address { address: "nobody.example:7".to_owned(), source })
        };
        match failure(io::Error::other("the resolver does not know it")) {
            Failure::Run(text) => assert!(text.contains("nobody.example:7: the resolver"), "{text}"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(failure(io::ErrorKind::InvalidInput.into()), Failure::Usage(_)));
    }

    #[test]
    fn a_spread_that_cannot_be_is_told_as_it_is_typed() {
        match Failure::from(anyport::Error::Spread { driver: anyport::DriverKind::Iocp }) {
            Failure::Run(text) => {
                assert!(text.contains("--spread reuse-port") && text.contains("hand-over"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_typed_wrongly_is_a_usage_error() {
        let error = anyport::Error::Shards { shards: 300 };
        assert!(matches!(Failure::from(error), Failure::Usage(_)));
    }
}
