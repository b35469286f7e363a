//! From an argv to arguments whose meaning is known: response files, flag tables, pass-through flags.
//!
//! Knows how flags are written and what kind of effect each has; what follows from them all together, `request` decides.

pub(crate) mod gcc_style;
pub(crate) mod passed_on;
pub(crate) mod response;
pub(crate) mod row;
