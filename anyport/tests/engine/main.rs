//! The engine over real sockets: every case runs on every driver of this machine.

#[macro_use]
mod support;

mod end;
mod frames;
mod limits;
mod outside;
