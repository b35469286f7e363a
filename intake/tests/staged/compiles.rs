//! One compile each, here and in its own root.

use std::ffi::OsString;
use std::process::Command;

use dbuild_intake::{FindError, IntakeError};

use crate::stage::{self, Gave};
use crate::world::{World, installed, outputs, words};

/// Compiles `command` both ways and compares. Answers false where it cannot.
fn same(world: &World, command: &str) -> bool {
    same_words(world, &words(command))
}

fn same_words(world: &World, command: &[OsString]) -> bool {
    let Some(compiler) = installed(command[0].to_str().unwrap()) else { return false };
    if !stage::possible() {
        return false;
    }
    let toolchain = world.toolchain(&compiler).unwrap();
    let task = world.task(&toolchain, command);
    let inputs = world.find(&toolchain, &command[0], &task).unwrap();
    let action = world.action(&toolchain, &command[0], &task, &inputs).unwrap();
    let outputs = outputs(&task);
    let cwd = world.cwd();
    let plain = Command::new(&command[0])
        .args(&command[1..])
        .current_dir(&cwd)
        .env_clear()
        .envs(world.env.iter().cloned())
        .output()
        .unwrap();
    let here = Gave::new(plain, "/".as_ref(), &cwd, &outputs);
    assert_eq!(here.code, Some(0), "{command:?}: {}", here.stderr);
    assert!(!here.outputs.is_empty());
    let there = stage::run(&action, &outputs);
    assert_eq!(
        (there.code, &there.stderr, &there.stdout),
        (here.code, &here.stderr, &here.stdout),
        "{command:?}"
    );
    for (path, bytes) in &here.outputs {
        let other = there.outputs.get(path);
        assert_eq!(other.map(Vec::len), Some(bytes.len()), "{}", path.display());
        assert!(other == Some(bytes), "{command:?}: other bytes in {}", path.display());
    }
    assert_eq!(there.outputs.len(), here.outputs.len());
    true
}

const C: &str = "#include <stdio.h>\n#include <string.h>\nint main(int n, char **v) { char b[9]; \
                 memset(b, n, sizeof b); return printf(\"%s %d\\n\", v[0], b[n]); }\n";
const CXX: &str = "#include <vector>\n#include <string>\n#include <iostream>\n#include <map>\n\
                   int main() { std::map<std::string, std::vector<int>> m; m[\"a\"].push_back(1); \
                   std::cout << m.size() << __FILE__ << std::endl; }\n";

#[test]
fn c() {
    for compiler in ["gcc", "clang", "cc", "gcc-12", "x86_64-linux-gnu-gcc", "clang-14"] {
        let world = World::new();
        world.write("a.c", C);
        same(&world, &format!("{compiler} -O2 -g -c a.c"));
    }
}

#[test]
fn cxx() {
    for compiler in ["g++", "clang++", "c++"] {
        let world = World::new();
        world.write("a.cc", CXX);
        same(&world, &format!("{compiler} -O2 -g -std=c++17 -c a.cc -o a.o -MD -MF a.d"));
    }
}

#[test]
fn by_an_absolute_compiler_into_another_directory() {
    let world = World::new();
    world.write("src/a.c", C);
    world.write("obj/keep", "");
    let object = world.cwd().join("obj/a.o");
    for compiler in ["/usr/bin/gcc", "/usr/bin/clang"] {
        same(&world, &format!("{compiler} -g -c src/../src/a.c -o {}", object.display()));
    }
}

#[test]
fn search_directories_of_all_kinds() {
    for compiler in ["gcc", "clang"] {
        let world = World::new();
        world.write("sub/deep/keep", "");
        world.write("real/inc/a.h", "#include \"b.h\"\n#include_next <a.h>\n");
        world.write(
            "real/inc/b.h",
            "#if __has_include(<none.h>) || __has_include(\"b2.h\")\n#include \"b2.h\"\n#endif\n",
        );
        world.write("real/inc/b2.h", "int b2;\n");
        world.write("other/a.h", "int next;\n");
        world.write("empty/keep", "");
        world.link("alias", "real");
        world.write("src/a.c", "#include <a.h>\nint a;\n");
        let flags = "-Iempty -Inone -Isub/deep/../../alias/inc -isystem other -iquote real/../empty";
        same(&world, &format!("{compiler} {flags} -g -O1 -c src/a.c -o a.o -MMD"));
    }
}

