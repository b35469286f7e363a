//! What conditions came to, with what they depended on: headers that are read again and again ask the same.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::directives::LineId;
use crate::macros::{Macro, Table};
use crate::symbols::Symbol;

/// More names than this, and a condition is not remembered.
const NAMES: usize = 32;

/// Names that all conditions of a unit together may depend on.
const LIMIT: usize = 1 << 18;

/// A name, and what it was.
type Seen = (Symbol, Option<Macro>);

/// Results of one unit's conditions.
#[derive(Default)]
pub(crate) struct Memo {
    known: HashMap<(u32, LineId), Known, RandomState>,
    seen: Vec<Seen>,
    /// Where the names of the condition begin that is being evaluated.
    start: usize,
    /// It depends on more than macros; or no condition is being evaluated.
    spoiled: bool,
}

#[derive(Clone, Copy)]
struct Known {
    start: u32,
    end: u32,
    holds: bool,
}

impl Memo {
    pub fn clear(&mut self) {
        self.known.clear();
        self.seen.clear();
        self.spoiled = true;
    }

    /// What the condition came to, if every name that it met is what it was.
    pub fn get(&self, content: u32, line: LineId, table: &Table) -> Option<bool> {
        let known = self.known.get(&(content, line))?;
        let seen = &self.seen[known.start as usize..known.end as usize];
        seen.iter().all(|&(name, is)| table.get(name) == is).then_some(known.holds)
    }

    pub fn begin(&mut self) {
        self.start = self.seen.len();
        self.spoiled = self.start >= LIMIT;
    }

    /// The condition has asked what `name` is.
    #[inline]
    pub fn met(&mut self, name: Symbol, is: Option<Macro>) {
        if !self.spoiled {
            self.seen.push((name, is));
            self.spoiled = self.seen.len() - self.start > NAMES;
        }
    }

    /// What is evaluated now depends on more than macros.
    pub fn spoil(&mut self) {
        self.spoiled = true;
    }

    pub fn end(&mut self, content: u32, line: LineId, holds: bool) {
        if std::mem::replace(&mut self.spoiled, true) {
            self.seen.truncate(self.start);
            return;
        }
        let known = Known { start: self.start as u32, end: self.seen.len() as u32, holds };
        self.known.insert((content, line), known);
    }
}
