//! The result as a picture: for each workload one bar per server, its ratio to bare io_uring.

use std::fmt::{self, Display, Formatter};

use super::{Report, markdown::three_digits};
use crate::{measure::Outcome, process::BARE_URING, stats::Spread};

/// Draws a report as SVG.
pub struct Svg<'a>(pub &'a Report);

const WIDTH: usize = 860;
const MARGIN: usize = 20;
/// Where the bars begin, right of the servers' names.
const BARS_X: usize = 170;
const BARS_WIDTH: usize = 610;
const BAR_HEIGHT: usize = 14;
const BAR_STEP: usize = 19;
const TITLE_HEIGHT: usize = 26;
const GROUP_GAP: usize = 16;
const HEAD_HEIGHT: usize = 66;
const FOOT_HEIGHT: usize = 48;
/// Bars end here; the figure beside a longer one still tells its ratio.
const RATIO_MAX: f64 = 4.0;

/// The card brings its own background, so that the text is readable on every page.
const STYLE: &str = "\
  .card { fill: #ffffff; stroke: #d0d7de; } .ink { fill: #1f2328; } .soft { fill: #59636e; } .line { stroke: #59636e; }\n  \
  text { font-family: system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; }\n  \
  @media (prefers-color-scheme: dark) {\n    \
    .card { fill: #0d1117; stroke: #3d444d; } .ink { fill: #f0f6fc; } .soft { fill: #9198a1; } .line { stroke: #9198a1; }\n  \
  }";

impl Display for Svg<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(report) = self;
        let groups: Vec<&Outcome> = report.timed().collect();
        let group_height = TITLE_HEIGHT + report.servers.len() * BAR_STEP + GROUP_GAP;
        let height = HEAD_HEIGHT + groups.len() * group_height + FOOT_HEIGHT;
        writeln!(
            f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
             aria-label=\"Processor time per message as ratio to a bare io_uring loop\">"
        )?;
        writeln!(f, "<style>\n  {STYLE}\n</style>")?;
        writeln!(
            f,
            "<rect class=\"card\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\"/>",
            WIDTH - 1,
            height - 1
        )?;
        text(f, MARGIN, 30, "ink", 17, "start", "CPU time of the server per message")?;
        text(f, MARGIN, 50, "soft", 12, "start", "ratio to the bare io_uring loop; shorter is better")?;
        let scale = BARS_WIDTH as f64 / self.longest().max(1.0);
        for (index, outcome) in groups.iter().enumerate() {
            self.group(f, outcome, HEAD_HEIGHT + index * group_height, scale)?;
        }
        let machine = &report.machine;
        let place = format!(
            "{} ({} CPUs), {}, TCP {}",
            machine.cpu, machine.cpus, machine.kernel, machine.congestion_control
        );
        let versions = format!(
            "{}, tokio {}, io-uring {}, commit {}; {} rounds of {} ms; whiskers: quartiles",
            machine.rustc.split(" (").next().unwrap_or_default(),
            machine.tokio,
            machine.io_uring,
            machine.commit,
            report.effort.rounds,
            report.effort.slice.as_millis()
        );
        text(f, MARGIN, height - 30, "soft", 11, "start", &place)?;
        text(f, MARGIN, height - 14, "soft", 11, "start", &versions)?;
        writeln!(f, "</svg>")
    }
}

impl Svg<'_> {
    fn longest(&self) -> f64 {
        let report = self.0;
        let ratios = report.timed().flat_map(|outcome| {
            report.servers.iter().filter_map(|server| outcome.ratio(server.name, BARE_URING))
        });
        ratios.map(|spread| spread.quartile_3).fold(0.0, f64::max).min(RATIO_MAX)
    }

    fn group(&self, f: &mut Formatter<'_>, outcome: &Outcome, top: usize, scale: f64) -> fmt::Result {
        text(f, MARGIN, top + 14, "ink", 13, "start", &outcome.workload.to_string())?;
        if let Some(cpu_us) = outcome.cpu_us(BARE_URING) {
            let unit = three_digits(cpu_us.median);
            let unit = format!("1 = {unit} µs per {}", outcome.workload.operation());
            text(f, WIDTH - MARGIN, top + 14, "soft", 12, "end", &unit)?;
        }
        for (index, server) in self.0.servers.iter().enumerate() {
            let y = top + TITLE_HEIGHT + index * BAR_STEP;
            text(f, BARS_X - 8, y + 11, "soft", 12, "end", server.name)?;
            match outcome.ratio(server.name, BARE_URING) {
                Some(ratio) => bar(f, y, server.color, ratio, scale)?,
                None => text(f, BARS_X + 8, y + 11, "soft", 12, "start", "not measured")?,
            }
        }
        let x = BARS_X as f64 + scale;
        let (from, to) = (top + TITLE_HEIGHT - 4, top + TITLE_HEIGHT + self.0.servers.len() * BAR_STEP);
        writeln!(
            f,
            "<line class=\"line\" x1=\"{x:.1}\" y1=\"{from}\" x2=\"{x:.1}\" y2=\"{to}\" stroke-dasharray=\"3 3\"/>"
        )
    }
}

/// A bar with its figure, and the quartiles as a whisker.
fn bar(f: &mut Formatter<'_>, y: usize, color: &str, ratio: Spread, scale: f64) -> fmt::Result {
    let x = |ratio: f64| BARS_X as f64 + ratio.min(RATIO_MAX) * scale;
    writeln!(
        f,
        "<rect x=\"{BARS_X}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR_HEIGHT}\" rx=\"2\" fill=\"{color}\"/>",
        x(ratio.median) - BARS_X as f64
    )?;
    let (from, to, middle) = (x(ratio.quartile_1), x(ratio.quartile_3), y + BAR_HEIGHT / 2);
    writeln!(f, "<line class=\"line\" x1=\"{from:.1}\" y1=\"{middle}\" x2=\"{to:.1}\" y2=\"{middle}\"/>")?;
    text(f, to.max(x(ratio.median)) as usize + 7, y + 11, "ink", 12, "start", &format!("{:.2}", ratio.median))
}

fn text(
    f: &mut Formatter<'_>,
    x: usize,
    y: usize,
    class: &str,
    size: usize,
    anchor: &str,
    words: &str,
) -> fmt::Result {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(
        f,
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" font-size=\"{size}\" text-anchor=\"{anchor}\">{words}</text>"
    )
}
