//! Evaluates one translation unit: follows its directives from file to file until all that it reads was looked up.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::directives::{BRANCH, Content, Directive, Include};
use crate::expand::Context;
use crate::host::{FileId, Host};
use crate::macros::{Macro, Question, Table};
use crate::memo::Memo;
use crate::mode::{Has, Mode};
use crate::search::{DirectoryId, Found, Places, Position, Start};
use crate::symbols::{Names, Symbol};
use crate::tokens::{ANGLED, Kind, Op, SPACE, Token};
use crate::unit::Unit;
use crate::unsure::Unsure;

/// As gcc's `-fmax-include-depth`; clang has the same.
const DEPTH: usize = 200;

/// Directives, tokens and look-ups that one unit may cost.
const BUDGET: u64 = 50_000_000;

/// gcc takes a precompiled header only among the first files (`pch_open_file`): the source, its own header, and one or
/// two more.
const PRECOMPILED: u32 = 5;

/// The content that holds what the compiler predefines.
const PREDEFINED: u32 = 0;

/// A file that is being read.
struct Frame {
    content: u32,
    at: u32,
    file: FileId,
    directory: DirectoryId,
    position: Position,
    /// It comes with the compiler.
    own: bool,
}

/// Memory that units use one after the other.
pub struct Scratch {
    table: Table,
    contexts: Vec<Context>,
    contents: Vec<Arc<Content>>,
    /// The content of each file that was opened.
    opened: Vec<Option<u32>>,
    frames: Vec<Frame>,
    places: Places,
    entered: Vec<FileId>,
    once: HashSet<u64, RandomState>,
    memo: Memo,
    targets: Vec<bool>,
    unsure_at: Option<(FileId, Vec<u8>)>,
}

impl Scratch {
    /// Where the last scan stopped being sure: the file, and the operand of the directive.
    pub fn unsure_at(&self) -> Option<(FileId, &[u8])> {
        self.unsure_at.as_ref().map(|(file, text)| (*file, text.as_slice()))
    }

    pub fn new() -> Scratch {
        Scratch {
            unsure_at: None,
            table: Table::new(),
            contexts: Vec::new(),
            contents: Vec::new(),
            opened: Vec::new(),
            frames: Vec::new(),
            places: Places::default(),
            entered: Vec::new(),
            once: HashSet::default(),
            memo: Memo::default(),
            targets: Vec::new(),
        }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Scratch::new()
    }
}

/// One unit under evaluation.
pub(crate) struct Machine<'a> {
    pub names: &'a Names,
    pub host: &'a mut dyn Host,
    pub mode: Mode,
    pub clang: bool,
    pub table: &'a mut Table,
    pub contexts: &'a mut Vec<Context>,
    pub contents: &'a mut Vec<Arc<Content>>,
    pub places: &'a mut Places,
    pub memo: &'a mut Memo,
    /// How many more files gcc may replace by precompiled ones.
    pub precompiled: u32,
    /// How deep in operands whose value does not matter.
    pub idle: u32,
    /// Arguments that are being expanded.
    pub nesting: usize,
    opened: &'a mut Vec<Option<u32>>,
    frames: &'a mut Vec<Frame>,
    entered: &'a mut Vec<FileId>,
    once: &'a mut HashSet<u64, RandomState>,
    targets: &'a mut Vec<bool>,
    /// A pragma has changed what the compiler predefines.
    retargeted: bool,
    renamed: bool,
    own: &'a [bool],
    left: u64,
}

/// Follows `unit` to its end. What it reads and misses, `host` has seen.
///
/// # Errors
/// The reason why that may not be what the compiler reads.
pub fn scan(unit: &Unit, names: &Names, host: &mut dyn Host, scratch: &mut Scratch) -> Result<(), Unsure> {
    scratch.table.clear();
    scratch.contexts.clear();
    scratch.contents.clear();
    scratch.opened.clear();
    scratch.frames.clear();
    scratch.places.clear();
    scratch.entered.clear();
    scratch.once.clear();
    scratch.memo.clear();
    scratch.targets.clear();
    let mut machine = Machine {
        names,
        host,
        mode: unit.mode,
        clang: unit.mode.clang,
        table: &mut scratch.table,
        contexts: &mut scratch.contexts,
        contents: &mut scratch.contents,
        places: &mut scratch.places,
        memo: &mut scratch.memo,
        precompiled: if unit.mode.clang { 0 } else { PRECOMPILED },
        idle: 0,
        nesting: 0,
        opened: &mut scratch.opened,
        frames: &mut scratch.frames,
        entered: &mut scratch.entered,
        once: &mut scratch.once,
        targets: &mut scratch.targets,
        retargeted: false,
        renamed: false,
        own: unit.own,
        left: BUDGET,
    };
    let result = machine.unit(unit);
    let unsure_at = result.is_err().then(|| machine.place()).flatten();
    scratch.unsure_at = unsure_at;
    // Files stay in the cache, not here.
    scratch.contents.clear();
    result
}

