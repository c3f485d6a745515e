//! The checker, checked: defects that are put in on purpose must be found.
