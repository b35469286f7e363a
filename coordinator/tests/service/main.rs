//! The coordinator as its clients and helpers meet it: a real server on port 0 in this process, a generated
//! client, and a helper that is a tokio task. No test depends on how long something takes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "clippy sees tests only in #[test] functions")]

mod action_cache;
mod bytestream;
mod cas;
mod detached;
mod execution;
mod faults;
mod harness;
mod helpers;
