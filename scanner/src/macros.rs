//! What macros are: definitions, and the table that says which are in force.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::directives::LineId;
use crate::mode::Mode;
use crate::symbols::{Names, Symbol, VA_ARGS, VA_OPT};
use crate::tokens::{self, Kind, Op, PASTES, SPACE, STRINGIFIED, Token};
use crate::unsure::Unsure;

/// What a `#define` says, parsed.
#[derive(Debug)]
pub(crate) struct Definition {
    /// `None`: object-like.
    pub parameters: Option<u32>,
    /// The last parameter takes the rest.
    pub variadic: bool,
    /// Parameters are [`Kind::Parameter`]; `##` and `#` are flags of their neighbours.
    pub body: Arc<[Token]>,
    pub pastes: bool,
    /// The whole body of an object-like macro that is one number.
    pub number: Option<Token>,
}

impl Definition {
    /// `text`: what follows `#define`.
    pub fn read(text: &[u8], mode: Mode, names: &Names) -> Result<Definition, Unsure> {
        let tokens = tokens::cut(text, mode, names, false).ok_or(Unsure::MacroDefinition)?;
        let [_, rest @ ..] = tokens.as_slice() else { return Err(Unsure::MacroDefinition) };
        let (parameters, rest) = match rest {
            // Only directly after the name does `(` begin parameters.
            [open, rest @ ..] if open.is(Op::Open) && !open.has(SPACE) => {
                let (parameters, rest) = parameters(rest)?;
                (Some(parameters), rest)
            }
            rest => (None, rest),
        };
        let variadic = parameters.as_ref().is_some_and(|parameters| parameters.variadic);
        let list = parameters.as_ref().map_or(&[][..], |parameters| &parameters.names);
        let (body, pastes) = body(rest, list, parameters.is_some(), variadic)?;
        let number = match body.as_slice() {
            [token] if parameters.is_none() && token.kind == Kind::Number => Some(*token),
            _ => None,
        };
        Ok(Definition {
            number,
            parameters: parameters.as_ref().map(|parameters| parameters.names.len() as u32),
            variadic,
            body: body.into(),
            pastes,
        })
    }
}

struct Parameters {
    names: Vec<Symbol>,
    variadic: bool,
}

fn parameters(mut rest: &[Token]) -> Result<(Parameters, &[Token]), Unsure> {
    let mut found = Parameters { names: Vec::new(), variadic: false };
    if let [close, after @ ..] = rest
        && close.is(Op::Close)
    {
        return Ok((found, after));
    }
    loop {
        let [token, after @ ..] = rest else { return Err(Unsure::MacroDefinition) };
        rest = after;
        if token.is(Op::Ellipsis) {
            found.names.push(VA_ARGS);
            found.variadic = true;
        } else if token.kind == Kind::Name && !found.names.contains(&token.symbol) {
            found.names.push(token.symbol);
            if let [dots, after @ ..] = rest
                && dots.is(Op::Ellipsis)
            {
                found.variadic = true;
                rest = after;
            }
        } else {
            return Err(Unsure::MacroDefinition);
        }
        let [token, after @ ..] = rest else { return Err(Unsure::MacroDefinition) };
        rest = after;
        if token.is(Op::Close) {
            return Ok((found, rest));
        }
        if !token.is(Op::Comma) || found.variadic {
            return Err(Unsure::MacroDefinition);
        }
    }
}

