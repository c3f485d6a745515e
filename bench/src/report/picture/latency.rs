//! Latency in open loop: for each offered rate a panel, for each server a line from p50 over p99 to p99.9.

use super::{
    super::{
        OURS_LOGIC,
        figures::{duration_us, thousands},
        record::{Column, Line, Record, Tail},
        spec::{Spec, offered},
    },
    canvas::{Canvas, MARGIN, Type, WIDTH},
    name_class, place,
};

const NAMES_WIDTH: f64 = 172.0;
const ROW_STEP: f64 = 20.0;
const HEAD_HEIGHT: f64 = 84.0;
const TITLE_HEIGHT: f64 = 20.0;
const AXIS_HEIGHT: f64 = 44.0;
const FOOT_HEIGHT: f64 = 34.0;

/// None if no latency was measured.
pub fn latency(record: &Record) -> Option<String> {
    let lines: Vec<&Line> = record.timed().filter(|line| line.has_latency()).collect();
    let tails = || lines.iter().flat_map(|line| servers(record, line).map(|(_, tail)| tail));
    let least = tails().map(|tail| tail.figures_us()[0]).reduce(f64::min)?;
    let greatest = tails().map(|tail| tail.figures_us()[2]).reduce(f64::max)?;
    let axis = Axis::new(least, greatest);
    let rows = |line: &Line| servers(record, line).count() as f64;
    let panel_height = |line: &Line| TITLE_HEIGHT + rows(line) * ROW_STEP + AXIS_HEIGHT;
    let height = HEAD_HEIGHT + lines.iter().map(|line| panel_height(line)).sum::<f64>() + FOOT_HEIGHT;
    let mut canvas = Canvas::new(
        height,
        "Latency at a rate that does not wait for answers",
        "from the moment a message was due to its echo: p50 (hollow), p99 (full), p99.9 (small); further left is better; logarithmic",
    );
    let mut top = HEAD_HEIGHT;
    for line in &lines {
        panel(&mut canvas, record, line, top, &axis);
        top += panel_height(line);
    }
    Some(canvas.finish(&place(record)))
}

fn servers<'a>(record: &'a Record, line: &'a Line) -> impl Iterator<Item = (&'a Column, Tail)> {
    let engines = record.servers.iter().filter(|server| server.name != OURS_LOGIC);
    engines.filter_map(|server| Some((server, line.cell(&server.name)?.latency?)))
}

fn panel(canvas: &mut Canvas, record: &Record, line: &Line, top: f64, axis: &Axis) {
    let title = match line.spec() {
        Spec::Open { connections, rate } => {
            let of = if rate.ends_with('%') { " of what the slowest server can do" } else { "" };
            let connections = thousands(f64::from(connections));
            format!("{}{of}, {connections} connections", offered(&rate, line))
        }
        _ => line.name.clone(),
    };
    canvas.text(MARGIN, top + 6.0, Type::HEAD, &title);
    let servers: Vec<_> = servers(record, line).collect();
    let first = top + TITLE_HEIGHT;
    let bottom = first + servers.len() as f64 * ROW_STEP;
    for tick in axis.ticks() {
        let x = axis.x(tick);
        canvas.line("grid", (x, first - 2.0), (x, bottom), false);
        canvas.text(x, bottom + 14.0, Type::SMALL.middle(), &tick_words(tick));
    }
    for (index, (server, tail)) in servers.iter().enumerate() {
        let middle = first + index as f64 * ROW_STEP + ROW_STEP / 2.0 - 1.0;
        let name = Type::BODY.class(name_class(server)).end();
        canvas.text(MARGIN + NAMES_WIDTH - 8.0, middle + 4.0, name, &server.name);
        let [p50, p99, p999] = tail.figures_us().map(|us| axis.x(us));
        canvas.curve(&[(p50, middle), (p999, middle)], &server.color, 2.0);
        canvas.dot(p999, middle, 2.5, &server.color);
        canvas.ring(p50, middle, 4.5, &server.color);
        canvas.dot(p99, middle, 5.0, &server.color);
        canvas.text(p999 + 8.0, middle + 4.0, Type::SMALL, &format!("p99 {}", duration_us(tail.p99())));
    }
}

/// 50 µs, 2 ms, 1 s: whole numbers.
fn tick_words(us: f64) -> String {
    match us {
        1e6.. => format!("{} s", us / 1e6),
        1e3.. => format!("{} ms", us / 1e3),
        _ => format!("{us} µs"),
    }
}

/// A logarithmic axis over the width of the card.
struct Axis {
    from: f64,
    to: f64,
}

impl Axis {
    fn new(least: f64, greatest: f64) -> Self {
        Self { from: least.max(0.1) * 0.8, to: greatest.max(1.0) * 1.05 }
    }

    fn x(&self, us: f64) -> f64 {
        let (left, right) = (MARGIN + NAMES_WIDTH + 6.0, WIDTH - MARGIN - 80.0);
        let share = (us.max(self.from) / self.from).ln() / (self.to / self.from).ln();
        left + share * (right - left)
    }

    /// 1, 2 and 5 times powers of ten; only powers of ten if those were too many.
    fn ticks(&self) -> Vec<f64> {
        let within = |digits: &[f64]| -> Vec<f64> {
            let powers = (-1..9).map(|power| 10f64.powi(power));
            let all = powers.flat_map(|power| digits.iter().map(move |digit| digit * power));
            all.filter(|tick| (self.from..=self.to).contains(tick)).collect()
        };
        match within(&[1.0, 2.0, 5.0]) {
            many if many.len() > 14 => within(&[1.0]),
            ticks => ticks,
        }
    }
}
