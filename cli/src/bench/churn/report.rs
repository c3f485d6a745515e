//! The result of `bench churn`; its help lists the fields.

use serde_json::{Value, json};

use super::Plan;
use crate::{
    args::typed,
    bench::{
        monitor::Ended,
        report::{Report, latency_json, latency_rows, rate},
    },
    exit::{Failure, Outcome},
    output::{Table, count, grouped},
};

/// A run and what became of it.
pub(crate) struct Churned {
    pub(crate) plan: Plan,
    pub(crate) ended: Ended,
}

impl Report for Churned {
    fn ended(&self) -> &Ended {
        &self.ended
    }

    fn table(&self) -> String {
        let (plan, tally) = (&self.plan, &self.ended.tally);
        let pace = match plan.rate {
            None => String::new(),
            Some(rate) => format!(", {} due each second", grouped(rate)),
        };
        let mut table = Table::default();
        table.row("cycles/s", rate(self.ended.per_second()));
        latency_rows(&mut table, "cycle", &tally.latency);
        latency_rows(&mut table, "connect", &tally.connecting);
        self.ended.connection_rows(&mut table);
        if tally.unanswered > 0 {
            table.row("cycles unfinished", grouped(tally.unanswered));
        }
        if plan.rate.is_some() {
            self.ended.open_rows(&mut table, "cycles");
        }
        table.row("bytes checked", grouped(tally.bytes_checked));
        format!(
            "{} at a time, one message of {} each{pace}; codec {}, {}\n{table}",
            count(plan.lanes, "connection"),
            count(plan.size as u64, "byte"),
            typed(plan.codec),
            self.ended.circumstances(plan.threads),
        )
    }

    fn json(&self) -> Value {
        let (plan, tally) = (&self.plan, &self.ended.tally);
        let mut object = self.ended.json(plan.threads);
        object["codec"] = json!(typed(plan.codec));
        object["connections"] = json!(plan.lanes);
        object["size"] = json!(plan.size);
        object["cycles"] = json!(tally.done);
        object["cycles_per_second"] = json!(self.ended.per_second());
        object["connect_us"] = latency_json(&tally.connecting);
        object["unanswered"] = json!(tally.unanswered);
        if let Some(rate) = plan.rate {
            object["rate"] = json!(rate);
            self.ended.add_open_json(&mut object);
        }
        object
    }

    fn verdict(&self) -> Outcome {
        let (plan, tally) = (&self.plan, &self.ended.tally);
        let hint = match tally.answered {
            0 => format!("; does it echo with --codec {}?", typed(plan.codec)),
            _ => String::new(),
        };
        self.ended.nothing_lost(&format!("after {}{hint}", count(tally.answered, "cycle")))?;
        if tally.unanswered > 0 && !self.ended.cut_short {
            return Err(Failure::Run(format!(
                "{} with {} did not end in time{hint}",
                count(tally.unanswered, "cycle"),
                self.ended.address,
            )));
        }
        Ok(())
    }

    fn remarks(&self) -> Vec<String> {
        self.ended.fell_behind("cycle").into_iter().collect()
    }
}
