//! Whole units over files in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use crate::*;

#[derive(Default)]
struct Map {
    files: BTreeMap<String, String>,
    directories: Vec<String>,
    found: Vec<String>,
    absent: BTreeSet<String>,
    mode: Mode,
    names: Option<Arc<Names>>,
}

impl Map {
    fn path(&self, directory: DirectoryId, name: &[u8]) -> String {
        let directory = &self.directories[directory as usize];
        let name = String::from_utf8_lossy(name);
        match directory.as_str() {
            "" => name.into_owned(),
            directory if directory.ends_with('/') => format!("{directory}{name}"),
            directory => format!("{directory}/{name}"),
        }
    }
}

impl Host for Map {
    fn directory(&mut self, number: DirectoryId, path: &[u8]) {
        assert_eq!(number as usize, self.directories.len());
        self.directories.push(String::from_utf8_lossy(path).into_owned());
    }
    fn look(&mut self, directory: DirectoryId, name: &[u8]) -> Result<Look, Unsure> {
        let path = self.path(directory, name);
        if !self.files.contains_key(&path) {
            self.absent.insert(path);
            return Ok(Look::Absent);
        }
        let known = self.found.iter().position(|found| *found == path);
        Ok(Look::File(known.unwrap_or_else(|| {
            self.found.push(path);
            self.found.len() - 1
        }) as FileId))
    }
    fn exists(&mut self, directory: DirectoryId, name: &[u8]) -> Result<bool, Unsure> {
        let path = self.path(directory, name);
        let exists = self.files.contains_key(&path);
        if !exists {
            self.absent.insert(path);
        }
        Ok(exists)
    }
    fn open(&mut self, file: FileId, _: DirectoryId) -> Result<Arc<Content>, Unsure> {
        let text = &self.files[&self.found[file as usize]];
        Ok(Arc::new(parse(text.as_bytes(), self.mode, self.names.as_ref().unwrap())))
    }
    fn name(&self, file: FileId) -> Vec<u8> {
        self.found[file as usize].clone().into_bytes()
    }
    fn identity(&mut self, file: FileId) -> u64 {
        let text = &self.files[&self.found[file as usize]];
        self.files.values().position(|other| other == text).unwrap() as u64
    }
    fn ask(&mut self, question: Question, operand: &[u8], _: &Content) -> Result<i64, Unsure> {
        Ok(i64::from(question == Question::Builtin && operand == b"__builtin_expect"))
    }
}

fn scan_with(files: &[(&str, &str)], flags: &[Set], mode: Mode) -> Result<Map, Unsure> {
    let names = Arc::new(Names::new(1 << 24));
    let mut map = Map { mode, names: Some(names.clone()), ..Map::default() };
    map.files = files.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect();
    let predefined = Arc::new(parse(b"#define __GNUC__ 12\n", mode, &names));
    let line = Arc::new(command_line(flags.iter().copied(), mode, &names)?);
    let specials: Vec<_> =
        Special::ALL.iter().map(|(name, special)| (names.intern(name.as_bytes()), *special)).collect();
    let unit = Unit {
        mode,
        predefined: &predefined,
        specials: &specials,
        command_line: &line,
        quote: &[b"quote".to_vec()],
        angled: &[b"one".to_vec(), b"two".to_vec()],
        own: &[],
        preinclude: None,
        imacros: &[],
        includes: &[],
        main: b"src/main.c",
    };
    let mut scratch = Scratch::new();
    scan(&unit, &names, &mut map, &mut scratch)?;
    Ok(map)
}

fn mode() -> Mode {
    Dialect { major: 12, stdc_version: 201_710, ..Dialect::default() }.mode()
}

fn read(files: &[(&str, &str)]) -> Result<String, Unsure> {
    let map = scan_with(files, &[], mode())?;
    Ok(map.found.join(" "))
}

/// Whether a condition holds; macros first.
fn holds(macros: &str, condition: &str) -> Result<bool, Unsure> {
    let text = format!("{macros}\n#if {condition}\n#include \"yes\"\n#endif\n");
    Ok(read(&[("src/main.c", &text), ("src/yes", "")])?.contains("yes"))
}

