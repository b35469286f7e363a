//! Where an include is looked for, in which order, and what its path is as the compiler spells it.
//!
//! Source: gcc's `libcpp/files.cc` (`search_path_head`, `find_file_in_dir`); where clang differs, the differences are
//! named here.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::evaluate::Machine;
use crate::host::{FileId, Look};
use crate::symbols::Symbol;
use crate::unsure::Unsure;

/// A directory that something is looked for in, numbered by [`Machine::directory`].
pub type DirectoryId = u32;

/// How a file was found: where `#include_next` in it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Position {
    /// At this place of the chain.
    Chain(u32),
    /// Beside the file that includes it, or in the working directory by a flag.
    Beside,
    /// By an absolute path, or as the main file.
    Nowhere,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub file: FileId,
    /// Where `"…"` in it is looked for first.
    pub directory: DirectoryId,
    pub position: Position,
}

/// Where a search begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Start {
    /// In this directory, then the whole chain.
    Beside(DirectoryId),
    Chain(u32),
    /// The name is absolute.
    Absolute,
}

/// The directories of one unit, and what was found in them.
#[derive(Default)]
pub(crate) struct Places {
    numbers: HashMap<Box<[u8]>, DirectoryId, RandomState>,
    paths: Vec<Box<[u8]>>,
    found: HashMap<(Start, Symbol), Option<Found>, RandomState>,
    /// Quote directories, then those for `<…>`.
    pub chain: Vec<DirectoryId>,
    /// Where those for `<…>` begin.
    pub angled: u32,
}

impl Places {
    pub fn clear(&mut self) {
        self.numbers.clear();
        self.paths.clear();
        self.found.clear();
        self.chain.clear();
        self.angled = 0;
    }

    /// Every file that a look-up found, once for each way that led to it.
    pub fn all_found(&self) -> impl Iterator<Item = Found> {
        self.found.values().filter_map(|found| *found)
    }
}

impl Machine<'_> {
    /// The number of the directory that is spelled so; empty for the working directory.
    pub(crate) fn directory(&mut self, path: &[u8]) -> DirectoryId {
        if let Some(&number) = self.places.numbers.get(path) {
            return number;
        }
        let number = self.places.paths.len() as DirectoryId;
        self.places.paths.push(path.into());
        self.places.numbers.insert(path.into(), number);
        self.host.directory(number, path);
        number
    }

    /// `directory/name` as the compiler writes it.
    pub(crate) fn spelled(&self, directory: DirectoryId, name: &[u8]) -> Vec<u8> {
        let directory = &self.places.paths[directory as usize];
        let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
        path.extend_from_slice(directory);
        if !path.is_empty() && path.last() != Some(&b'/') {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// Whether the header name has angle brackets.
    pub(crate) fn is_angled(&self, symbol: Symbol) -> bool {
        self.names.spelling(symbol).first() == Some(&b'<')
    }

    /// What was found before.
    pub(crate) fn known(&self, start: Start, symbol: Symbol) -> Option<Option<Found>> {
        self.places.found.get(&(start, symbol)).copied()
    }

    /// Looks for `header` (with its quotes or brackets, as `symbol`).
    pub(crate) fn search(
        &mut self,
        header: &[u8],
        symbol: Symbol,
        start: Start,
    ) -> Result<Option<Found>, Unsure> {
        let name = &header[1..header.len() - 1];
        if name.is_empty() {
            return Err(Unsure::IncludeOperand);
        }
        let start = if name[0] == b'/' { Start::Absolute } else { start };
        if let Some(&known) = self.places.found.get(&(start, symbol)) {
            return Ok(known);
        }
        let found = self.look_for(name, start)?;
        self.precompiled = self.precompiled.saturating_sub(1);
        self.places.found.insert((start, symbol), found);
        Ok(found)
    }

    fn look_for(&mut self, name: &[u8], start: Start) -> Result<Option<Found>, Unsure> {
        let from = match start {
            Start::Absolute => {
                let root = self.directory(b"/");
                return self.look(root, &name[1..], Position::Nowhere);
            }
            Start::Beside(directory) => {
                if let Some(found) = self.look(directory, name, Position::Beside)? {
                    return Ok(Some(found));
                }
                0
            }
            Start::Chain(from) => from,
        };
        for place in from..self.places.chain.len() as u32 {
            let directory = self.places.chain[place as usize];
            if let Some(found) = self.look(directory, name, Position::Chain(place))? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// gcc takes a precompiled header in the place of an early file, directory by directory.
    pub(crate) fn look_once(&mut self, directory: DirectoryId, name: &[u8]) -> Result<Look, Unsure> {
        if self.precompiled > 0 && self.host.exists(directory, &[name, b".gch"].concat())? {
            return Err(Unsure::PrecompiledHeader);
        }
        self.host.look(directory, name)
    }

    fn look(
        &mut self,
        directory: DirectoryId,
        name: &[u8],
        position: Position,
    ) -> Result<Option<Found>, Unsure> {
        self.spend(1)?;
        let Look::File(file) = self.look_once(directory, name)? else { return Ok(None) };
        let directory = match name.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => {
                let path = self.spelled(directory, &name[..slash]);
                self.directory(&path)
            }
            None => directory,
        };
        Ok(Some(Found { file, directory, position }))
    }
}
