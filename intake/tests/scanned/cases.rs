//! Cases that are known to be hard, one by one.

use crate::{Scanned, differences, world};

/// Writes `files`, compiles with `flags` by every compiler, and wants the scan to be sure and right.
fn agree(files: &[(&str, &str)], flags: &[&str]) {
    check(files, flags, &[], true);
}

fn check(files: &[(&str, &str)], flags: &[&str], env: &[(&str, &str)], sure: bool) {
    for name in ["gcc", "clang"] {
        let Some(compiler) = world::installed(name) else { continue };
        let mut scanned = Scanned::new();
        scanned.world.env.extend(env.iter().map(|(name, value)| (name.into(), value.into())));
        for (path, text) in files {
            scanned.world.write(path, text);
        }
        let mut words = vec!["-c", "-w"];
        words.extend(flags);
        let both = scanned.both(&compiler, &words);
        let traced = both.traced.unwrap_or_else(|error| panic!("{name} {flags:?}: {error:?}"));
        match both.scanned {
            Ok(ours) => {
                let differences = differences(&ours, &traced, true);
                assert!(differences.is_empty(), "{name} {flags:?}: {differences:#?}");
            }
            Err(doubt) => assert!(!sure, "{name} {flags:?}: {doubt:?}"),
        }
    }
}

#[test]
fn plain_units() {
    agree(&[("a.c", "int x;\n")], &["a.c"]);
    agree(
        &[("a.c", "#include <stdio.h>\n#include <stdlib.h>\n#include <limits.h>\n#include <math.h>\n")],
        &["a.c"],
    );
    agree(
        &[("a.c", "#include <stdio.h>\n#include <string.h>\n")],
        &["-O2", "-D_FORTIFY_SOURCE=2", "-pthread", "a.c"],
    );
    agree(
        &[("a.cc", "#include <vector>\n#include <string>\n#include <iostream>\n#include <thread>\n")],
        &["-O2", "a.cc"],
    );
    agree(&[("a.cc", "#include <bits/stdc++.h>\n")], &["-std=c++20", "a.cc"]);
    agree(&[("a.S", "#include \"a.h\"\n# don't mind\n.text\n"), ("a.h", "#define X 1\n")], &["a.S"]);
}

#[test]
fn search_flags() {
    let files = [
        (
            "src/a.c",
            "#include \"q.h\"\n#include <i.h>\n#include <s.h>\n#include <after.h>\n#include <limits.h>\n",
        ),
        ("quote/q.h", ""),
        ("inc/i.h", "#include_next <i.h>\n"),
        ("sys/i.h", ""),
        ("sys/s.h", ""),
        ("late/after.h", ""),
        ("late/limits.h", ""),
    ];
    agree(&files, &["-iquotequote", "-Iinc", "-isystem", "sys", "-idirafter", "late", "-Inone", "src/a.c"]);
    agree(&files, &["-iquote", "quote", "-I", "inc", "-isystemsys", "-Ilate", "-nostdinc", "src/a.c"]);
    let cxx = [("a.cc", "#include <new.h>\n#include <stddef.h>\n"), ("x/new.h", "")];
    agree(&cxx, &["-nostdinc++", "-Ix", "a.cc"]);
    let root = [("a.c", "#include <x.h>\n"), ("root/usr/include/x.h", "")];
    agree(&root, &["--sysroot=root", "a.c"]);
    agree(&[("a.c", "#include <x.h>\n"), ("inc/x.h", "")], &["-I=inc", "-Iinc", "a.c"]);
}

#[test]
fn search_variables() {
    let files = [("a.c", "#include <x.h>\n#include <y.h>\n"), ("p/x.h", ""), ("c/y.h", "")];
    check(&files, &["a.c"], &[("CPATH", "p:none"), ("C_INCLUDE_PATH", "c")], true);
    check(&files, &["-Ic", "a.c"], &[("CPATH", "./p")], true);
}