#[test]
fn conditions_are_evaluated() {
    for (macros, condition, want) in [
        ("", "1", true),
        ("", "0", false),
        ("", "UNKNOWN", false),
        ("", "-1 < 0u", false),
        ("", "-1 < 0", true),
        ("", "1 ? 2 : 1/0", true),
        ("", "0 && 1/0", false),
        ("", "1 || 1/0", true),
        ("", "(2 + 3) * 4 == 20 && 7 % 4 == 3 && 1 << 4 == 16", true),
        ("", "~0 == -1 && !0 && +1", true),
        ("", "0x7fffffffffffffff + 1 < 0", true),
        ("", "18446744073709551615 == -1", true),
        ("", "(0 ? -1 : 0u) - 1 > 0", true),
        ("", "'a' == 97 && '\\0' == 0", true),
        ("", "1 ? 0 : 1 ? 1 : 1", false),
        ("#define A 3", "A > 2", true),
        ("#define A B\n#define B A", "A", false),
        ("#define F(x) x + 1", "F(2) == 3", true),
        ("#define F(x) x + 1", "F", false),
        ("#define F() 1", "F()", true),
        ("#define CAT(a, b) a ## b\n#define XY 5", "CAT(X, Y) == 5", true),
        ("#define D defined(Z)\n#define Z", "D", true),
        ("#define V(a, b, c) ((a) << 16 | (b) << 8 | (c))\n#define N V(1, 2, 3)", "N >= V(1, 2, 3)", true),
        ("#define F(x) x\n#define G F", "G(1)", true),
        ("#define F(x, y) y", "F((1, 2), 3) == 3", true),
        ("#define F(...) G(__VA_ARGS__)\n#define G(a, b) b", "F(0, 1)", true),
        ("#define E\n#define CAT(a, b) a##b", "CAT(, 1)", true),
        // Linux's IS_ENABLED.
        (
            "#define P_1 0,\n#define second(a, b, ...) b\n#define d3(x) second(x 1, 0)\n#define d2(v) d3(P_##v)\n\
             #define d1(x) d2(x)\n#define X 1",
            "d1(X) && !d1(Y)",
            true,
        ),
        ("#undef __GNUC__", "defined __GNUC__", false),
        ("", "__has_include(\"yes\") && !__has_include(<no>)", true),
        ("#define HAS(x) __has_include(x)", "HAS(\"yes\")", true),
        ("", "__has_builtin(__builtin_expect) && !__has_builtin(other)", true),
        ("#define HB(x) __has_builtin(x)", "HB(__builtin_expect)", true),
        ("", "defined(__has_include) && defined __has_builtin", true),
    ] {
        assert_eq!(holds(macros, condition), Ok(want), "{macros}\n{condition}");
    }
}

#[test]
fn what_a_compiler_refuses_is_unsure() {
    for (macros, condition) in [
        ("", ""),
        ("", "1 +"),
        ("", "(1"),
        ("", "1 2"),
        ("", "1.0"),
        ("", "1/0"),
        ("", "\"a\""),
        ("", "defined"),
        ("", "1 ? 2"),
        ("", "1, 2"),
        ("#define F(x) x", "F(1"),
        ("#define F(x) x", "F(1, 2)"),
        ("#define CAT(a, b) a##b", "CAT(+, 1)"),
        ("", "__COUNTER__"),
        ("", "__LINE__ > 1"),
    ] {
        assert!(holds(macros, condition).is_err(), "{macros}\n{condition}");
    }
    let deep = format!("{}1{}", "(".repeat(100_000), ")".repeat(100_000));
    assert_eq!(holds("", &deep), Err(Unsure::Depth));
    let nested = format!("#define F(x) x\n#if {}1{}\n#endif\n", "F(".repeat(50_000), ")".repeat(50_000));
    assert_eq!(read(&[("src/main.c", &nested)]), Err(Unsure::Depth));
}

/// Words of conditions; most rows of them are refused.
fn word() -> impl Strategy<Value = &'static str> {
    let words = [
        "defined",
        "defined(A)",
        "defined N",
        "(",
        ")",
        "A",
        "B",
        "F",
        "N",
        "E",
        "0",
        "1",
        "2u",
        "-1",
        "!",
        "~",
        "-",
        "&&",
        "||",
        "+",
        "*",
        "/",
        "%",
        "<<",
        ">>",
        "==",
        "<",
        "&",
        "^",
        "?",
        ":",
        "and",
        "not",
        "true",
        "1.0",
        "__FILE__",
    ];
    proptest::sample::select(words.to_vec())
}

proptest! {
    #[test]
    fn compiled_conditions_are_what_they_were(words in proptest::collection::vec(word(), 1..12)) {
        let macros = "#define A 3\n#define B 0xffffffffffffffff\n#define F(x) x\n#define N A\n#define E\n";
        let text = words.join(" ");
        // What begins with an empty macro cannot be put in order beforehand.
        prop_assert_eq!(holds(macros, &text), holds(macros, &format!("E {text}")));
    }
}

