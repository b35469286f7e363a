//! The tables against the compilers of this machine: what a plan predicts is what gcc and clang do.
//!
//! Each row is run as the plain call and as its plan says, in two directories of the same name (one after the other), and
//! every file that appears is compared, byte for byte. A compiler that is not here is skipped with a line on stderr.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output as Finished};

use dbuild_compilers::{
    Call, CompilerInfo, Depfile, Family, FileKind, Files, OutputKind, Place, Plan, analyse,
};

/// Both families, as C. With `-frandom-seed` wherever gcc would put a time or a random number into the output.
const COMPILES: &[&str] = &[
    "-c a.c",
    "-c a.c -o d/foo.o",
    "-c a.c -od/foo.o",
    "-c a.c --output=d/foo.o",
    "-c a.c -o d/foo",
    "-c a.c -o d/.foo",
    "-c a.c -o d/foo.",
    "-S a.c",
    "-S a.c -o d/foo.s",
    "-S x.y.c -O2 -g",
    "-c x.y.c",
    "-c s/b.c",
    "-c 'sp ace.c' -MD -g",
    "-c a.c -MD",
    "-c a.c -MMD -MP -o d/foo.o",
    "-c a.c -MD -o d/foo",
    "-c a.c -MD -o d/.foo",
    "-c a.c -MD -o d/foo.c.o",
    "-c a.c -MD -MF d/z.d -MT target -o d/foo.o",
    "-c a.c -MMD -MFd/z.d -MQ 't$x'",
    "-c s/b.c -MD",
    "-S x.y.c -MD",
    "-S a.c -MD -o d/foo.s",
    "-Wp,-MD,d/.foo.o.d -c a.c -o d/foo.o",
    "-Wp,-MMD,d/.foo.o.d -c a.c",
    "-c a.c -g -gsplit-dwarf",
    "-c a.c -g -gsplit-dwarf -o d/foo.o",
    "-c a.c -g -gsplit-dwarf -o d/foo.x",
    "-c a.c -g -gsplit-dwarf -o d/foo",
    "-c a.c -g -gsplit-dwarf -o d/.foo",
    "-c a.c -gsplit-dwarf -g0",
    "-c a.c -gsplit-dwarf",
    "-c a.c -gsplit-dwarf -gno-split-dwarf",
    "-S a.c -g -gsplit-dwarf -o d/foo.s",
    "-S x.y.c -g -gsplit-dwarf",
    "-c a.c --coverage -frandom-seed=1",
    "-c a.c --coverage -frandom-seed=1 -o d/foo.o",
    "-c a.c --coverage -frandom-seed=1 -o d/.foo.o -MD",
    "-c a.c -ftest-coverage -frandom-seed=1 -o d/foo.x.o",
    "-c s/b.c -fprofile-arcs -ftest-coverage -frandom-seed=1",
    "-S a.c --coverage -frandom-seed=1 -o d/foo.s",
    "-c empty.c --coverage -frandom-seed=1 -fstack-usage",
    "-c a.c -fstack-usage",
    "-c a.c -fstack-usage -o d/foo",
    "-c a.c -fstack-usage -o d/foo.x.o -O2",
    "-c a.c -save-temps",
    "-c a.c -save-temps -o d/foo.o",
    "-c a.c -save-temps=obj -o d/foo.o",
    "-c a.c -save-temps=cwd -o d/foo.o",
    "-S a.c -save-temps -o d/foo.s",
    "-c a.cpp -save-temps=obj -o d/foo.x",
    "-c a.S -save-temps",
    "-c a.S -MD -g",
    "-c a.s -o d/foo.o",
    "-c a.i -MD -save-temps",
    "-c a.c -flto -frandom-seed=1 -o d/foo.o",
    "-c a.c -O2 -fsave-optimization-record",
    "-c a.c -O2 -fsave-optimization-record -o d/foo.o",
    "-c -x c++ a.c -MD -save-temps",
    "-c -xc++ noext -MD",
    "-c a.c -O2 -g -pipe -std=gnu11 -fPIC -Wall -Wextra -pthread -march=x86-64 -frandom-seed=x",
    "-c a.c -Wa,--noexecstack -Wa,-I,s -fverbose-asm -save-temps",
    "-c @args -MD",
    "-c a.c -include s/h.h -imacros h.h -MD -iquote s -isystem s -idirafter d -I.",
    "-c wrong.c",
    "-c wrong.c -MD -o d/foo.o",
    "-c missing.c -MD",
    "-c a.c -lfoo",
    // Split.
    "-c a.c s/b.c",
    "-c a.c s/b.c x.y.c -MD -g -gsplit-dwarf --coverage -frandom-seed=1 -fstack-usage",
    "-S a.c s/b.c -save-temps",
    "-c a.c wrong.c s/b.c",
    "-c a.c -x c++ s/b.c -x none a2.S -O1",
    // Compile and link.
    "a.c s/b.c",
    "a.c s/b.c -o d/prog -g",
    "-O2 a.c s/b.c -o d/prog -Wl,-z,now -lm -L. -pthread -s",
    "-DX s/b.c a.o a2.c -o prog -static",
    "-fno-pie -no-pie -g3 a.c s/b.c -o prog -Is -include h.h",
    "-shared -fPIC a.c s/b.c -o libx.so -Wl,-soname,libx.so.1",
    "-x c a.c -x none s/b.c -o prog",
    "-r a.c s/b.c -o all.o -nostdlib",
    "a.c wrong.c -o prog",
];

