use super::*;
use crate::mode::{Dialect, Has};

fn parsed(text: &str) -> (Names, Content) {
    let names = Names::new(1 << 24);
    let mode = Dialect { major: 12, cplusplus: 201_703, ..Dialect::default() }.mode();
    let content = parse(text.as_bytes(), mode, &names);
    (names, content)
}

fn includes(text: &str) -> Vec<String> {
    let (_, content) = parsed(text);
    assert_eq!(content.unsure, None, "{text}");
    let operand = |directive: &Directive| match directive {
        Directive::Include { line, .. } => Some(String::from_utf8(content.text(*line).to_vec()).unwrap()),
        _ => None,
    };
    content.directives.iter().filter_map(operand).collect()
}

#[test]
fn includes_are_seen_however_they_are_written() {
    assert_eq!(includes("#include <a>\n  #  include \"b\" // x\n%:include <c>"), ["<a>", "\"b\"", "<c>"]);
    assert_eq!(includes("/* x\n */ #inc\\\nlude <a>\n"), ["<a>"]);
    assert_eq!(includes("#include/**/<a>\n#/**/include M(x)\n"), ["<a>", "M(x)"]);
    assert_eq!(includes("\\\n#include <a>\n"), ["<a>"]);
}

#[test]
fn what_looks_like_an_include_is_none() {
    assert_eq!(includes("/*\n#include <a>\n*/\n//\\\n#include <a>\n"), [""; 0]);
    assert_eq!(includes("auto s = R\"(\n#include <a>\n)\";\nint x; #include <a>\n"), [""; 0]);
    assert_eq!(includes("auto s = \"\\\n#include <a>\n\";\n"), [""; 0]);
}

#[test]
fn trigraphs_where_the_mode_has_them() {
    let names = Names::new(1 << 20);
    let mode = Dialect { strict: true, stdc_version: 199_901, ..Dialect::default() }.mode();
    assert!(mode.trigraphs);
    let content = parse(b"??=include <a>\n// ??/\n#include <b>\n#include <c>\n", mode, &names);
    assert_eq!(content.directives.len(), 2);
    let content = parse(b"??=include <a>\n", Mode { trigraphs: false, ..mode }, &names);
    assert_eq!(content.directives.len(), 0);
}

#[test]
fn guards_are_found() {
    for (text, want) in [
        ("#ifndef A\n#define A\n#include <b>\n#endif\n", true),
        ("// c\n#if !defined(A)\n#define A\n#if 1\n#else\n#endif\n#endif\nint x;\n", true),
        ("#ifndef A\n#else\n#endif\n", false),
        ("#ifndef A\n#endif\n#define B\n", false),
        ("#define B\n#ifndef A\n#endif\n", false),
        ("#ifdef A\n#endif\n", false),
        ("#ifndef A\n#endif\n#ifndef A\n#endif\n", false),
    ] {
        assert_eq!(parsed(text).1.guard.is_some(), want, "{text}");
    }
}

#[test]
fn groups_know_where_they_go_on() {
    let (_, content) = parsed("#if A\n#define B\n#elif C\n#define D\n#else\n#define E\n#endif\n#define F\n");
    let Directive::If { next, .. } = content.directives[0] else { panic!() };
    assert_eq!(next, 2 | BRANCH);
    let Directive::Elif { next, end, .. } = content.directives[2] else { panic!() };
    assert_eq!((next, end), (4 | BRANCH, 6));
    assert_eq!(content.directives[4], Directive::Else { end: 6 });
}

#[test]
fn what_is_broken_is_said() {
    for text in
        ["#if 1\n", "#endif\n", "#else\n", "#if 1\n#else\n#else\n#endif\n", "#if 1\n#else\n#elif 1\n#endif\n"]
    {
        assert_eq!(parsed(text).1.unsure, Some(Unsure::Conditionals), "{text}");
    }
    assert_eq!(parsed("_Pragma(\"once\")\n").1.unsure, Some(Unsure::PragmaOperator));
    assert_eq!(parsed("_Pragma(\"push_macro(\\\"X\\\")\")\n").1.unsure, Some(Unsure::PragmaOperator));
    assert_eq!(parsed("_Pragma(\"GCC diagnostic push\")\n#pragma push_macro(\"X\")\n").1.unsure, None);
    assert_eq!(parsed("a\rb\n").1.unsure, Some(Unsure::CarriageReturn));
    assert_eq!(parsed("#define X R\"(\n)\"\n").1.unsure, Some(Unsure::RawString));
}

#[test]
fn questions_are_guessed() {
    let (_, content) =
        parsed("#if __has_builtin(__builtin_x) && MY_HAVE(y) || f(z) || __has_attribute(gnu::a)\n#endif\n");
    assert_eq!(content.likely_questions(), [&b"__builtin_x"[..], b"y", b"gnu::a"]);
}

#[test]
fn the_mode_decides_about_raw_strings() {
    let names = Names::new(1 << 20);
    let text = b"char *s = R\"(\n#include <a>\n)\";\n";
    let count = |raw_strings| parse(text, Mode { raw_strings, ..Mode::default() }, &names).directives.len();
    assert_eq!((count(Has::No), count(Has::Yes)), (1, 0));
    let mode = Mode { raw_strings: Has::Perhaps, ..Mode::default() };
    assert_eq!(parse(text, mode, &names).unsure, Some(Unsure::RawString));
}
