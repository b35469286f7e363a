use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::testing::FakeFiles;
use crate::{Call, CompilerInfo, Family, OutputKind, Plan, Reason, Task, analyse};

const CARGO: &str = "--crate-name foo --edition=2021 src/lib.rs --error-format=json \
    --json=diagnostic-rendered-ansi,artifacts,future-incompat --crate-type lib --emit=dep-info,metadata,link \
    -C embed-bitcode=no -C debuginfo=2 -C metadata=1 -C extra-filename=-ab12 --out-dir /t/debug/deps \
    -L dependency=/t/debug/deps --extern bar=/t/debug/deps/libbar-1.rmeta --cap-lints allow";

fn files() -> FakeFiles {
    FakeFiles::new(&[
        ("/w/src/lib.rs", ""),
        ("/w/a-b.rs", ""),
        ("/t/debug/deps/x", ""),
        ("/w/args", "--crate-type\r\nbin\nsrc/lib.rs\n"),
    ])
}

fn planned(argv0: &str, line: &str, stderr_tty: bool) -> Plan {
    let argv: Vec<OsString> =
        std::iter::once(argv0).chain(line.split_whitespace()).map(OsString::from).collect();
    let call = Call { argv: &argv, cwd: Path::new("/w"), env: &[], umask: 0o22, stderr_tty };
    let info = CompilerInfo { family: Family::Rustc, version: (1, 95, 0), target: "x".into() };
    analyse(&call, &info, &files())
}

fn task(line: &str) -> Task {
    match planned("rustc", line, false) {
        Plan::Tasks { mut tasks, then: None } if tasks.len() == 1 => tasks.remove(0),
        other => panic!("{line}: {other:?}"),
    }
}

