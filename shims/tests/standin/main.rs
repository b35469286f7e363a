//! The stand-in and the interceptor as real programs, against an initiator that is a thread of the test.
//!
//! Both are compiled through `cli/build.rs`, exactly as `dbuild` carries them. One test program for all of it, so
//! that they are compiled once.

// clippy's leave to unwrap in tests does not reach the helper functions of an integration test
#![allow(clippy::unwrap_used)]

mod artefacts;
mod bench;
#[path = "../../../cli/build.rs"]
mod build;
mod catch;
mod conversation;
mod failure;
mod judge;
mod lookup;
#[path = "../../intercept/sys.rs"]
#[allow(dead_code)]
mod sys;
#[path = "../../intercept/target.rs"]
#[allow(dead_code)]
mod target;
mod trace;

// `target` finds it in the root of its crate
use dbuild_shims::elf;
