//! What programs and procedural macros bring into a compile that no trace shows: the loader maps libraries by itself,
//! and a macro's code runs inside rustc. Reads ELF files; remembers what it found for as long as they stay.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use object::read::ReadCache;
use object::{Object, ObjectSymbol};

use crate::elf;
use crate::files::{FileTable, Signature, lock};
use crate::toolchain::Toolchain;

/// More programs than any build runs; beyond, all are looked at anew.
const KEPT: usize = 4096;

/// Functions of the C library that a macro may import: what std, linked into every macro, needs, and what works on memory,
/// on files and variables by name (a trace shows it), or on open files. Any other could tell it what is in no manifest: the
/// clock, users, processors, other programs, the network, the whole environment.
const HARMLESS: [&str; 87] = [
    "_ITM_deregisterTMCloneTable",
    "_ITM_registerTMCloneTable",
    "__errno_location",
    "__gmon_start__",
    "__tls_get_addr",
    "__xpg_strerror_r",
    "abort",
    "access",
    "acos",
    "aligned_alloc",
    "asin",
    "atan",
    "atan2",
    "bcmp",
    "calloc",
    "cbrt",
    "ceil",
    "close",
    "closedir",
    "cos",
    "cosh",
    "dirfd",
    "dl_iterate_phdr",
    "exp",
    "exp2",
    "expm1",
    "fcntl",
    "fcntl64",
    "fdopendir",
    "floor",
    "fma",
    "fmod",
    "free",
    "fstat",
    "fstat64",
    "fstatat64",
    "getcwd",
    "getenv",
    "getrandom",
    "gettid",
    "hypot",
    "ldexp",
    "log",
    "log10",
    "log1p",
    "log2",
    "lseek",
    "lseek64",
    "lstat",
    "lstat64",
    "malloc",
    "mkdir",
    "mmap",
    "mmap64",
    "munmap",
    "open",
    "open64",
    "openat",
    "openat64",
    "opendir",
    "poll",
    "posix_memalign",
    "pow",
    "pread",
    "pread64",
    "read",
    "readdir",
    "readdir64",
    "readlink",
    "realloc",
    "realpath",
    "rename",
    "rmdir",
    "round",
    "sched_yield",
    "sin",
    "sinh",
    "sqrt",
    "stat",
    "stat64",
    "statx",
    "syscall",
    "tan",
    "tanh",
    "unlink",
    "write",
    "writev",
];

/// The same by how they begin: strings and memory, unwinding, locks and thread-local values.
const HARMLESS_FAMILIES: [&str; 7] = ["__cxa_", "__mem", "__str", "_Unwind_", "mem", "pthread_", "str"];

const REACHES: &str = "a procedural macro could reach what dbuild cannot see";
const LOADS: &str = "a procedural macro needs other libraries than rustc";

/// Defined by every procedural macro of rustc's.
const MACRO: &[u8] = b"__rustc_proc_macro_decls_";

/// What comes with a program, and how the loader found it.
#[derive(Debug, Default)]
pub struct Mapped {
    /// Loader, shared libraries, the loader's cache where it was asked.
    pub files: Vec<PathBuf>,
    /// Names that would have been taken instead, had they been there: directory and name.
    pub absent: Vec<(PathBuf, OsString)>,
}

/// A remembered answer of the loader's, with what it rests on.
struct Answer {
    signatures: Vec<(PathBuf, Signature)>,
    mapped: Arc<Mapped>,
}

impl Answer {
    fn new(program: &Path, mapped: Mapped) -> io::Result<Answer> {
        let paths = mapped.files.iter().cloned().chain([program.to_path_buf()]);
        let signed = |path: PathBuf| Ok((path.clone(), Signature::of(&fs_err::metadata(path)?)));
        Ok(Answer { signatures: paths.map(signed).collect::<io::Result<_>>()?, mapped: Arc::new(mapped) })
    }

