//! Observations of traces made by hand, over real files.

use std::os::unix::fs::symlink;

use dbuild_shims::trace::format::*;
use fs_err as fs;

use dbuild_compilers::CrateUnit;

use super::*;

/// A trace file's bytes.
struct Written {
    bytes: Vec<u8>,
}

impl Written {
    fn new() -> Written {
        let mut bytes = vec![0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[CAPACITY_AT..CAPACITY_AT + 8].copy_from_slice(&(1u64 << 20).to_ne_bytes());
        Written { bytes }
    }

    fn add(mut self, kind: u8, result: u8, path: &Path) -> Written {
        self.record(kind, result, 0, path, Path::new(""));
        self
    }

    fn failed(mut self, kind: u8, errno: u16, path: &Path) -> Written {
        self.record(kind, FAILED, errno, path, Path::new(""));
        self
    }

    fn renamed(mut self, from: &Path, to: &Path) -> Written {
        self.record(RENAME, FOUND, 0, from, to);
        self
    }

    fn record(&mut self, kind: u8, result: u8, errno: u16, path: &Path, second: &Path) {
        let [path, second] = [path, second].map(|path| path.as_os_str().as_encoded_bytes());
        let end = self.bytes.len() + record_size(path.len() + second.len());
        let size = (end - self.bytes.len()) as u32;
        self.bytes.extend_from_slice(&size.to_ne_bytes());
        self.bytes.extend_from_slice(&[kind, result]);
        self.bytes.extend_from_slice(&errno.to_ne_bytes());
        self.bytes.extend_from_slice(&(path.len() as u32).to_ne_bytes());
        self.bytes.extend_from_slice(&(second.len() as u32).to_ne_bytes());
        self.bytes.extend_from_slice(path);
        self.bytes.extend_from_slice(second);
        self.bytes.resize(end, 0);
    }

    fn trace(mut self, flags: u32) -> Trace {
        let used = self.bytes.len() as u64;
        self.bytes[NEXT_AT..NEXT_AT + 8].copy_from_slice(&used.to_ne_bytes());
        self.bytes[FLAGS_AT..FLAGS_AT + 4].copy_from_slice(&flags.to_ne_bytes());
        Trace::parse(self.bytes).unwrap()
    }

    fn observe(self, outputs: &[PathBuf]) -> Result<Observed, Doubt> {
        observe(&self.trace(0), &Scope { outputs, ..Scope::default() })
    }
}

/// A directory with `a.c`, `inc/a.h`, `empty/`, a dangling link `inc/lost.h`, and a link `link` to `inc`.
fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let at = place.path();
    fs::create_dir(at.join("inc")).unwrap();
    fs::create_dir(at.join("empty")).unwrap();
    fs::write(at.join("a.c"), "int a;").unwrap();
    fs::write(at.join("inc/a.h"), "int b;").unwrap();
    symlink("nowhere", at.join("inc/lost.h")).unwrap();
    symlink("inc", at.join("link")).unwrap();
    place
}

fn absent(directory: &Path, names: &[&str]) -> Absent {
    Absent { directory: directory.to_path_buf(), names: names.iter().map(OsString::from).collect() }
}

#[test]
fn a_compile_is_its_inputs() {
    let place = place();
    let at = place.path();
    let object = at.join("a.o");
    fs::write(&object, "object").unwrap();
    let temporary = at.join("ccX.s");
    let observed = Written::new()
        .add(OPEN_READ, FOUND, &at.join("a.c"))
        .add(OPEN_READ, ABSENT, &at.join("empty/a.h"))
        .add(STAT, ABSENT, &at.join("no/such/a.h"))
        .add(OPEN_READ, FOUND, &at.join("link/../inc/a.h"))
        .add(STAT, FOUND, &at.join("empty"))
        .add(OPEN_READ, FOUND, Path::new("/dev/null"))
        .add(OPEN_READ, ABSENT, Path::new("/proc/none"))
        .add(OPEN_WRITE, FOUND, &temporary)
        .add(OPEN_READ, FOUND, &temporary)
        .add(STAT, ABSENT, &object)
        .add(OPEN_WRITE, FOUND, &object)
        .add(UNLINK, FOUND, &temporary)
        .observe(std::slice::from_ref(&object))
        .unwrap();
    let want = Observed {
        files: vec![at.join("a.c"), at.join("link/../inc/a.h")],
        absent: vec![absent(at, &["no"]), absent(&at.join("empty"), &["a.h"])],
        directories: vec![at.join("empty")],
        written: vec![object],
        ..Observed::default()
    };
    assert_eq!(observed, want);
}

