//! The simulator.

/// One end of a simulated connection.
#[derive(Debug)]
pub(crate) struct SimEnd;
