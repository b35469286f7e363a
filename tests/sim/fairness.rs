//! Fairness: while two users both have work waiting that any helper could take, they are served alike.
//!
//! The bound follows from `shares.rs`. Of two such users the one with the lower tag is served, so by a single lease a tag gets
//! ahead of another by at most `L`, the largest (weighted) time that a lease held its slot or was charged with at first. Each of
//! the pool's `S` slots may then correct it once more by `L`. So their tags differ by at most `(S + 1) L`, when the time
//! begins as when it ends, and leases from before it correct what was served in it by at most `S L`. Together: what
//! was served to them since both had work waiting differs by less than `3 (S + 1) L`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dbuild_coordinator::pool::Owner;

use super::wire::Counts;

type User = Arc<str>;

/// `UNKNOWN`, `MOST` and `weight` of `shares.rs`: what a lease is charged with at first, in µs.
pub fn charge(expected: Option<Duration>, priority: i32) -> u64 {
    weighted(expected.unwrap_or(Duration::from_secs(1)).min(Duration::from_secs(30)), priority)
}

fn weighted(time: Duration, priority: i32) -> u64 {
    let micros = (time.as_micros() as u64).max(1000);
    match priority {
        ..0 => micros / 4,
        0 => micros,
        1.. => micros * 4,
    }
}

/// See the module's text.
#[derive(Default)]
pub struct Fairness {
    served: BTreeMap<User, i64>,
    /// Since when two users both wait: what each was served before.
    pairs: BTreeMap<(User, User), (i64, i64)>,
    slots: u64,
    longest: u64,
}

impl Fairness {
    pub fn served(&mut self, owner: &Owner, charged: u64) {
        self.longest = self.longest.max(charged);
        *self.served.entry(owner.user.clone()).or_default() += charged as i64;
    }

    pub fn ended(&mut self, owner: &Owner, priority: i32, charged: u64, held: Duration) {
        let is = weighted(held, priority);
        self.longest = self.longest.max(is);
        *self.served.entry(owner.user.clone()).or_default() += is as i64 - charged as i64;
    }

    /// Looks at all pairs of users who have something waiting that any helper may take.
    pub fn check(&mut self, users: BTreeSet<User>, slots: u64, counts: &mut Counts) -> Option<String> {
        self.slots = self.slots.max(slots);
        let bound = (3 * (self.slots + 1) * self.longest) as i64;
        let mut pairs = BTreeMap::new();
        let mut unfair = None;
        for (index, one) in users.iter().enumerate() {
            for other in users.iter().skip(index + 1) {
                let now = [one, other].map(|user| self.served.get(user).copied().unwrap_or_default());
                let pair = (one.clone(), other.clone());
                let then = self.pairs.get(&pair).copied().unwrap_or((now[0], now[1]));
                let (first, second) = (now[0] - then.0, now[1] - then.1);
                if (first - second).abs() > bound {
                    let [first, second, bound] = [first, second, bound].map(|time| time / 1000);
                    unfair = Some(format!(
                        "{one} was served {first} ms, {other} {second} ms; the bound is {bound}"
                    ));
                }
                // Had one of them got it all, it would have been noticed.
                if first + second > bound {
                    *counts.entry("steps in which unfairness would show").or_default() += 1;
                }
                pairs.insert(pair, then);
            }
        }
        self.pairs = pairs;
        unfair
    }
}
