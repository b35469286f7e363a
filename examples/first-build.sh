#!/usr/bin/env bash
# Builds dbuild and jemalloc: plain, through dbuild with an empty cache, through dbuild again; compares the results.
# Needs Rust (cargo), a C compiler and make. Everything it makes is under target/first-build.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD/target/first-build

echo "== building dbuild"
cargo build --release --locked -p dbuild
dbuild=${CARGO_TARGET_DIR:-$PWD/target}/release/dbuild

echo "== fetching jemalloc (inside the crate tikv-jemalloc-sys)"
manifest=tests/projects/Cargo.toml
cargo fetch --quiet --locked --manifest-path "$manifest"
crate=$(cargo metadata --quiet --format-version 1 --locked --manifest-path "$manifest" |
    python3 -c 'import json, os, sys
for package in json.load(sys.stdin)["packages"]:
    if package["name"] == "tikv-jemalloc-sys":
        print(os.path.dirname(package["manifest_path"]))')

export DBUILD_DATA_DIR=$root/data
rm -rf "$root"
mkdir -p "$root"
trap '"$dbuild" stop >/dev/null 2>&1 || true' EXIT

# build LABEL [dbuild]: configures and builds in the same directory each time, because its path is in debug information
build() {
    local label=$1 start end
    shift
    rm -rf "$root/jemalloc"
    cp -r "$crate/jemalloc" "$root/jemalloc"
    cp "$crate/configure/configure" "$root/jemalloc/configure"
    (cd "$root/jemalloc" && sh ./configure --disable-cxx --with-version=VERSION >configure.out 2>&1)
    start=$(date +%s.%N)
    (cd "$root/jemalloc" && "$@" make -j"$(nproc)" build_lib_static >make.out)
    end=$(date +%s.%N)
    (cd "$root/jemalloc" && find . -name '*.o' -o -name '*.a' -o -name '*.d' | sort | xargs sha256sum) >"$root/$label.sums"
    printf '== %-6s %6.2f s\n' "$label" "$(echo "$end - $start" | awk '{print $1 - $3}')"
}

build plain
build cold "$dbuild"
build warm "$dbuild"
cmp "$root/plain.sums" "$root/cold.sums"
cmp "$root/plain.sums" "$root/warm.sums"
echo "== all $(wc -l <"$root/plain.sums") objects, depfiles and archives are the same"
echo
"$dbuild" stats
cat <<END

Add a helper: start a pool here with
    $dbuild up
and build again with DBUILD_LOCAL_SLOTS=0 to see every compile go there; or see README.md for other machines.
END
