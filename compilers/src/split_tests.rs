//! Plans for whole calls: what becomes of sources, flags, outputs, and links.

use proptest::prelude::*;

use super::*;
use crate::testing::FakeFiles;

fn files() -> FakeFiles {
    let texts = [
        "a.c", "b.c", "x.y.c", "s/b.c", "a.cpp", "a.S", "a.s", "a.i", "h.h", "d/keep", "a.m", "sub/a.c",
        "list.txt",
    ];
    let mut all: Vec<(String, &str)> = texts.iter().map(|name| (format!("/w/{name}"), "")).collect();
    all.push(("/w/args".into(), "-c a.c -DX='1 2' -o d/a.o"));
    all.push(("/w/pre.h.pch".into(), ""));
    all.push(("/w/tools/as".into(), ""));
    FakeFiles::new(&all.iter().map(|(path, text)| (path.as_str(), *text)).collect::<Vec<_>>())
}

fn plan_with(family: Family, line: &str, env: &[(&str, &str)], tty: bool) -> Plan {
    let argv: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
    let env: Vec<_> = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
    let call = Call { argv: &argv, cwd: Path::new("/w"), env: &env, umask: 0o22, stderr_tty: tty };
    let version = if family == Family::Gcc { (12, 2, 0) } else { (14, 0, 6) };
    analyse(&call, &CompilerInfo { family, version, target: "x86_64-linux-gnu".into() }, &files())
}

fn gcc(line: &str) -> Plan {
    plan_with(Family::Gcc, &format!("gcc {line}"), &[], false)
}

fn clang(line: &str) -> Plan {
    plan_with(Family::Clang, &format!("clang {line}"), &[], false)
}

