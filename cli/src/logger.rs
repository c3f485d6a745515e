//! Where the engine's log lines go: standard error, or a file.

use std::{
    io::{self, Write},
    time::Duration,
};

use anyport::{AppendFile, AppendRefusal, Appended, LogFile};
use log::LevelFilter;

use crate::{
    args::{Args, Command},
    exit::{Failure, Outcome},
};

/// How long the end of the program waits for the log's disk.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Warnings by default, `-v` and a log file add what happens, `-vv` every session. `RUST_LOG` overrides all.
pub(crate) fn install(args: &Args) -> Outcome<Log> {
    let file = match &args.command {
        Command::Serve { log, .. } => log.path.as_ref().map(|path| (log, path)),
        _ => None,
    };
    let level = match args.verbose.max(u8::from(file.is_some())) {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        _ => LevelFilter::Debug,
    };
    let (target, log): (Box<dyn Write + Send>, _) = match file {
        None => (Box::new(QuietStderr), Log(None)),
        Some((options, path)) => {
            let mut file = AppendFile::at(path).keep(options.keep as u32);
            if let Some(bytes) = options.rotate_bytes {
                file = file.rotate_at_bytes(bytes);
            }
            let log = LogFile::open(file)?;
            (Box::new(ToFile { log: log.clone(), dropped: 0, failed: false }), Log(Some(log)))
        }
    };
    env_logger::Builder::new()
        .filter_level(level)
        .parse_default_env()
        .target(env_logger::Target::Pipe(target))
        .init();
    Ok(log)
}

/// The log while the program runs.
pub(crate) struct Log(Option<LogFile>);

impl Log {
    /// Waits until the file has all lines.
    pub(crate) fn close(self) -> Outcome {
        match self.0 {
            Some(log) if !log.close(CLOSE_WITHIN) => {
                let why =
                    log.failure().map_or("its disk is too slow".to_owned(), |(fault, _)| fault.to_string());
                Err(Failure::Run(format!("the log file has not all lines: {why}")))
            }
            _ => Ok(()),
        }
    }
}

/// The log file. It is given whole lines, because the logger formats one before it writes.
struct ToFile {
    log: LogFile,
    /// Lines that found no room, and nobody was told of.
    dropped: u64,
    failed: bool,
}

impl Write for ToFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.dropped > 0 {
            let note = format!("[{} lines were dropped: the disk is slower than the log]\n", self.dropped);
            if self.log.append(note.as_bytes()) == Appended::Queued {
                self.dropped = 0;
            }
        }
        match self.log.append(line) {
            Appended::Queued => {}
            Appended::Refused(AppendRefusal::Full) => self.dropped += 1,
            Appended::Refused(refusal) => {
                if let AppendRefusal::Failed(fault) = refusal
                    && !std::mem::replace(&mut self.failed, true)
                {
                    let text = format!("the log file takes no more lines ({fault}); they come here\n");
                    QuietStderr.write_all(text.as_bytes())?;
                }
                QuietStderr.write_all(line)?;
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error, where a failure to write is not worth a panic.
struct QuietStderr;

impl Write for QuietStderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