    fn stands(&self) -> bool {
        let same = |(path, before): &(PathBuf, Signature)| {
            std::fs::metadata(path).is_ok_and(|meta| Signature::of(&meta) == *before)
        };
        self.signatures.iter().all(same)
            && self.mapped.absent.iter().all(|(directory, name)| is_absent(&directory.join(name)))
    }
}

fn is_absent(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_err()
}

/// What was found out about files. Shared by all threads.
#[derive(Default)]
pub struct Loaded {
    /// By program and `LD_LIBRARY_PATH`.
    programs: Mutex<HashMap<(PathBuf, Option<OsString>), Answer>>,
    macros: Mutex<HashMap<[u8; 32], Option<&'static str>>>,
}

impl Loaded {
    /// The files that the system maps when the program at `path` starts, but for the program itself: loader, shared
    /// libraries, and what a linker loads by its driver's word. `library_path` is the `LD_LIBRARY_PATH` that it has.
    ///
    /// # Errors
    /// The system's, and those of a program that could not start.
    pub fn with(&self, path: &Path, library_path: Option<&OsStr>) -> io::Result<Arc<Mapped>> {
        let key = (path.to_path_buf(), library_path.map(OsStr::to_os_string));
        if let Some(answer) = lock(&self.programs).get(&key)
            && answer.stands()
        {
            return Ok(answer.mapped.clone());
        }
        let mut mapped = mapped(path, library_path)?;
        // gcc tells every linker that it starts to load this one.
        let plugin = path.with_file_name("liblto_plugin.so");
        if path.ends_with("collect2") && plugin.is_file() {
            mapped.files.push(plugin);
        }
        mapped.files.sort();
        mapped.files.dedup();
        let answer = Answer::new(path, mapped)?;
        let mapped = answer.mapped.clone();
        let mut programs = lock(&self.programs);
        if programs.len() >= KEPT {
            programs.clear();
        }
        programs.insert(key, answer);
        Ok(mapped)
    }

    /// Why the result of a compile that loaded the file at `path` must not be kept: it is a procedural macro, and its
    /// code can reach what is in no manifest. The reason is stable and names no file.
    ///
    /// # Errors
    /// When the file cannot be read as what it seems to be.
    pub fn reach(
        &self,
        path: &Path,
        files: &FileTable,
        toolchain: &Toolchain,
    ) -> io::Result<Option<&'static str>> {
        let digest = files.unscanned(path)?.digest.hash;
        if let Some(known) = lock(&self.macros).get(&digest) {
            return Ok(*known);
        }
        let reach = judge(path, toolchain)?;
        let mut macros = lock(&self.macros);
        if macros.len() >= KEPT {
            macros.clear();
        }
        macros.insert(digest, reach);
        Ok(reach)
    }
}

fn mapped(path: &Path, library_path: Option<&OsStr>) -> io::Result<Mapped> {
    let Some(elf::Elf { interpreter: Some(loader), .. }) = elf::read(path)? else {
        return Err(io::Error::other(format!("{} is no program with a loader", path.display())));
    };
    let found = elf::libraries(&loader, path, library_path)?;
    let absent = passed_by(&found.tried);
    let mut files = found.paths;
    files.push(loader);
    if found.asked_cache {
        files.push("/etc/ld.so.cache".into());
    }
    Ok(Mapped { files, absent })
}

/// What is not there of all the names in all the directories where the loader looked for any of them. Of a directory that is
/// not there, the way to it is enough: the loader skips it from then on.
fn passed_by(tried: &[PathBuf]) -> Vec<(PathBuf, OsString)> {
    let names: BTreeSet<&OsStr> = tried.iter().filter_map(|path| path.file_name()).collect();
    let directories: BTreeSet<&Path> = tried.iter().filter_map(|path| path.parent()).collect();
    let mut absent = BTreeSet::new();
    for directory in directories {
        if directory.is_dir() {
            let missing = names.iter().filter(|name| is_absent(&directory.join(name)));
            absent.extend(missing.map(|name| (directory.to_path_buf(), name.to_os_string())));
        } else if let Some(top) = directory.ancestors().take_while(|above| !above.is_dir()).last()
            && let (Some(parent), Some(name)) = (top.parent(), top.file_name())
        {
            absent.insert((parent.to_path_buf(), name.to_os_string()));
        }
    }
    absent.into_iter().collect()
}

