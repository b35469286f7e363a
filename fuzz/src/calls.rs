//! Compiler calls: arguments, environment, response files.
//!
//! An input is cut at byte 1 into sections, and a section at NUL into words: the arguments behind `argv[0]`, the
//! environment, then one file per section (its name in the working directory, NUL, its text). The first byte chooses
//! family and terminal.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use dbuild_compilers::{
    Call, CompilerInfo, Family, FileKind, Files, Plan, Task, analyse, relevant_env, scan_args,
};

const CWD: &str = "/w";
/// More reads than any sensible tree of response files takes.
const MAX_READS: u32 = 100_000;

struct Memory {
    files: HashMap<PathBuf, Vec<u8>>,
    reads: Cell<u32>,
}

impl Files for Memory {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.reads.set(self.reads.get() + 1);
        assert!(self.reads.get() < MAX_READS, "response files unfold without bound");
        self.files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn kind(&self, path: &Path) -> Option<FileKind> {
        // As paths, which do not care for a slash at the end.
        let is_one_of = |names: &[&str]| names.iter().any(|name| path == Path::new(name));
        if is_one_of(&["/dev/null", "/w/pipe"]) {
            Some(FileKind::Other)
        } else if is_one_of(&["/", "/w", "/w/dir", "/dev"]) {
            Some(FileKind::Directory)
        } else {
            self.files.contains_key(path).then_some(FileKind::File)
        }
    }
}

/// A whole call.
pub fn call(bytes: &[u8]) -> bool {
    let Some((mode, rest)) = bytes.split_first() else { return false };
    let mut sections = rest.split(|&byte| byte == 1);
    let argv = words(sections.next().unwrap_or_default());
    let env = words(sections.next().unwrap_or_default()).into_iter().filter_map(variable).collect();
    analysed(*mode, argv, env, sections.filter_map(file).collect())
}

/// A call that is all in response files: `cc -c a.c @r0`, where section i is the file `r`i.
pub fn response_file(bytes: &[u8]) -> bool {
    let Some((mode, rest)) = bytes.split_first() else { return false };
    let sections = rest.split(|&byte| byte == 1).enumerate();
    let files = sections.map(|(i, text)| (Path::new(CWD).join(format!("r{i}")), text.to_vec()));
    analysed(*mode, ["-c", "a.c", "@r0"].map(OsString::from).into(), Vec::new(), files.collect())
}

fn analysed(
    mode: u8,
    argv: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    files: HashMap<PathBuf, Vec<u8>>,
) -> bool {
    let mut memory = Memory { files, reads: Cell::new(0) };
    for source in ["a.c", "b.cc", "c.S", "h.h", "a.rs"] {
        memory.files.insert(Path::new(CWD).join(source), b"int x;\n".into());
    }
    let (family, name, version) = match mode & 5 {
        0 => (Family::Gcc, "gcc", (12, 2, 0)),
        1 => (Family::Clang, "clang", (19, 1, 0)),
        4 => (Family::Rustc, "rustc", (1, 95, 0)),
        _ => (Family::Rustc, "clippy-driver", (1, 95, 0)),
    };
    let info = CompilerInfo { family, version, target: "x86_64-linux-gnu".into() };
    let argv = [vec![OsString::from(name)], argv].concat();
    let stderr_tty = mode & 2 != 0;
    let call = Call { argv: &argv, cwd: Path::new(CWD), env: &env, umask: 0o22, stderr_tty };
    let plan = analyse(&call, &info, &memory);
    assert_eq!(plan, analyse(&call, &info, &memory), "equal calls have equal plans");
    let relevant = relevant_env(family, &env);
    assert!(relevant.iter().all(|variable| env.contains(variable)));
    let Plan::Tasks { tasks, then } = plan else { return false };
    assert!(!tasks.is_empty(), "nothing to do is no plan");
    for task in &tasks {
        sound(task, then.is_some());
        alone(task, &call, &info, &memory);
    }
    let objects: Vec<PathBuf> = (0..tasks.len()).map(|i| format!("/o/{i}.o").into()).collect();
    if let Some(link) = then {
        let args = link.args_with_objects(&objects);
        assert!(objects.iter().all(|object| args.iter().any(|arg| arg == object)), "each object is linked");
    }
    true
}

fn sound(task: &Task, linked: bool) {
    // Of a crate they are mostly known afterwards.
    assert!(!task.outputs.is_empty() || task.unit.is_some(), "a task has an output");
    assert_eq!(
        task.needs_object_path(),
        linked,
        "objects between compile and link have no name of their own"
    );
    assert_eq!(task.args_with_object(Path::new("/o/x.o")).len(), task.args.len());
    assert!(!task.args.iter().any(|arg| arg.as_encoded_bytes().contains(&0)), "no argument holds a NUL");
    for path in task.outputs.iter().filter_map(|output| output.path()) {
        assert!(!path.as_os_str().is_empty(), "outputs have names");
    }
    let _ = scan_args(&task.args);
}

