#!/usr/bin/env bash
# Installs what the tests need (cmake, ninja, clang: see install-tools.sh), then runs every check and test.
set -euo pipefail
cd "$(dirname "$0")/.."

# A shell that starts this in the background has SIGINT ignored, and so would every build that a test interrupts.
if [ "${1-}" != signals-are-set ]; then
    exec env --default-signal=INT,QUIT tests/run.sh signals-are-set
fi

tests/install-tools.sh

tests/lock-budget.sh
cargo fmt --all --check
cargo clippy --workspace --all-targets --locked -- -D warnings
tests/lint-shims.sh
# One name for the binary under test, so that no test builds another.
cargo build --locked -p dbuild
export DBUILD_BIN="${CARGO_TARGET_DIR:-$PWD/target}/debug/dbuild"
cargo test --workspace --locked --no-fail-fast
# Every parser of outside data under damaged inputs; without libFuzzer, which `cargo fuzz` adds.
cargo test --manifest-path fuzz/Cargo.toml --no-default-features --locked
