//! The expressions of `#if`: intmax_t and uintmax_t of 64 bits, as all supported targets have it.
//!
//! What a compiler would refuse is [`Unsure`]: then it may say so itself.

use crate::evaluate::Machine;
use crate::mode::Has;
use crate::symbols::{AND, BITAND, BITOR, COMPL, DEFINED, FALSE, NOT, NOT_EQ, OR, TRUE, XOR};
use crate::tokens::{Kind, Op, Token, UNSIGNED, VALUED};
use crate::unsure::Unsure;

/// Parentheses, unary operators and `?:` within each other.
const NESTING: usize = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Value {
    pub bits: u64,
    pub unsigned: bool,
}

pub(crate) const fn truth(is: bool) -> Value {
    Value { bits: is as u64, unsigned: false }
}

impl Machine<'_> {
    /// Whether the condition holds whose tokens the line has.
    pub(crate) fn condition(&mut self) -> Result<bool, Unsure> {
        let first = self.operator()?;
        let (value, rest) = self.ternary(first, 0)?;
        match rest {
            None => Ok(value.bits != 0),
            Some(_) => Err(Unsure::Condition),
        }
    }

    /// The next token; C++'s names of operators are operators.
    fn operator(&mut self) -> Result<Option<Token>, Unsure> {
        let mut token = self.next()?;
        if self.mode.cxx
            && let Some(token) = &mut token
            && token.kind == Kind::Name
        {
            let op = match token.symbol {
                AND => Op::AndAnd,
                OR => Op::OrOr,
                NOT => Op::Not,
                BITAND => Op::And,
                BITOR => Op::Or,
                XOR => Op::Xor,
                COMPL => Op::Complement,
                NOT_EQ => Op::NotEqual,
                _ => return Ok(Some(*token)),
            };
            token.kind = Kind::Punct(op);
        }
        Ok(token)
    }

    fn ternary(&mut self, first: Option<Token>, depth: usize) -> Result<(Value, Option<Token>), Unsure> {
        let (condition, next) = self.binary(first, 0, depth)?;
        if !next.is_some_and(|token| token.is(Op::Question)) {
            return Ok((condition, next));
        }
        let taken = condition.bits != 0;
        self.idle += u32::from(!taken);
        let first = self.operator()?;
        let (yes, next) = self.ternary(first, depth + 1)?;
        self.idle -= u32::from(!taken);
        if !next.is_some_and(|token| token.is(Op::Colon)) {
            return Err(Unsure::Condition);
        }
        self.idle += u32::from(taken);
        let first = self.operator()?;
        let (no, next) = self.ternary(first, depth + 1)?;
        self.idle -= u32::from(taken);
        let bits = if taken { yes.bits } else { no.bits };
        Ok((Value { bits, unsigned: yes.unsigned || no.unsigned }, next))
    }

    fn binary(
        &mut self,
        first: Option<Token>,
        least: u8,
        depth: usize,
    ) -> Result<(Value, Option<Token>), Unsure> {
        if depth > NESTING {
            return Err(Unsure::Depth);
        }
        let (mut left, mut next) = self.unary(first, depth)?;
        while let Some(Token { kind: Kind::Punct(op), .. }) = next
            && let Some(precedence) = precedence(op).filter(|&precedence| precedence >= least)
        {
            let idle = u32::from(match op {
                Op::AndAnd => left.bits == 0,
                Op::OrOr => left.bits != 0,
                _ => false,
            });
            self.idle += idle;
            let first = self.operator()?;
            let (right, after) = self.binary(first, precedence + 1, depth + 1)?;
            self.idle -= idle;
            left = apply(op, left, right).or_else(|reason| match self.idle {
                0 => Err(reason),
                _ => Ok(truth(false)),
            })?;
            next = after;
        }
        Ok((left, next))
    }

    fn unary(&mut self, first: Option<Token>, depth: usize) -> Result<(Value, Option<Token>), Unsure> {
        if depth > NESTING {
            return Err(Unsure::Depth);
        }
        let token = first.ok_or(Unsure::Condition)?;
        let value = match token.kind {
            Kind::Number if token.has(VALUED) => Value { bits: token.value, unsigned: token.has(UNSIGNED) },
            Kind::Name if token.symbol == DEFINED => truth(self.defined()?),
            Kind::Name if matches!(token.symbol, TRUE | FALSE) && self.mode.booleans != Has::No => {
                if self.mode.booleans == Has::Perhaps {
                    return Err(Unsure::Condition);
                }
                truth(token.symbol == TRUE)
            }
            Kind::Name => truth(false),
            Kind::Punct(op @ (Op::Not | Op::Complement | Op::Plus | Op::Minus)) => {
                let first = self.operator()?;
                let (value, next) = self.unary(first, depth + 1)?;
                let value = match op {
                    Op::Not => truth(value.bits == 0),
                    Op::Complement => Value { bits: !value.bits, ..value },
                    Op::Minus => Value { bits: value.bits.wrapping_neg(), ..value },
                    _ => value,
                };
                return Ok((value, next));
            }
            Kind::Punct(Op::Open) => {
                let first = self.operator()?;
                let (value, next) = self.ternary(first, depth + 1)?;
                if !next.is_some_and(|token| token.is(Op::Close)) {
                    return Err(Unsure::Condition);
                }
                value
            }
            _ => return Err(Unsure::Condition),
        };
        Ok((value, self.operator()?))
    }

    /// `defined X`, `defined(X)`, behind the word.
    fn defined(&mut self) -> Result<bool, Unsure> {
        let mut token = self.pull()?.ok_or(Unsure::Condition)?;
        let parenthesis = token.is(Op::Open);
        if parenthesis {
            token = self.pull()?.ok_or(Unsure::Condition)?;
        }
        if token.kind != Kind::Name {
            return Err(Unsure::Condition);
        }
        if parenthesis && !self.pull()?.is_some_and(|token| token.is(Op::Close)) {
            return Err(Unsure::Condition);
        }
        Ok(self.macro_in_condition(token.symbol)?.is_some())
    }
}

