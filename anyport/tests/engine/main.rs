//! The engine over real sockets: every case runs on every driver of this machine.

#[cfg(all(guard_pages, target_os = "linux"))]
#[global_allocator]
static GUARD: anyport_guard::Guarding = anyport_guard::Guarding;

#[macro_use]
mod support;

mod addresses;
mod allowed;
mod ask;
mod clients;
mod codecs;
mod end;
mod files;
mod frames;
mod groups;
mod jobs;
mod limits;
mod listing;
mod logic;
mod offline;
mod offload;
mod outside;
mod overflow;
mod phases;
mod pinned;
mod spin;
mod timers;
