//! The checker, checked.
