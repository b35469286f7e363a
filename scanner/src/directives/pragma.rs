//! The few pragmas that change which files are read.

use memchr::memmem;

use super::Directive;
use crate::lines::is_name;
use crate::mode::Mode;
use crate::symbols::{Names, Symbol};
use crate::unsure::Unsure;

pub(super) enum Pragma {
    Does(Directive),
    /// `#pragma GCC dependency`; where its operand begins.
    Dependency(usize),
}

/// `text`: what follows `#pragma`, without comments. `None`: it reads nothing and changes no macro.
pub(super) fn read(text: &[u8], mode: Mode, names: &Names) -> Option<Pragma> {
    let (first, rest) = word(text);
    let does = |directive| Some(Pragma::Does(directive));
    match first {
        b"once" => does(Directive::Once),
        b"push_macro" | b"pop_macro" => does(match macro_name(rest, names) {
            Some(name) if first == b"push_macro" => Directive::PushMacro { name },
            Some(name) => Directive::PopMacro { name },
            None => Directive::Odd(Unsure::Pragma),
        }),
        b"include_alias" => does(Directive::Odd(Unsure::Pragma)),
        b"GCC" => {
            let (second, operand) = word(rest);
            match second {
                b"dependency" => Some(Pragma::Dependency(text.len() - operand.len())),
                b"pch_preprocess" => does(Directive::Odd(Unsure::PrecompiledHeader)),
                // clang has no such pragmas.
                b"push_options" if !mode.clang => does(Directive::PushTarget),
                b"pop_options" | b"reset_options" if !mode.clang => does(Directive::PopTarget),
                b"target" | b"optimize" if !mode.clang => does(Directive::SetTarget),
                _ => None,
            }
        }
        b"clang" if word(rest).0 == b"module" => does(Directive::Odd(Unsure::Modules)),
        _ => None,
    }
}

/// The first word, and what follows it.
fn word(text: &[u8]) -> (&[u8], &[u8]) {
    let text = text.trim_ascii_start();
    let length = text.iter().take_while(|&&byte| is_name(byte)).count();
    let (word, rest) = text.split_at(length);
    (word, rest.trim_ascii_start())
}

fn macro_name(text: &[u8], names: &Names) -> Option<Symbol> {
    let inner = text.strip_prefix(b"(")?.trim_ascii_start().strip_prefix(b"\"")?;
    let end = inner.iter().position(|&byte| byte == b'"')?;
    let name = inner[..end].trim_ascii();
    let named =
        name.first().is_some_and(|byte| !byte.is_ascii_digit()) && name.iter().all(|&byte| is_name(byte));
    (named && inner[end + 1..].trim_ascii_start().first() == Some(&b')')).then(|| names.intern(name))
}

/// Whether `_Pragma` (or a macro that puts one together) may change macros or look-ups: what the scanner would have to
/// expand text for.
pub(super) fn operator(bytes: &[u8]) -> Option<Unsure> {
    let mut rest = bytes;
    while let Some(at) = memmem::find(rest, b"_Pragma") {
        rest = &rest[at + b"_Pragma".len()..];
        let operand = rest.trim_ascii_start().strip_prefix(b"(").map(<[u8]>::trim_ascii_start);
        let text =
            operand.and_then(|operand| operand.strip_prefix(b"\"").or_else(|| operand.strip_prefix(b"L\"")));
        if text
            .is_some_and(|text| word(text).0 == b"once" || text.trim_ascii_start().starts_with(b"GCC target"))
        {
            return Some(Unsure::PragmaOperator);
        }
    }
    for word in [&b"push_macro"[..], b"pop_macro", b"include_alias"] {
        let mut from = 0;
        while let Some(found) = memmem::find(&bytes[from..], word) {
            let at = from + found;
            from = at + word.len();
            let line = &bytes[..at];
            let start = line.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
            let head = line[start..].trim_ascii();
            let plain = head.strip_suffix(b"pragma").map(<[u8]>::trim_ascii_end);
            let comment = memmem::find(head, b"//").is_some() || head.starts_with(b"*");
            let named = line.last().is_some_and(|&byte| is_name(byte))
                || bytes.get(from).is_some_and(|&byte| is_name(byte));
            if !matches!(plain, Some(b"#" | b"%:")) && !comment && !named {
                return Some(Unsure::PragmaOperator);
            }
        }
    }
    None
}
