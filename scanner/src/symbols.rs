//! Interned spellings: every name, number and string of a directive is a small number, the same in all files, so that
//! macro tables are vectors.
//!
//! Nothing is ever forgotten; whoever owns a [`Names`] starts anew (with everything that was parsed under it) when
//! [`Names::is_full`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use foldhash::fast::RandomState;

/// An interned spelling. Only good with the [`Names`] that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Symbol(pub(crate) u32);

impl Symbol {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// The spellings that the scanner itself looks for, in the order of their symbols.
const KNOWN: &[&str] = &[
    "",
    "defined",
    "__VA_ARGS__",
    "__VA_OPT__",
    "true",
    "false",
    "and",
    "or",
    "not",
    "bitand",
    "bitor",
    "xor",
    "compl",
    "not_eq",
];

pub(crate) const NOTHING: Symbol = Symbol(0);
pub(crate) const DEFINED: Symbol = Symbol(1);
pub(crate) const VA_ARGS: Symbol = Symbol(2);
pub(crate) const VA_OPT: Symbol = Symbol(3);
pub(crate) const TRUE: Symbol = Symbol(4);
pub(crate) const FALSE: Symbol = Symbol(5);
pub(crate) const AND: Symbol = Symbol(6);
pub(crate) const OR: Symbol = Symbol(7);
pub(crate) const NOT: Symbol = Symbol(8);
pub(crate) const BITAND: Symbol = Symbol(9);
pub(crate) const BITOR: Symbol = Symbol(10);
pub(crate) const XOR: Symbol = Symbol(11);
pub(crate) const COMPL: Symbol = Symbol(12);
pub(crate) const NOT_EQ: Symbol = Symbol(13);

/// C++'s names of operators.
pub(crate) fn is_operator(name: Symbol) -> bool {
    (AND..=NOT_EQ).contains(&name)
}

const SHARDS: usize = 16;

/// What an entry costs besides its bytes: two pointers with lengths, counts, a slot of the map.
const OVERHEAD: usize = 72;

type Shard = HashMap<Arc<[u8]>, Symbol, RandomState>;

/// All spellings that were met. Shared by threads.
pub struct Names {
    hasher: RandomState,
    shards: Vec<RwLock<Shard>>,
    /// Lock order: a shard, then this.
    spellings: RwLock<Vec<Arc<[u8]>>>,
    bytes: AtomicUsize,
    limit: usize,
}

impl Names {
    /// `limit`: how many bytes make it full.
    pub fn new(limit: usize) -> Names {
        let names = Names {
            hasher: RandomState::default(),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            spellings: RwLock::default(),
            bytes: AtomicUsize::new(0),
            limit,
        };
        for (index, known) in KNOWN.iter().enumerate() {
            let symbol = names.intern(known.as_bytes());
            debug_assert_eq!(symbol.index(), index);
        }
        names
    }

    pub fn intern(&self, spelling: &[u8]) -> Symbol {
        use std::hash::BuildHasher;
        let shard = &self.shards[self.hasher.hash_one(spelling) as usize % SHARDS];
        if let Some(&symbol) = shard.read().unwrap_or_else(PoisonError::into_inner).get(spelling) {
            return symbol;
        }
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(&symbol) = shard.get(spelling) {
            return symbol;
        }
        let kept: Arc<[u8]> = spelling.into();
        let mut spellings = self.spellings.write().unwrap_or_else(PoisonError::into_inner);
        let symbol =
            Symbol(u32::try_from(spellings.len()).expect("no more names than the limit allows bytes"));
        spellings.push(kept.clone());
        shard.insert(kept, symbol);
        self.bytes.fetch_add(spelling.len() + OVERHEAD, Ordering::Relaxed);
        symbol
    }

    pub fn spelling(&self, symbol: Symbol) -> Arc<[u8]> {
        self.spellings.read().unwrap_or_else(PoisonError::into_inner)[symbol.index()].clone()
    }

    /// How many there are; symbols count from 0.
    pub fn len(&self) -> usize {
        self.spellings.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn is_empty(&self) -> bool {
        false
    }

    /// Memory in use, about.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn is_full(&self) -> bool {
        self.bytes() >= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spelling_has_one_symbol() {
        let names = Names::new(1 << 20);
        let a = names.intern(b"FOO");
        assert_eq!(names.intern(b"FOO"), a);
        assert_ne!(names.intern(b"BAR"), a);
        assert_eq!(&*names.spelling(a), b"FOO");
        assert_eq!(names.intern(b"defined"), DEFINED);
        assert_eq!(names.intern(b"not_eq"), NOT_EQ);
    }

    #[test]
    fn it_says_when_it_is_full() {
        let names = Names::new(4_000);
        for i in 0..100 {
            names.intern(format!("name{i}").as_bytes());
        }
        assert!(names.is_full());
    }
}