fn text(words: &[OsString]) -> String {
    words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn tasks(plan: Plan) -> Vec<Task> {
    match plan {
        Plan::Tasks { tasks, .. } => tasks,
        Plan::Local(reason) => panic!("local: {reason}"),
    }
}

/// The one task of a plan.
fn only(plan: Plan) -> Task {
    let mut tasks = tasks(plan);
    assert_eq!(tasks.len(), 1);
    tasks.remove(0)
}

#[test]
fn a_plain_compile_is_one_task_with_the_calls_own_arguments() {
    let task = only(gcc("-O2 -Wall -I inc -c a.c -o d/a.o -MMD -lfoo"));
    assert!(task.same_as_call && !task.needs_object_path());
    assert_eq!(text(&task.args), "-O2 -Wall -I inc -c a.c -o d/a.o -MMD -lfoo");
    assert_eq!(
        text(&task.depend_args.unwrap()),
        "-O2 -Wall -I inc a.c -M -MF /dev/null -o /dev/null -fpch-preprocess"
    );
    let paths: Vec<_> = task.outputs.iter().map(|output| output.path().unwrap().to_str().unwrap()).collect();
    assert_eq!(paths, ["d/a.o", "d/a.d"]);
    assert_eq!((task.distribute, task.cache), (Ok(()), Ok(())));
}

#[test]
fn response_files_are_expanded() {
    let task = only(gcc("@args"));
    assert!(task.same_as_call);
    assert_eq!(task.args, ["-c", "a.c", "-DX=1 2", "-o", "d/a.o"]);
    assert_eq!(gcc("-c a.c @nowhere"), Plan::Local(Reason::UnusedLinkerInput));
}

#[test]
fn several_sources_are_split() {
    let split = tasks(clang("-c -DA a.c -x c++ b.c -x none x.y.c -g"));
    let args: Vec<_> = split.iter().map(|task| text(&task.args)).collect();
    assert_eq!(args, ["-c -DA a.c -g", "-c -DA -x c++ b.c -g", "-c -DA x.y.c -g"]);
    assert_eq!(split[1].language, crate::Language::Cxx);
    assert!(split.iter().all(|task| !task.same_as_call));
    assert_eq!(gcc("-c a.c sub/a.c"), Plan::Local(Reason::OutputsCollide));
    assert_eq!(gcc("-c a.c b.c -MD -MF x.d"), Plan::Local(Reason::OutputsCollide));
    assert_eq!(gcc("-c a.c b.c -o x.o"), Plan::Local(Reason::OneOutputManySources));
}

#[test]
fn compile_and_link_becomes_tasks_and_a_link_in_the_same_order() {
    for family in [Family::Gcc, Family::Clang] {
        let plan = plan_with(family, "cc -O2 a.c -Lx x.o -x c b.c -lfoo -Wl,-z,now -o prog", &[], false);
        let Plan::Tasks { tasks, then: Some(link) } = plan else { panic!("{plan:?}") };
        let object = Path::new("/t/1.o");
        assert_eq!(text(&tasks[0].args_with_object(object)), "-O2 a.c -c -o /t/1.o");
        assert_eq!(text(&tasks[1].args_with_object(object)), "-O2 -x c b.c -c -o /t/1.o");
        assert_eq!(tasks[0].args[..2], ["-O2", "a.c"]);
        assert_eq!(tasks[0].outputs[0].place, Place::Intermediate);
        let quiet = if family == Family::Clang { "-Qunused-arguments " } else { "" };
        let want = format!("{quiet}-O2 /t/1.o -Lx x.o /t/2.o -lfoo -Wl,-z,now -o prog");
        assert_eq!(text(&link.args_with_objects(&["/t/1.o".into(), "/t/2.o".into()])), want);
    }
}

#[test]
fn what_stays_here_says_why() {
    let both: &[(&str, Reason)] = &[
        ("x.o -o prog", Reason::Link),
        ("", Reason::NoSources),
        ("-c", Reason::NoSources),
        ("-E a.c", Reason::PreprocessOnly),
        ("-M a.c", Reason::DependenciesOnly),
        ("-c a.c -MM", Reason::DependenciesOnly),
        ("-fsyntax-only a.c", Reason::SyntaxOnly),
        ("-### -c a.c", Reason::DryRun),
        ("-v", Reason::Query),
        ("--version", Reason::Query),
        ("-dumpversion", Reason::Query),
        ("-print-file-name=x", Reason::Query),
        ("-c -", Reason::ReadsStdin),
        ("-c -x c - -o a.o", Reason::ReadsStdin),
        ("-c a.c -o -", Reason::WritesStdout),
        ("-c a.c -MD -MF -", Reason::WritesStdout),
        ("-wrapper gdb,--args -c a.c", Reason::Wrapper),
        ("-c a.c -wobble", Reason::UnknownFlag("-wobble".into())),
        ("-c a.c -fnew=/x/y", Reason::UnknownFlag("-fnew".into())),
        ("-c a.c -o", Reason::MissingArgument),
        ("-c -S a.c", Reason::Contradiction),
        ("-c a.c -o x.o -o y.o", Reason::Contradiction),
        ("-c nope.c", Reason::SourceMissing),
        ("-c -x c /dev/null -o x.o", Reason::SourceNotRegular),
        ("-c a.c -o /dev/null", Reason::OutputNotRegular),
        ("-c a.c -o d", Reason::OutputNotRegular),
        ("-c a.c -o nowhere/a.o", Reason::OutputDirectoryMissing),
        ("-c a.c x.o", Reason::UnusedLinkerInput),
        ("-c a.f90", Reason::UnknownLanguage),
        ("-c a.c -fdump-tree-all", Reason::Dumps),
        ("-c a.c -Wa,-ahl=x", Reason::AssemblerListing),
        ("-c a.c -fplugin=x.so", Reason::Plugin),
        ("-c a.c -fmodules", Reason::Modules),
        ("-c a.c -ftime-report", Reason::Volatile),
        ("a.c -MD -o prog", Reason::LinkWithOtherOutputs),
        ("a.c -g --coverage", Reason::LinkWithOtherOutputs),
        ("a.c -flto", Reason::LinkTimeOptimization),
        ("-c a.i -o a.i", Reason::OutputsCollide),
        ("-c a.c -o ./a.c", Reason::OutputsCollide),
        ("-c a.c -o d/a.o -MD -MF d//a.o", Reason::OutputsCollide),
        ("a.c b.c -o ./b.c", Reason::OutputsCollide),
        ("a.c x.o -o x.o", Reason::OutputsCollide),
    ];
    for (line, reason) in both {
        assert_eq!(gcc(line.trim()), Plan::Local(reason.clone()), "gcc {line}");
        assert_eq!(clang(line.trim()), Plan::Local(reason.clone()), "clang {line}");
    }
    assert_eq!(clang("h.h"), Plan::Local(Reason::ClangPch));
    assert_eq!(clang("-c a.c -Xclang -include-pch -Xclang x.pch"), Plan::Local(Reason::ClangPch));
    assert_eq!(clang("-c a.c -include pre.h"), Plan::Local(Reason::ClangPch));
    assert_eq!(gcc("h.h -MD"), Plan::Local(Reason::PchDepfile));
    assert_eq!(gcc("-c a.c -fopt-info-vec=x"), Plan::Local(Reason::ReportFile));
}

#[test]
fn environment_decides_too() {
    let with = |env: &[(&str, &str)], tty| plan_with(Family::Gcc, "gcc -c a.c", env, tty);
    let deps = with(&[("DEPENDENCIES_OUTPUT", "x")], false);
    assert_eq!(deps, Plan::Local(Reason::EnvironmentOutput("DEPENDENCIES_OUTPUT")));
    assert_eq!(text(&only(with(&[("TERM", "xterm")], false)).args), "-c a.c");
    let coloured = only(with(&[("TERM", "xterm")], true));
    assert_eq!(text(&coloured.args), "-c a.c -fdiagnostics-color=always");
    assert!(coloured.same_as_call);
}

#[test]
fn some_tasks_are_bound_to_this_machine() {
    let task = only(gcc("-c a.c -march=native"));
    assert_eq!(task.distribute, Err(Reason::Native));
    assert!(task.needs_cpu_identity);
    assert_eq!(only(gcc("-c a.c -fprofile-use")).distribute, Err(Reason::ProfileByName));
    assert_eq!(only(gcc("-c a.c -Btools")).distribute, Err(Reason::OtherTools));
    assert_eq!(only(clang("-c a.c -Btools")).distribute, Ok(()));
    assert_eq!(only(gcc("-c a.c -Bnowhere")).distribute, Ok(()));
    let listed = only(clang("-c a.c -fsanitize-ignorelist=list.txt -fprofile-use=list.txt"));
    assert_eq!(listed.extra_inputs, [Path::new("list.txt"), Path::new("list.txt")]);
    assert_eq!(listed.distribute, Ok(()));
}

#[test]
fn depfiles_through_the_preprocessor_are_outputs() {
    for plan in [gcc("-Wp,-MMD,d/.a.o.d -c -o d/a.o a.c"), clang("-Wp,-MMD,d/.a.o.d -c -o d/a.o a.c")] {
        let task = only(plan);
        assert_eq!(task.outputs[1].path(), Some(Path::new("d/.a.o.d")));
        assert!(!text(&task.depend_args.unwrap()).contains(".a.o.d"));
    }
}

#[test]
fn a_long_flag_of_clang_is_not_an_entry_point() {
    const FLAG: &str = "-enable-trivial-auto-var-init-zero-knowing-it-will-be-removed-from-clang";
    let task = only(clang(&format!("{FLAG} -ftrivial-auto-var-init=zero -c a.c")));
    assert!(text(&task.depend_args.unwrap()).contains(FLAG));
    assert!(text(&task.args).contains(FLAG));
}

#[test]
fn what_is_not_preprocessed_needs_no_search() {
    assert_eq!(only(gcc("-c a.i")).depend_args, None);
    assert_eq!(only(gcc("-c a.s -MD")).depend_args, None);
    assert!(only(gcc("-c a.S")).depend_args.is_some());
    assert_eq!(only(gcc("-c a.s -MD")).outputs.len(), 1);
}

/// Words as builds and mischief make them.
fn word() -> impl Strategy<Value = OsString> {
    let known = prop::sample::select(
        &[
            "-c",
            "-S",
            "-o",
            "-x",
            "c",
            "c++",
            "none",
            "-MD",
            "-MF",
            "-MT",
            "-Wp,-MD,x.d",
            "-Wp,",
            "-Wa,",
            "-I",
            "-D",
            "a.c",
            "b.c",
            "a.cpp",
            "a.S",
            "h.h",
            "x.o",
            "d/x.o",
            "-lfoo",
            "-l",
            "-L",
            "-flto",
            "-g",
            "-gsplit-dwarf",
            "-save-temps",
            "-save-temps=obj",
            "--coverage",
            "-fprofile-use=",
            "@args",
            "@",
            "@d",
            "-Xclang",
            "-mllvm",
            "-",
            "--",
            "",
            "-march=native",
            "-include",
            "-B",
            "-f",
            "-W",
            "-m",
            "-O",
            "-",
        ][..],
    )
    .prop_map(OsString::from);
    let any_bytes =
        proptest::collection::vec(1u8.., 0..6).prop_map(std::os::unix::ffi::OsStringExt::from_vec);
    prop_oneof![8 => known, 1 => any_bytes]
}

proptest! {
    #[test]
    fn never_panics_and_never_loses_a_source(words in proptest::collection::vec(word(), 0..10), is_gcc: bool) {
        let family = if is_gcc { Family::Gcc } else { Family::Clang };
        let argv: Vec<OsString> = std::iter::once("cc".into()).chain(words.clone()).collect();
        let call = Call { argv: &argv, cwd: Path::new("/w"), env: &[], umask: 0, stderr_tty: false };
        let info = CompilerInfo { family, version: (12, 0, 0), target: String::new() };
        let plan = analyse(&call, &info, &files());
        if let Plan::Tasks { tasks, then } = plan {
            prop_assert!(!tasks.is_empty());
            // Every word that is a source is the source of a task, unless a flag took it.
            let expanded = response::expand(&words, family, Path::new("/w"), &files()).unwrap();
            let cut = row::cut(expanded, if family == Family::Gcc { &GCC } else { &CLANG }).unwrap();
            let inputs: Vec<_> = cut.iter().filter(|arg| arg.row.is_none()).map(Arg::value).collect();
            let sources: Vec<_> = tasks.iter().map(|task| task.source.as_os_str()).collect();
            for input in &inputs {
                let linked = then.as_ref().is_some_and(|link| link.args.iter().any(|arg| arg == input));
                prop_assert!(sources.contains(input) || linked);
            }
            for task in &tasks {
                let own = task.args.iter().filter(|arg| *arg == task.source.as_os_str()).count();
                prop_assert!(own >= 1);
                prop_assert!(!task.outputs.is_empty());
                prop_assert_eq!(task.needs_object_path(), then.is_some());
            }
            if let Some(link) = then {
                prop_assert_eq!(link.object_slots.len(), tasks.len());
            }
        }
    }
}
