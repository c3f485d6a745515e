//! The result of `bench echo`; its help lists the fields.

#![expect(clippy::cast_precision_loss, reason = "numbers are shown to a few digits")]

use serde_json::{Value, json};

use super::plan::{Pace, Plan};
use crate::{
    args::typed,
    bench::{
        monitor::Ended,
        report::{Report, latency_rows, rate},
    },
    exit::{Failure, Outcome},
    output::{Table, count, grouped},
};

/// A run and what became of it.
pub(crate) struct Echoed {
    pub(crate) plan: Plan,
    pub(crate) ended: Ended,
}

impl Echoed {
    fn megabytes_per_second(&self) -> f64 {
        self.ended.per_second() * self.plan.size as f64 / 1e6
    }

    fn headline(&self) -> String {
        let plan = &self.plan;
        let pace = match plan.pace {
            Pace::Closed { depth } => format!("{depth} outstanding on each"),
            Pace::Open { rate } => format!("{} due each second", grouped(rate)),
            Pace::Think { think, seed } => format!(
                "each thinks {} to {} s (seed {seed})",
                think.min.as_secs_f64(),
                think.max.as_secs_f64()
            ),
        };
        format!(
            "{}, messages of {}, {pace}; codec {}, {}",
            count(plan.connections, "connection"),
            count(plan.size as u64, "byte"),
            typed(plan.codec),
            self.ended.circumstances(plan.threads),
        )
    }
}

impl Report for Echoed {
    fn ended(&self) -> &Ended {
        &self.ended
    }

    fn table(&self) -> String {
        let tally = &self.ended.tally;
        let mut table = Table::default();
        table.row("messages/s", rate(self.ended.per_second()));
        table.row("MB/s, each way", format!("{:.2}", self.megabytes_per_second()));
        latency_rows(&mut table, "latency", &tally.latency);
        self.ended.connection_rows(&mut table);
        if tally.unanswered > 0 {
            table.row("messages unanswered", grouped(tally.unanswered));
        }
        if self.plan.pace.is_open() {
            self.ended.open_rows(&mut table, "messages");
        }
        table.row("bytes checked", grouped(tally.bytes_checked));
        format!("{}\n{table}", self.headline())
    }

    fn json(&self) -> Value {
        let (plan, tally) = (&self.plan, &self.ended.tally);
        let mut object = self.ended.json(plan.threads);
        object["codec"] = json!(typed(plan.codec));
        object["connections"] = json!(plan.connections);
        object["size"] = json!(plan.size);
        object["messages"] = json!(tally.done);
        object["messages_per_second"] = json!(self.ended.per_second());
        object["megabytes_per_second"] = json!(self.megabytes_per_second());
        object["unanswered"] = json!(tally.unanswered);
        match plan.pace {
            Pace::Closed { depth } => object["depth"] = json!(depth),
            Pace::Open { rate } => object["rate"] = json!(rate),
            Pace::Think { think, seed } => {
                object["think_s"] = json!([think.min.as_secs_f64(), think.max.as_secs_f64()]);
                object["seed"] = json!(seed);
            }
        }
        if plan.pace.is_open() {
            self.ended.add_open_json(&mut object);
        }
        object
    }

    fn verdict(&self) -> Outcome {
        let (plan, tally) = (&self.plan, &self.ended.tally);
        // A server of another framing, or of smaller frames, never answers anything.
        let hint = match tally.answered {
            0 => format!(
                "; does it echo with --codec {}, and take frames of {} bytes?",
                typed(plan.codec),
                plan.frame_size()
            ),
            _ => String::new(),
        };
        self.ended.nothing_lost(&format!(
            "after {} had come back and {} had not{hint}",
            count(tally.answered, "message"),
            grouped(tally.unanswered),
        ))?;
        if tally.unanswered > 0 && !self.ended.cut_short {
            return Err(Failure::Run(format!(
                "{} to {} did not come back in time{hint}",
                count(tally.unanswered, "message"),
                self.ended.address,
            )));
        }
        Ok(())
    }

    fn remarks(&self) -> Vec<String> {
        self.ended.fell_behind("message").into_iter().collect()
    }
}
