//! Where jobs ran, for the line at the end.

use std::collections::BTreeMap;
use std::fmt;

use super::runner::Place;

#[derive(Debug, Default)]
pub struct Tally {
    cached: usize,
    here: usize,
    helpers: BTreeMap<String, usize>,
    failed: usize,
}

impl Tally {
    /// One more job that ran to its end.
    pub fn add(&mut self, place: &Place, code: u8) {
        match place {
            Place::Cached => self.cached += 1,
            Place::Here => self.here += 1,
            Place::Helper(name) => *self.helpers.entry(name.clone()).or_default() += 1,
        }
        self.failed += usize::from(code != 0);
    }
}

impl Tally {
    /// One more that could not be run.
    pub fn add_failed(&mut self) {
        self.here += 1;
        self.failed += 1;
    }
}

impl fmt::Display for Tally {
    /// `20 jobs: 3 from the pool's cache, 17 on helpers (mars 9, venus 8), 0 here; 1 failed`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remote: usize = self.helpers.values().sum();
        let all = self.cached + self.here + remote;
        let noun = if all == 1 { "job" } else { "jobs" };
        write!(f, "{all} {noun}: {} from the pool's cache, {remote} on helpers", self.cached)?;
        let each: Vec<_> = self.helpers.iter().map(|(name, count)| format!("{name} {count}")).collect();
        if !each.is_empty() {
            write!(f, " ({})", each.join(", "))?;
        }
        write!(f, ", {} here; {} failed", self.here, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_line() {
        let mut tally = Tally::default();
        tally.add(&Place::Helper("mars".into()), 0);
        assert_eq!(
            tally.to_string(),
            "1 job: 0 from the pool's cache, 1 on helpers (mars 1), 0 here; 0 failed"
        );
        tally.add(&Place::Cached, 0);
        tally.add(&Place::Here, 2);
        assert_eq!(
            tally.to_string(),
            "3 jobs: 1 from the pool's cache, 1 on helpers (mars 1), 1 here; 1 failed"
        );
    }
}
