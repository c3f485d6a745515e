//! What the Unix drivers share: opening sockets, and the meaning of error codes.

pub(crate) mod errno;
pub(crate) mod local;
pub(crate) mod socket;
