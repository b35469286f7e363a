//! Macro expansion over the tokens of one directive, the way cpp does it ("CPP Internals", "Macro Expansion
//! Algorithm"): a stack of token lists; a macro is left alone while its list is on the stack, and a name that was met
//! then is never expanded.

use std::sync::Arc;

use crate::evaluate::Machine;
use crate::macros::{Definition, Macro, Special};
use crate::symbols::{NOTHING, Symbol};
use crate::tokens::{self, FROZEN, Kind, Op, PASTES, SPACE, STRINGIFIED, Token, VALUED};
use crate::unsure::Unsure;

/// Arguments within arguments.
const NESTING: usize = 100;

/// Tokens that one argument or replacement may have.
const LENGTH: usize = 1 << 20;

pub(crate) enum Tokens {
    Shared(Arc<[Token]>),
    Owned(Vec<Token>),
}

impl Tokens {
    fn get(&self, at: usize) -> Option<Token> {
        match self {
            Tokens::Shared(tokens) => tokens.get(at).copied(),
            Tokens::Owned(tokens) => tokens.get(at).copied(),
        }
    }
}

/// One list on the stack.
pub(crate) struct Context {
    tokens: Tokens,
    at: usize,
    /// Whose replacement it is.
    of: Option<Symbol>,
    /// The end of the list is the end of everything until its owner takes it off.
    barrier: bool,
    /// Flags of the macro's name, which clang gives to the first token.
    first: Option<u8>,
}

