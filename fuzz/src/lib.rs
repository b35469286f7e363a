//! One function per parser of what comes from outside: bytes in, the parser's promises checked, `true` if the
//! input was accepted. [`TARGETS`] lists them with valid inputs to start from.
//!
//! `cargo +nightly fuzz run TARGET` (fuzz_targets/) searches with coverage; `cargo test` (tests/) throws a fixed set
//! of mutated seeds at each on stable. Knows nothing of libFuzzer.
//!
//! Parsers that are private to their crate are compiled in by `#[path]`, so no crate opens a door for tests. Those of
//! the helper stand in the root of this crate because they name each other by `crate::`.

mod calls;
mod coordinator;
mod depfiles;
mod digests;
mod frames;
mod inputs;
mod manifests;
mod names;
mod outputs;
mod raw;
mod requests;
mod scans;
mod shapes;
mod streams;
mod traces;
mod workshop;

#[path = "../../helper/src/command.rs"]
#[allow(dead_code)]
mod command;
#[path = "../../helper/src/layout.rs"]
#[allow(dead_code)]
mod layout;
#[path = "../../helper/src/tree.rs"]
#[allow(dead_code)]
mod tree;

/// A parser under test.
#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// Panics where the parser breaks a promise; else whether it took the input.
    pub run: fn(&[u8]) -> bool,
    /// Inputs that are taken.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// What one input costs, in microseconds, roughly: bounds the number of inputs in `cargo test`.
    pub cost_us: u32,
}

pub const TARGETS: [Target; 17] = [
    Target { name: "frame_from_shim", run: frames::from_shim, seeds: frames::from_shim_seeds, cost_us: 2 },
    Target { name: "frame_to_shim", run: frames::to_shim, seeds: frames::to_shim_seeds, cost_us: 2 },
    Target { name: "trace", run: traces::trace, seeds: traces::seeds, cost_us: 2 },
    Target { name: "observation", run: traces::observation, seeds: traces::seeds, cost_us: 50 },
    Target { name: "response_file", run: calls::response_file, seeds: calls::response_seeds, cost_us: 20 },
    Target { name: "call", run: calls::call, seeds: calls::call_seeds, cost_us: 20 },
    Target { name: "depfile", run: depfiles::depfile, seeds: depfiles::seeds, cost_us: 2 },
    Target { name: "manifest", run: manifests::manifest, seeds: manifests::seeds, cost_us: 300 },
    Target { name: "digest", run: digests::digest, seeds: digests::seeds, cost_us: 2 },
    Target { name: "resource_name", run: names::resource_name, seeds: names::seeds, cost_us: 2 },
    Target { name: "directory", run: inputs::directory, seeds: inputs::directory_seeds, cost_us: 5 },
    Target { name: "input_tree", run: inputs::input_tree, seeds: inputs::tree_seeds, cost_us: 50 },
    Target { name: "stored_tree", run: inputs::stored_tree, seeds: inputs::stored_seeds, cost_us: 1500 },
    Target { name: "outputs", run: outputs::outputs, seeds: outputs::seeds, cost_us: 300 },
    Target { name: "zstd_blob", run: streams::zstd_blob, seeds: streams::seeds, cost_us: 300 },
    Target { name: "request", run: requests::request, seeds: requests::seeds, cost_us: 500 },
    Target { name: "scan", run: scans::scan_unit, seeds: scans::seeds, cost_us: 200 },
];

/// Gives `bytes` to the target of that name.
pub fn run(name: &str, bytes: &[u8]) -> bool {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("every file in fuzz_targets/ is in the table").run)(bytes)
}