fn refusal(line: &str) -> Reason {
    match planned("rustc", line, false) {
        Plan::Local(reason) => reason,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn a_call_of_cargos_is_one_task() {
    let task = task(CARGO);
    let unit = task.unit.unwrap();
    assert_eq!(task.source, Path::new("src/lib.rs"));
    let outputs: Vec<_> = task.outputs.iter().map(|o| (o.path().unwrap(), o.kind, o.certain)).collect();
    let expected = [
        (Path::new("/t/debug/deps/libfoo-ab12.rlib"), OutputKind::Crate, false),
        (Path::new("/t/debug/deps/foo-ab12.d"), OutputKind::Depfile, true),
        (Path::new("/t/debug/deps/libfoo-ab12.rmeta"), OutputKind::Crate, false),
    ];
    assert_eq!(outputs, expected);
    assert_eq!(unit.searched, [PathBuf::from("/t/debug/deps")]);
    assert_eq!(unit.out_dir, Path::new("/t/debug/deps"));
    for name in ["foo-ab12", "libfoo-ab12.so", "foo-ab12.foo.1-cgu.0.rcgu.dwo", "foo-ab12.d"] {
        assert!(unit.owns(OsStr::new(name)), "{name}");
    }
    for name in ["foo", "foo-ab123", "libfoo.rlib", "libfoo-ab12x", "other"] {
        assert!(!unit.owns(OsStr::new(name)), "{name}");
    }
}

#[test]
fn names_follow_the_source_and_the_output() {
    let by_source = task("a-b.rs").unit.unwrap();
    assert!(by_source.owns(OsStr::new("a_b")) && by_source.owns(OsStr::new("liba_b.rlib")));
    let by_output = task("src/lib.rs -o sub/../prog.x --emit link,obj=/t/debug/deps/x");
    let unit = by_output.unit.unwrap();
    assert_eq!(unit.out_dir, Path::new("sub/.."));
    assert!(unit.owns(OsStr::new("prog.x")) && unit.owns(OsStr::new("prog.d")));
    assert_eq!(by_output.outputs[0].path(), Some(Path::new("/t/debug/deps/x")));
}

#[test]
fn the_width_of_a_terminal_is_in_no_key() {
    let wide = task(&format!("{CARGO} --diagnostic-width=200"));
    let plain = task(CARGO);
    assert_eq!((&wide.args, wide.unit.unwrap().width), (&plain.args, Some("200".into())));
}

#[test]
fn both_spellings_of_an_option_are_one() {
    assert!(task("src/lib.rs -C target_cpu=native").needs_cpu_identity);
    assert!(task("src/lib.rs -C rpath").unit.unwrap().rpath);
    assert!(task("src/lib.rs -Cextra_filename=-x").unit.unwrap().owns(OsStr::new("lib-x.d")));
}

#[test]
fn native_libraries_are_looked_for_by_name() {
    let line = "src/lib.rs -Lnative=/n -L /p -L crate=/c -lstatic:+whole-archive=z -Lk=/odd";
    let unit = task(&format!("{line} -L dependency=/d")).unit.unwrap();
    assert_eq!(unit.libraries, ["/n", "/p", "/c", "k=/odd"].map(PathBuf::from));
    assert_eq!(unit.searched, ["/n", "/d"].map(PathBuf::from));
}

#[test]
fn arguments_from_files_are_words_of_the_call() {
    let task = task("--crate-name n @args");
    assert_eq!(task.args, ["--crate-name", "n", "--crate-type", "bin", "src/lib.rs"].map(OsString::from));
    assert_eq!(task.unit.unwrap().argument_files, [PathBuf::from("/w/args")]);
}

#[test]
fn clippy_is_told_its_compiler_first() {
    let line = format!("/opt/bin/rustc {CARGO}");
    assert!(matches!(planned("/opt/bin/clippy-driver", &line, false), Plan::Tasks { .. }));
    assert_eq!(planned("rustc", &line, false), Plan::Local(Reason::Contradiction));
}

#[test]
fn what_is_left_alone() {
    for (line, reason) in [
        ("-vV", Reason::Query),
        ("--version", Reason::Query),
        ("- --crate-name ___ --print=file-names", Reason::Query),
        ("- --crate-type lib", Reason::ReadsStdin),
        ("src/lib.rs -C incremental=/t/i", Reason::Incremental),
        ("src/lib.rs -Cincremental=/t/i", Reason::Incremental),
        ("src/lib.rs -C llvm_args=-load=x.so", Reason::LoadsCode),
        ("src/lib.rs --codegen incremental=/t/i", Reason::Incremental),
        ("src/lib.rs -Zcodegen_backend=cranelift", Reason::LoadsCode),
        ("src/lib.rs -C llvm-args=-load=x.so", Reason::LoadsCode),
        ("src/lib.rs -C link-arg=-Wl,-plugin,/x/p.so", Reason::LoadsCode),
        ("src/lib.rs -W help", Reason::Query),
        ("src/lib.rs --emit=dep-info=-", Reason::WritesStdout),
        ("src/lib.rs a-b.rs", Reason::Contradiction),
        ("none.rs", Reason::SourceMissing),
        ("src/lib.rs --out-dir", Reason::MissingArgument),
        ("src/lib.rs --frobnicate=1", Reason::UnknownFlag("--frobnicate".into())),
        ("src/lib.rs -q", Reason::UnknownFlag("-q".into())),
        ("@none", Reason::ResponseFile),
        ("", Reason::NoSources),
    ] {
        assert_eq!(refusal(line), reason, "{line}");
    }
    assert_eq!(planned("rustc", "src/lib.rs", true), Plan::Local(Reason::Terminal));
    assert!(matches!(planned("rustc", CARGO, true), Plan::Tasks { .. }));
}

#[test]
fn what_may_leave() {
    let leaves = |line: &str| task(line).distribute;
    assert_eq!(leaves(CARGO), Ok(()));
    assert_eq!(leaves("src/lib.rs --crate-type bin --emit=dep-info,metadata"), Ok(()));
    assert_eq!(leaves("src/lib.rs --test --emit=metadata"), Ok(()));
    for links in ["", "--crate-type bin", "--crate-type lib,cdylib", "--crate-type lib --test"] {
        assert_eq!(leaves(&format!("src/lib.rs {links}")), Ok(()), "{links}");
    }
    for other in ["--crate-type sdylib", "--crate-type bin --target wasm32-unknown-unknown"] {
        assert_eq!(leaves(&format!("src/lib.rs {other}")), Err(Reason::OtherResults), "{other}");
    }
    assert_eq!(leaves("src/lib.rs --crate-type lib --target wasm32-unknown-unknown"), Ok(()));
    for more in ["-C save-temps", "-Csplit_debuginfo=unpacked", "--emit=link,obj", "-o /t/debug/deps/y"] {
        let line = format!("src/lib.rs --crate-type lib {more}");
        assert_eq!(leaves(&line), Err(Reason::OtherResults), "{more}");
    }
    for native in ["-C target-cpu=native", "-Ztune_cpu=native"] {
        let line = format!("src/lib.rs --crate-type lib {native}");
        assert_eq!(leaves(&line), Err(Reason::Native), "{native}");
        assert!(task(&line).needs_cpu_identity);
    }
    let described = leaves("src/lib.rs --crate-type lib --target /w/args.json");
    assert_eq!(described, Err(Reason::DescribedTarget));
    let externs = task("src/lib.rs --extern a=/d/liba.rmeta --extern priv:b=c/libb.so --extern proc_macro");
    assert_eq!(externs.unit.unwrap().externs, ["/d/liba.rmeta", "c/libb.so"].map(PathBuf::from));
}

#[test]
fn linked_files_are_foretold() {
    let made = |line: &str| {
        let task = task(&format!("src/lib.rs --out-dir /t --crate-name n -C extra-filename=-1 {line}"));
        let names = task.outputs.iter().filter_map(|output| output.path()?.file_name()?.to_str());
        (names.map(str::to_owned).collect::<Vec<_>>().join(" "), task.unit.unwrap().links)
    };
    for (line, names, links) in [
        ("--crate-type lib", "libn-1.rlib", false),
        ("--crate-type lib --emit=metadata", "libn-1.rmeta", false),
        ("--crate-type bin --emit=metadata", "libn-1.rmeta", false),
        ("--crate-type bin", "n-1", true),
        ("", "n-1", true),
        ("--crate-type lib --test", "n-1", true),
        ("--crate-type proc-macro", "libn-1.so", true),
        ("--crate-type staticlib", "libn-1.a", true),
        ("--crate-type cdylib,rlib", "libn-1.rlib libn-1.so", true),
        ("--crate-type bin --target wasm32-unknown-unknown", "", true),
        ("--crate-type bin --target aarch64-unknown-linux-gnu", "n-1", true),
    ] {
        assert_eq!(made(line), (names.to_owned(), links), "{line}");
    }
}
