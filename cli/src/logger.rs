//! Where the engine's log lines go: standard error.

use std::io;

use log::LevelFilter;

/// Warnings by default, `-v` adds what happens, `-vv` every session. `RUST_LOG` overrides both.
pub(crate) fn install(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        _ => LevelFilter::Debug,
    };
    env_logger::Builder::new()
        .filter_level(level)
        .parse_default_env()
        .target(env_logger::Target::Pipe(Box::new(QuietStderr)))
        .init();
}

/// Standard error, where a failure to write is not worth a panic.
struct QuietStderr;

impl io::Write for QuietStderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
