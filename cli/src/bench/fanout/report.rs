//! The result of `bench fanout`; its help lists the fields.

#![expect(clippy::cast_precision_loss, reason = "numbers are shown to a few digits")]

use serde_json::{Value, json};

use super::{Pace, Plan};
use crate::{
    bench::{
        monitor::Ended,
        report::{Report, latency_rows, rate},
    },
    exit::{Failure, Outcome},
    output::{Table, count, grouped},
};

/// A run and what became of it.
pub(crate) struct FannedOut {
    pub(crate) plan: Plan,
    pub(crate) ended: Ended,
}

impl FannedOut {
    /// Deliveries that should have been and were not.
    fn undelivered(&self) -> u64 {
        let tally = &self.ended.tally;
        (tally.sent * self.plan.members).saturating_sub(tally.answered)
    }

    /// Lines that were delivered to all in a second.
    fn lines_per_second(&self) -> f64 {
        self.ended.per_second() / self.plan.members as f64
    }
}

impl Report for FannedOut {
    fn ended(&self) -> &Ended {
        &self.ended
    }

    fn table(&self) -> String {
        let (plan, tally) = (&self.plan, &self.ended.tally);
        let pace = match plan.pace {
            Pace::Closed { depth } => format!("{depth} under way from each"),
            Pace::Open { rate } => format!("{} due each second", grouped(rate)),
        };
        let mut table = Table::default();
        table.row("deliveries/s", rate(self.ended.per_second()));
        table.row("lines/s", rate(self.lines_per_second()));
        latency_rows(&mut table, "latency", &tally.latency);
        table.row("lines published", grouped(tally.sent));
        table.row("lines delivered", grouped(tally.answered));
        if self.undelivered() > 0 {
            table.row("lines not delivered", grouped(self.undelivered()));
        }
        self.ended.connection_rows(&mut table);
        if let Pace::Open { .. } = plan.pace {
            self.ended.open_rows(&mut table, "lines");
        }
        table.row("bytes checked", grouped(tally.bytes_checked));
        format!(
            "{}, {}, lines of {}, {pace}; {}\n{table}",
            count(plan.members, "member"),
            count(plan.publishers, "publisher"),
            count(plan.size as u64, "byte"),
            self.ended.circumstances(plan.threads),
        )
    }

    fn json(&self) -> Value {
        let (plan, tally) = (&self.plan, &self.ended.tally);
        let mut object = self.ended.json(plan.threads);
        object["members"] = json!(plan.members);
        object["publishers"] = json!(plan.publishers);
        object["size"] = json!(plan.size);
        object["lines"] = json!(tally.sent);
        object["lines_per_second"] = json!(self.lines_per_second());
        object["deliveries"] = json!(tally.done);
        object["deliveries_per_second"] = json!(self.ended.per_second());
        object["undelivered"] = json!(self.undelivered());
        match plan.pace {
            Pace::Closed { depth } => object["depth"] = json!(depth),
            Pace::Open { rate } => {
                object["rate"] = json!(rate);
                self.ended.add_open_json(&mut object);
            }
        }
        object
    }

    fn verdict(&self) -> Outcome {
        self.ended.nothing_lost(&format!(
            "after {} had been delivered and {} had not; a member that is too slow is thrown out",
            count(self.ended.tally.answered, "line"),
            grouped(self.undelivered()),
        ))?;
        if self.undelivered() > 0 && !self.ended.cut_short {
            return Err(Failure::Run(format!(
                "{} of {} were not delivered in time",
                count(self.undelivered(), "line"),
                self.ended.address,
            )));
        }
        Ok(())
    }

    fn remarks(&self) -> Vec<String> {
        self.ended.fell_behind("line").into_iter().collect()
    }
}
