//! Tree checks live in `tests/`.