const GCC_ONLY: &[&str] = &[
    "-c a.c -fcallgraph-info",
    "-c a.c -fcallgraph-info=su,da -o d/foo.o",
    "h.h",
    "-c s/h.h",
    "-c h.h -MD -o d/h.h.gch",
    "-x c-header h.h -o d/h.h.gch",
    "-c a.c -fopt-info-vec",
    "-c a.c -frecord-gcc-switches -g",
    "-c a.c -flto -gsplit-dwarf -frandom-seed=1",
];

const CLANG_ONLY: &[&str] = &[
    "-c a.c -emit-llvm",
    "-S a.c -emit-llvm -o d/foo.ll",
    "-c a.c -flto=thin -g -gsplit-dwarf -o d/foo.o",
    "-c a.c -gsplit-dwarf=single -g",
    "-c a.c -grecord-command-line -MD",
    "-c a.c -fno-integrated-as -MD",
    "-c a.c -fprofile-instr-generate -fcoverage-mapping",
    "-c a.c -fsanitize=address -fsanitize-ignorelist=list.txt",
];

const SOURCES: &[(&str, &str)] = &[
    (
        "a.c",
        "#include <stddef.h>\n#include \"h.h\"\nint g(int);\nint f(int a) { int x[3] = {a, H}; return x[a % 3]; }\nint main(void) { return g(f(1)) * 0; }\n",
    ),
    ("a2.c", "int main(void) { return 0; }\n"),
    ("a2.S", "#include \"h.h\"\nfoo2: .long H\n"),
    (
        "a.cpp",
        "#include \"h.h\"\ntemplate <class T> T id(T x) { return x; }\nint f(int a) { return id(a) + H; }\n",
    ),
    ("noext", "#include \"h.h\"\nint f(int a) { return a + H; }\n"),
    ("a.S", "#include \"h.h\"\n.globl foo\nfoo: .long H\n"),
    ("a.s", ".globl foo\nfoo: .long 1\n"),
    ("a.i", "int f(int a) { return a; }\n"),
    ("x.y.c", "#include \"h.h\"\nint xy(int a) { return a + H; }\n"),
    ("sp ace.c", "#include \"h ash#.h\"\nint s = H;\n"),
    ("h ash#.h", "#define H 3\n"),
    ("empty.c", "extern int nothing;\n"),
    ("wrong.c", "#include \"h.h\"\nint f(int a) { return }\n"),
    ("h.h", "#ifndef H\n#define H 1\n#endif\n"),
    ("s/b.c", "#include \"h.h\"\nint g(int a) { return a + H; }\n"),
    ("s/h.h", "#ifndef H\n#define H 2\n#endif\n"),
    ("d/keep", ""),
    ("args", "a.c '-DX=1 2' -o d/foo.o"),
    ("list.txt", "fun:f\n"),
];

struct RealFiles;

impl Files for RealFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn kind(&self, path: &Path) -> Option<FileKind> {
        let metadata = fs::metadata(path).ok()?;
        Some(match (metadata.is_file(), metadata.is_dir()) {
            (true, _) => FileKind::File,
            (_, true) => FileKind::Directory,
            _ => FileKind::Other,
        })
    }
}

/// A directory with the sources; gone at the end.
struct Ground {
    root: PathBuf,
}

impl Ground {
    fn new(name: &str) -> Ground {
        Ground { root: std::env::temp_dir().join(format!("dbuild-compilers-{name}-{}", std::process::id())) }
    }

    fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    fn reset(&self) {
        let _ = fs::remove_dir_all(&self.root);
        for (name, text) in SOURCES {
            let path = self.work().join(name);
            fs::create_dir_all(path.parent().expect("sources lie below the ground")).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::create_dir(self.root.join("objects")).unwrap();
        // An object for the links. Not compared.
        fs::write(self.work().join("a.o"), fs::read(self.root.with_extension("o")).unwrap_or_default())
            .unwrap();
    }

    /// Every file that is not a source.
    fn appeared(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut directories = vec![self.work()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                    continue;
                }
                let name = path.strip_prefix(self.work()).unwrap().to_path_buf();
                if !SOURCES.iter().any(|(source, _)| name == Path::new(source)) {
                    found.insert(name, fs::read(&path).unwrap());
                }
            }
        }
        found
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
        let _ = fs::remove_file(self.root.with_extension("o"));
    }
}

