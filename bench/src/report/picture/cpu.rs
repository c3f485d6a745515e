//! Processor time as ratio to the bare io_uring loop: a panel for each workload, a bar for each server.

use super::{
    super::{
        OURS, OURS_LOGIC,
        figures::three_digits,
        record::{Column, Line, Record},
        spec::{self, Spec},
    },
    canvas::{Canvas, MARGIN, Type, WIDTH},
    name_class, place,
};
use crate::process::BARE_URING;

/// The workloads of the headline, as far as they were measured.
const HEADLINE: [&str; 6] = ["echo:64", "echo:10000", "echo:64:16", "stream:4", "fanout:1000:16", "churn:64"];

const COLUMNS: usize = 2;
const GAP: f64 = 36.0;
const PANEL_WIDTH: f64 = (WIDTH - 2.0 * MARGIN - GAP * (COLUMNS as f64 - 1.0)) / COLUMNS as f64;
const NAMES_WIDTH: f64 = 172.0;
/// Right of the longest bar, for its figure.
const FIGURE_WIDTH: f64 = 42.0;
const BAR_HEIGHT: f64 = 13.0;
const BAR_STEP: f64 = 18.0;
const HEAD_HEIGHT: f64 = 84.0;
const FOOT_HEIGHT: f64 = 34.0;
const TITLE_HEIGHT: f64 = 24.0;
const PANEL_GAP: f64 = 26.0;
/// Bars are cut here at the latest; the figure beside a longer one still tells its ratio.
const RATIO_MAX: f64 = 1.75;

/// The picture of the README: the workloads that tell most.
pub fn headline(record: &Record) -> String {
    let lines: Vec<&Line> = HEADLINE.iter().filter_map(|workload| record.line(workload)).collect();
    let lines = if lines.is_empty() { record.timed().collect() } else { lines };
    draw(record, &lines)
}

/// Every workload that was timed, and that is wanted.
pub fn all(record: &Record, is_wanted: impl Fn(&&Line) -> bool) -> String {
    draw(record, &record.timed().filter(is_wanted).collect::<Vec<_>>())
}

fn draw(record: &Record, lines: &[&Line]) -> String {
    let rows: Vec<&[&Line]> = lines.chunks(COLUMNS).collect();
    let row_height = |row: &[&Line]| {
        let bars = row.iter().map(|line| contestants(record, line).len()).max().unwrap_or(0);
        TITLE_HEIGHT + bars as f64 * BAR_STEP + PANEL_GAP
    };
    let height = HEAD_HEIGHT + rows.iter().map(|row| row_height(row)).sum::<f64>() + FOOT_HEIGHT;
    let mut canvas = Canvas::new(
        height,
        "Processor time the server spends on a message",
        "as ratio to the smallest io_uring loop that can do the same work (1.00, the dashed line): shorter is better",
    );
    let scale = (PANEL_WIDTH - NAMES_WIDTH - FIGURE_WIDTH) / longest(record, lines);
    let mut top = HEAD_HEIGHT;
    for row in rows {
        for (column, line) in row.iter().enumerate() {
            let left = MARGIN + column as f64 * (PANEL_WIDTH + GAP);
            panel(&mut canvas, record, line, (left, top), scale);
        }
        top += row_height(row);
    }
    canvas.finish(&format!("{}; whiskers: quartiles of {} rounds", place(record), record.method.rounds))
}

/// The servers of a panel. A hop to another thread is another question than which engine is cheaper.
fn contestants<'a>(record: &'a Record, line: &Line) -> Vec<&'a Column> {
    let shown = |server: &&Column| {
        let plays = line.cell(&server.name).is_some() || line.missing(&server.name).is_some();
        server.name != OURS_LOGIC && plays
    };
    record.servers.iter().filter(shown).collect()
}

fn longest(record: &Record, lines: &[&Line]) -> f64 {
    let ratios = lines.iter().flat_map(|line| {
        contestants(record, line).into_iter().filter_map(|server| line.ratio(&server.name, BARE_URING))
    });
    ratios.map(|ratio| ratio.quartile_3).fold(1.0, f64::max).min(RATIO_MAX)
}

fn panel(canvas: &mut Canvas, record: &Record, line: &Line, (left, top): (f64, f64), scale: f64) {
    let bars_x = left + NAMES_WIDTH;
    canvas.text(left, top + 8.0, Type::HEAD, &title(line));
    if let Some(cpu_us) = line.cpu_us(BARE_URING) {
        let unit = format!("1.00 = {} µs", three_digits(cpu_us.median));
        canvas.text(left + PANEL_WIDTH, top + 8.0, Type::SMALL.end(), &unit);
    }
    let servers = contestants(record, line);
    let first = top + TITLE_HEIGHT;
    let mut figures = Vec::new();
    for (index, server) in servers.iter().enumerate() {
        let y = first + index as f64 * BAR_STEP;
        let baseline = y + BAR_HEIGHT - 2.5;
        canvas.text(bars_x - 8.0, baseline, Type::BODY.class(name_class(server)).end(), &server.name);
        let Some(ratio) = line.ratio(&server.name, BARE_URING) else {
            let why = line.missing(&server.name).unwrap_or("not measured");
            figures.push((bars_x, baseline, Type::SMALL, why.to_owned()));
            continue;
        };
        let x = |ratio: f64| bars_x + ratio.min(RATIO_MAX) * scale;
        canvas.bar(bars_x, y, x(ratio.median) - bars_x, BAR_HEIGHT, &server.color);
        let mut end = x(ratio.median);
        if ratio.median > RATIO_MAX {
            canvas.cut(end - 22.0, y, BAR_HEIGHT);
        } else if server.name != BARE_URING {
            let (from, to, middle) = (x(ratio.quartile_1), x(ratio.quartile_3), y + BAR_HEIGHT / 2.0);
            canvas.line("rule", (from, middle), (to, middle), false);
            end = end.max(to);
        }
        let decimals = if ratio.median >= 9.95 { 0 } else { 2 };
        let class = if server.name == OURS { "ours" } else { "ink" };
        figures.push((end, baseline, Type::BODY.class(class), format!("{:.decimals$}", ratio.median)));
    }
    let x = bars_x + scale;
    let bottom = first + servers.len() as f64 * BAR_STEP - (BAR_STEP - BAR_HEIGHT);
    canvas.line("rule", (x, first - 4.0), (x, bottom + 4.0), true);
    // Over the line, so that it goes through no figure.
    for (end, baseline, how, figure) in figures {
        canvas.text(end + 6.0, baseline, how, &figure);
    }
}

/// Shorter than in a table: what the others of the picture are not.
fn title(line: &Line) -> String {
    match line.spec() {
        Spec::Churn => "connect, echo, close".into(),
        Spec::Stream { connections } => format!("1 MiB messages, {connections} connections"),
        Spec::Open { .. } => spec::label(line).replace("open loop, ", ""),
        _ => {
            let label = spec::label(line).replace(" each", "");
            label.strip_prefix("echo ").unwrap_or(&label).to_owned()
        }
    }
}