fn body(
    tokens: &[Token],
    parameters: &[Symbol],
    function: bool,
    variadic: bool,
) -> Result<(Vec<Token>, bool), Unsure> {
    let mut body: Vec<Token> = Vec::with_capacity(tokens.len());
    let mut pastes = false;
    let mut stringifies = None;
    for token in tokens {
        let mut token = *token;
        if token.is(Op::Paste) {
            let before = body.last_mut().filter(|_| stringifies.is_none()).ok_or(Unsure::MacroDefinition)?;
            if before.is(Op::Comma) && variadic {
                before.value = 1;
            }
            before.flags |= PASTES;
            pastes = true;
            continue;
        }
        if function && token.is(Op::Hash) && stringifies.is_none() {
            stringifies = Some(token);
            continue;
        }
        if token.kind == Kind::Name {
            if token.symbol == VA_OPT && variadic {
                return Err(Unsure::VaOpt);
            }
            if let Some(index) = parameters.iter().position(|&parameter| parameter == token.symbol) {
                token.kind = Kind::Parameter;
                token.value = index as u64;
            }
        }
        if let Some(hash) = stringifies.take() {
            if token.kind == Kind::Parameter {
                token.flags = (hash.flags & SPACE) | STRINGIFIED;
            } else {
                // Assemblers' comments; elsewhere an error.
                body.push(hash);
            }
        }
        if body.is_empty() {
            token.flags &= !SPACE;
        }
        body.push(token);
    }
    if stringifies.is_some() || body.last().is_some_and(|last| last.has(PASTES)) {
        return Err(Unsure::MacroDefinition);
    }
    Ok((body, pastes))
}

/// What compilers answer without a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Special {
    HasInclude,
    HasIncludeNext,
    /// An operator whose answer the compiler gives: [`Question`].
    Asks(Question),
    /// Never true without modules, which nobody scans.
    BuildingModule,
    File,
    Line,
    Counter,
    Time,
    /// Others that are known to be there (`__BASE_FILE__`, `__has_embed`, …), whose value is not.
    Opaque,
}

/// Operators of one operand that only the compiler can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Question {
    Builtin,
    Attribute,
    CppAttribute,
    CAttribute,
    Feature,
    Extension,
    DeclspecAttribute,
    Warning,
    ConstexprBuiltin,
    IsIdentifier,
    TargetArch,
    TargetVendor,
    TargetOs,
    TargetEnvironment,
}

impl Special {
    /// All names that a compiler may know without showing them among its predefined macros.
    pub const ALL: &[(&str, Special)] = &[
        ("__has_include", Special::HasInclude),
        ("__has_include_next", Special::HasIncludeNext),
        ("__has_builtin", Special::Asks(Question::Builtin)),
        ("__has_attribute", Special::Asks(Question::Attribute)),
        ("__has_cpp_attribute", Special::Asks(Question::CppAttribute)),
        ("__has_c_attribute", Special::Asks(Question::CAttribute)),
        ("__has_feature", Special::Asks(Question::Feature)),
        ("__has_extension", Special::Asks(Question::Extension)),
        ("__has_declspec_attribute", Special::Asks(Question::DeclspecAttribute)),
        ("__has_warning", Special::Asks(Question::Warning)),
        ("__has_constexpr_builtin", Special::Asks(Question::ConstexprBuiltin)),
        ("__is_identifier", Special::Asks(Question::IsIdentifier)),
        ("__is_target_arch", Special::Asks(Question::TargetArch)),
        ("__is_target_vendor", Special::Asks(Question::TargetVendor)),
        ("__is_target_os", Special::Asks(Question::TargetOs)),
        ("__is_target_environment", Special::Asks(Question::TargetEnvironment)),
        ("__FILE__", Special::File),
        ("__LINE__", Special::Line),
        ("__COUNTER__", Special::Counter),
        ("__DATE__", Special::Time),
        ("__TIME__", Special::Time),
        ("__TIMESTAMP__", Special::Time),
        ("__INCLUDE_LEVEL__", Special::Opaque),
        ("__BASE_FILE__", Special::Opaque),
        ("__FILE_NAME__", Special::Opaque),
        ("__has_embed", Special::Opaque),
        ("__building_module", Special::BuildingModule),
        ("__MODULE__", Special::Opaque),
        ("_Pragma", Special::Opaque),
        ("__is_target_variant_os", Special::Opaque),
        ("__is_target_variant_environment", Special::Opaque),
        ("__identifier", Special::Opaque),
        ("__pragma", Special::Opaque),
        ("__FLT_EVAL_METHOD__", Special::Opaque),
    ];
}