/// A task's arguments, taken as a call, are that task: what helpers run is what was planned.
fn alone(task: &Task, call: &Call<'_>, info: &CompilerInfo, files: &Memory) {
    if task.needs_object_path() || task.args.iter().any(|arg| arg.as_encoded_bytes().starts_with(b"@")) {
        return;
    }
    let argv = [vec![call.argv[0].clone()], task.args.clone()].concat();
    let again = analyse(&Call { argv: &argv, stderr_tty: false, ..*call }, info, files);
    let Plan::Tasks { tasks, then: None } = &again else { panic!("{argv:?} is no task: {again:?}") };
    let [same] = &tasks[..] else { panic!("{argv:?} is {} tasks", tasks.len()) };
    assert_eq!((&same.source, same.language), (&task.source, task.language));
    assert_eq!(same.outputs, task.outputs, "{argv:?}");
}

fn words(section: &[u8]) -> Vec<OsString> {
    if section.is_empty() {
        return Vec::new();
    }
    section.split(|&byte| byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect()
}

fn variable(word: OsString) -> Option<(OsString, OsString)> {
    let bytes = word.into_vec();
    let at = bytes.iter().position(|&byte| byte == b'=')?;
    Some((OsString::from_vec(bytes[..at].to_vec()), OsString::from_vec(bytes[at + 1..].to_vec())))
}

fn file(section: &[u8]) -> Option<(PathBuf, Vec<u8>)> {
    let at = section.iter().position(|&byte| byte == 0)?;
    let name = PathBuf::from(OsString::from_vec(section[..at].to_vec()));
    Some((Path::new(CWD).join(name), section[at + 1..].to_vec()))
}

pub fn call_seeds() -> Vec<Vec<u8>> {
    let calls = [
        "-c a.c -o a.o -MD -MF a.d -MT a.o -MP -g -O2 -Wall -Iinc -isystem /usr/x -DA=1|LANG=C",
        "-c a.c b.cc -std=gnu++17 -fPIC|PWD=/w",
        "a.c b.cc -o prog -lm -Wl,-O1 -L.|",
        "-S a.c -gsplit-dwarf -o a.s|CPATH=/x",
        "-x c -c h.h -o out.o -include h.h|",
        "-c a.c -ftest-coverage -fstack-usage --coverage|GCC_COLORS=error=1",
        "-c c.S -Wp,-MD,c.d -Wa,--noexecstack|",
        "-c h.h -o h.h.gch|",
        "-c a.c -save-temps=obj -o dir/a.o|",
        "-c @r.rsp|SOURCE_DATE_EPOCH=1|r.rsp\0a.c '-DX=\"y z\"' -o x\\ y.o",
        "-c a.c -march=x86-64-v3 -fsanitize=address -fprofile-use=p.prof|",
    ];
    let crates = [
        "--crate-name foo --edition=2021 a.rs --error-format=json --json=artifacts --crate-type lib --emit=dep-info,metadata,link -C debuginfo=2 -C extra-filename=-1 -L dependency=deps --extern bar=libbar.rmeta|",
        "a.rs -o prog -C linker=cc -lstatic:+whole-archive=z -Lnative=n|",
        "@args a.rs|RUSTC_LOG=x|args\0--crate-type\nbin\n--emit=obj,dep-info=x.d\n",
        "rustc a.rs --crate-type proc-macro --test -vg -Zx=y --diagnostic-width=80|",
    ];
    let encode = |mode: u8, call: &str| {
        let text: Vec<u8> = call.bytes().map(|byte| if byte == b'|' { 1 } else { byte }).collect();
        let end = text.iter().position(|&byte| byte == 1).unwrap_or(text.len());
        let argv = text[..end].iter().map(|&byte| if byte == b' ' { 0 } else { byte });
        [vec![mode], argv.collect(), text[end..].to_vec()].concat()
    };
    let calls = calls.iter().enumerate().map(|(i, call)| encode(i as u8 & 2, call));
    let crates = crates.iter().enumerate().map(|(i, call)| encode(if i == 3 { 5 } else { 4 }, call));
    calls.chain(crates).collect()
}

pub fn response_seeds() -> Vec<Vec<u8>> {
    let texts: [&[u8]; 4] = [
        b"\0-o 'a b.o' -DX=\"a\\\"b\" -O2",
        b"\x01-DA @r1 -DB\x01-DC @r2\x01'-DD E' -o x.o",
        b"\x02-o x.o -I\\ y -D'Z'=@r1\x01 ",
        b"\x03-g\n-Wall\r\n\t-fno-common @r1 @r1\x01-O2\x0b",
    ];
    texts.map(<[u8]>::to_vec).into()
}