#[test]
fn forced_files() {
    let files = [
        ("sub/a.c", "#if FORCED == 2 && SET == 3\n#include \"x.h\"\n#endif\n"),
        ("sub/x.h", ""),
        ("force.h", "#define FORCED SET - 1\n#include \"other.h\"\n"),
        ("other.h", ""),
        ("macros.h", "#undef SET\n#define SET 3\nint ignored;\n"),
    ];
    agree(&files, &["-DSET=1", "-include", "force.h", "-imacros", "macros.h", "sub/a.c"]);
    agree(&files, &["-DFORCED=2", "-DSET=4", "-USET", "-DSET=3", "sub/a.c"]);
    agree(&files, &["-DFORCED=2", "-Wp,-DSET=3", "-DSET=4", "-Wp,-USET,-DSET=3", "sub/a.c"]);
    agree(
        &[("a.c", "#ifdef __linux__\n#include \"no.h\"\n#endif\n")],
        &["-undef", "-ffreestanding", "-nostdinc", "a.c"],
    );
}

#[test]
fn questions_to_the_compiler() {
    let text = "#ifdef __has_attribute\n#if __has_attribute(noinline) && !__has_attribute(no_such_thing)\n\
                #include \"a.h\"\n#endif\n#endif\n#ifdef __has_builtin\n#if __has_builtin(__builtin_expect)\n\
                #include \"b.h\"\n#endif\n#endif\n#ifdef __has_feature\n#if __has_feature(cxx_exceptions)\n\
                #include \"c.h\"\n#endif\n#endif\n#ifdef __has_cpp_attribute\n\
                #if __has_cpp_attribute(nodiscard) >= 201603 || __has_cpp_attribute(gnu::cold)\n#include \"d.h\"\n#endif\n#endif\n";
    let files = [("a.cc", text), ("a.c", text), ("a.h", ""), ("b.h", ""), ("c.h", ""), ("d.h", "")];
    agree(&files, &["a.cc"]);
    agree(&files, &["a.c"]);
    agree(&files, &["-fno-exceptions", "a.cc"]);
}

#[test]
fn modes() {
    let text = "??=include \"tri.h\"\n%:include \"di.h\"\n// ??/\n#include \"no.h\"\n";
    let files = [("a.c", text), ("tri.h", ""), ("di.h", ""), ("no.h", "")];
    agree(&files, &["-std=c99", "a.c"]);
    agree(&files, &["-std=gnu99", "-trigraphs", "a.c"]);
    agree(&[("a.c", "%:include \"di.h\"\nint a; // '\n"), ("di.h", "")], &["-std=gnu89", "a.c"]);
    let raw = "const char *s = R\"(\n#include \"x.h\"\n)\";\n";
    agree(&[("a.cc", raw), ("x.h", "")], &["-std=c++11", "a.cc"]);
    let separators = "int a = 1'000'000; /*\n' */\n#include \"x.h\"\n";
    agree(&[("a.cc", separators), ("x.h", "")], &["-std=c++14", "a.cc"]);
}

#[test]
fn files_that_are_read_once() {
    let files = [
        (
            "a.c",
            "#include \"o.h\"\n#include \"copy.h\"\n#import \"i.h\"\n#import \"i.h\"\n#include \"sub/../o.h\"\n",
        ),
        ("o.h", "#pragma once\n#include \"x.h\"\n"),
        ("copy.h", "#pragma once\n#include \"x.h\"\n"),
        ("i.h", "#ifdef I\n#include \"no.h\"\n#endif\n#define I\n"),
        ("sub/dummy", ""),
        ("x.h", ""),
    ];
    agree(&files, &["a.c"]);
}

#[test]
fn has_include_looks_and_does_not_read() {
    let files = [
        (
            "a.c",
            "#if __has_include(\"x.h\") && !__has_include(<none/y.h>)\n#include \"z.h\"\n#endif\n#if 0 && __has_include(\"w.h\")\n#endif\n",
        ),
        ("x.h", "#error not read\n"),
        ("z.h", ""),
        ("w.h", ""),
    ];
    agree(&files, &["a.c"]);
}

