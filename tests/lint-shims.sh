#!/bin/sh
# Formatting and lints of the stand-in and the interceptor: cli/build.rs compiles each with one rustc call, so cargo does
# not see them. The lints are those of [workspace.lints] in Cargo.toml; `shims_lints` below must say the same.
set -eu
cd "$(dirname "$0")/.."

rustfmt --edition 2024 --check shims/shim/main.rs shims/intercept/lib.rs

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
shims_lints="-Dunsafe_op_in_unsafe_fn -Dunused_must_use -Dclippy::unwrap_used -Dclippy::dbg_macro -Dclippy::todo \
    -Dclippy::undocumented_unsafe_blocks"
lint() {
    # shellcheck disable=SC2086 # a list of flags
    clippy-driver --edition=2024 "--crate-type=$1" "--crate-name=$2" -Copt-level=s -Cpanic=abort \
        --emit=metadata --out-dir "$out" -Dwarnings $shims_lints "shims/$3"
}
lint cdylib dbuild_intercept intercept/lib.rs
lint bin dbuild_shim shim/main.rs
