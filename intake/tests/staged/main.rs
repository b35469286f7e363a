//! Real compilers: what intake says of a compile is enough, and no more than true. Each case compiles here, then in
//! a root that holds nothing but what the action's tree holds, and compares every byte.
//!
//! Compilers that are not installed are skipped, loudly.

#![allow(clippy::unwrap_used)] // what fails here fails the test

mod compiles;
mod recalls;
mod stage;
mod toolchains;
mod world;
