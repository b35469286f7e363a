//! Trees of headers made up at random, and the comparison over many of them.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::random::Random;
use crate::{Scanned, differences, world};

const DIRECTORIES: [&str; 6] = ["d0", "d1", "d2", "d3", "d0/sub", "src"];
const HEADERS: usize = 8;
const MACROS: usize = 8;

struct Tree {
    random: Random,
    /// (directory, number) of headers that are there.
    there: Vec<(usize, usize)>,
    cxx: bool,
}

impl Tree {
    fn name(&mut self, above: usize) -> String {
        let number = above + self.random.below(HEADERS + 1 - above.min(HEADERS));
        let sub = if self.random.once_in(6) { "sub/" } else { "" };
        format!("{sub}h{number}.h")
    }

    fn macro_name(&mut self) -> String {
        format!("M{}", self.random.below(MACROS))
    }

    fn value(&mut self) -> String {
        match self.random.below(12) {
            0 => String::new(),
            1 => self.macro_name(),
            2 => format!("({} + 1)", self.macro_name()),
            3 => "0x10u".into(),
            4 => "-1".into(),
            5 => "defined(M1)".into(),
            6 => "F0".into(),
            7 => format!("F1({}, 2)", self.macro_name()),
            _ => self.random.below(4).to_string(),
        }
    }

    fn expression(&mut self, depth: usize) -> String {
        if depth == 0 {
            return match self.random.below(12) {
                0 => format!("defined {}", self.macro_name()),
                1 => format!("defined({})", self.macro_name()),
                2 => format!("F0({})", self.macro_name()),
                3 => format!("F1({}, {})", self.random.below(3), self.macro_name()),
                4 => format!("F2({}, M)", self.random.below(3)),
                5 => format!("F3(1, {}, 3)", self.macro_name()),
                6 => "'a'".into(),
                7 => format!("__has_include(\"h{}.h\")", self.random.below(HEADERS + 2)),
                8 => format!("{}u", self.random.below(4)),
                9 => self.random.below(4).to_string(),
                _ => format!("({} + 0)", self.macro_name()),
            };
        }
        let (a, b) = (self.expression(depth - 1), self.expression(depth - 1));
        let space = self.random.pick(&["", " ", " /* x */ ", " \\\n "]);
        match self.random.below(20) {
            0 => format!("!({a})"),
            1 => format!("({a} ? {b} : 1)"),
            2 => format!("~({a})"),
            3 => format!("-({a})"),
            4 if self.cxx => format!("({a} and {b})"),
            5 if self.cxx => format!("not ({a})"),
            n => {
                let operators = [
                    "&&", "||", "==", "!=", "<", ">", "<=", ">=", "+", "-", "*", "&", "|", "^", "%", "/",
                    "<<", ">>",
                ];
                let operator = operators[n % operators.len()];
                // Anything else would mostly be refused.
                let b = if matches!(operator, "%" | "/" | "<<" | ">>") { "3".into() } else { b };
                format!("({a}){space}{operator}{space}({b})")
            }
        }
    }

    fn include(&mut self, above: usize) -> String {
        let name = self.name(above);
        let hash = self.random.pick(&["#", "# ", "  #\t", "%:", "#/* c */", "??="]);
        let guarded =
            |directive: String, form: &str| format!("#if __has_include({form})\n{directive}\n#endif\n");
        match self.random.below(14) {
            0 => guarded(
                format!("#define WHERE <{name}>\n{hash}include WHERE\n#undef WHERE"),
                &format!("<{name}>"),
            ),
            1 => guarded(format!("{hash}include STR({name})"), &format!("\"{name}\"")),
            2 => guarded(format!("#inc\\\nlude \"{name}\""), &format!("\"{name}\"")),
            3 => guarded(format!("#import \"{name}\""), &format!("\"{name}\"")),
            4 => format!("#if __has_include_next(<{name}>)\n#include_next <{name}>\n#endif\n"),
            5 => guarded(format!("{hash}include ANGLED({name})"), &format!("<{name}>")),
            6..=8 => guarded(format!("{hash}include <{name}> // c"), &format!("<{name}>")),
            _ => guarded(format!("{hash}include \"{name}\" /* c */"), &format!("\"{name}\"")),
        }
    }

