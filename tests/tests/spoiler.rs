//! The tests tested: a dbuild that changes objects and streams is caught by every comparison.

use dbuild_tests::case::{Family, rows};
use dbuild_tests::trial::{Bench, Class};
use dbuild_tests::{Skips, have, stand_in};

#[test]
fn a_spoilt_result_is_found() {
    let skips = Skips::new("harness with a spoiler");
    if !have("gcc") {
        return skips.skip("all of it", "gcc is not installed");
    }
    stand_in("spoiler.sh");
    let mut bench = Bench::new(Family::Gcc, &skips);
    for (index, row) in
        rows().iter().enumerate().filter(|(_, row)| row.families.contains(&Family::Gcc)).take(8)
    {
        let failures = bench.row(row, index, &skips);
        let found = failures.iter().filter(|failure| failure.class == Class::Equality).count();
        assert!(found >= 2 * row.steps().len(), "{}: {failures:#?}", row.name);
    }
}
