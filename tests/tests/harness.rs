//! The tests tested: a dbuild that counts nothing fails by its counters alone.

use dbuild_tests::case::{Family, rows};
use dbuild_tests::trial::{Bench, Class};
use dbuild_tests::{Skips, have, stand_in};

#[test]
fn a_stand_in_is_equal_and_counts_nothing() {
    let skips = Skips::new("harness with a stand-in");
    if !have("gcc") {
        return skips.skip("all of it", "gcc is not installed");
    }
    stand_in("stand-in.sh");
    let mut bench = Bench::new(Family::Gcc, &skips);
    for (index, row) in
        rows().iter().enumerate().filter(|(_, row)| row.families.contains(&Family::Gcc)).take(8)
    {
        let failures = bench.row(row, index, &skips);
        assert!(!failures.is_empty(), "{}: nobody noticed that nothing was counted", row.name);
        assert!(failures.iter().all(|failure| failure.class == Class::Counters), "{failures:#?}");
    }
}
