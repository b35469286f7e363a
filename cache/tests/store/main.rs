//! The store through its public face, on a real file system. One binary, so that it links once; `kill` and
//! `disks` start it again as a child, under names that are ignored otherwise.

#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is the right answer; clippy knows only #[test] functions"
)]

mod actions;
mod blobs;
mod damage;
mod disks;
mod eviction;
mod kill;
mod model;
mod sharing;
mod streams;
mod support;
mod variants;