/// Whether a program is a script: what its interpreter makes of the environment, of times and of modes shows in no trace.
///
/// # Errors
/// The system's.
pub fn is_script(path: &Path) -> io::Result<bool> {
    let mut head = Vec::with_capacity(2);
    fs_err::File::open(path)?.take(2).read_to_end(&mut head)?;
    Ok(head == b"#!")
}

fn judge(path: &Path, toolchain: &Toolchain) -> io::Result<Option<&'static str>> {
    let damaged = |error: object::Error| io::Error::other(format!("{}: {error}", path.display()));
    if elf::read(path)?.is_none() {
        // A linker's script.
        return Ok(None);
    }
    let cache = ReadCache::new(fs_err::File::open(path)?);
    let file = object::File::parse(&cache).map_err(damaged)?;
    let (mut is_macro, mut asked) = (false, Vec::new());
    for symbol in file.dynamic_symbols() {
        let name = symbol.name_bytes().map_err(damaged)?;
        match symbol.is_undefined() {
            true => asked.push(name),
            false => is_macro |= name.starts_with(MACRO),
        }
    }
    if !is_macro {
        return Ok(None);
    }
    let harmless = |name: &&[u8]| {
        let name = std::str::from_utf8(name).unwrap_or_default();
        HARMLESS.binary_search(&name).is_ok() || HARMLESS_FAMILIES.iter().any(|start| name.starts_with(start))
    };
    if let Some(other) = asked.iter().find(|name| !name.is_empty() && !harmless(name)) {
        tracing::info!(macro_ = %path.display(), function = %String::from_utf8_lossy(other), "a macro is not trusted");
        return Ok(Some(REACHES));
    }
    let known = |library: &OsStr| toolchain.libraries().any(|path| path.file_name() == Some(library));
    let needs = elf::needed(path)?;
    Ok(needs.iter().any(|library| !known(library)).then_some(LOADS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_come_first_are_known() {
        let home = tempfile::tempdir().unwrap();
        let at = |path: &str| home.path().join(path);
        std::fs::create_dir_all(at("a")).unwrap();
        std::fs::create_dir_all(at("b")).unwrap();
        std::fs::write(at("b/libx.so"), "").unwrap();
        std::fs::write(at("b/liby.so"), "").unwrap();
        let tried =
            ["a/hw/v3/libx.so", "a/hw/v2/libx.so", "a/libx.so", "b/libx.so", "a/liby.so", "b/liby.so"];
        let absent = passed_by(&tried.map(at));
        let want =
            [("a", "hw"), ("a", "libx.so"), ("a", "liby.so")].map(|(dir, name)| (at(dir), name.into()));
        assert_eq!(absent, want);
    }

    #[test]
    fn another_library_in_front_is_another_answer() {
        let me = std::env::current_exe().unwrap();
        let home = tempfile::tempdir().unwrap();
        let loaded = Loaded::default();
        let library_path = Some(home.path().as_os_str());
        let first = loaded.with(&me, library_path).unwrap();
        let name = first.files.iter().find(|path| path.to_string_lossy().contains("libc.so")).unwrap();
        let libc = (home.path().to_path_buf(), name.file_name().unwrap().to_os_string());
        assert!(first.absent.contains(&libc), "{first:?}");
        assert!(Arc::ptr_eq(&first, &loaded.with(&me, library_path).unwrap()));
        std::fs::copy(name, home.path().join(&libc.1)).unwrap();
        let second = loaded.with(&me, library_path).unwrap();
        assert!(second.files.contains(&home.path().join(&libc.1)), "{second:?}");
    }

    #[test]
    fn the_list_can_be_searched() {
        assert!(HARMLESS.is_sorted());
    }
}