/// Changes of macros between two readings of a header.
fn change() -> impl Strategy<Value = &'static str> {
    let changes = [
        "#undef A",
        "#undef A\n#define A 0",
        "#undef A\n#define A 1",
        "#undef A\n#define A B",
        "#undef B",
        "#undef B\n#define B A",
        "#undef B\n#define B (A + 1)",
        "#undef F\n#define F(x) x",
        "#undef F\n#define F(x) 0",
        "#undef F\n#define F(x) defined(x)",
        "#undef F\n#define F __has_builtin",
        "#undef F\n#define F(x) __has_include(<once>)",
        "",
    ];
    prop::sample::select(changes.to_vec())
}

proptest! {
    #[test]
    fn what_is_remembered_of_conditions_stands(
        condition in prop::sample::select(vec![
            "F(A)", "F(A) && B", "A == B", "F(B) || F(A)", "B > 0 && F(__builtin_expect)", "!F(F(A)) ? B : A", "defined A && A",
        ]),
        changes in proptest::collection::vec(change(), 1..12),
    ) {
        let header = format!("#if {condition}\n#include MARK\n#endif\n");
        let unit = |own: bool| {
            let mut main = "#define F(x) x\n".to_owned();
            let mut files: Vec<(String, String)> = vec![("one/once".into(), String::new())];
            for (at, change) in changes.iter().enumerate() {
                let name = if own { format!("h{at}") } else { "h".into() };
                main += &format!("{change}\n#define MARK \"y{at}\"\n#include \"{name}\"\n#undef MARK\n");
                files.push((format!("src/{name}"), header.clone()));
                files.push((format!("src/y{at}"), String::new()));
            }
            files.push(("src/main.c".into(), main));
            let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (&**path, &**text)).collect();
            let found = read(&files)?;
            Ok::<_, Unsure>(found.split(' ').filter(|path| !path.starts_with("src/h")).collect::<Vec<_>>().join(" "))
        };
        // A header for each place is evaluated for the first time.
        prop_assert_eq!(unit(false), unit(true));
    }
}

#[test]
fn nested_groups_do_not_leak() {
    let text = "#if 1\n#if 0\n#endif\n#else\n#include \"no\"\n#endif\n#if 0\n#elif 1\n#if 0\n#elif 0\n#endif\n\
                #elif 1\n#include \"no\"\n#else\n#include \"no\"\n#endif\n#if 0\n#else\n#include \"yes\"\n#endif\n";
    assert_eq!(read(&[("src/main.c", text), ("src/yes", ""), ("src/no", "")]).unwrap(), "src/main.c src/yes");
}

#[test]
fn search_goes_as_the_compiler_does() {
    let files = [
        ("src/main.c", "#include \"a\"\n#include <a>\n#include \"q\"\n#include \"sub/x\"\n"),
        ("src/a", ""),
        ("one/a", "#include_next <a>\n"),
        ("two/a", ""),
        ("quote/q", ""),
        ("two/sub/x", "#include \"y\"\n"),
        ("two/sub/y", ""),
    ];
    let map = scan_with(&files, &[], mode()).unwrap();
    assert_eq!(map.found.join(" "), "src/main.c src/a one/a two/a quote/q two/sub/x two/sub/y");
    let absent: Vec<&str> =
        map.absent.iter().map(String::as_str).filter(|path| !path.ends_with(".gch")).collect();
    assert_eq!(absent, ["one/sub/x", "quote/sub/x", "src/q", "src/sub/x"]);
    assert!(["src/main.c.gch", "src/a.gch", "one/a.gch"].iter().all(|path| map.absent.contains(*path)));
}

#[test]
fn gcc_does_not_look_where_the_answer_does_not_matter() {
    let text = "#if 0 ? __has_include(<a>) : 1\n#endif\n#if 1 ? 1 : __has_include(<b>)\n#endif\n\
                #if 0 && __has_include(<c>)\n#endif\n#if 1 || __has_include(<d>)\n#endif\n";
    let names = |mode| scan_with(&[("src/main.c", text)], &[], mode).unwrap().absent;
    let looked = |absent: BTreeSet<String>| absent.iter().any(|path| path.starts_with("one/"));
    assert!(!looked(names(mode())));
    assert!(looked(names(Mode { clang: true, ..mode() })));
}

#[test]
fn includes_may_be_computed() {
    let text = "#define STR(x) #x\n#define XSTR(x) STR(x)\n#define DIR sub\n#define ANGLED <b.h>\n\
                #include XSTR(DIR/a.h)\n#include ANGLED\n";
    let files = [("src/main.c", text), ("src/sub/a.h", ""), ("one/b.h", "")];
    assert_eq!(read(&files).unwrap(), "src/main.c src/sub/a.h one/b.h");
}

