#!/bin/sh
# Counts the packages in Cargo.lock against a limit, so that the tree of dependencies grows by decision and not by habit.
set -eu
cd "$(dirname "$0")/.."

limit=208

count=$(grep -c '^\[\[package\]\]$' Cargo.lock)
echo "Cargo.lock: $count packages of at most $limit"
if [ "$count" -gt "$limit" ]; then
    echo "lock-budget.sh: too many packages. Look with 'cargo tree --duplicates' and 'cargo tree --invert NAME' for what" \
        "came in, do without it or turn off its features; if it is worth its weight, raise the limit in this script and" \
        "say why in the commit." >&2
    exit 1
fi
