//! The table of flags and cases (`cases/*.toml`): exit code, streams and every file as without dbuild, and each task
//! placed where the row says. All rows run before the verdict.
//!
//! `DBUILD_ROWS=WORD` runs only the rows whose name contains the word.

use dbuild_tests::case::{Family, rows};
use dbuild_tests::trial::{Bench, Class};
use dbuild_tests::{Skips, have, is_stand_in};

#[test]
fn every_row_with_gcc() {
    every_row(Family::Gcc);
}

#[test]
fn every_row_with_clang() {
    every_row(Family::Clang);
}

fn every_row(family: Family) {
    let (cc, cxx) = family.compilers();
    let skips = Skips::new(&format!("table with {cc}"));
    if !have(cc) || !have(cxx) {
        return skips.skip("every row", &format!("{cc} or {cxx} is not installed"));
    }
    let wanted = std::env::var("DBUILD_ROWS").unwrap_or_default();
    let mut bench = Bench::new(family, &skips);
    let mut failures = Vec::new();
    for (index, row) in rows().iter().enumerate() {
        if row.families.contains(&family) && row.name.contains(&wanted) {
            failures.extend(bench.row(row, index, &skips));
        }
    }
    let of = |class| failures.iter().filter(|failure| failure.class == class).count();
    let tally = format!(
        "{} of equality, {} of counters, {} of the table itself",
        of(Class::Equality),
        of(Class::Counters),
        of(Class::Table)
    );
    for failure in &failures {
        println!("FAILED ({:?}) {}\n", failure.class, failure.text);
    }
    if is_stand_in() {
        // Nothing is counted, so every counter must be found wrong, and nothing else.
        assert!(of(Class::Equality) == 0 && of(Class::Table) == 0 && of(Class::Counters) > 0, "{tally}");
        return;
    }
    assert!(failures.is_empty(), "{} failures: {tally}", failures.len());
}