impl Machine<'_> {
    /// Begins with a directive's tokens; [`Machine::finish_line`] ends it.
    pub(crate) fn start_line(&mut self, tokens: Arc<[Token]>) {
        self.push_barrier(Tokens::Shared(tokens));
    }

    /// Takes off what `start_line` put on, whatever is still above it.
    pub(crate) fn finish_line(&mut self) {
        while let Some(context) = self.contexts.pop() {
            if let Some(name) = context.of {
                self.table.set_busy(name, false);
            }
        }
    }

    fn push_barrier(&mut self, tokens: Tokens) {
        self.contexts.push(Context { tokens, at: 0, of: None, barrier: true, first: None });
    }

    /// The next token, nothing expanded. `None` at the end of the line or argument.
    #[inline]
    pub(crate) fn pull(&mut self) -> Result<Option<Token>, Unsure> {
        self.spend(1)?;
        loop {
            let Some(context) = self.contexts.last_mut() else { return Ok(None) };
            if let Some(mut token) = context.tokens.get(context.at) {
                context.at += 1;
                if let Some(flags) = context.first.take()
                    && self.clang
                {
                    token.flags = (token.flags & !SPACE) | (flags & SPACE);
                }
                return Ok(Some(token));
            }
            if context.barrier {
                return Ok(None);
            }
            if let Some(name) = context.of {
                self.table.set_busy(name, false);
            }
            self.contexts.pop();
        }
    }

    /// Puts the token back that was pulled last.
    fn unread(&mut self) {
        if let Some(context) = self.contexts.last_mut() {
            context.at = context.at.saturating_sub(1);
        }
    }

    /// As [`Machine::pull`], for arguments: names of macros that are being expanded are frozen.
    fn pull_argument(&mut self) -> Result<Option<Token>, Unsure> {
        let mut token = self.pull()?;
        if let Some(token) = &mut token
            && token.kind == Kind::Name
            && self.table.is_busy(token.symbol)
        {
            token.flags |= FROZEN;
        }
        Ok(token)
    }

    /// The next token after expansion.
    pub(crate) fn next(&mut self) -> Result<Option<Token>, Unsure> {
        loop {
            let Some(mut token) = self.pull()? else { return Ok(None) };
            if token.kind != Kind::Name || token.has(FROZEN) {
                return Ok(Some(token));
            }
            let Some(is) = self.macro_in_condition(token.symbol)? else { return Ok(Some(token)) };
            if self.table.is_busy(token.symbol) {
                token.flags |= FROZEN;
                return Ok(Some(token));
            }
            match is {
                Macro::Special(special) => {
                    if let Some(value) = self.special(special, token)? {
                        return Ok(Some(value));
                    }
                }
                Macro::Defined { content, line } => {
                    // Most macros in conditions are numbers.
                    if let Some(number) = self.contents[content as usize].number(line) {
                        return Ok(Some(Token { flags: number.flags | (token.flags & SPACE), ..number }));
                    }
                    let definition = self.contents[content as usize].definition(line, self.names)?;
                    if !self.enter_macro(&definition, token)? {
                        return Ok(Some(token));
                    }
                }
            }
        }
    }

    /// `false`: the macro takes arguments, and none follow.
    fn enter_macro(&mut self, definition: &Definition, name: Token) -> Result<bool, Unsure> {
        let tokens = match definition.parameters {
            None if definition.pastes => Tokens::Owned(self.paste(definition.body.to_vec())?),
            None => Tokens::Shared(definition.body.clone()),
            Some(count) => {
                match self.pull()? {
                    Some(token) if token.is(Op::Open) => {}
                    Some(_) => {
                        self.unread();
                        return Ok(false);
                    }
                    None => return Ok(false),
                }
                let arguments = self.arguments(count as usize, definition.variadic)?;
                let replaced = self.replace(definition, &arguments)?;
                Tokens::Owned(if definition.pastes { self.paste(replaced)? } else { replaced })
            }
        };
        self.table.set_busy(name.symbol, true);
        self.contexts.push(Context {
            tokens,
            at: 0,
            of: Some(name.symbol),
            barrier: false,
            first: Some(name.flags),
        });
        Ok(true)
    }

    /// The arguments, behind the opening parenthesis.
    fn arguments(&mut self, count: usize, variadic: bool) -> Result<Vec<Vec<Token>>, Unsure> {
        let mut arguments: Vec<Vec<Token>> = vec![Vec::new()];
        let mut depth = 0_usize;
        let mut length = 0;
        loop {
            let token = self.pull_argument()?.ok_or(Unsure::MacroUse)?;
            length += 1;
            if length > LENGTH {
                return Err(Unsure::TooMuch);
            }
            if token.is(Op::Open) {
                depth += 1;
            } else if token.is(Op::Close) {
                if depth == 0 {
                    break;
                }
                depth -= 1;
            } else if token.is(Op::Comma) && depth == 0 && !(variadic && arguments.len() == count) {
                arguments.push(Vec::new());
                continue;
            }
            if let Some(argument) = arguments.last_mut() {
                argument.push(token);
            }
        }
        if count == 0 && arguments.len() == 1 && arguments[0].is_empty() {
            arguments.clear();
        }
        if variadic && arguments.len() + 1 == count {
            arguments.push(Vec::new());
        }
        if arguments.len() == count { Ok(arguments) } else { Err(Unsure::MacroUse) }
    }

    fn expand_argument(&mut self, argument: &[Token]) -> Result<Vec<Token>, Unsure> {
        if self.nesting >= NESTING {
            return Err(Unsure::Depth);
        }
        self.nesting += 1;
        self.push_barrier(Tokens::Owned(argument.to_vec()));
        let mut expanded = Vec::with_capacity(argument.len());
        while let Some(token) = self.next()? {
            if expanded.len() >= LENGTH {
                return Err(Unsure::TooMuch);
            }
            expanded.push(token);
        }
        self.contexts.pop();
        self.nesting -= 1;
        Ok(expanded)
    }

    /// The body with arguments in the place of parameters.
    fn replace(&mut self, definition: &Definition, arguments: &[Vec<Token>]) -> Result<Vec<Token>, Unsure> {
        let mut expanded: Vec<Option<Vec<Token>>> = vec![None; arguments.len()];
        let mut replaced: Vec<Token> = Vec::with_capacity(definition.body.len());
        for (at, token) in definition.body.iter().enumerate() {
            if token.kind != Kind::Parameter {
                // gcc's comma, which an empty rest swallows: its rules depend on mode and version.
                if token.is(Op::Comma) && token.has(PASTES) && token.value == 1 {
                    return Err(Unsure::Pasting);
                }
                replaced.push(Token { value: if token.has(VALUED) { token.value } else { 0 }, ..*token });
                continue;
            }
            let index = token.value as usize;
            let argument = arguments.get(index).ok_or(Unsure::MacroUse)?;
            let space = token.flags & SPACE;
            if token.has(STRINGIFIED) {
                let symbol = self.stringify(argument);
                replaced.push(Token {
                    kind: Kind::String,
                    flags: token.flags & (SPACE | PASTES),
                    symbol,
                    value: 0,
                });
                continue;
            }
            let beside = token.has(PASTES) || at > 0 && definition.body[at - 1].has(PASTES);
            let from = replaced.len();
            if beside {
                replaced.extend_from_slice(argument);
                if argument.is_empty() {
                    replaced.push(Token { kind: Kind::Placemarker, flags: space, symbol: NOTHING, value: 0 });
                }
                if let Some(last) = replaced.last_mut()
                    && token.has(PASTES)
                {
                    last.flags |= PASTES;
                }
            } else {
                if expanded[index].is_none() {
                    expanded[index] = Some(self.expand_argument(argument)?);
                }
                replaced.extend_from_slice(expanded[index].as_deref().unwrap_or_default());
            }
            if let Some(first) = replaced.get_mut(from)
                && self.clang
            {
                first.flags = (first.flags & !SPACE) | space;
            }
            if replaced.len() > LENGTH {
                return Err(Unsure::TooMuch);
            }
            self.spend(argument.len() as u64)?;
        }
        Ok(replaced)
    }

    fn stringify(&self, argument: &[Token]) -> Symbol {
        let mut text = vec![b'"'];
        for (at, token) in argument.iter().enumerate() {
            if at > 0 && token.has(SPACE) {
                text.push(b' ');
            }
            let spelling = self.names.spelling(token.symbol);
            let quoted = token.kind == Kind::String || spelling.contains(&b'\'');
            for &byte in spelling.iter() {
                if quoted && matches!(byte, b'"' | b'\\') {
                    text.push(b'\\');
                }
                text.push(byte);
            }
        }
        text.push(b'"');
        self.names.intern(&text)
    }

    /// Does what `##` says, and drops what stands for empty arguments.
    fn paste(&mut self, tokens: Vec<Token>) -> Result<Vec<Token>, Unsure> {
        let mut pasted: Vec<Token> = Vec::with_capacity(tokens.len());
        let mut pending = false;
        for token in tokens {
            let pastes = token.has(PASTES);
            let mut token = Token { flags: token.flags & !PASTES, ..token };
            if let Some(left) = pasted.last_mut().filter(|_| pending) {
                token = match (left.kind, token.kind) {
                    (_, Kind::Placemarker) => *left,
                    (Kind::Placemarker, _) => {
                        Token { flags: (token.flags & !SPACE) | (left.flags & SPACE), ..token }
                    }
                    _ => self.one_of(*left, token)?,
                };
                *left = token;
            } else {
                pasted.push(token);
            }
            pending = pastes;
        }
        pasted.retain(|token| token.kind != Kind::Placemarker);
        Ok(pasted)
    }

    fn one_of(&self, left: Token, right: Token) -> Result<Token, Unsure> {
        let mut text = self.names.spelling(left.symbol).to_vec();
        text.extend_from_slice(&self.names.spelling(right.symbol));
        if text.len() > LENGTH {
            return Err(Unsure::TooMuch);
        }
        let cut = tokens::cut(&text, self.mode, self.names, false).ok_or(Unsure::Pasting)?;
        match cut.as_slice() {
            [one] => Ok(Token { flags: one.flags | (left.flags & SPACE), ..*one }),
            _ => Err(Unsure::Pasting),
        }
    }

    /// What a built-in macro gives.
    fn special(&mut self, special: Special, token: Token) -> Result<Option<Token>, Unsure> {
        // The answer to a question is the same wherever it is asked.
        if !matches!(special, Special::Asks(_) | Special::BuildingModule) {
            self.memo.spoil();
        }
        match special {
            Special::HasInclude | Special::HasIncludeNext => {
                let found = self.has_include(special == Special::HasIncludeNext)?;
                Ok(Some(Token::number(u64::from(found), false)))
            }
            Special::Asks(question) => {
                let answer = self.ask(question)?;
                Ok(Some(Token::number(answer as u64, false)))
            }
            Special::BuildingModule => {
                self.operand()?;
                Ok(Some(Token::number(0, false)))
            }
            Special::File => {
                let symbol = self.file_name()?;
                Ok(Some(Token { kind: Kind::String, flags: token.flags & SPACE, symbol, value: 0 }))
            }
            Special::Line => Err(Unsure::Line),
            Special::Counter => Err(Unsure::Counter),
            Special::Time => Err(Unsure::TimeOfDay),
            Special::Opaque => Err(Unsure::BuiltinMacro),
        }
    }
}
