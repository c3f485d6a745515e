//! A job from one thread to a shard of an engine, and its counterpart in tokio: a message to a task.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
};

use anyport::{Engine, Frame, Handler, Raw, Remote, Running, Server, Session};
use tokio::sync::mpsc::{Sender, channel};

use super::{Contender, post::Taken};
use crate::error::{Error, Result};

/// As many as a mailbox of ours holds.
const CHANNEL_MAX: usize = 65_536;

/// A whole engine of one shard; each job is a closure of its own, as users post them.
pub struct Jobs {
    remote: Remote<Nothing>,
    taken: Arc<Taken>,
    _running: Running,
}

struct Nothing;

impl Handler for Nothing {
    type State = ();
    type Codec = Raw;

    fn on_frame(&mut self, _session: &mut Session<Self>, _frame: Frame) {}
}

impl Jobs {
    pub fn new() -> Result<Self> {
        let fail =
            |error: anyport::Error| Error::Start { program: "anyport".into(), reason: error.to_string() };
        let mut engine = Engine::new().and_then(|engine| engine.shards(1)).map_err(fail)?;
        let remote = engine.add_server(Server::bind("127.0.0.1:0", Raw), |_| Nothing).map_err(fail)?;
        let running = engine.start().map_err(fail)?;
        Ok(Self { remote, taken: Arc::default(), _running: running })
    }
}

impl Contender for Jobs {
    fn name(&self) -> &'static str {
        "anyport, remote.post_to_shard"
    }

    fn run(&mut self, operations: u32, in_flight: u32) {
        let Self { remote, taken, .. } = self;
        taken.drive(operations, in_flight, || {
            let counts = Arc::clone(taken);
            remote.post_to_shard(0, move |_, _| counts.one()).expect("the engine runs");
        });
    }
}

/// A task of a current-thread runtime behind a bounded channel.
pub struct Task {
    sender: Option<Sender<Box<dyn FnOnce() + Send>>>,
    taken: Arc<Taken>,
    thread: Option<JoinHandle<()>>,
}

impl Task {
    pub fn new() -> Result<Self> {
        let (sender, mut receiver) = channel::<Box<dyn FnOnce() + Send>>(CHANNEL_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let fail =
            |error: std::io::Error| Error::Start { program: "tokio".into(), reason: error.to_string() };
        let runtime = runtime.map_err(fail)?;
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                while let Some(job) = receiver.recv().await {
                    job();
                }
            });
        });
        Ok(Self { sender: Some(sender), taken: Arc::default(), thread: Some(thread) })
    }
}

impl Contender for Task {
    fn name(&self) -> &'static str {
        "tokio mpsc, a task"
    }

    fn run(&mut self, operations: u32, in_flight: u32) {
        let Self { sender, taken, .. } = self;
        let sender = sender.as_ref().expect("it runs");
        taken.drive(operations, in_flight, || {
            let counts = Arc::clone(taken);
            let sent = sender.blocking_send(Box::new(move || counts.one()));
            sent.unwrap_or_else(|_| panic!("the task is there"));
        });
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