#[test]
fn files_that_were_only_looked_at_are_inputs() {
    let place = place();
    let header = place.path().join("inc/a.h");
    for kind in [STAT, ACCESS, READLINK, REALPATH] {
        let observed = Written::new().add(kind, FOUND, &header).observe(&[]).unwrap();
        assert_eq!(observed.files, [header.as_path()]);
    }
    let observed = Written::new().failed(READLINK, EINVAL, &header).observe(&[]).unwrap();
    assert_eq!(observed.files, [header.as_path()]);
}

#[test]
fn a_file_in_the_place_of_a_directory_explains_the_failure() {
    let place = place();
    let at = place.path();
    let observed = Written::new()
        .add(OPEN_READ, FOUND, &at.join("inc/a.h"))
        .add(OPEN_READ, ABSENT, &at.join("a.c/x/y.h"))
        .observe(&[])
        .unwrap();
    assert_eq!(observed.files, [at.join("a.c"), at.join("inc/a.h")]);
    assert_eq!(observed.absent, []);
}

#[test]
fn dangling_links_are_absent() {
    let place = place();
    let at = place.path();
    for (kind, result) in [(OPEN_READ, ABSENT), (READLINK, FOUND)] {
        let observed = Written::new()
            .add(OPEN_READ, FOUND, &at.join("a.c"))
            .add(kind, result, &at.join("inc/lost.h"))
            .observe(&[])
            .unwrap();
        assert_eq!(observed.absent, [absent(&at.join("inc"), &["lost.h"])]);
    }
}

#[test]
fn what_a_rename_brought_is_written_and_undeclared_files_are_strays() {
    let place = place();
    let at = place.path();
    let (object, notes) = (at.join("a.o"), at.join("a.gcno"));
    fs::write(&object, "object").unwrap();
    fs::write(&notes, "notes").unwrap();
    let observed = Written::new()
        .add(OPEN_READ, FOUND, &at.join("a.c"))
        .add(OPEN_WRITE, FOUND, &at.join("a-123.o.tmp"))
        .renamed(&at.join("a-123.o.tmp"), &object)
        .add(OPEN_WRITE, FOUND, &notes)
        .observe(std::slice::from_ref(&object))
        .unwrap();
    assert_eq!(observed.files, [at.join("a.c")]);
    assert_eq!(observed.written, [notes.clone(), object]);
    assert_eq!(observed.strays, [notes]);
}

#[test]
fn programs_from_elsewhere_are_told() {
    let place = place();
    let at = place.path();
    let observed = Written::new()
        .add(OPEN_READ, FOUND, &at.join("a.c"))
        .add(EXEC, FOUND, &at.join("inc/a.h"))
        .observe(&[])
        .unwrap();
    assert_eq!(observed.programs, [at.join("inc/a.h")]);
    assert_eq!(observed.files.len(), 2);
}

