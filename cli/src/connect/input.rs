//! What is sent: lines of a pipe or a file, or lines that a person types.

use std::{
    io::{BufRead, ErrorKind},
    path::{Path, PathBuf},
};

use anyport::Codec;
use rustyline::{DefaultEditor, error::ReadlineError};

use super::{
    line::{Speaker, Unsent},
    screen::{Printer, Screen, screen},
    words::{Message, parse},
};
use crate::{args::CodecName, output::remark};

const ENDED: &str = "the connection had ended";
const TOO_LARGE: &str = "it is longer than a frame can be";
const MALFORMED: &str = "it holds what ends a message of this --codec";

/// Lines that are kept in the file.
const HISTORY_MAX: usize = 1000;

impl Unsent {
    fn why(self) -> &'static str {
        match self {
            Self::TooLarge => TOO_LARGE,
            Self::Malformed => MALFORMED,
            Self::Ended => ENDED,
        }
    }
}

/// Sends the input as it comes, whatever it holds. The error tells how much of it was sent.
pub(crate) fn send_bytes<C: Codec>(mut input: impl BufRead, speaker: &Speaker<C>) -> Result<(), String> {
    let mut sent = 0;
    loop {
        let bytes = match input.fill_buf() {
            Ok([]) => return Ok(()),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(format!("cannot read the input: {error}")),
        };
        let count = bytes.len();
        let not_sent = |unsent: Unsent| {
            format!("the input was not sent from its byte {} on: {}", sent + 1, unsent.why())
        };
        speaker.send(Message { kind: 0, body: bytes.to_vec() }).map_err(not_sent)?;
        input.consume(count);
        sent += count;
    }
}

/// Sends every line of the input. The error names the line that was not sent.
pub(crate) fn send_all<C: Codec>(
    codec: CodecName,
    input: impl BufRead,
    speaker: &Speaker<C>,
) -> Result<(), String> {
    for (line, number) in input.split(b'\n').zip(1_u64..) {
        let not_sent = |why: &str| format!("line {number} of the input was not sent: {why}");
        let mut line = line.map_err(|error| format!("cannot read the input: {error}"))?;
        if line.ends_with(b"\r") {
            line.pop();
        }
        let message = parse(codec, &line).map_err(not_sent)?;
        speaker.send(message).map_err(|unsent| not_sent(unsent.why()))?;
    }
    Ok(())
}

/// A terminal on which lines are edited.
pub(crate) struct Terminal {
    editor: DefaultEditor,
    history: Option<PathBuf>,
}

impl Terminal {
    /// The terminal with its history, and what prints above the line. `None` if it is none that can do that.
    pub(crate) fn open() -> Option<(Self, Screen, Printer)> {
        let config =
            rustyline::Config::builder().auto_add_history(true).max_history_size(HISTORY_MAX).ok()?;
        let mut editor = DefaultEditor::with_config(config.build()).ok()?;
        let printer = editor.create_external_printer().ok()?;
        let history = history_file();
        if let Some(file) = &history {
            // There is none the first time.
            let _ = editor.load_history(file);
        }
        let (screen, printer) = screen(printer);
        Some((Self { editor, history }, screen, printer))
    }

    /// Sends what is typed, until Ctrl-D, Ctrl-C, or the first line after the connection's end.
    pub(crate) fn talk<C: Codec>(&mut self, codec: CodecName, speaker: &Speaker<C>) -> Result<(), String> {
        loop {
            let line = match self.editor.readline("> ") {
                Ok(line) => line,
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => break,
                // The window has another size.
                Err(ReadlineError::Signal(_)) => continue,
                Err(error) => return Err(format!("cannot read from the terminal: {error}")),
            };
            // Now, and not at the end, which a signal may be.
            self.keep_history();
            // Whatever it is: the one who waits for Enter may have typed it.
            if speaker.has_ended() {
                break;
            }
            let sent = match parse(codec, line.as_bytes()) {
                Ok(message) => speaker.send(message),
                Err(why) => {
                    complain(why);
                    continue;
                }
            };
            match sent {
                Ok(()) => {}
                Err(Unsent::Ended) => break,
                Err(unsent) => complain(unsent.why()),
            }
        }
        Ok(())
    }

    fn keep_history(&mut self) {
        let Some(file) = &self.history else { return };
        let kept = file.parent().map_or(Ok(()), make_private).map_err(ReadlineError::from);
        if let Err(error) = kept.and_then(|()| self.editor.append_history(file)) {
            remark(format_args!("* the history cannot be kept in {}: {error}", file.display()));
            self.history = None;
        }
    }
}

fn complain(why: &str) {
    // Nothing is being typed at this moment.
    remark(format_args!("* not sent: {why}"));
}

/// Makes a folder that only its owner looks into.
fn make_private(folder: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(folder)
}

/// Where the history is kept: what a program remembers from run to run is its state.
fn history_file() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = if cfg!(windows) {
        folder("LOCALAPPDATA")
    } else {
        folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))
    };
    Some(state?.join("anyport").join("history"))
}