#[test]
fn assembly_that_is_preprocessed() {
    for compiler in ["gcc", "clang"] {
        let world = World::new();
        world.write("v.h", "#define VALUE 42\n");
        world.write("a.S", "#include \"v.h\"\n.globl f\nf: mov $VALUE, %eax\nret\n");
        same(&world, &format!("{compiler} -g -c a.S"));
    }
}

#[test]
fn split_debug_information_needs_objcopy() {
    for compiler in ["gcc", "clang"] {
        let world = World::new();
        // gcc 12 hashes addresses of its own memory into the id where optimised code has location lists: with those,
        // two runs here differ, too.
        world.write("a.c", C);
        same(&world, &format!("{compiler} -g -gsplit-dwarf -O0 -c a.c -o a.o"));
    }
}

#[test]
fn warnings_in_the_language_of_the_caller() {
    for locale in ["C", "C.UTF-8"] {
        let mut world = World::new();
        world.env.push(("LC_ALL".into(), locale.into()));
        world.write("a.c", "int f(void) { int unused; return undeclared(); }\n");
        for compiler in ["gcc", "clang"] {
            same(&world, &format!("{compiler} -Wall -c a.c"));
        }
    }
}

#[test]
fn file_names_with_blanks_and_beyond_ascii() {
    for compiler in ["gcc", "clang"] {
        let world = World::new();
        world.write("a b é.c", C);
        let mut command = words(&format!("{compiler} -g -c"));
        command.push("a b é.c".into());
        same_words(&world, &command);
    }
}

#[test]
fn working_directory_by_its_logical_name() {
    for compiler in ["gcc", "clang"] {
        let mut world = World::new();
        world.write("a.c", C);
        let logical = world.cwd().with_file_name("logical");
        std::os::unix::fs::symlink(world.cwd(), &logical).unwrap();
        world.env.push(("PWD".into(), logical.into()));
        same(&world, &format!("{compiler} -g -c a.c"));
    }
}

#[test]
fn a_missing_header_is_the_compilers_to_tell() {
    let world = World::new();
    world.write("a.c", "#include \"none.h\"\n");
    for name in ["gcc", "clang"] {
        let Some(compiler) = installed(name) else { continue };
        let toolchain = world.toolchain(&compiler).unwrap();
        let command = words(&format!("{name} -c a.c"));
        let task = world.task(&toolchain, &command);
        match world.find(&toolchain, &command[0], &task) {
            Err(FindError::Compiler { stderr, .. }) => {
                assert!(String::from_utf8_lossy(&stderr).contains("none.h"))
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn incbin_is_mentioned_by_what_reads_it() {
    let world = World::new();
    world.write("blob", "bytes");
    world.write("b.h", "__asm__(\".incbin \\\"blob\\\"\");\n");
    world.write("a.c", "#include \"b.h\"\n");
    let Some(compiler) = installed("gcc") else { return };
    let toolchain = world.toolchain(&compiler).unwrap();
    let command = words("gcc -c a.c");
    let task = world.task(&toolchain, &command);
    assert!(world.find(&toolchain, &command[0], &task).unwrap().mentions.incbin);
}

#[test]
fn names_that_are_not_utf8_stay_here() {
    use std::os::unix::ffi::OsStringExt as _;
    let world = World::new();
    let name = OsString::from_vec(b"a\xff.c".to_vec());
    fs_err::write(world.cwd().join(&name), C).unwrap();
    let Some(compiler) = installed("gcc") else { return };
    let toolchain = world.toolchain(&compiler).unwrap();
    let mut command = words("gcc -o a.o -c");
    command.push(name);
    let task = world.task(&toolchain, &command);
    let inputs = world.find(&toolchain, &command[0], &task).unwrap();
    let error = world.action(&toolchain, &command[0], &task, &inputs).unwrap_err();
    assert!(matches!(error, IntakeError::NotUtf8(_)), "{error}");
}
