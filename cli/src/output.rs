//! Standard output that survives its reader, and numbers as people read them. Plain text everywhere: no colours, so
//! that a console which does not know them shows no codes.

use std::{
    fmt,
    io::{self, ErrorKind, Write},
};

use crate::exit::{Failure, Outcome};

/// Writes text and a line end to standard output at once. `println!` would panic when the reader is gone.
pub(crate) fn say(text: impl fmt::Display) -> Outcome {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::Run(format!("cannot write to standard output: {error}")),
    })
}

/// Writes a remark to standard error. If that fails there is nowhere to say so.
pub(crate) fn remark(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A number with its thousands apart.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `one thing`, `2 things`.
pub(crate) fn count(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// Rows of a name and a value: names to the left, values to the right, in columns.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<(String, String)>,
}

impl Table {
    pub(crate) fn row(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.rows.push((name.into(), value.into()));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |side: fn(&(String, String)) -> &String| {
            self.rows.iter().map(|row| side(row).chars().count()).max().unwrap_or(0)
        };
        let (names, values) = (width(|row| &row.0), width(|row| &row.1));
        for (at, (name, value)) in self.rows.iter().enumerate() {
            let end = if at + 1 < self.rows.len() { "\n" } else { "" };
            write!(f, "{name:<names$}  {value:>values$}{end}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        let texts = [0, 999, 1_000, 65_536, 1_234_567].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "65,536", "1,234,567"]);
        assert_eq!((count(1, "session"), count(0, "session")), ("1 session".into(), "0 sessions".into()));
    }

    #[test]
    fn a_table_has_straight_columns() {
        let mut table = Table::default();
        table.row("frames", "7");
        table.row("sessions accepted", "1,000");
        assert_eq!(table.to_string(), "frames                 7\nsessions accepted  1,000");
    }
}