#[test]
fn doubts() {
    let place = place();
    let at = place.path();
    let source = at.join("a.c");
    let pipe = at.join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let seen = || Written::new().add(OPEN_READ, FOUND, &source);

    for flags in [FLAG_OVERFLOW, FLAG_BLIND] {
        let doubt = observe(&seen().trace(flags), &Scope::default());
        assert!(matches!(doubt, Err(Doubt::Trace(_))));
    }
    assert!(matches!(Written::new().observe(&[]), Err(Doubt::Trace(_))));
    let cases = [
        (seen().add(STAT, ABSENT, &at.join("inc/a.h")).observe(&[]), "failed to trust the absence of"),
        (seen().add(STAT, FOUND, &at.join("was.h")).observe(&[]), "it was read and is gone"),
        (seen().add(OPEN_READ, FOUND, &pipe).observe(&[]), "no regular file"),
        (seen().add(OPEN_WRITE, FOUND, &source).observe(&[]), "read and then written"),
        (seen().failed(OPEN_READ, EACCES, &at.join("inc/a.h")).observe(&[]), "denied"),
    ];
    for (result, want) in cases {
        let text = format!("failed to {}", result.unwrap_err());
        assert!(text.contains(want), "{text}");
    }
}

#[test]
fn what_is_ours_is_nobodys_input() {
    let place = place();
    let at = place.path();
    let own = [at.join("inc")];
    let trace = Written::new()
        .add(OPEN_READ, FOUND, &at.join("a.c"))
        .add(OPEN_READ, FOUND, &at.join("inc/a.h"))
        .add(STAT, ABSENT, &at.join("inc/none"))
        .trace(0);
    let observed = observe(&trace, &Scope { own: &own, ..Scope::default() }).unwrap();
    assert_eq!((observed.files, observed.absent), (vec![at.join("a.c")], vec![]));
}

#[test]
fn paths_are_tidied_as_the_kernel_reads_them() {
    let cases = [
        ("/a/./b", "/a/b"),
        ("/a//b", "/a/b"),
        ("/a/b/", "/a/b"),
        ("/a/b/.", "/a/b"),
        ("/a/../b", "/a/../b"),
        ("/a/.b/..c/.", "/a/.b/..c"),
        ("/", "/"),
    ];
    for (path, want) in cases {
        assert_eq!(tidy(Path::new(path)), OsStr::new(want));
    }
    assert!(is_ignored(OsStr::new("/proc/self")) && is_ignored(OsStr::new("/dev")));
    assert!(!is_ignored(OsStr::new("/devel/a.h")));
}

/// As of a crate whose outputs lie in `place/out`.
fn of_crate(written: Written, place: &Path) -> Result<Observed, Doubt> {
    let unit = CrateUnit { out_dir: place.join("out"), ..CrateUnit::default() };
    observe(&written.trace(0), &Scope { unit: Some(&unit), ..Scope::default() })
}

#[test]
fn what_a_macro_looks_at_in_the_machine_is_a_doubt() {
    let place = place();
    for (kind, result) in [(STAT, FOUND), (STAT, ABSENT), (OPENDIR, FOUND), (READLINK, FOUND)] {
        let odd = Path::new("/proc/self/environ");
        let seen = Written::new().add(STAT, FOUND, &place.path().join("a.c")).add(kind, result, odd);
        assert!(matches!(of_crate(seen, place.path()), Err(Doubt::Special(path)) if path == odd), "{kind}");
    }
    let harmless = Written::new().add(OPEN_READ, FOUND, Path::new("/proc/self/maps"));
    let harmless = harmless.add(OPEN_READ, FOUND, &place.path().join("a.c"));
    assert_eq!(of_crate(harmless, place.path()).unwrap().files, [place.path().join("a.c")]);
}

#[test]
fn what_a_macro_leaves_behind_is_a_stray() {
    let place = place();
    let at = place.path();
    let [changed, dangling, made] = [at.join("a.c"), at.join("inc/lost.h"), at.join("empty")];
    let left = Written::new()
        .add(OPEN_READ, FOUND, &at.join("inc/a.h"))
        .add(OPEN_WRITE, FOUND, &changed)
        .add(OPEN_WRITE, FOUND, &dangling)
        .renamed(&at.join("was"), &made);
    let observed = of_crate(left, at).unwrap();
    assert_eq!(observed.strays, [changed, made, dangling]);
}
