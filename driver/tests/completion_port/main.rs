//! The sentences of the completion port (`driver/src/completion_port`), each shown by tests named after it.
//!
//! Workers spin where they are to run, because one that slept would be replaced. Under Wine, whose port knows neither
//! the concurrency nor the order of threads, four sentences are run and not shown: [`support::shows_scheduling`].

mod blocked;
mod close;
mod order;
mod support;
