//! What an earlier scan found, after something changed: if it still stands, it is what a new scan finds.

use std::path::{Path, PathBuf};

use dbuild_intake::Inputs;
use dbuild_intake::recall::Earlier;

use crate::random::Random;
use crate::{Scanned, generate, world};

impl Scanned {
    fn fresh(&self, compiler: &Path, flags: &[&str]) -> Option<Inputs> {
        self.request(compiler, flags, None, |request| self.scanner.scan(request).ok())
    }

    fn recalled(&self, compiler: &Path, flags: &[&str], earlier: &Earlier) -> Option<Inputs> {
        self.request(compiler, flags, Some(earlier), |request| self.scanner.recall(request))
    }

    fn earlier(&self, inputs: &Inputs) -> Earlier {
        Earlier::of(inputs, &self.world.files, &self.directories).unwrap()
    }
}

/// A unit of three files that was scanned.
fn scanned() -> (Scanned, PathBuf, Earlier) {
    let scanned = Scanned::new();
    let compiler = world::installed("gcc").expect("this test needs gcc");
    scanned.world.write("a.c", "#include <h.h>\nint a;\n");
    scanned.world.write("d/h.h", "#define X 1\n#include \"i.h\"\nint h;\n");
    scanned.world.write("d/i.h", "int i;\n");
    std::fs::create_dir(scanned.world.cwd().join("early")).unwrap();
    let inputs = scanned.fresh(&compiler, &FLAGS).unwrap();
    let earlier = scanned.earlier(&inputs);
    (scanned, compiler, earlier)
}

const FLAGS: [&str; 4] = ["-c", "-Iearly", "-Id", "a.c"];

#[test]
fn a_changed_text_is_taken_over_without_a_scan() {
    let (scanned, compiler, earlier) = scanned();
    for (path, text) in [
        ("a.c", "#include <h.h>\nint other;\n"),
        ("d/h.h", "// new\n#define X 1\n\n#include \"i.h\"\nlong h = 2;\n"),
        ("d/i.h", ""),
    ] {
        scanned.world.write(path, text);
        let recalled = scanned.recalled(&compiler, &FLAGS, &earlier);
        assert!(recalled.is_some(), "{path}");
        assert_eq!(recalled, scanned.fresh(&compiler, &FLAGS), "{path}");
    }
    assert_eq!(scanned.scanner.counts().recalled, 3);
}

#[test]
fn a_changed_directive_name_or_place_is_not() {
    type Change = fn(&Scanned);
    let changes: [(&str, Change); 6] = [
        ("a macro", |scanned| scanned.world.write("d/h.h", "#define X 2\n#include \"i.h\"\nint h;\n")),
        ("an include", |scanned| scanned.world.write("d/i.h", "#include <limits.h>\n")),
        ("an earlier header", |scanned| scanned.world.write("early/h.h", "")),
        ("a header gone", |scanned| std::fs::remove_file(scanned.world.cwd().join("d/i.h")).unwrap()),
        ("a twin", |scanned| scanned.world.write("d/i.h", "#define X 1\n#include \"i.h\"\nint h;\n")),
        ("a directory moved", |scanned| {
            let at = |name: &str| scanned.world.cwd().join(name);
            std::fs::rename(at("early"), at("moved")).unwrap();
            std::os::unix::fs::symlink("moved", at("early")).unwrap();
        }),
    ];
    for (what, change) in changes {
        let (scanned, compiler, earlier) = scanned();
        assert!(scanned.recalled(&compiler, &FLAGS, &earlier).is_some(), "{what}");
        change(&scanned);
        assert_eq!(scanned.recalled(&compiler, &FLAGS, &earlier), None, "{what}");
    }
}

#[test]
fn what_the_compiler_itself_named_is_not_taken_over() {
    let (scanned, compiler, _) = scanned();
    let traced = scanned.both(&compiler, &FLAGS).traced.unwrap();
    let earlier = scanned.earlier(&traced);
    assert_eq!(scanned.recalled(&compiler, &FLAGS, &earlier), None);
}

/// Changes one thing in the tree.
fn disturb(scanned: &Scanned, inputs: &Inputs, random: &mut Random) {
    let own: Vec<&PathBuf> = inputs
        .files
        .iter()
        .map(|input| &input.path)
        .filter(|path| path.starts_with(scanned.world.cwd()))
        .collect();
    let path = random.pick(&own);
    let text = fs_err::read(path).unwrap();
    let add = |front: &str, back: &str| [front.as_bytes(), &text, back.as_bytes()].concat();
    match random.below(8) {
        0 | 1 => fs_err::write(path, add("int new_line;\n", "")).unwrap(),
        2 | 3 => fs_err::write(path, add("", "\n/* the end */\n")).unwrap(),
        4 => fs_err::write(path, add("#define M1 1\n", "")).unwrap(),
        5 => {
            fs_err::write(path, add("#if __has_include(\"h1.h\")\n#include \"h1.h\"\n#endif\n", "")).unwrap()
        }
        6 => {
            let other = random.pick(&own);
            fs_err::write(path, fs_err::read(other).unwrap()).unwrap();
        }
        _ => {
            let directory = random.pick(&["d0", "d1", "d2", "d3", "src"]);
            let number = random.below(9);
            scanned.world.write(&format!("{directory}/h{number}.h"), "int appeared;\n");
        }
    }
}

#[test]
fn an_earlier_scan_that_stands_is_what_a_new_one_finds() {
    for (name, clang) in [("gcc", false), ("clang", true)] {
        let Some(compiler) = world::installed(name) else { continue };
        let (mut stood, mut fell) = (0, 0);
        for seed in 0..25 {
            let scanned = Scanned::new();
            let flags = generate::make(&scanned, seed, clang);
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            let Some(first) = scanned.fresh(&compiler, &flags) else { continue };
            let mut random = Random(seed);
            let mut inputs = first;
            for step in 0..40 {
                let earlier = scanned.earlier(&inputs);
                disturb(&scanned, &inputs, &mut random);
                let recalled = scanned.recalled(&compiler, &flags, &earlier);
                let fresh = scanned.fresh(&compiler, &flags);
                match recalled {
                    Some(recalled) => {
                        assert_eq!(Some(recalled), fresh, "{name} seed {seed} step {step} {flags:?}");
                        stood += 1;
                    }
                    None => fell += 1,
                }
                let Some(fresh) = fresh else { break };
                inputs = fresh;
            }
        }
        eprintln!("{name}: {stood} stood, {fell} fell");
        assert!(stood > 20 && fell > 20, "{stood} stood, {fell} fell");
    }
}
