//! Work to another thread, and its result back to where it was asked for.

use std::{
    hint::black_box,
    sync::mpsc::{Receiver, Sender, channel},
    thread::JoinHandle,
};

use anyport::{Engine, Frame, Handler, PoolConfig, Raw, Remote, Running, Server, Session, Shard};

use super::Contender;
use crate::error::{Error, Result};

/// Threads of each pool, and of how many that may run.
const THREADS: usize = 4;
const RUNNING: usize = 2;

pub fn contenders() -> Result<Vec<Box<dyn Contender>>> {
    Ok(vec![
        Box::new(Channels::new()),
        Box::new(Anyport::new("anyport, shard.offload", RUNNING)?),
        Box::new(Anyport::new("anyport, shard.offload, 1 may run", 1)?),
        Box::new(Tokio::new()?),
    ])
}

fn work(number: u64) -> u64 {
    black_box(number).wrapping_mul(0x9E37_79B9)
}

/// Two of the standard library's channels, and one thread: no pool at all.
struct Channels {
    ask: Option<Sender<u64>>,
    answers: Receiver<u64>,
    thread: Option<JoinHandle<()>>,
}

impl Channels {
    fn new() -> Self {
        let (ask, asked) = channel();
        let (answer, answers) = channel();
        let thread = std::thread::spawn(move || {
            for number in asked {
                let _ = answer.send(work(number));
            }
        });
        Self { ask: Some(ask), answers, thread: Some(thread) }
    }
}

impl Contender for Channels {
    fn name(&self) -> &'static str {
        "two std mpsc, 1 thread"
    }

    fn run(&mut self, operations: u32, in_flight: u32) {
        let ask = self.ask.as_ref().expect("it runs");
        let mut asked = operations.min(in_flight);
        (0..asked).for_each(|number| ask.send(number.into()).expect("the thread is there"));
        for _ in 0..operations {
            black_box(self.answers.recv().expect("the thread is there"));
            if asked < operations {
                ask.send(asked.into()).expect("the thread is there");
                asked += 1;
            }
        }
    }
}

impl Drop for Channels {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A whole engine of one shard, which asks its pool.
struct Anyport {
    name: &'static str,
    remote: Remote<Asks>,
    done: Receiver<()>,
    _running: Running,
}

struct Asks {
    left: u32,
    out: u32,
    done: Sender<()>,
}

impl Handler for Asks {
    type State = ();
    type Codec = Raw;

    fn on_frame(&mut self, _session: &mut Session<Self>, _frame: Frame) {}
}

impl Asks {
    fn ask(&mut self, shard: &mut Shard<Self>) {
        if self.left == 0 {
            return;
        }
        let number = self.left.into();
        self.left -= 1;
        self.out += 1;
        shard.offload(
            move || work(number),
            |asks, shard, result| {
                black_box(result.expect("it does not panic"));
                asks.out -= 1;
                asks.ask(shard);
                if asks.out == 0 {
                    let _ = asks.done.send(());
                }
            },
        );
    }
}

impl Anyport {
    fn new(name: &'static str, concurrency: usize) -> Result<Self> {
        let fail = |error: anyport::Error| Error::Start { program: name.into(), reason: error.to_string() };
        let (tell, done) = channel();
        let pool = PoolConfig { concurrency, threads: THREADS, ..PoolConfig::default() };
        let mut engine = Engine::new().and_then(|engine| engine.shards(1)?.pool(pool)).map_err(fail)?;
        let make = move |_| Asks { left: 0, out: 0, done: tell.clone() };
        let remote = engine.add_server(Server::bind("127.0.0.1:0", Raw), make).map_err(fail)?;
        Ok(Self { name, remote, done, _running: engine.start().map_err(fail)? })
    }
}

impl Contender for Anyport {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&mut self, operations: u32, in_flight: u32) {
        let _posted = self.remote.post_to_shard(0, move |asks, shard| {
            asks.left = operations;
            for _ in 0..in_flight {
                asks.ask(shard);
            }
        });
        self.done.recv().expect("the engine runs");
    }
}

/// Its current-thread runtime and `spawn_blocking`, with as many threads.
struct Tokio(tokio::runtime::Runtime);

impl Tokio {
    fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(THREADS).build();
        let fail =
            |error: std::io::Error| Error::Start { program: "tokio".into(), reason: error.to_string() };
        Ok(Self(runtime.map_err(fail)?))
    }
}

impl Contender for Tokio {
    fn name(&self) -> &'static str {
        "tokio, spawn_blocking"
    }

    fn run(&mut self, operations: u32, in_flight: u32) {
        self.0.block_on(async move {
            let lane = |lane: u32| async move {
                // What does not divide is done by the first lanes.
                let each = operations / in_flight + u32::from(lane < operations % in_flight);
                for number in 0..each {
                    let result = tokio::task::spawn_blocking(move || work(number.into())).await;
                    black_box(result.expect("it does not panic"));
                }
            };
            let lanes: Vec<_> = (0..in_flight).map(|number| tokio::spawn(lane(number))).collect();
            for lane in lanes {
                lane.await.expect("it does not panic");
            }
        });
    }
}