/// gcc does not import a file that it has found by another way before, even if it never read it.
#[test]
fn importing_what_was_found_before_by_another_way() {
    let main = "#if __has_include(\"h.h\")\n#endif\n#include \"other.h\"\n";
    let files = [
        ("src/a.c", main),
        ("d/other.h", "#if __has_include(\"h.h\")\n#import \"h.h\"\n#endif\n"),
        ("d/h.h", "#include <limits.h>\n"),
    ];
    check(&files, &["-Id", "src/a.c"], &[], false);
}

#[test]
fn directories_in_the_place_of_headers() {
    let files = [("a.c", "#include <x.h>\n"), ("one/x.h/dummy", ""), ("two/x.h", "")];
    agree(&files, &["-Ione", "-Itwo", "a.c"]);
}

#[test]
fn conditions_of_a_header_that_is_read_again() {
    let header = "#define IS(n) (K == n)\n#if IS(1)\n#include \"one.h\"\n#endif\n#if IS(2) && L\n#include \"two.h\"\n\
                  #endif\n#if defined K && HAS(<three.h>)\n#include <three.h>\n#endif\n#undef IS\n";
    let main = "#define HAS(x) 0\n#define K 1\n#include \"x.h\"\n#undef K\n#define K M\n#include \"x.h\"\n#define M 2\n\
                #include \"x.h\"\n#define L (M)\n#include \"x.h\"\n#undef HAS\n#define HAS __has_include\n#include \"x.h\"\n\
                #undef K\n#include \"x.h\"\n";
    let files = [("a.c", main), ("x.h", header), ("one.h", ""), ("two.h", ""), ("in/three.h", "")];
    agree(&files, &["-Iin", "a.c"]);
}

#[test]
fn directories_that_are_missing_on_the_way() {
    let main = "#include \"p/q/x.h\"\n#include \"p/q/y.h\"\n#include <p/../p/q/z.h>\n#include \"r/s/t/w.h\"\n#include \"p//q/v.h\"\n";
    let files = [
        ("src/a.c", main),
        ("one/p/dummy", ""),
        ("two/p", "no directory"),
        ("three/p/q", "no directory"),
        ("four/p/q/x.h", "#include \"q/y.h\"\n#include \"p/q/r/s.h\"\n"),
        ("five/p/q/y.h", ""),
        ("five/p/q/z.h", ""),
        ("five/p/q/v.h", ""),
        ("five/p/q/q/y.h", ""),
        ("five/p/q/r/s.h", ""),
        ("six/r/s/t/w.h", ""),
        ("four/p/q/q/y.h", ""),
    ];
    let flags = ["-Ione", "-Itwo", "-Ithree", "-Ifour", "-Inone/at/all", "-Ifive", "-Isix", "src/a.c"];
    agree(&files, &flags);
}

#[test]
fn it_says_when_it_does_not_know() {
    for text in [
        "#if __COUNTER__ == 0\n#endif\n",
        "#if __LINE__ > 5\n#endif\n",
        "#define F(x, ...) f(x, ## __VA_ARGS__)\n#if 0\n#endif\n",
        "#pragma GCC target(\"avx2\")\n#ifdef __AVX2__\n#endif\n",
        "_Pragma(\"once\")\n",
    ] {
        check(&[("a.c", text)], &["a.c"], &[], false);
    }
}

#[test]
fn it_notices_directories_that_appear() {
    let Some(compiler) = world::installed("gcc") else { return };
    let scanned = Scanned::new();
    scanned.world.write("a.c", "#include <x.h>\n");
    scanned.world.write("two/x.h", "");
    let find = || {
        let both = scanned.both(&compiler, &["-c", "-Ione", "-Itwo", "a.c"]);
        let (ours, theirs) = (both.scanned.unwrap(), both.traced.unwrap());
        assert_eq!(differences(&ours, &theirs, true), [""; 0]);
        ours.files.iter().any(|input| input.path.ends_with("one/x.h"))
    };
    assert!(!find());
    scanned.world.write("one/x.h", "");
    assert!(find());
    assert_eq!(scanned.scanner.counts().probes, 2);
}