impl Machine<'_> {
    fn place(&self) -> Option<(FileId, Vec<u8>)> {
        let frame = self.frames.last()?;
        let content = &self.contents[frame.content as usize];
        let line = match content.directives.get(frame.at.checked_sub(1)? as usize)? {
            Directive::If { line, .. }
            | Directive::Elif { line, .. }
            | Directive::Include { line, .. }
            | Directive::Define { line, .. } => Some(*line),
            _ => None,
        };
        Some((frame.file, line.map_or(Vec::new(), |line| content.text(line).to_vec())))
    }

    fn unit(&mut self, unit: &Unit) -> Result<(), Unsure> {
        for path in unit.quote.iter().chain(unit.angled) {
            let directory = self.directory(path);
            self.places.chain.push(directory);
        }
        self.places.angled = unit.quote.len() as u32;
        let working = self.directory(b"");

        for &(name, special) in unit.specials {
            self.table.set(name, Some(Macro::Special(special)));
        }
        for content in [unit.predefined, unit.command_line] {
            if let Some(reason) = content.unsure {
                return Err(reason);
            }
            let content = self.keep(content.clone());
            self.frames.push(Frame {
                content,
                at: 0,
                file: 0,
                directory: working,
                position: Position::Nowhere,
                own: false,
            });
            self.run(0)?;
        }

        let (directory, name) = match unit.main.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (self.directory(&unit.main[..=slash]), &unit.main[slash + 1..]),
            None => (working, unit.main),
        };
        let crate::host::Look::File(file) = self.look_once(directory, name)? else {
            return Err(Unsure::MissingHeader);
        };
        let main = Found { file, directory, position: Position::Nowhere };

        for path in unit.imacros {
            self.forced(path, working)?;
        }
        if let Some(name) = unit.preinclude {
            let header = [b"<", name, b">"].concat();
            let start = Start::Chain(self.places.angled);
            if let Some(found) = self.search(&header, self.names.intern(&header), start)? {
                self.enter(found, Include::Plain)?;
                self.run(0)?;
            }
        }
        for path in unit.includes {
            self.forced(path, working)?;
        }
        self.enter(main, Include::Plain)?;
        self.run(0)
    }

    /// `-include`, `-imacros`: looked for in the working directory first, then like `"…"`.
    fn forced(&mut self, path: &[u8], working: DirectoryId) -> Result<(), Unsure> {
        let header = [b"\"", path, b"\""].concat();
        let symbol = self.names.intern(&header);
        let found = self.search(&header, symbol, Start::Beside(working))?.ok_or(Unsure::MissingHeader)?;
        self.enter(found, Include::Plain)?;
        self.run(0)
    }

    fn keep(&mut self, content: Arc<Content>) -> u32 {
        self.contents.push(content);
        (self.contents.len() - 1) as u32
    }

    /// Pays for work.
    #[inline]
    pub(crate) fn spend(&mut self, cost: u64) -> Result<(), Unsure> {
        self.left = self.left.checked_sub(cost).ok_or(Unsure::TooMuch)?;
        Ok(())
    }

    /// Runs until only `floor` files are open.
    fn run(&mut self, floor: usize) -> Result<(), Unsure> {
        while self.frames.len() > floor {
            let Some(frame) = self.frames.last_mut() else { break };
            let content = &self.contents[frame.content as usize];
            let Some(&directive) = content.directives.get(frame.at as usize) else {
                self.frames.pop();
                continue;
            };
            frame.at += 1;
            let content = frame.content;
            self.spend(1)?;
            match directive {
                Directive::Define { name, line } => {
                    self.define(name, Some(Macro::Defined { content, line }))?
                }
                Directive::Undef { name } => self.define(name, None)?,
                Directive::If { line, next } => {
                    if !self.holds(content, line)? {
                        self.skip_to(content, next)?;
                    }
                }
                Directive::Ifdef { name, negated, next } => {
                    if self.macro_in_condition(name)?.is_some() == negated {
                        self.skip_to(content, next)?;
                    }
                }
                // The branch before it was taken.
                Directive::Elif { end, .. } | Directive::Elifdef { end, .. } | Directive::Else { end } => {
                    self.go_to(end);
                }
                Directive::Include { how, line } => self.include(content, line, how)?,
                Directive::Once => self.once()?,
                Directive::PushMacro { name } => self.table.push(name),
                Directive::PopMacro { name } => self.table.pop(name),
                Directive::Dependency { line } => self.dependency(content, line)?,
                Directive::PushTarget => self.targets.push(self.retargeted),
                Directive::PopTarget => self.retargeted = self.targets.pop().unwrap_or(false),
                Directive::SetTarget => self.retargeted = true,
                Directive::Renames => self.renamed = true,
                Directive::Odd(reason) => return Err(reason),
            }
            if self.targets.len() > BUDGET as usize / 1000 {
                return Err(Unsure::TooMuch);
            }
        }
        Ok(())
    }

    fn go_to(&mut self, at: u32) {
        if let Some(frame) = self.frames.last_mut() {
            frame.at = at;
        }
    }

    /// From a condition that does not hold to the branch of its group that does, or to its end.
    fn skip_to(&mut self, content: u32, mut next: u32) -> Result<(), Unsure> {
        while next & BRANCH != 0 {
            self.spend(1)?;
            let at = next & !BRANCH;
            let directive = self.contents[content as usize].directives[at as usize];
            let (holds, after) = match directive {
                Directive::Elif { line, next, .. } => (self.holds(content, line)?, next),
                Directive::Elifdef { .. } if self.mode.elifdef != Has::Yes => return Err(Unsure::Elifdef),
                Directive::Elifdef { name, negated, next, .. } => {
                    (self.macro_in_condition(name)?.is_some() != negated, next)
                }
                _ => (true, next),
            };
            if holds {
                self.go_to(at + 1);
                return Ok(());
            }
            next = after;
        }
        self.go_to(next);
        Ok(())
    }

    fn define(&mut self, name: Symbol, is: Option<Macro>) -> Result<(), Unsure> {
        if let Some(Macro::Special(_)) = self.table.get(name) {
            return Err(Unsure::RedefinedBuiltin);
        }
        self.table.set(name, is);
        Ok(())
    }

    /// What a name is where a condition or an include asks.
    pub(crate) fn macro_in_condition(&mut self, name: Symbol) -> Result<Option<Macro>, Unsure> {
        let is = self.table.get(name);
        self.memo.met(name, is);
        if self.retargeted {
            let own = self.frames.last().is_some_and(|frame| frame.own);
            let perhaps = match is {
                None => self.names.spelling(name).starts_with(b"__"),
                Some(Macro::Defined { content, .. }) => content == PREDEFINED,
                Some(Macro::Special(_)) => false,
            };
            if perhaps && !own {
                return Err(Unsure::TargetPragma);
            }
        }
        Ok(is)
    }

    fn holds(&mut self, content: u32, line: u32) -> Result<bool, Unsure> {
        if !self.retargeted {
            let mut known = None;
            if let Some(steps) = self.contents[content as usize].compiled(line, self.names) {
                let cost = steps.len() as u64;
                known = self.run_compiled(steps);
                self.spend(cost)?;
            }
            if let Some(holds) = known.or_else(|| self.memo.get(content, line, self.table)) {
                return Ok(holds);
            }
        }
        self.memo.begin();
        let tokens = self.contents[content as usize].tokens(line, self.names).ok_or(Unsure::Condition)?;
        self.start_line(tokens);
        let holds = self.condition()?;
        self.finish_line();
        self.memo.end(content, line, holds);
        Ok(holds)
    }

    fn include(&mut self, content: u32, line: u32, how: Include) -> Result<(), Unsure> {
        let tokens =
            self.contents[content as usize].operand(line, self.names).ok_or(Unsure::IncludeOperand)?;
        let (symbol, angled) = match &*tokens {
            [Token { kind: Kind::Header, symbol, flags, .. }] => (*symbol, flags & ANGLED != 0),
            _ => {
                self.start_line(tokens);
                let symbol = self.computed()?;
                self.finish_line();
                (symbol, self.is_angled(symbol))
            }
        };
        let found = self.find(symbol, angled, how == Include::Next)?.ok_or(Unsure::MissingHeader)?;
        self.enter(found, how)
    }

    /// The header name that the tokens of the line come to.
    fn computed(&mut self) -> Result<Symbol, Unsure> {
        let first = self.next()?.ok_or(Unsure::IncludeOperand)?;
        self.header(first)
    }

    fn header(&mut self, first: Token) -> Result<Symbol, Unsure> {
        match first.kind {
            Kind::Header => return Ok(first.symbol),
            Kind::String => {
                let plain = self.names.spelling(first.symbol).first() == Some(&b'"');
                return if plain { Ok(first.symbol) } else { Err(Unsure::IncludeOperand) };
            }
            Kind::Punct(Op::Less) => {}
            _ => return Err(Unsure::IncludeOperand),
        }
        let mut header = vec![b'<'];
        loop {
            let token = self.next()?.ok_or(Unsure::IncludeOperand)?;
            if token.is(Op::Greater) {
                break;
            }
            if token.has(SPACE) {
                header.push(b' ');
            }
            header.extend_from_slice(&self.names.spelling(token.symbol));
            if header.len() > 4096 {
                return Err(Unsure::IncludeOperand);
            }
        }
        header.push(b'>');
        Ok(self.names.intern(&header))
    }

    fn find(&mut self, symbol: Symbol, angled: bool, next: bool) -> Result<Option<Found>, Unsure> {
        let frame = self.frames.last().ok_or(Unsure::IncludeOperand)?;
        let (directory, position) = (frame.directory, frame.position);
        let main = self.frames.len() == 1 && position == Position::Nowhere;
        let start = match (next, position) {
            (true, Position::Chain(place)) => Start::Chain(place + 1),
            (true, Position::Beside) if self.clang => return Err(Unsure::NextOfRelative),
            (true, Position::Beside) => Start::Chain(0),
            (true, Position::Nowhere) if self.clang && !main => return Err(Unsure::NextOfRelative),
            _ if angled => Start::Chain(self.places.angled),
            _ => Start::Beside(directory),
        };
        if let Some(known) = self.known(start, symbol) {
            return Ok(known);
        }
        let header = self.names.spelling(symbol);
        self.search(&header, symbol, start)
    }

    fn enter(&mut self, found: Found, how: Include) -> Result<(), Unsure> {
        let Found { file, directory, position } = found;
        if how == Include::Import {
            let identity = self.host.identity(file);
            let known = self.entered.iter().any(|&entered| self.host.identity(entered) == identity);
            self.once.insert(identity);
            if known {
                return Ok(());
            }
            if !self.clang && self.found_elsewhere(found, identity) {
                return Err(Unsure::TwoNames);
            }
        } else if self.guarded(file) || !self.once.is_empty() && self.once.contains(&self.host.identity(file))
        {
            return Ok(());
        }
        let index = file as usize;
        if self.opened.len() <= index {
            self.opened.resize(index + 1, None);
        }
        let content = match self.opened[index] {
            Some(content) => content,
            None => {
                let content = self.host.open(file, directory)?;
                let content = self.keep(content);
                self.opened[index] = Some(content);
                self.entered.push(file);
                content
            }
        };
        let parsed = &self.contents[content as usize];
        if let Some(reason) = parsed.unsure {
            return Err(reason);
        }
        if parsed.guard.is_some_and(|guard| self.table.get(guard).is_some()) {
            return Ok(());
        }
        if self.frames.len() >= DEPTH {
            return Err(Unsure::Depth);
        }
        let own = match position {
            Position::Chain(place) => self.own.get(place as usize).copied().unwrap_or(false),
            Position::Beside => self.frames.last().is_some_and(|frame| frame.own),
            Position::Nowhere => false,
        };
        self.frames.push(Frame { content, at: 0, file, directory, position, own });
        Ok(())
    }

    /// gcc does not import what it has merely found before (for `__has_include`, say), if that was by another way:
    /// to `has_unique_contents` (`libcpp/files.cc`) that is another file with the same content.
    fn found_elsewhere(&mut self, found: Found, identity: u64) -> bool {
        let others: Vec<Found> = self.places.all_found().filter(|other| *other != found).collect();
        others.into_iter().any(|other| self.host.identity(other.file) == identity)
    }

    /// Whether the file was read before, and its guard is defined: the commonest case of all.
    fn guarded(&self, file: FileId) -> bool {
        let Some(&Some(content)) = self.opened.get(file as usize) else { return false };
        let guard = self.contents[content as usize].guard;
        guard.is_some_and(|guard| self.table.get(guard).is_some())
    }

    fn once(&mut self) -> Result<(), Unsure> {
        let frame = self.frames.last().ok_or(Unsure::Pragma)?;
        let identity = self.host.identity(frame.file);
        self.once.insert(identity);
        Ok(())
    }

    /// `#pragma GCC dependency` compares times: it opens the file, and reads nothing of it.
    fn dependency(&mut self, content: u32, line: u32) -> Result<(), Unsure> {
        let tokens = self.contents[content as usize].operand(line, self.names).ok_or(Unsure::Pragma)?;
        let [Token { kind: Kind::Header, symbol, .. }] = &*tokens else { return Err(Unsure::Pragma) };
        self.find(*symbol, self.is_angled(*symbol), false)?.ok_or(Unsure::MissingHeader)?;
        Ok(())
    }

    /// `__has_include (…)`, behind the word.
    pub(crate) fn has_include(&mut self, next: bool) -> Result<bool, Unsure> {
        let mut first = self.next()?.ok_or(Unsure::Condition)?;
        if !first.is(Op::Open) {
            return Err(Unsure::Condition);
        }
        first = self.next()?.ok_or(Unsure::Condition)?;
        let symbol = self.header(first)?;
        if !self.next()?.is_some_and(|token| token.is(Op::Close)) {
            return Err(Unsure::Condition);
        }
        // gcc does not look where the answer does not matter; clang does.
        if self.idle > 0 && !self.clang {
            return Ok(false);
        }
        Ok(self.find(symbol, self.is_angled(symbol), next)?.is_some())
    }

    /// `__has_builtin (…)` and its like, behind the word.
    pub(crate) fn ask(&mut self, question: Question) -> Result<i64, Unsure> {
        let operand = self.operand()?;
        if operand.is_empty() {
            return Err(Unsure::Condition);
        }
        if self.idle > 0 {
            return Ok(0);
        }
        let frame = self.frames.last().ok_or(Unsure::Question)?;
        let near = self.contents[frame.content as usize].clone();
        self.host.ask(question, &operand, &near)
    }

    /// The operand of such an operator, with its parentheses taken off.
    pub(crate) fn operand(&mut self) -> Result<Vec<u8>, Unsure> {
        if !self.pull()?.is_some_and(|token| token.is(Op::Open)) {
            return Err(Unsure::Condition);
        }
        let mut operand = Vec::new();
        loop {
            let token = self.pull()?.ok_or(Unsure::Condition)?;
            if token.is(Op::Close) {
                return Ok(operand);
            }
            let plain =
                matches!(token.kind, Kind::Name | Kind::String) || token.is(Op::Scope) || token.is(Op::Colon);
            // Whether the operand is expanded differs between compilers and operators.
            let named = token.kind == Kind::Name;
            if named {
                self.memo.met(token.symbol, self.table.get(token.symbol));
            }
            if !plain || named && self.table.get(token.symbol).is_some() {
                return Err(Unsure::Question);
            }
            operand.extend_from_slice(&self.names.spelling(token.symbol));
        }
    }

    /// `__FILE__`, as a string.
    pub(crate) fn file_name(&mut self) -> Result<Symbol, Unsure> {
        if self.renamed || self.mode.mapped_names {
            return Err(Unsure::FileName);
        }
        let frame = self.frames.last().ok_or(Unsure::FileName)?;
        let name = self.host.name(frame.file);
        if name.iter().any(|byte| matches!(byte, b'"' | b'\\')) {
            return Err(Unsure::FileName);
        }
        Ok(self.names.intern(&[b"\"", &name[..], b"\""].concat()))
    }
}
