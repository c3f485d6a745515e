//! `anyport serve fanout`, which is for the comparison in `bench/`: what one says, all others are sent.

use anyport::{Frame, Group, Handler, Raw, Session, Shard, Spread};

use super::{Service, run};
use crate::{args::ServeFanout, exit::Outcome};

/// Runs until it is stopped.
pub(crate) fn fanout(options: &ServeFanout) -> Outcome {
    let service = Service {
        hosting: &options.hosting,
        listen: &options.listen,
        shards: options.shards,
        logic_threads: None,
        spread: Spread::Auto,
        what: "fan-out, raw".to_owned(),
        hints: &|_| "load it with: bench/, --workload fanout".to_owned(),
    };
    run(&service, Raw, options.hosting.limits(), |_shard| Fanout { everybody: None })
}

struct Fanout {
    everybody: Option<Group>,
}

impl Handler for Fanout {
    type State = ();
    type Codec = Raw;

    fn on_start(&mut self, shard: &mut Shard<Self>) {
        self.everybody = Some(shard.group("everybody"));
    }

    fn on_open(&mut self, session: &mut Session<Self>) {
        if let Some(everybody) = &self.everybody {
            session.join(everybody);
        }
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        let publisher = session.id();
        if let Some(everybody) = &self.everybody {
            session.shard().publish_except(everybody, publisher, frame);
        }
    }
}
