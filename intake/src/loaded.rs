//! What programs and procedural macros bring into a compile that no trace shows: the loader maps libraries by itself,
//! and a macro's code runs inside rustc. Reads ELF files; remembers what it found for as long as they stay.

use std::collections::HashMap;
use std::ffi::OsStr;
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

/// Files that come with a program.
type Mapped = Arc<[PathBuf]>;

/// What was found out about files. Shared by all threads.
#[derive(Default)]
pub struct Loaded {
    programs: Mutex<HashMap<PathBuf, (Signature, Mapped)>>,
    macros: Mutex<HashMap<[u8; 32], Option<&'static str>>>,
}

impl Loaded {
    /// The files that the system maps when the program at `path` starts, but for the program itself: loader, shared
    /// libraries, and what a linker loads by its driver's word.
    ///
    /// # Errors
    /// The system's, and those of a program that could not start.
    pub fn with(&self, path: &Path) -> io::Result<Mapped> {
        let signature = Signature::of(&fs_err::metadata(path)?);
        if let Some((before, files)) = lock(&self.programs).get(path)
            && *before == signature
        {
            return Ok(files.clone());
        }
        let mut files = Vec::new();
        mapped(path, &mut files)?;
        // gcc tells every linker that it starts to load this one.
        let plugin = path.with_file_name("liblto_plugin.so");
        if path.ends_with("collect2") && plugin.is_file() {
            files.push(plugin);
        }
        files.sort();
        files.dedup();
        let files: Mapped = files.into();
        let mut programs = lock(&self.programs);
        if programs.len() >= KEPT {
            programs.clear();
        }
        programs.insert(path.to_path_buf(), (signature, files.clone()));
        Ok(files)
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

fn mapped(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let Some(elf::Elf { interpreter: Some(loader), .. }) = elf::read(path)? else {
        return Err(io::Error::other(format!("{} is no program with a loader", path.display())));
    };
    let found = elf::libraries(&loader, path, None)?;
    files.extend(found.paths);
    files.push(loader);
    if found.by_cache {
        files.push("/etc/ld.so.cache".into());
    }
    Ok(())
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
    fn the_list_can_be_searched() {
        assert!(HARMLESS.is_sorted());
    }
}