    fn noise(&mut self) -> String {
        let name = self.name(0);
        match self.random.below(10) {
            0 => format!("/*\n#include \"{name}\"\n*/\n"),
            1 => format!("// x \\\n#include \"{name}\"\n"),
            2 => format!("const char *s{} = \"/*\";\n", self.random.next()),
            3 => format!("const char *r{} = R\"x(\n#include \"{name}\"\n)\" )x\";\n", self.random.next()),
            4 => "char c = '\"'; /* ' */\n".into(),
            5 => "#if 0\ndon't /* look\n#endif\n".into(),
            6 => "// what??/\nint q;\n".into(),
            7 => "#pragma GCC diagnostic push\n".into(),
            8 => "int n = 1'000'000; /* ' */\n".into(),
            _ => "int f(void); \\\nint g(void);\n".into(),
        }
    }

    fn block(&mut self, above: usize, depth: usize, text: &mut String) {
        for _ in 0..1 + self.random.below(4) {
            match self.random.below(16) {
                0..=3 => {
                    let include = self.include(above);
                    text.push_str(&include);
                }
                4 | 5 => {
                    let (name, value) = (self.macro_name(), self.value());
                    write!(text, "#undef {name}\n#define {name} {value}\n").unwrap();
                }
                6 => writeln!(text, "#undef {}", self.macro_name()).unwrap(),
                7 => {
                    let name = self.macro_name();
                    let what = self.random.pick(&["push_macro", "pop_macro"]);
                    writeln!(text, "#pragma {what}(\"{name}\")").unwrap();
                }
                8 | 9 => {
                    let noise = self.noise();
                    text.push_str(&noise);
                }
                _ if depth > 0 => {
                    let first = match self.random.below(4) {
                        0 => format!("#ifdef {}", self.macro_name()),
                        1 => format!("#ifndef {}", self.macro_name()),
                        _ => format!("#if {}", self.expression(2)),
                    };
                    writeln!(text, "{first}").unwrap();
                    self.block(above, depth - 1, text);
                    if self.random.once_in(3) {
                        writeln!(text, "#elif {}", self.expression(1)).unwrap();
                        self.block(above, depth - 1, text);
                    }
                    if self.random.once_in(2) {
                        text.push_str("#else\n");
                        self.block(above, depth - 1, text);
                    }
                    text.push_str("#endif\n");
                }
                _ => text.push_str("int x;\n"),
            }
        }
    }

    fn header(&mut self, number: usize, unique: usize) -> String {
        let mut text = String::new();
        match self.random.below(6) {
            0 => {
                text.push_str("#pragma once\n");
                self.block(number + 1, 2, &mut text);
            }
            1 | 2 => {
                write!(text, "/* h */\n#ifndef G{unique}\n#define G{unique}\n").unwrap();
                self.block(number + 1, 2, &mut text);
                text.push_str("#endif\n");
            }
            3 => {
                writeln!(text, "#if !defined(G{unique})\n#define G{unique}").unwrap();
                self.block(number + 1, 2, &mut text);
                text.push_str("#endif /* G */");
            }
            _ => self.block(number + 1, 2, &mut text),
        }
        if self.random.once_in(10) { text.replace('\n', "\r\n") } else { text }
    }

    fn main(&mut self) -> String {
        let mut text = String::new();
        for _ in 0..3 {
            self.block(0, 3, &mut text);
            let include = self.include(0);
            text.push_str(&include);
        }
        text
    }
}