fn words(line: &str) -> Vec<OsString> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(OsString::from)),
            _ => words.push(part.into()),
        }
    }
    words
}

fn run(compiler: &str, args: &[OsString], cwd: &Path) -> Finished {
    Command::new(compiler).args(args).current_dir(cwd).env("LC_ALL", "C").output().unwrap()
}

fn version_of(compiler: &str) -> Option<(u32, u32, u32)> {
    let mut command = Command::new(compiler);
    let text = command
        .args(["-dumpfullversion", "-dumpversion"])
        .output()
        .ok()
        .filter(|out| out.status.success())?;
    let text = String::from_utf8(text.stdout).ok()?;
    let mut numbers = text.trim().split('.').map(|part| part.parse().unwrap_or(0));
    Some((numbers.next()?, numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)))
}

/// Temporary names in messages of linkers and assemblers differ from run to run.
fn message(finished: &Finished) -> String {
    let text = String::from_utf8_lossy(&finished.stderr).into_owned();
    text.lines().filter(|line| !line.contains("/tmp/")).collect::<Vec<_>>().join("\n")
}

/// What gcc itself never writes twice alike: its precompiled headers and optimisation records.
fn varies(name: &Path) -> bool {
    name.extension().is_some_and(|suffix| suffix == "gch" || suffix == "gz")
}

/// What went wrong with one row, as text.
fn check(
    ground: &Ground,
    compiler: &str,
    family: Family,
    version: (u32, u32, u32),
    line: &str,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let args = words(line);
    ground.reset();
    let argv: Vec<OsString> = std::iter::once(compiler.into()).chain(args.iter().cloned()).collect();
    let info = CompilerInfo { family, version, target: "x86_64-linux-gnu".into() };
    let call = Call { argv: &argv, cwd: &ground.work(), env: &[], umask: 0o22, stderr_tty: false };
    let plan = analyse(&call, &info, &RealFiles);
    let Plan::Tasks { tasks, then } = plan else {
        let Plan::Local(reason) = plan else { unreachable!() };
        return if line.contains("missing.c") { wrong } else { vec![format!("local: {reason}")] };
    };

    // Reading first: it must leave nothing behind.
    let before = ground.appeared();
    for arguments in tasks.iter().filter_map(|task| task.depend_args.as_ref()) {
        let read = run(compiler, arguments, &ground.work());
        if !read.status.success() || !read.stdout.is_empty() || ground.appeared() != before {
            wrong.push(format!("reading with {arguments:?}: {read:?} {:?}", ground.appeared().keys()));
        }
    }

    let plain = run(compiler, &args, &ground.work());
    let expected = ground.appeared();

    ground.reset();
    let objects: Vec<PathBuf> =
        (0..tasks.len()).map(|i| ground.root.join("objects").join(format!("{i}.o"))).collect();
    let (mut ok, mut messages, mut code) = (true, Vec::new(), 0);
    for (task, object) in tasks.iter().zip(&objects) {
        let done = run(compiler, &task.args_with_object(object), &ground.work());
        messages.push(message(&done));
        if !done.status.success() {
            ok = false;
            code = 1;
        }
        for output in &task.outputs {
            let path = match &output.place {
                Place::Named(path) => ground.work().join(path),
                Place::Intermediate => object.clone(),
            };
            if output.certain && done.status.success() && !path.exists() {
                wrong.push(format!("{path:?} is certain, but missing"));
            }
            if output.kind == OutputKind::Depfile
                && path.exists()
                && Depfile::parse(&fs::read(&path).unwrap()).is_err()
            {
                wrong.push(format!("{path:?} cannot be read"));
            }
        }
    }
    if let Some(link) = then.as_ref().filter(|_| ok) {
        let done = run(compiler, &link.args_with_objects(&objects), &ground.work());
        messages.push(message(&done));
        code = done.status.code().unwrap_or(255);
    }
    let got = ground.appeared();
    if plain.status.code() != Some(code) {
        wrong.push(format!(
            "exit code {code}, plain {:?}: {}",
            plain.status,
            String::from_utf8_lossy(&plain.stderr)
        ));
    }
    let messages = messages.iter().filter(|text| !text.is_empty()).cloned().collect::<Vec<_>>().join("\n");
    if messages != message(&plain) {
        wrong.push(format!("stderr differs:\n{messages}\nplain:\n{}", message(&plain)));
    }
    if got.keys().ne(expected.keys()) {
        wrong.push(format!("files {:?}, plain {:?}", got.keys(), expected.keys()));
    }
    for (name, bytes) in &expected {
        let known = tasks.iter().any(|task| task.outputs.iter().any(|output| output.path() == Some(name)));
        if !known && then.is_none() && name != Path::new("a.o") {
            wrong.push(format!("{name:?} appeared unforeseen"));
        }
        if !varies(name) && got.get(name).is_some_and(|there| there != bytes) {
            wrong.push(format!("{name:?} differs"));
        }
    }
    wrong
}

