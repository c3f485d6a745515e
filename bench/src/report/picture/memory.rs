//! Memory of an idle session: a bar for each server.

use super::{
    super::{figures::thousands, record::Record, spec::label},
    canvas::{Canvas, MARGIN, Type, WIDTH},
    name_class, place,
};

const NAMES_WIDTH: f64 = 172.0;
const FIGURE_WIDTH: f64 = 80.0;
const BAR_HEIGHT: f64 = 15.0;
const BAR_STEP: f64 = 21.0;
const HEAD_HEIGHT: f64 = 78.0;
const FOOT_HEIGHT: f64 = 44.0;

/// None if nobody's memory was measured.
pub fn memory(record: &Record) -> Option<String> {
    let line = record.weighed().next()?;
    let bytes = |name: &str| line.cell(name).and_then(|cell| cell.session_bytes);
    let servers: Vec<_> = record.servers.iter().filter(|server| bytes(&server.name).is_some()).collect();
    let longest = servers.iter().filter_map(|server| bytes(&server.name)).fold(1.0, f64::max);
    let scale = (WIDTH - 2.0 * MARGIN - NAMES_WIDTH - FIGURE_WIDTH) / longest;
    let height = HEAD_HEIGHT + servers.len() as f64 * BAR_STEP + FOOT_HEIGHT;
    let subtitle = format!("growth of the server's resident memory for each of them; {}", label(line));
    let mut canvas = Canvas::new(height, "Memory of a session that is silent", &subtitle);
    for (index, server) in servers.iter().enumerate() {
        let (x, y) = (MARGIN + NAMES_WIDTH, HEAD_HEIGHT + index as f64 * BAR_STEP);
        let bytes = bytes(&server.name).unwrap_or(0.0);
        let width = bytes.max(0.0) * scale;
        canvas.text(x - 8.0, y + 12.0, Type::BODY.class(name_class(server)).end(), &server.name);
        canvas.bar(x, y, width, BAR_HEIGHT, &server.color);
        let figure = format!("{} B", thousands(bytes));
        canvas.text(x + width + 7.0, y + 12.0, Type::BODY.class("ink"), &figure);
    }
    Some(canvas.finish(&place(record)))
}
