# Everyday commands; `just` lists them.

default:
    @just --list

# Everything that CI runs
test:
    tests/run.sh

# The quick part: unit tests of the libraries
unit:
    cargo test --workspace --exclude dbuild-tests

# Formatting, lints, licences
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    tests/lint-shims.sh
    cargo deny check

# dbuild against a plain build and ccache
bench:
    benches/builds.py

# A target of fuzz/ for some seconds (needs nightly and cargo-fuzz)
fuzz target seconds="60":
    cd fuzz && cargo +nightly fuzz run {{target}} -- -max_total_time={{seconds}}
