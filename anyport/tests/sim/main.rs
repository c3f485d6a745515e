//! The engine on the simulated network: what its owner is promised, and defects that the simulation found, by name.

// There is nothing of a system in it: a seed is the same run everywhere, which `simulation/tests/seeds.rs` shows on
// Windows too. Under Wine these would take minutes.
#![cfg(not(windows))]

mod bed;
mod budgets;
mod clients;
mod ends;
mod files;
mod found;
mod group_budgets;
mod group_counts;
mod groups;
mod limits;
mod logic;
mod offload;
mod page;
mod phases;
mod services;
mod steps;
mod timers;
