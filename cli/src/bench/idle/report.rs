//! The result of `bench idle`; its help lists the fields.

#![expect(clippy::cast_precision_loss, reason = "numbers are shown to a few digits")]

use serde_json::{Value, json};

use super::Plan;
use crate::{
    args::typed,
    bench::{
        monitor::Ended,
        report::{Report, latency_rows},
    },
    exit::{Failure, Outcome},
    output::{Table, count, grouped},
};

/// What a server has resident, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) before: u64,
    pub(crate) with_sessions: u64,
}

/// A run and what became of it.
pub(crate) struct Held {
    pub(crate) plan: Plan,
    pub(crate) ended: Ended,
    /// Of the server, if it was started for the run, and its system tells.
    pub(crate) memory: Option<Memory>,
}

impl Held {
    fn session_bytes(&self, memory: Memory) -> f64 {
        (memory.with_sessions as f64 - memory.before as f64) / self.plan.connections as f64
    }
}

impl Report for Held {
    fn ended(&self) -> &Ended {
        &self.ended
    }

    fn table(&self) -> String {
        let (plan, ended) = (&self.plan, &self.ended);
        let tally = &ended.tally;
        let mut table = Table::default();
        table.row("sessions held", grouped(ended.opened - tally.lost_total()));
        table.row("all open after, s", format!("{:.2}", ended.opening.as_secs_f64()));
        if let Some(memory) = self.memory {
            table.row("server resident before, KiB", grouped(memory.before >> 10));
            table.row("server resident with sessions, KiB", grouped(memory.with_sessions >> 10));
            table.row("memory of a session, bytes", format!("{:.0}", self.session_bytes(memory)));
        }
        table.row("answered at the end", grouped(tally.answered));
        latency_rows(&mut table, "latency", &tally.latency);
        ended.connection_rows(&mut table);
        if tally.unanswered > 0 {
            table.row("sessions that did not answer", grouped(tally.unanswered));
        }
        table.row("bytes checked", grouped(tally.bytes_checked));
        format!(
            "{}, silent; codec {}, {}\n{table}",
            count(plan.connections, "connection"),
            typed(plan.codec),
            ended.circumstances(plan.threads),
        )
    }

    fn json(&self) -> Value {
        let (plan, tally) = (&self.plan, &self.ended.tally);
        let mut object = self.ended.json(plan.threads);
        object["codec"] = json!(typed(plan.codec));
        object["connections"] = json!(plan.connections);
        object["size"] = json!(plan.size);
        object["open_seconds"] = json!(self.ended.opening.as_secs_f64());
        object["answered"] = json!(tally.answered);
        object["unanswered"] = json!(tally.unanswered);
        if let Some(memory) = self.memory {
            object["server_bytes"] =
                json!({ "before": memory.before, "with_sessions": memory.with_sessions });
            object["session_bytes"] = json!(self.session_bytes(memory));
        }
        object
    }

    fn verdict(&self) -> Outcome {
        let tally = &self.ended.tally;
        self.ended.nothing_lost("does the server close idle sessions, or have room for fewer?")?;
        if tally.unanswered > 0 {
            return Err(Failure::Run(format!(
                "{} to {} did not answer at the end",
                count(tally.unanswered, "session"),
                self.ended.address,
            )));
        }
        Ok(())
    }
}
