//! What the counters must say after a step: the few kinds of cases, and what each means in each pass.

use serde::Deserialize;

use crate::Counters;

/// How a step's tasks are to be placed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The usual: runs here when cold, a hit when warm, remote with a pool.
    #[default]
    Cached,
    /// Was answered by an earlier step of the row: a hit in every pass.
    Again,
    /// As `Cached`, but must stay on this machine, for the given reason.
    Kept,
    /// Runs here in every pass and is never cached, for the given reason.
    Here,
    /// Runs in every pass, wherever: no earlier answer may be used (errors, `__TIME__`).
    Fresh,
    /// Only the result counts.
    Any,
}

/// A run of all steps of a row with dbuild.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Cold,
    /// After `Cold`, with the same data directory, in a fresh copy of the row.
    Warm,
    /// With a pool whose helpers have no compiler, and no local slots.
    Remote,
}

/// What is wrong with the counters `seen` of a step of `tasks` tasks.
pub fn misplaced(
    kind: Kind,
    pass: Pass,
    tasks: u64,
    reason: Option<&str>,
    seen: &Counters,
) -> Option<String> {
    let mut wrong = Vec::new();
    let mut demand = |holds: bool, text: String| {
        if !holds {
            wrong.push(text);
        }
    };
    let hits = match (kind, pass) {
        (Kind::Any, _) => None,
        (Kind::Again, _) | (Kind::Cached | Kind::Kept, Pass::Warm) => Some(tasks),
        (Kind::Here | Kind::Fresh, _) | (Kind::Cached | Kind::Kept, _) => Some(0),
    };
    let remote = match (kind, pass) {
        (Kind::Any, _) | (Kind::Fresh, Pass::Remote) => None,
        (Kind::Cached, Pass::Remote) => Some(tasks),
        _ => Some(0),
    };
    let local_at_least = match (kind, pass) {
        (Kind::Here, _) | (Kind::Cached | Kind::Kept, Pass::Cold) | (Kind::Kept, Pass::Remote) => tasks,
        _ => 0,
    };
    if let Some(hits) = hits {
        demand(seen.hits() == hits, format!("{hits} hits"));
    }
    if let Some(remote) = remote {
        demand(seen.remote == remote, format!("{remote} remote"));
    }
    demand(seen.local >= local_at_least, format!("at least {local_at_least} local"));
    demand(matches!(kind, Kind::Any | Kind::Fresh) || seen.fallbacks == 0, "no fallbacks".to_owned());
    let placed = seen.hits() + seen.remote + seen.local;
    demand(seen.tasks == placed, "one placement for each task".to_owned());
    let reason_due = match kind {
        Kind::Kept => pass == Pass::Remote,
        Kind::Any | Kind::Again => false,
        _ => true,
    };
    if let Some(reason) = reason.filter(|_| reason_due) {
        demand(seen.gave_reason(reason), format!("a reason like {reason:?}"));
    }
    (!wrong.is_empty()).then(|| format!("expected {} ({kind:?}, {pass:?}); seen: {seen}", wrong.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_counts_nothing_is_found_out() {
        let nothing = Counters::default();
        assert!(misplaced(Kind::Cached, Pass::Cold, 1, None, &nothing).is_some());
        assert!(misplaced(Kind::Cached, Pass::Warm, 1, None, &nothing).is_some());
        assert!(misplaced(Kind::Cached, Pass::Remote, 1, None, &nothing).is_some());
        assert!(misplaced(Kind::Here, Pass::Cold, 1, None, &nothing).is_some());
        assert!(misplaced(Kind::Any, Pass::Cold, 1, None, &nothing).is_none());
    }

    #[test]
    fn a_hit_where_there_must_be_none_is_found() {
        let hit = Counters { tasks: 1, hits_local: 1, ..Counters::default() };
        assert!(misplaced(Kind::Fresh, Pass::Warm, 1, None, &hit).is_some());
        assert!(misplaced(Kind::Cached, Pass::Cold, 1, None, &hit).is_some());
        assert!(misplaced(Kind::Cached, Pass::Warm, 1, None, &hit).is_none());
        assert!(misplaced(Kind::Again, Pass::Remote, 1, None, &hit).is_none());
    }
}
