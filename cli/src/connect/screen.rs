//! What arrives, printed above the line that is being typed. A thread of its own prints it: the line editor takes a text
//! only while it reads keys, and the shard, on which the next line is sent, must not wait for that.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
};

use rustyline::ExternalPrinter;

/// Bytes that may wait for the terminal before nothing more is read from the peer.
const WAITING_MAX: usize = 1 << 20;

/// The shard's side.
pub(crate) struct Screen {
    texts: Sender<String>,
    waiting: Arc<AtomicUsize>,
}

/// The side of the thread that prints.
pub(crate) struct Printer {
    texts: Receiver<String>,
    waiting: Arc<AtomicUsize>,
    editor: Box<dyn ExternalPrinter + Send>,
}

/// Both sides of a terminal.
pub(crate) fn screen(editor: impl ExternalPrinter + Send + 'static) -> (Screen, Printer) {
    let (sender, texts) = channel();
    let waiting = Arc::<AtomicUsize>::default();
    let screen = Screen { texts: sender, waiting: Arc::clone(&waiting) };
    (screen, Printer { texts, waiting, editor: Box::new(editor) })
}

impl Screen {
    /// Hands over a text. It never waits: see [`has_room`](Self::has_room).
    pub(crate) fn print(&self, text: String) {
        self.waiting.fetch_add(text.len(), Ordering::Relaxed);
        // If the printer has failed, it has said so.
        let _ = self.texts.send(text);
    }

    /// False while more waits for the terminal than should.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) <= WAITING_MAX
    }
}

impl Printer {
    /// Prints until the screen is dropped. `relieved` is told each time that there is room again.
    pub(crate) fn run(mut self, relieved: impl Fn()) -> io::Result<()> {
        while let Ok(text) = self.texts.recv() {
            let size = text.len();
            self.print(&text)?;
            let before = self.waiting.fetch_sub(size, Ordering::Relaxed);
            if before > WAITING_MAX && before - size <= WAITING_MAX {
                relieved();
            }
        }
        Ok(())
    }

    fn print(&mut self, text: &str) -> io::Result<()> {
        // No line is edited any more when the editor refuses: there is nothing to print above of.
        self.editor.print(text.to_owned()).or_else(|_| {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes())?;
            out.flush()
        })
    }
}
