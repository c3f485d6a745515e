//! `anyport doctor`: what the engine finds on this machine, for a person or a program.

use anyport::doctor::{Finding, Report, Verdict, examine};
use serde_json::json;

use crate::{
    exit::{Failure, Outcome},
    output::say,
};

/// Looks, prints, and fails if something is in the way.
pub(crate) fn run(as_json: bool) -> Outcome {
    let report = examine();
    say(if as_json { json(&report) } else { table(&report) })?;
    if report.findings.iter().any(|finding| finding.verdict == Verdict::Bad) {
        return Err(Failure::Said);
    }
    Ok(())
}

fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "good",
        Verdict::Could => "could",
        Verdict::Bad => "BAD",
    }
}

fn table(report: &Report) -> String {
    let width = |text: fn(&Finding) -> &str| {
        report.findings.iter().map(|finding| text(finding).chars().count()).max().unwrap_or(0)
    };
    let names = width(|finding| finding.name);
    let mut lines = Vec::new();
    for Finding { name, value, verdict, advice } in &report.findings {
        lines.push(format!("{:<5}  {name:<names$}  {value}", mark(*verdict)));
        if !advice.is_empty() {
            lines.push(format!("{:5}  {:names$}  -> {advice}", "", ""));
        }
    }
    if report.findings.iter().all(|finding| finding.advice.is_empty()) {
        lines.push("\nnothing to improve".to_owned());
    }
    lines.push(format!("\ndriver {}: {}", report.driver, report.reason));
    lines.join("\n")
}

fn json(report: &Report) -> String {
    let finding = |finding: &Finding| {
        json!({
            "name": finding.name,
            "value": finding.value,
            "verdict": mark(finding.verdict).to_lowercase(),
            "advice": finding.advice,
        })
    };
    json!({
        "driver": report.driver.to_string(),
        "reason": report.reason,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
    })
    .to_string()
}
