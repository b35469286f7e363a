//! The helper as a coordinator sees it: real actions in real sandboxes, against a stand-in coordinator in this
//! process. Where the kernel refuses namespaces, tests that need them say so on stderr and pass.

// The lint's exception for tests covers test functions only, not what they call.
#![allow(clippy::unwrap_used)]

mod bench;
mod compile;
mod cost;
mod limits;
mod ordinary;
mod outputs;
mod pool;
mod roots;
mod sandbox;
mod store;
