//! What only this driver shows.
