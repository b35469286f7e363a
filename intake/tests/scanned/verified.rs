//! Depfiles of real compiles against what the scan found: no difference where both are right, and one where either is
//! made wrong.

use std::path::Path;

use dbuild_compilers::{DependStyle, Depfile};
use dbuild_intake::verify::{Difference, difference};
use dbuild_intake::{Input, Inputs, Role};

use crate::{Scanned, world};

/// A unit that was scanned and compiled.
struct Unit {
    scanned: Scanned,
    compiler: std::path::PathBuf,
    inputs: Inputs,
    depfile: Depfile,
    style: DependStyle,
}

impl Unit {
    /// `None`: that compiler is not installed.
    fn new(name: &str, files: &[(&str, &str)], flags: &[&str]) -> Option<Unit> {
        let compiler = world::installed(name)?;
        let scanned = Scanned::new();
        for (path, text) in files {
            scanned.world.write(path, text);
        }
        let mut words = vec!["-c", "-MD"];
        words.extend(flags);
        let inputs =
            scanned.both(&compiler, &words).scanned.unwrap_or_else(|doubt| panic!("{name}: {doubt:?}"));
        let output = scanned.world.cwd().join("unit.d");
        let ran = std::process::Command::new(&compiler)
            .args(&words)
            .args(["-o", "/dev/null", "-MF"])
            .arg(&output)
            .current_dir(scanned.world.cwd())
            .status()
            .unwrap();
        assert!(ran.success());
        let depfile = Depfile::parse(&fs_err::read(output).unwrap()).unwrap();
        let words: Vec<_> = words.iter().map(std::ffi::OsString::from).collect();
        Some(Unit { scanned, compiler, inputs, depfile, style: DependStyle::of(&words) })
    }

    fn difference(&self) -> Option<Difference> {
        let toolchain = self.scanned.world.toolchain(&self.compiler).unwrap();
        let world = &self.scanned.world;
        difference(&self.inputs, &self.depfile, self.style, &world.cwd(), &toolchain, &world.files)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.scanned.world.cwd().join(name)
    }
}

const FILES: [(&str, &str); 6] = [
    (
        "src/a.cc",
        "#include <vector>\n#include <limits.h>\n#include \"q.h\"\n#include \"../src/q.h\"\n#include <i.h>\n\
         #if __has_include(<looked-at.h>)\n#endif\n#include \"./once.h\"\n#include \"once.h\"\n",
    ),
    ("src/q.h", "#ifndef Q\n#define Q\n#endif\n"),
    ("src/once.h", "#pragma once\n"),
    ("inc/i.h", "#include \"deeper/d.h\"\n"),
    ("inc/deeper/d.h", ""),
    ("inc/looked-at.h", ""),
];

#[test]
fn what_is_right_does_not_differ() {
    for compiler in ["gcc", "clang"] {
        for flags in [
            &["-Iinc", "src/a.cc"][..],
            &["-I./inc/../inc/", "./src/a.cc"],
            &["-isystem", "inc", "-MMD", "src/a.cc"],
            &["-iquote", "src/../inc", "-include", "inc/i.h", "-Iinc", "src//a.cc"],
        ] {
            let Some(unit) = Unit::new(compiler, &FILES, flags) else { continue };
            assert_eq!(unit.difference(), None, "{compiler} {flags:?}");
        }
    }
}

/// clang writes another name than it reads.
#[test]
fn names_with_a_backslash_are_not_compared() {
    for compiler in ["gcc", "clang"] {
        let files = [("a.c", "#include \"b\\c.h\"\n"), ("b\\c.h", "")];
        let Some(unit) = Unit::new(compiler, &files, &["a.c"]) else { continue };
        assert_eq!(unit.difference(), None, "{compiler}");
    }
}

#[test]
fn a_file_that_the_scan_does_not_know_is_a_difference() {
    let mut unit = Unit::new("gcc", &FILES, &["-Iinc", "src/a.cc"]).unwrap();
    let lost = unit.path("inc/deeper/d.h");
    unit.inputs.files.retain(|input| input.path != lost);
    assert_eq!(unit.difference(), Some(Difference::NotFound(lost)));
}

#[test]
fn a_file_that_the_compiler_did_not_read_is_a_difference() {
    let mut unit = Unit::new("gcc", &FILES, &["-Iinc", "src/a.cc"]).unwrap();
    let path = unit.path("inc/never.h");
    unit.scanned.world.write("inc/never.h", "");
    let digest = unit.inputs.files[0].digest;
    let input = |role| Input { path: path.clone(), digest, executable: false, role };
    unit.inputs.files.push(input(Role::Other));
    assert_eq!(unit.difference(), None);
    unit.inputs.files.push(input(Role::Included([7; 16])));
    assert_eq!(unit.difference(), Some(Difference::NotRead(path)));
    unit.style = DependStyle::User;
    assert_eq!(unit.difference(), None);
}

#[test]
fn what_the_compiler_itself_named_differs_from_nothing() {
    let mut unit = Unit::new("gcc", &FILES, &["-Iinc", "src/a.cc"]).unwrap();
    unit.inputs.files.iter_mut().for_each(|input| input.role = Role::Other);
    unit.inputs.files.retain(|input| input.path.starts_with(Path::new("/usr")));
    assert_eq!(unit.difference(), None);
}
