//! A record for programs: every figure, also those of each slice. It reads back.

use serde_json::{Value, json};

use super::record::{Line, Record};
use crate::process::{BARE_EPOLL, BARE_URING};

/// The whole record; each server of each workload is one line of text. Beside what is read back, it has the medians
/// that follow from the slices.
pub fn write(record: &Record) -> serde_json::Result<String> {
    let mut value = serde_json::to_value(record)?;
    let lines = value["workloads"].as_array_mut().into_iter().flatten();
    for (line, written) in record.workloads.iter().zip(lines) {
        let cells = written["servers"].as_array_mut().into_iter().flatten();
        for (cell, written) in line.servers.iter().zip(cells) {
            add_medians(line, &cell.server, written);
        }
    }
    let mut text = String::new();
    layout(&value, 0, &mut text);
    text.push('\n');
    Ok(text)
}

pub fn read(text: &str) -> serde_json::Result<Record> {
    serde_json::from_str(text)
}

fn add_medians(line: &Line, name: &str, cell: &mut Value) {
    let figures = [
        ("cpu_us_per_operation", line.cpu_us(name)),
        ("operations_per_s", line.rate(name)),
        ("busy", line.busy(name)),
        ("loader_busy", line.loader_busy(name)),
        ("cpu_ratio_to_bare_uring", line.ratio(name, BARE_URING)),
        ("cpu_ratio_to_bare_epoll", line.ratio(name, BARE_EPOLL)),
    ];
    for (key, spread) in figures {
        if let Some(spread) = spread {
            let short = |figure: f64| (figure * 1e4).round() / 1e4;
            cell[key] = json!({
                "quartile_1": short(spread.quartile_1),
                "median": short(spread.median),
                "quartile_3": short(spread.quartile_3),
            });
        }
    }
}

/// What lies deeper than a workload's list of servers stays on one line.
const DEPTH_MAX: usize = 4;

fn layout(value: &Value, depth: usize, text: &mut String) {
    let newline = |text: &mut String, depth: usize| {
        text.push('\n');
        text.extend(std::iter::repeat_n("  ", depth));
    };
    let comma = |index: usize| if index > 0 { "," } else { "" };
    match value {
        Value::Object(fields) if depth < DEPTH_MAX && !fields.is_empty() => {
            text.push('{');
            for (index, (key, value)) in fields.iter().enumerate() {
                text.push_str(comma(index));
                newline(text, depth + 1);
                text.push_str(&format!("{}: ", Value::from(key.as_str())));
                layout(value, depth + 1, text);
            }
            newline(text, depth);
            text.push('}');
        }
        Value::Array(values) if depth < DEPTH_MAX && values.iter().any(Value::is_object) => {
            text.push('[');
            for (index, value) in values.iter().enumerate() {
                text.push_str(comma(index));
                newline(text, depth + 1);
                layout(value, depth + 1, text);
            }
            newline(text, depth);
            text.push(']');
        }
        _ => text.push_str(&value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn a_record_reads_back() {
        let record = sample::record();
        let text = write(&record).expect("it is written");
        let again = read(&text).expect("it reads");
        assert!(text == write(&again).expect("it is written"), "what was read back is written otherwise");
        let line = again.line("echo:64").expect("it was measured");
        assert_eq!(line.cpu_us("tokio"), record.line("echo:64").expect("measured").cpu_us("tokio"));
        let servers: usize = record.workloads.iter().map(|line| line.servers.len()).sum();
        assert!(text.lines().count() > servers, "each server has a line");
    }
}