impl Question {
    /// The operator's name.
    pub fn name(self) -> &'static str {
        let known = Special::ALL.iter().find(|(_, special)| *special == Special::Asks(self));
        known.expect("the list has every question").0
    }
}

/// Where a macro's definition stands: a content of the unit and a line of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Macro {
    Defined { content: u32, line: LineId },
    Special(Special),
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    epoch: u32,
    /// It is being expanded: to be left alone.
    busy: bool,
    is: Option<Macro>,
}

const EMPTY: Slot = Slot { epoch: 0, busy: false, is: None };

/// The macros in force, by symbol. Kept between units: an epoch makes all of it empty.
pub(crate) struct Table {
    slots: Vec<Slot>,
    epoch: u32,
    pushed: HashMap<Symbol, Vec<Option<Macro>>, RandomState>,
}

impl Table {
    pub fn new() -> Table {
        Table { slots: Vec::new(), epoch: 1, pushed: HashMap::default() }
    }

    pub fn clear(&mut self) {
        self.pushed.clear();
        match self.epoch.checked_add(1) {
            Some(epoch) => self.epoch = epoch,
            None => {
                self.slots.clear();
                self.epoch = 1;
            }
        }
    }

    pub fn get(&self, name: Symbol) -> Option<Macro> {
        self.slots.get(name.index()).filter(|slot| slot.epoch == self.epoch)?.is
    }

    pub fn set(&mut self, name: Symbol, is: Option<Macro>) {
        if self.slots.len() <= name.index() {
            if is.is_none() {
                return;
            }
            let length = (name.index() + 1).max(self.slots.len() * 3 / 2);
            self.slots.resize(length, EMPTY);
        }
        self.slots[name.index()] = Slot { epoch: self.epoch, busy: false, is };
    }

    pub fn is_busy(&self, name: Symbol) -> bool {
        self.slots.get(name.index()).is_some_and(|slot| slot.epoch == self.epoch && slot.busy)
    }

    /// Only for macros that are defined.
    pub fn set_busy(&mut self, name: Symbol, busy: bool) {
        if let Some(slot) = self.slots.get_mut(name.index()) {
            slot.busy = busy;
        }
    }

    pub fn push(&mut self, name: Symbol) {
        let is = self.get(name);
        self.pushed.entry(name).or_default().push(is);
    }

    /// A macro that was never pushed stays as it is.
    pub fn pop(&mut self, name: Symbol) {
        if let Some(is) = self.pushed.get_mut(&name).and_then(Vec::pop) {
            self.set(name, is);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Definition, Unsure> {
        Definition::read(text.as_bytes(), Mode::default(), &Names::new(1 << 20))
    }

    #[test]
    fn definitions_are_read() {
        let plain = read("A (x)").unwrap();
        assert_eq!((plain.parameters, plain.body.len()), (None, 3));
        let function = read("F(a, b...) a ## b #b").unwrap();
        assert_eq!((function.parameters, function.variadic, function.body.len()), (Some(2), true, 3));
        assert!(function.body[0].has(PASTES) && function.body[2].has(STRINGIFIED));
        assert_eq!(read("F() x").unwrap().parameters, Some(0));
        for text in ["F(a", "F(a,)", "F(a a)", "F(a,a)", "A ## x", "A x ##", "F(a) #"] {
            assert!(read(text).is_err(), "{text}");
        }
        assert_eq!(read("F(...) __VA_OPT__(x)").unwrap_err(), Unsure::VaOpt);
    }

    #[test]
    fn tables_forget_and_restore() {
        let names = Names::new(1 << 20);
        let name = names.intern(b"X");
        let one = Some(Macro::Defined { content: 0, line: 1 });
        let mut table = Table::new();
        table.set(name, one);
        table.push(name);
        table.set(name, None);
        assert_eq!(table.get(name), None);
        table.pop(name);
        table.pop(name);
        assert_eq!(table.get(name), one);
        table.clear();
        assert_eq!(table.get(name), None);
    }
}
