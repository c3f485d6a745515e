//! The engine on the simulated network: what its owner is promised, and defects that the simulation found, by name.

mod bed;
mod clients;
mod ends;
mod files;
mod found;
mod groups;
mod limits;
mod logic;
mod offload;
mod page;
mod phases;
mod services;
mod steps;
mod timers;