#[test]
fn files_are_read_once_where_they_say_so() {
    let files = [
        (
            "src/main.c",
            "#include \"o\"\n#include \"o\"\n#import \"i\"\n#import \"i\"\n#ifdef TWICE\n#include \"no\"\n#endif\n",
        ),
        ("src/o", "#pragma once\n#ifdef O\n#define TWICE\n#endif\n#define O\n"),
        ("src/i", "#ifdef I\n#define TWICE\n#endif\n#define I\n"),
        ("src/no", ""),
    ];
    assert_eq!(read(&files).unwrap(), "src/main.c src/o src/i");
}

#[test]
fn flags_define_in_their_order() {
    let files =
        [("src/main.c", "#if A == 2 && !defined B && F(3) == 3\n#include \"x\"\n#endif\n"), ("src/x", "")];
    let flags = [
        Set::Define(b"A=1"),
        Set::Define(b"B"),
        Set::Undefine(b"B"),
        Set::Define(b"A=2"),
        Set::Define(b"F(x)=x"),
    ];
    assert_eq!(scan_with(&files, &flags, mode()).unwrap().found.len(), 2);
}

#[test]
fn pushed_macros_come_back() {
    let text = "#define A 1\n#pragma push_macro(\"A\")\n#undef A\n#if A\n#include \"no\"\n#endif\n\
                #pragma pop_macro(\"A\")\n#if A\n#include \"yes\"\n#endif\n";
    assert_eq!(read(&[("src/main.c", text), ("src/yes", ""), ("src/no", "")]).unwrap(), "src/main.c src/yes");
}

#[test]
fn endless_includes_end() {
    assert_eq!(read(&[("src/main.c", "#include \"main.c\"\n")]), Err(Unsure::Depth));
    let two = "#include \"b\"\n#include \"b\"\n";
    let chain: Vec<(String, String)> = (0..150)
        .map(|i| (format!("src/f{i}"), format!("#include \"f{0}\"\n#include \"f{0}\"\n", i + 1)))
        .collect();
    let mut files: Vec<(&str, &str)> =
        chain.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    files.extend([("src/main.c", "#include \"f0\"\n"), ("src/f150", ""), ("src/b", two)]);
    assert_eq!(read(&files), Err(Unsure::TooMuch));
}

#[test]
fn odd_things_matter_only_where_they_are_active() {
    assert_eq!(
        read(&[("src/main.c", "#if 0\n#error x\n#foo\n#include <none>\n#endif\n")]).unwrap(),
        "src/main.c"
    );
    assert_eq!(read(&[("src/main.c", "#error x\n")]), Err(Unsure::ErrorDirective));
    assert_eq!(read(&[("src/main.c", "#include <none>\n")]), Err(Unsure::MissingHeader));
    assert_eq!(read(&[("src/main.c", "#define __COUNTER__ 1\n")]), Err(Unsure::RedefinedBuiltin));
}

fn piece() -> impl Strategy<Value = String> {
    let pieces = [
        "#",
        "%:",
        "if",
        "ifdef",
        "ifndef",
        "elif",
        "else",
        "endif",
        "define",
        "undef",
        "include",
        "\n",
        "\\\n",
        " ",
        "A",
        "B",
        "F(",
        ")",
        "(",
        "x",
        ",",
        "##",
        "/*",
        "*/",
        "//",
        "\"",
        "'",
        "R\"(",
        ")\"",
        "<a>",
        "\"a\"",
        "0",
        "1",
        "defined",
        "&&",
        "||",
        "?",
        ":",
        "__has_include",
        "#pragma once",
        "_Pragma(",
        "__VA_ARGS__",
        "...",
        "??/",
    ];
    prop_oneof![
        8 => prop::sample::select(pieces.to_vec()).prop_map(str::to_owned),
        1 => "[ -~\\n]{0,6}",
    ]
}

proptest! {
    #[test]
    fn no_text_breaks_it(main in proptest::collection::vec(piece(), 0..60), a in proptest::collection::vec(piece(), 0..30)) {
        let (main, a) = (main.concat(), a.concat());
        let _ = read(&[("src/main.c", &main), ("one/a", &a), ("src/a", &a)]);
    }

    #[test]
    fn lines_are_counted_as_without_joins(pieces in proptest::collection::vec(piece(), 0..40)) {
        // A join of lines between tokens of text changes nothing.
        let text = format!("int a;\n{}\n", pieces.concat().replace(['\\', '?', 'R', '"', '\''], ""));
        let joined = text.replace("int a;", "int \\\n a;");
        let names = Names::new(1 << 20);
        let one = parse(text.as_bytes(), mode(), &names);
        let two = parse(joined.as_bytes(), mode(), &names);
        prop_assert_eq!(one.directives, two.directives);
    }
}