/// Makes the tree of `seed`; answers the flags to compile it with.
pub fn make(scanned: &Scanned, seed: u64, clang: bool) -> Vec<String> {
    let mut random = Random(seed);
    let cxx = random.once_in(2);
    let standards: &[&str] = match cxx {
        true => &["-std=c++11", "-std=gnu++17", "-std=c++17", "-std=c++98", "-std=gnu++14", "-std=c++20"],
        false => &["-std=c99", "-std=gnu11", "-std=c11", "-std=gnu89", "-std=gnu17", "-std=c89"],
    };
    let standard = random.pick(standards);
    let mut tree = Tree { random, there: Vec::new(), cxx };
    let mut unique = 0;
    for (place, directory) in DIRECTORIES.iter().enumerate() {
        for number in 0..HEADERS {
            if tree.random.once_in(2) {
                tree.there.push((place, number));
                unique += 1;
                let text = tree.header(number, unique);
                scanned.world.write(&format!("{directory}/h{number}.h"), &text);
            }
        }
    }
    let main = if cxx { "src/main.cc" } else { "src/main.c" };
    let text = tree.main();
    scanned.world.write(main, &text);
    let mut flags: Vec<String> = vec!["-c".into(), (*standard).into(), "-w".into()];
    let functions = [
        "F0(x)=(x + 1)",
        "F1(a, b)=(a + b)",
        "F2(a, b)=b##a",
        "F3(a, ...)=F1(a, 1)",
        "STR_(x)=#x",
        "STR(x)=STR_(x)",
        "ANGLED(x)=<x>",
    ];
    flags.extend(functions.map(|function| format!("-D{function}")));
    let kinds = ["-I", "-isystem", "-iquote", "-idirafter", "-I"];
    for directory in ["d0", "d1", "d2", "d3", "none"] {
        if !tree.random.once_in(6) {
            flags.push(format!(
                "{}{}{directory}",
                tree.random.pick(&kinds),
                tree.random.pick(&["", " "]).trim()
            ));
        }
    }
    for _ in 0..tree.random.below(4) {
        let name = tree.macro_name();
        let value = tree.value();
        flags.push(match tree.random.below(3) {
            0 => format!("-D{name}"),
            1 => format!("-U{name}"),
            _ => format!("-D{name}={value}"),
        });
    }
    if tree.random.once_in(5)
        && let Some(&(place, number)) = tree.there.first()
    {
        let kind = tree.random.pick(&["-include", "-imacros"]);
        flags.extend([kind.to_string(), format!("{}/h{number}.h", DIRECTORIES[place])]);
    }
    let _ = clang;
    flags.push(main.into());
    flags
}

/// Copies the tree to where a developer finds it.
fn keep(scanned: &Scanned) -> std::path::PathBuf {
    let kept = std::env::temp_dir().join("dbuild-scan-failure");
    let _ = fs_err::remove_dir_all(&kept);
    let _ = std::process::Command::new("cp").arg("-r").arg(scanned.world.cwd()).arg(&kept).status();
    kept
}

fn compare(compiler: &Path, clang: bool, budget: Duration) {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let rounds = number("DBUILD_SCAN_ROUNDS");
    let first = number("DBUILD_SCAN_SEED").unwrap_or(1);
    let budget = number("DBUILD_SCAN_SECONDS").map_or(budget, Duration::from_secs);
    let begun = Instant::now();
    let (mut sure, mut unsure, mut refused) = (0, std::collections::BTreeMap::new(), 0);
    let mut seed = first;
    while rounds.map_or(begun.elapsed() < budget, |rounds| seed < first + rounds) {
        let scanned = Scanned::new();
        let flags = make(&scanned, seed, clang);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let both = scanned.both(compiler, &flags);
        match (&both.scanned, &both.traced) {
            (Ok(ours), Ok(theirs)) => {
                let differences = differences(ours, theirs, true);
                if !differences.is_empty() {
                    let kept = keep(&scanned);
                    panic!(
                        "{} {flags:?} (seed {seed}, kept in {}): {differences:#?}",
                        compiler.display(),
                        kept.display()
                    );
                }
                sure += 1;
            }
            (Err(doubt), Ok(_)) if std::env::var_os("DBUILD_SCAN_TELL").is_some() => {
                eprintln!("seed {seed} {flags:?}: {doubt:?}");
                keep(&scanned);
                *unsure.entry(doubt.reason).or_insert(0) += 1;
            }
            (Err(doubt), Ok(_)) => *unsure.entry(doubt.reason).or_insert(0) += 1,
            (_, Err(error)) => {
                if std::env::var_os("DBUILD_SCAN_TELL").is_some()
                    && let dbuild_intake::FindError::Compiler { stderr, .. } = error
                {
                    eprintln!("{flags:?}: {}", String::from_utf8_lossy(stderr));
                }
                refused += 1;
            }
        }
        seed += 1;
    }
    eprintln!("{}: {sure} agree, unsure {unsure:?}, refused by the compiler {refused}", compiler.display());
    assert!(sure > 0 && sure > unsure.values().sum::<i32>(), "{sure} of {} were sure", seed - first);
}

#[test]
fn gcc_reads_what_the_scanner_finds() {
    let compiler = world::installed("gcc").expect("this test needs gcc");
    compare(&compiler, false, Duration::from_secs(30));
}

#[test]
fn clang_reads_what_the_scanner_finds() {
    let Some(compiler) = world::installed("clang") else { return };
    compare(&compiler, true, Duration::from_secs(30));
}
