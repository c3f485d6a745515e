//! What the results of all loads have in common, for a person or a program.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "numbers are shown to a few digits, and are not negative"
)]

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::monitor::Ended;
use crate::{
    exit::{Failure, Outcome},
    output::{Table, count, grouped, remark, say},
};

const PERCENTILES: [(&str, &str, f64); 4] =
    [("p50", "p50", 50.0), ("p90", "p90", 90.0), ("p99", "p99", 99.0), ("p99.9", "p999", 99.9)];

/// The result of one load.
pub(crate) trait Report {
    /// What all loads count.
    fn ended(&self) -> &Ended;
    /// One sentence of what was run, and the figures in rows.
    fn table(&self) -> String;
    /// The same as one object.
    fn json(&self) -> Value;
    /// Whether the run was as it should be.
    fn verdict(&self) -> Outcome;
    /// What else there is to know, though nothing is wrong.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Prints a result; its verdict is the run's. `None` is a run that never began.
pub(crate) fn tell(report: Option<&impl Report>, as_json: bool) -> Outcome {
    let Some(report) = report else {
        remark("cut short by a signal before all connections were open: nothing was measured");
        return Ok(());
    };
    say(if as_json { report.json().to_string() } else { report.table() })?;
    if report.ended().cut_short {
        remark("cut short by a signal: these are the results so far");
    }
    for text in report.remarks() {
        remark(text);
    }
    report.verdict()
}

pub(crate) fn micros(nanos: u64) -> String {
    format!("{:.1}", nanos as f64 / 1e3)
}

/// Rows for the percentiles and the maximum.
pub(crate) fn latency_rows(table: &mut Table, what: &str, latency: &Histogram<u64>) {
    for (name, _, percentile) in PERCENTILES {
        table.row(format!("{what} {name}, µs"), micros(latency.value_at_percentile(percentile)));
    }
    table.row(format!("{what} max, µs"), micros(latency.max()));
}

/// The object of a latency, in microseconds.
pub(crate) fn latency_json(latency: &Histogram<u64>) -> Value {
    let micros = |nanos: f64| nanos / 1e3;
    let mut object = json!({
        "count": latency.len(),
        "min": micros(latency.min() as f64),
        "mean": micros(latency.mean()),
        "max": micros(latency.max() as f64),
    });
    for (_, key, percentile) in PERCENTILES {
        object[key] = json!(micros(latency.value_at_percentile(percentile) as f64));
    }
    object
}

impl Ended {
    /// What was done each second while it was measured.
    pub(crate) fn per_second(&self) -> f64 {
        self.rate_of(self.tally.done)
    }

    /// So many in the time that was measured, for a second.
    pub(crate) fn rate_of(&self, count: u64) -> f64 {
        let seconds = self.measured.as_secs_f64();
        if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
    }

    /// The end of the headline: who ran it, and for how long.
    pub(crate) fn circumstances(&self, threads: u64) -> String {
        format!(
            "{} ({}); measured for {:.2} s{}",
            count(threads, "thread"),
            self.driver,
            self.measured.as_secs_f64(),
            if self.cut_short { ", cut short" } else { "" },
        )
    }

    /// Rows for the connections that were opened and lost.
    pub(crate) fn connection_rows(&self, table: &mut Table) {
        table.row("connections opened", grouped(self.opened));
        table.row("connections lost", grouped(self.tally.lost_total()));
        for (reason, lost) in self.tally.lost_by_reason() {
            table.row(format!("  {reason}"), grouped(lost));
        }
    }

    /// Rows of a load that sends at fixed times.
    pub(crate) fn open_rows(&self, table: &mut Table, what: &str) {
        table.row(format!("{what} due, not sent"), grouped(self.tally.not_sent));
        table.row("sent late by at most, µs", micros(self.tally.late_max_ns));
    }

    /// The fields of every load.
    pub(crate) fn json(&self, threads: u64) -> Value {
        let tally = &self.tally;
        let lost: Map<String, Value> =
            tally.lost_by_reason().map(|(reason, lost)| (reason.to_owned(), json!(lost))).collect();
        json!({
            "threads": threads,
            "driver": self.driver,
            "seconds": self.measured.as_secs_f64(),
            "cut_short": self.cut_short,
            "bytes_checked": tally.bytes_checked,
            "latency_us": latency_json(&tally.latency),
            "connections_opened": self.opened,
            "connections_lost": lost,
        })
    }

    /// Adds the fields of a load that sends at fixed times.
    pub(crate) fn add_open_json(&self, object: &mut Value) {
        object["not_sent"] = json!(self.tally.not_sent);
        object["late_max_us"] = json!(self.tally.late_max_ns as f64 / 1e3);
    }

    /// An error if connections were lost. `so_far` says what had been done until then.
    pub(crate) fn nothing_lost(&self, so_far: &str) -> Outcome {
        let lost = self.tally.lost_total();
        if lost == 0 {
            return Ok(());
        }
        let reasons: Vec<_> =
            self.tally.lost_by_reason().map(|(reason, lost)| format!("{reason} {lost}")).collect();
        let which = if lost >= self.opened { "all" } else { "some" };
        Err(Failure::Run(format!(
            "{which} connections to {} were lost: {lost} of {} ({}), {so_far}",
            self.address,
            self.opened,
            reasons.join(", "),
        )))
    }

    /// A remark if not all was sent that was due.
    pub(crate) fn fell_behind(&self, what: &str) -> Option<String> {
        (self.tally.not_sent > 0).then(|| {
            format!(
                "the server fell behind: {} that were due could not be sent, and count in no latency",
                count(self.tally.not_sent, what)
            )
        })
    }
}

/// A number of things a second, as a table shows it.
pub(crate) fn rate(per_second: f64) -> String {
    grouped(per_second as u64)
}
