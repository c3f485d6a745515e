//! How the cost of a message grows with the connections: a line for each server.

use super::{
    super::{
        OURS, OURS_LOGIC,
        figures::{thousands, three_digits},
        record::{Class, Column, Line, Record},
        spec::connections_of,
    },
    canvas::{Canvas, MARGIN, Type, WIDTH, step},
    place,
};
use crate::stats::Spread;

const HEIGHT: f64 = 470.0;
const LEFT: f64 = MARGIN + 46.0;
/// The names stand right of the lines.
const RIGHT: f64 = WIDTH - 270.0;
const TOP: f64 = 84.0;
const BOTTOM: f64 = HEIGHT - 70.0;
/// Between two names.
const NAME_STEP: f64 = 15.0;

/// The cost of an echo of 64 bytes, one in flight, by connections. The fewest that are drawn: below, servers sleep.
const CONNECTIONS_MIN: u32 = 100;

/// For each server its points: connections, and µs of processor time for a message. Servers with two points and more.
pub fn growth(record: &Record) -> Vec<(&Column, Vec<(u32, f64)>)> {
    let mut lines: Vec<_> = record
        .timed()
        .filter_map(|line| Some((connections_of(line)?, line)))
        .filter(|(connections, _)| *connections >= CONNECTIONS_MIN)
        .collect();
    lines.sort_by_key(|(connections, _)| *connections);
    let points = |name: &str| -> Vec<(u32, f64)> {
        let point =
            |(connections, line): &(u32, &Line)| line.cpu_us(name).map(|cpu| (*connections, cpu.median));
        lines.iter().filter_map(point).collect()
    };
    let engines = record.servers.iter().filter(|server| server.name != OURS_LOGIC);
    let servers = engines.map(|server| (server, points(&server.name)));
    servers.filter(|(_, points)| points.len() > 1).collect()
}

/// None if no two numbers of connections were measured.
pub fn scale(record: &Record) -> Option<String> {
    let lines = growth(record);
    let points = || lines.iter().flat_map(|(_, points)| points.iter().copied());
    let (fewest, most) = (points().map(|point| point.0).min()?, points().map(|point| point.0).max()?);
    let highest = points().map(|point| point.1).fold(0.0, f64::max).min(cap(&lines)) * 1.05;
    let x = |connections: u32| {
        let share =
            (f64::from(connections) / f64::from(fewest)).ln() / (f64::from(most) / f64::from(fewest)).ln();
        LEFT + share * (RIGHT - LEFT)
    };
    // The picture is about growth and order: it begins a little below the lowest point.
    let lowest = points().map(|point| point.1).fold(highest, f64::min) * 0.9;
    let step = step(highest - lowest, 6.0);
    let lowest = (lowest / step).floor() * step;
    let y = |us: f64| BOTTOM - (us - lowest) / (highest - lowest) * (BOTTOM - TOP);
    let mut canvas = Canvas::new(
        HEIGHT,
        "What a message costs when there are more connections",
        "µs of the server's processor for an echo of 64 bytes, one in flight on each connection; lower and flatter is better",
    );
    for index in 0..=((highest - lowest) / step) as u32 {
        let us = lowest + f64::from(index) * step;
        canvas.line(if index == 0 { "rule" } else { "grid" }, (LEFT, y(us)), (RIGHT, y(us)), false);
        canvas.text(LEFT - 8.0, y(us) + 4.0, Type::SMALL.end(), &format!("{} µs", three_digits(us)));
    }
    let mut ticks: Vec<u32> = points().map(|point| point.0).collect();
    ticks.sort_unstable();
    ticks.dedup();
    for tick in ticks {
        canvas.line("rule", (x(tick), BOTTOM), (x(tick), BOTTOM + 5.0), false);
        canvas.text(x(tick), BOTTOM + 19.0, Type::SMALL.middle(), &thousands(f64::from(tick)));
    }
    canvas.text((LEFT + RIGHT) / 2.0, BOTTOM + 36.0, Type::SMALL.middle(), "connections");
    let mut names: Vec<(f64, f64, f64, &Column, String)> = Vec::new();
    // Ours last, over the others.
    let ours_last = |class: Class| {
        lines.iter().filter(move |(server, _)| (server.class == Class::Ours) == (class == Class::Ours))
    };
    for (server, points) in ours_last(Class::Peer).chain(ours_last(Class::Ours)) {
        let width = if server.name == OURS { 3.5 } else { 1.8 };
        // What lies higher than the picture reaches ends at its upper edge.
        let places: Vec<_> =
            points.iter().map(|(connections, us)| (x(*connections), y(us.min(highest)))).collect();
        canvas.curve(&places, &server.color, width);
        for (x, y) in &places {
            canvas.dot(*x, *y, if server.name == OURS { 4.0 } else { 2.6 }, &server.color);
        }
        if let (Some(place), Some((connections, us))) = (places.last(), points.last()) {
            let figure = match *connections == most {
                true => format!("{} µs", three_digits(*us)),
                false => {
                    format!("{} µs at {}", three_digits(*us), thousands(f64::from(*connections)))
                }
            };
            names.push((place.0, place.1, place.1, server, figure));
        }
    }
    spread_out(&mut names);
    for (end_x, end_y, name_y, server, figure) in names {
        if end_x > RIGHT - 1.0 {
            canvas.line("grid", (end_x + 5.0, end_y), (RIGHT + 18.0, name_y - 4.0), false);
        }
        canvas.dot(RIGHT + 24.0, name_y - 4.0, 4.0, &server.color);
        let class = if server.name == OURS { "ours" } else { "soft" };
        canvas.text(RIGHT + 33.0, name_y, Type::BODY.class(class), &format!("{}, {figure}", server.name));
    }
    let is_cut = points().any(|point| point.1 > highest);
    let note = if is_cut { "; points at the upper edge lie higher" } else { "" };
    let foot = format!("{}{note}", place(record));
    Some(canvas.finish(&foot))
}

/// Where the picture ends: one server that costs several times as much as most must not press the others together.
fn cap(lines: &[(&Column, Vec<(u32, f64)>)]) -> f64 {
    let most = |points: &[(u32, f64)]| points.iter().map(|point| point.1).fold(0.0, f64::max);
    let median =
        Spread::of(lines.iter().map(|(_, points)| most(points))).map_or(f64::MAX, |most| most.median);
    median * 1.75
}

/// Moves names apart: each keeps a distance from the one above it, and the last one stays in the picture.
fn spread_out<T, U>(names: &mut [(f64, f64, f64, T, U)]) {
    names.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut least = TOP;
    for (.., y, _, _) in names.iter_mut() {
        *y = (*y + 4.0).max(least);
        least = *y + NAME_STEP;
    }
    let mut most = BOTTOM + NAME_STEP;
    for (.., y, _, _) in names.iter_mut().rev() {
        *y = y.min(most);
        most = *y - NAME_STEP;
    }
}
