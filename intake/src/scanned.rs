//! Inputs found by the directive scanner (`dbuild-scanner`), with the compiler's own preprocessor where that is unsure.
//!
//! [`probe`] asks a compiler what it predefines and where it searches, once per set of flags; [`flags`] says which
//! flags those are; [`contents`] keeps parsed files; [`disk`] is the file system as one unit sees it; [`finder`] puts
//! them together.

mod contents;
mod disk;
mod finder;
mod flags;
mod probe;

pub use finder::{NotSure, ScanCounts, ScanLimits, ScannedInputs};
