//! The pictures, as SVG. Each brings its own background, light or dark as the reader's system is.

mod canvas;
mod cpu;
mod latency;
mod memory;
mod scale;

pub use cpu::{all, headline};
pub use latency::latency;
pub use memory::memory;
pub use scale::scale;

use super::{
    OURS,
    record::{Class, Column, Record},
};

/// How a server's name is set: ours stands out, the bare loops stand back.
fn name_class(server: &Column) -> &'static str {
    match server.class {
        Class::Ours if server.name == OURS => "ours",
        Class::Ours => "ink",
        Class::Bare | Class::Peer => "soft",
    }
}

/// On what it was measured, for the foot of a picture.
fn place(record: &Record) -> String {
    let machine = &record.machine;
    format!(
        "{} ({} CPUs), {}, TCP {}; {}, commit {}",
        machine.cpu, machine.cpus, machine.kernel, machine.tcp_congestion_control, record.date, record.commit
    )
}