fn check_all(compiler: &str, family: Family, rows: &[&str]) {
    let Some(version) = version_of(compiler) else {
        eprintln!("SKIPPED: no {compiler} on this machine; its {} rows were not checked", rows.len());
        return;
    };
    let ground = Ground::new(compiler);
    ground.reset();
    let object = ground.root.with_extension("o");
    let mut made = Command::new(compiler);
    made.args(["-c", "-x", "cpp-output", "a.i", "-o"]).arg(&object).current_dir(ground.work());
    assert!(made.status().unwrap().success());
    let mut failures = Vec::new();
    for line in rows {
        for wrong in check(&ground, compiler, family, version, line) {
            failures.push(format!("{compiler} {line}\n    {wrong}"));
        }
    }
    assert!(failures.is_empty(), "{} of {} rows:\n{}", failures.len(), rows.len(), failures.join("\n"));
}

#[test]
fn gcc_does_what_is_predicted() {
    check_all("gcc", Family::Gcc, &[COMPILES, GCC_ONLY].concat());
}

#[test]
fn clang_does_what_is_predicted() {
    check_all("clang", Family::Clang, &[COMPILES, CLANG_ONLY].concat());
}

#[test]
fn cxx_drivers_do_what_is_predicted() {
    let rows =
        &["-c a.cpp -MD -g", "-c a.cpp -o d/foo.o -gsplit-dwarf -g -save-temps", "a.cpp a2.c -o prog -O2"];
    check_all("g++", Family::Gcc, rows);
    check_all("clang++", Family::Clang, &rows[..2]);
}

/// The files that make's rule names, whoever wrote it.
fn listed(compiler: &str, args: &[OsString], rule: &Path, cwd: &Path) -> Vec<PathBuf> {
    let done = run(compiler, args, cwd);
    assert!(done.status.success(), "{compiler} {args:?}: {done:?}");
    let mut inputs: Vec<PathBuf> =
        Depfile::parse(&fs::read(rule).unwrap()).unwrap().inputs().cloned().collect();
    inputs.sort();
    inputs.dedup();
    inputs
}

#[test]
fn reading_opens_what_the_compile_opens() {
    let rows = [
        "-c a.c",
        "-c a.c -O2 -D_FORTIFY_SOURCE=2 -march=native -fopenmp",
        "-S a.c -fPIC -include s/h.h -imacros h.h -DUSED=<limits.h>",
        "-c -x c++ a.c -std=c++17 -g -gsplit-dwarf -save-temps -Wp,-D_GLIBCXX_ASSERTIONS -Wa,--noexecstack",
        "-c a.S -Is -iquote d --coverage -fstack-usage -Werror",
        "-c 'sp ace.c' -isystem s -Wall -Werror -flto -lfoo",
    ];
    for (compiler, family) in [("gcc", Family::Gcc), ("clang", Family::Clang)] {
        let Some(version) = version_of(compiler) else {
            eprintln!("SKIPPED: no {compiler} on this machine; what it opens was not checked");
            continue;
        };
        let ground = Ground::new(&format!("reading-{compiler}"));
        for line in rows {
            ground.reset();
            let argv: Vec<OsString> = std::iter::once(compiler.into()).chain(words(line)).collect();
            let info = CompilerInfo { family, version, target: "x86_64-linux-gnu".into() };
            let call = Call { argv: &argv, cwd: &ground.work(), env: &[], umask: 0o22, stderr_tty: false };
            let Plan::Tasks { tasks, .. } = analyse(&call, &info, &RealFiles) else {
                panic!("local: {line}")
            };
            let rule = ground.root.join("rule");
            let mut compile = tasks[0].args.clone();
            if family == Family::Clang {
                // clang minds the library that a compile does not use.
                compile.push("-Qunused-arguments".into());
            }
            compile.extend(["-MD".into(), "-MF".into(), rule.clone().into_os_string()]);
            let mut read = tasks[0].depend_args.clone().unwrap();
            let at = read.iter().position(|word| word == "-MF").unwrap();
            read[at + 1] = rule.clone().into_os_string();
            let compiled = listed(compiler, &compile, &rule, &ground.work());
            assert_eq!(listed(compiler, &read, &rule, &ground.work()), compiled, "{compiler} {line}");
        }
    }
}