pub(crate) fn precedence(op: Op) -> Option<u8> {
    Some(match op {
        Op::OrOr => 1,
        Op::AndAnd => 2,
        Op::Or => 3,
        Op::Xor => 4,
        Op::And => 5,
        Op::Equal | Op::NotEqual => 6,
        Op::Less | Op::Greater | Op::LessEqual | Op::GreaterEqual => 7,
        Op::ShiftLeft | Op::ShiftRight => 8,
        Op::Plus | Op::Minus => 9,
        Op::Times | Op::Divide | Op::Modulo => 10,
        _ => return None,
    })
}

pub(crate) fn apply(op: Op, left: Value, right: Value) -> Result<Value, Unsure> {
    let unsigned = left.unsigned || right.unsigned;
    let (a, b) = (left.bits, right.bits);
    let (x, y) = (a as i64, b as i64);
    let number = |bits: u64| Value { bits, unsigned };
    let compare = |signed: bool, plain: bool| truth(if unsigned { plain } else { signed });
    Ok(match op {
        Op::OrOr => truth(a != 0 || b != 0),
        Op::AndAnd => truth(a != 0 && b != 0),
        Op::Or => number(a | b),
        Op::Xor => number(a ^ b),
        Op::And => number(a & b),
        Op::Equal => truth(a == b),
        Op::NotEqual => truth(a != b),
        Op::Less => compare(x < y, a < b),
        Op::Greater => compare(x > y, a > b),
        Op::LessEqual => compare(x <= y, a <= b),
        Op::GreaterEqual => compare(x >= y, a >= b),
        Op::Plus => number(a.wrapping_add(b)),
        Op::Minus => number(a.wrapping_sub(b)),
        Op::Times => number(a.wrapping_mul(b)),
        Op::Divide | Op::Modulo if b == 0 => return Err(Unsure::Condition),
        Op::Divide if unsigned => number(a / b),
        Op::Divide => number(x.wrapping_div(y) as u64),
        Op::Modulo if unsigned => number(a % b),
        Op::Modulo => number(x.wrapping_rem(y) as u64),
        Op::ShiftLeft | Op::ShiftRight => {
            let count = u32::try_from(b).ok().filter(|&count| count < 64).ok_or(Unsure::Condition)?;
            let bits = match op {
                Op::ShiftLeft => a << count,
                _ if left.unsigned => a >> count,
                _ => (x >> count) as u64,
            };
            Value { bits, unsigned: left.unsigned }
        }
        _ => return Err(Unsure::Condition),
    })
}
