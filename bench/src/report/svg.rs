//! The result as a picture: for each workload one bar per server, its ratio to bare io_uring.

use std::fmt::{self, Display, Formatter};

use super::{Report, markdown::three_digits};
use crate::{measure::Outcome, process::BARE_URING};

/// Draws a report as SVG.
pub struct Svg<'a>(pub &'a Report);

const WIDTH: usize = 860;
const MARGIN: usize = 20;
/// Where the bars begin, right of the servers' names.
const BARS_X: usize = 170;
const BARS_WIDTH: usize = 590;
const BAR_HEIGHT: usize = 14;
const BAR_STEP: usize = 19;
const TITLE_HEIGHT: usize = 26;
const GROUP_GAP: usize = 16;
const HEAD_HEIGHT: usize = 66;
const FOOT_HEIGHT: usize = 44;
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
        let foot = format!(
            "{} ({} CPUs), {}, {}, tokio {}, io-uring {}, commit {}",
            machine.cpu,
            machine.cpus,
            machine.kernel,
            machine.rustc.split(" (").next().unwrap_or_default(),
            machine.tokio,
            machine.io_uring,
            machine.commit
        );
        text(f, MARGIN, height - 18, "soft", 11, "start", &foot)?;
        writeln!(f, "</svg>")
    }
}

impl Svg<'_> {
    fn ratio(outcome: &Outcome, name: &str) -> Option<f64> {
        outcome.ratio(name, BARE_URING).map(|spread| spread.median)
    }

    fn longest(&self) -> f64 {
        let report = self.0;
        let ratios = report.timed().flat_map(|outcome| {
            report.servers.iter().filter_map(move |server| Self::ratio(outcome, server.name))
        });
        ratios.fold(0.0, f64::max).min(RATIO_MAX)
    }

    fn group(&self, f: &mut Formatter<'_>, outcome: &Outcome, top: usize, scale: f64) -> fmt::Result {
        let title = outcome.workload.to_string();
        text(f, MARGIN, top + 14, "ink", 13, "start", &title)?;
        for (index, server) in self.0.servers.iter().enumerate() {
            let y = top + TITLE_HEIGHT + index * BAR_STEP;
            let baseline = y + 11;
            text(f, BARS_X - 8, baseline, "soft", 12, "end", server.name)?;
            let Some(ratio) = Self::ratio(outcome, server.name) else {
                text(f, BARS_X + 4, baseline, "soft", 12, "start", "not measured")?;
                continue;
            };
            let width = ratio.min(RATIO_MAX) * scale;
            writeln!(
                f,
                "<rect x=\"{BARS_X}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR_HEIGHT}\" rx=\"2\" \
                 fill=\"{}\"/>",
                server.color
            )?;
            let figure = match outcome.cpu_us(server.name) {
                Some(cpu_us) if server.name == BARE_URING => {
                    format!("{} µs per {}", three_digits(cpu_us.median), outcome.workload.operation())
                }
                _ => format!("{ratio:.2}"),
            };
            // Inside the bar if there is no room behind it.
            let end = BARS_X + width as usize;
            if server.name == BARE_URING || end + 50 > WIDTH {
                inside(f, end - 6, baseline, &figure)?;
            } else {
                text(f, end + 6, baseline, "ink", 12, "start", &figure)?;
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

/// White on the bar's own colour.
fn inside(f: &mut Formatter<'_>, x: usize, y: usize, words: &str) -> fmt::Result {
    writeln!(
        f,
        "<text fill=\"#ffffff\" x=\"{x}\" y=\"{y}\" font-size=\"12\" text-anchor=\"end\">{words}</text>"
    )
}
