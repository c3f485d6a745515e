//! What the fuzzers of anyport check: each target takes any bytes, and panics if a promise is broken.
//!
//! There is no fuzzer in here. `fuzz/fuzz_targets` hands these functions to libFuzzer; the tests of this crate give
//! them every file of `fuzz/corpus` and `fuzz/regressions`, on every system. [docs/fuzzing.md] says how both are grown.
//!
//! | target | shows |
//! |---|---|
//! | [`raw`], [`lines`], [`delimiter`], [`fixed`], [`length_prefix`], [`size_kind`] | a codec is what its definition says, however the stream is cut |
//! | [`hostile_codec`] | a codec that answers nonsense costs its session only |
//! | [`send`] | a batch is the concatenation of what was appended; the pool brings nothing along |
//! | [`timer_wheel`] | timers fire in order, never early, never twice, and the wheel says when |
//! | [`slab`] | no key is valid twice; slots rest as long as possible; ids keep their parts |
//! | [`connection`] | the rules of the connection machine, in every order of events |
//! | [`engine`] | a whole engine on the simulator keeps its promises, whatever peers and network do |
//!
//! [docs/fuzzing.md]: ../../../docs/fuzzing.md

#![forbid(unsafe_code)]

mod framing;
mod input;
mod memory;

pub mod connection;
pub mod delimiter;
pub mod engine;
pub mod fixed;
pub mod hostile_codec;
pub mod length_prefix;
pub mod lines;
pub mod raw;
pub mod send;
pub mod size_kind;
pub mod slab;
pub mod timer_wheel;

/// One thing that is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: of its file in `fuzz/fuzz_targets`, and of its folder in `fuzz/corpus`.
    pub name: &'static str,
    /// Panics if the bytes show a defect.
    pub run: fn(&[u8]),
}

/// Every target.
pub const TARGETS: [Target; 12] = [
    Target { name: "connection", run: connection::run },
    Target { name: "delimiter", run: delimiter::run },
    Target { name: "engine", run: engine::run },
    Target { name: "fixed", run: fixed::run },
    Target { name: "hostile_codec", run: hostile_codec::run },
    Target { name: "length_prefix", run: length_prefix::run },
    Target { name: "lines", run: lines::run },
    Target { name: "raw", run: raw::run },
    Target { name: "send", run: send::run },
    Target { name: "size_kind", run: size_kind::run },
    Target { name: "slab", run: slab::run },
    Target { name: "timer_wheel", run: timer_wheel::run },
];
