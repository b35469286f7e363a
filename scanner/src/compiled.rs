//! Conditions of names and numbers alone, which most are: put in order once, then evaluated without expansion.
//!
//! What stands here gives what [`Machine::condition`] gives, or nothing. It gives nothing as soon as a name is a macro
//! that is more than a number, and never decides that a condition is in error.

use crate::evaluate::Machine;
use crate::expression::{Value, apply, precedence, truth};
use crate::macros::Macro;
use crate::mode::{Has, Mode};
use crate::symbols::{DEFINED, FALSE, Symbol, TRUE, is_operator};
use crate::tokens::{Kind, Op, Token, UNSIGNED, VALUED};

/// Values that may wait for their operator.
const DEPTH: usize = 16;

/// Operands first, then their operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Number(Value),
    Name(Symbol),
    Defined(Symbol),
    Not,
    Complement,
    Minus,
    Two(Op),
}

/// The condition in order; `None` if it is more than names and numbers.
pub(crate) fn compile(tokens: &[Token], mode: Mode) -> Option<Box<[Step]>> {
    let mut compiler = Compiler { rest: tokens, mode, steps: Vec::new(), waiting: 0 };
    compiler.binary(0, 0)?;
    compiler.rest.is_empty().then(|| compiler.steps.into())
}

struct Compiler<'t> {
    rest: &'t [Token],
    mode: Mode,
    steps: Vec<Step>,
    waiting: usize,
}

impl Compiler<'_> {
    fn pull(&mut self) -> Option<Token> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn operand(&mut self, step: Step) -> Option<()> {
        self.waiting += 1;
        self.steps.push(step);
        (self.waiting <= DEPTH).then_some(())
    }

    fn binary(&mut self, least: u8, depth: usize) -> Option<()> {
        self.unary(depth)?;
        while let Some(Token { kind: Kind::Punct(op), .. }) = self.rest.first()
            && let Some(precedence) = precedence(*op).filter(|&precedence| precedence >= least)
        {
            let op = *op;
            self.pull()?;
            self.binary(precedence + 1, depth + 1)?;
            self.waiting -= 1;
            self.steps.push(Step::Two(op));
        }
        Some(())
    }

    fn unary(&mut self, depth: usize) -> Option<()> {
        if depth > DEPTH {
            return None;
        }
        let token = self.pull()?;
        match token.kind {
            Kind::Number if token.has(VALUED) => {
                self.operand(Step::Number(Value { bits: token.value, unsigned: token.has(UNSIGNED) }))
            }
            Kind::Name if token.symbol == DEFINED => self.defined(),
            Kind::Name if matches!(token.symbol, TRUE | FALSE) && self.mode.booleans != Has::No => None,
            Kind::Name if is_operator(token.symbol) && self.mode.cxx => None,
            Kind::Name => self.operand(Step::Name(token.symbol)),
            Kind::Punct(Op::Open) => {
                self.binary(0, depth + 1)?;
                self.pull().filter(|token| token.is(Op::Close)).map(drop)
            }
            Kind::Punct(op @ (Op::Not | Op::Complement | Op::Plus | Op::Minus)) => {
                self.unary(depth + 1)?;
                self.steps.extend(match op {
                    Op::Not => Some(Step::Not),
                    Op::Complement => Some(Step::Complement),
                    Op::Minus => Some(Step::Minus),
                    _ => None,
                });
                Some(())
            }
            _ => None,
        }
    }

    fn defined(&mut self) -> Option<()> {
        let mut token = self.pull()?;
        let parenthesis = token.is(Op::Open);
        if parenthesis {
            token = self.pull()?;
        }
        if token.kind != Kind::Name || parenthesis && !self.pull()?.is(Op::Close) {
            return None;
        }
        self.operand(Step::Defined(token.symbol))
    }
}

impl Machine<'_> {
    /// Whether the condition holds, if its names are numbers, or no macros.
    pub(crate) fn run_compiled(&self, steps: &[Step]) -> Option<bool> {
        if self.table.get(DEFINED).is_some() {
            return None;
        }
        let mut stack = [truth(false); DEPTH];
        let mut height = 0;
        for step in steps {
            let value = match *step {
                Step::Number(value) => value,
                Step::Name(name) => match self.table.get(name) {
                    None => truth(false),
                    Some(Macro::Defined { content, line }) => {
                        let token = self.number(content, line)?;
                        Value { bits: token.value, unsigned: token.has(UNSIGNED) }
                    }
                    Some(Macro::Special(_)) => return None,
                },
                Step::Defined(name) => truth(self.table.get(name).is_some()),
                Step::Not | Step::Complement | Step::Minus => {
                    height -= 1;
                    let value: Value = stack[height];
                    match step {
                        Step::Not => truth(value.bits == 0),
                        Step::Complement => Value { bits: !value.bits, ..value },
                        _ => Value { bits: value.bits.wrapping_neg(), ..value },
                    }
                }
                Step::Two(op) => {
                    height -= 2;
                    apply(op, stack[height], stack[height + 1]).ok()?
                }
            };
            stack[height] = value;
            height += 1;
        }
        Some(stack[0].bits != 0)
    }

    /// The number that a macro stands for.
    fn number(&self, content: u32, line: u32) -> Option<Token> {
        let content = &self.contents[content as usize];
        let number = match content.number(line) {
            Some(number) => number,
            None => content.definition(line, self.names).ok()?.number?,
        };
        number.has(VALUED).then_some(number)
    }
}
