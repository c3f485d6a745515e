//! Tables in Markdown.

use super::super::{
    OURS,
    record::{Class, Column, Line, Record},
};

/// Cells under headings; the first column is words, the others are numbers. None without rows.
pub fn table(headings: &[String], rows: &[Vec<String>]) -> Option<String> {
    if rows.is_empty() {
        return None;
    }
    let mut text = String::new();
    for cells in std::iter::once(headings).chain(rows.iter().map(|row| &row[..])) {
        let is_heading = text.is_empty();
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
        if is_heading {
            text.push_str(&format!("|---|{}\n", "---:|".repeat(headings.len() - 1)));
        }
    }
    Some(text)
}

/// The servers that have something to show in one of these lines.
pub fn columns<'a>(record: &'a Record, lines: &[&Line]) -> Vec<&'a Column> {
    let plays = |server: &&Column| {
        lines.iter().any(|line| line.cell(&server.name).is_some() || line.missing(&server.name).is_some())
    };
    record.servers.iter().filter(plays).collect()
}

/// A server's name over its column: narrow, and ours is bold.
pub fn heading(server: &Column) -> String {
    let narrow = server.name.replace(' ', "<br>");
    if server.name == OURS { format!("**{narrow}**") } else { narrow }
}

/// The least of these figures among engines (not the bare loops), as it is written; all that are written alike are best.
pub fn best<'a>(servers: &[&'a Column], figure: impl Fn(&'a str) -> Option<f64>) -> Option<String> {
    let engines = servers.iter().filter(|server| server.class != Class::Bare);
    engines.filter_map(|server| figure(&server.name)).reduce(f64::min).map(|least| format!("{least:.2}"))
}

/// Emphasis for the best.
pub fn bold_if(is_best: bool, text: &str) -> String {
    if is_best { format!("**{text}**") } else { text.to_owned() }
}
