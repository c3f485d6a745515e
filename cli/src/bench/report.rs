//! The result, for a person or a program. The help of `bench echo` lists the fields.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "numbers are shown to a few digits, and are not negative"
)]

use serde_json::{Value, json};

use super::{monitor::Ended, plan::Pace};
use crate::{
    args::typed,
    exit::{Failure, Outcome},
    output::{Table, count, grouped},
};

const PERCENTILES: [(&str, &str, f64); 4] =
    [("p50", "p50", 50.0), ("p90", "p90", 90.0), ("p99", "p99", 99.0), ("p99.9", "p999", 99.9)];

impl Ended {
    fn per_second(&self) -> f64 {
        let seconds = self.measured.as_secs_f64();
        if seconds > 0.0 { self.tally.messages as f64 / seconds } else { 0.0 }
    }

    fn megabytes_per_second(&self) -> f64 {
        self.per_second() * self.plan.size as f64 / 1e6
    }

    /// One sentence of what was run.
    fn headline(&self) -> String {
        let plan = &self.plan;
        let pace = match plan.pace {
            Pace::Closed { depth } => format!("{depth} outstanding on each"),
            Pace::Open { rate } => format!("{} due each second", grouped(rate)),
        };
        format!(
            "{}, {} of {}, {pace}; codec {}, {} ({}); measured for {:.2} s{}",
            count(plan.connections, "connection"),
            "messages",
            count(plan.size as u64, "byte"),
            typed(plan.codec),
            count(plan.threads, "thread"),
            self.driver,
            self.measured.as_secs_f64(),
            if self.cut_short { ", cut short" } else { "" },
        )
    }

    /// The result as a table.
    pub(crate) fn table(&self) -> String {
        let tally = &self.tally;
        let mut table = Table::default();
        table.row("messages/s", grouped(self.per_second() as u64));
        table.row("MB/s, each way", format!("{:.2}", self.megabytes_per_second()));
        let micros = |nanos: u64| format!("{:.1}", nanos as f64 / 1e3);
        for (name, _, percentile) in PERCENTILES {
            table.row(format!("latency {name}, µs"), micros(tally.latency.value_at_percentile(percentile)));
        }
        table.row("latency max, µs", micros(tally.latency.max()));
        table.row("connections opened", grouped(self.opened));
        table.row("connections lost", grouped(tally.lost_total()));
        for (reason, lost) in tally.lost_by_reason() {
            table.row(format!("  {reason}"), grouped(lost));
        }
        if tally.unanswered > 0 {
            table.row("messages unanswered", grouped(tally.unanswered));
        }
        if let Pace::Open { .. } = self.plan.pace {
            table.row("messages due, not sent", grouped(tally.not_sent));
            table.row("sent late by at most, µs", micros(tally.late_max_ns));
        }
        table.row("bytes checked", grouped(tally.bytes_checked));
        format!("{}\n{table}", self.headline())
    }

    /// The result as one object.
    pub(crate) fn json(&self) -> String {
        let (plan, tally) = (&self.plan, &self.tally);
        let micros = |nanos: f64| nanos / 1e3;
        let mut latency = json!({
            "count": tally.latency.len(),
            "min": micros(tally.latency.min() as f64),
            "mean": micros(tally.latency.mean()),
            "max": micros(tally.latency.max() as f64),
        });
        for (_, key, percentile) in PERCENTILES {
            latency[key] = json!(micros(tally.latency.value_at_percentile(percentile) as f64));
        }
        let lost: serde_json::Map<String, Value> =
            tally.lost_by_reason().map(|(reason, lost)| (reason.to_owned(), json!(lost))).collect();
        let mut object = json!({
            "codec": typed(plan.codec),
            "connections": plan.connections,
            "size": plan.size,
            "threads": plan.threads,
            "driver": self.driver,
            "seconds": self.measured.as_secs_f64(),
            "cut_short": self.cut_short,
            "messages": tally.messages,
            "messages_per_second": self.per_second(),
            "megabytes_per_second": self.megabytes_per_second(),
            "bytes_checked": tally.bytes_checked,
            "latency_us": latency,
            "connections_opened": self.opened,
            "connections_lost": lost,
            "unanswered": tally.unanswered,
        });
        match plan.pace {
            Pace::Closed { depth } => object["depth"] = json!(depth),
            Pace::Open { rate } => {
                object["rate"] = json!(rate);
                object["not_sent"] = json!(tally.not_sent);
                object["late_max_us"] = json!(micros(tally.late_max_ns as f64));
            }
        }
        object.to_string()
    }

    /// Whether the run was as it should be.
    pub(crate) fn verdict(&self, address: &str) -> Outcome {
        let (plan, tally) = (&self.plan, &self.tally);
        let lost = tally.lost_total();
        // A server of another framing, or of smaller frames, never answers anything.
        let hint = match tally.answered {
            0 => format!(
                "; does it echo with --codec {}, and take frames of {} bytes?",
                typed(plan.codec),
                plan.frame_size()
            ),
            _ => String::new(),
        };
        if lost > 0 {
            let reasons: Vec<_> =
                tally.lost_by_reason().map(|(reason, lost)| format!("{reason} {lost}")).collect();
            let which = if lost >= self.opened { "all" } else { "some" };
            return Err(Failure::Run(format!(
                "{which} connections to {address} were lost: {lost} of {} ({}), after {} had come back and {} had \
                 not{hint}",
                self.opened,
                reasons.join(", "),
                count(tally.answered, "message"),
                grouped(tally.unanswered),
            )));
        }
        if tally.unanswered > 0 && !self.cut_short {
            return Err(Failure::Run(format!(
                "{} to {address} did not come back in time{hint}",
                count(tally.unanswered, "message")
            )));
        }
        Ok(())
    }

    /// What else there is to know, though nothing is wrong.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.cut_short {
            remarks.push("cut short by a signal: these are the results so far".to_owned());
        }
        if self.tally.not_sent > 0 {
            remarks.push(format!(
                "the server fell behind: {} that were due could not be sent, and count in no latency",
                count(self.tally.not_sent, "message")
            ));
        }
        remarks
    }
}
