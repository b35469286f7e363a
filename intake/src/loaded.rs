//! What programs and procedural macros bring into a compile that no trace shows: the loader maps libraries by itself,
//! and a macro's code runs inside rustc. Reads ELF files; remembers what it found for as long as they stay.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use object::read::ReadCache;
use object::{Object, ObjectSymbol};

use crate::elf;
use crate::files::{FileTable, Signature, lock};
use crate::toolchain::Toolchain;

/// As deep as the kernel follows `#!` lines, see execve(2).
const SCRIPTS: u32 = 4;

/// More programs than any build runs; beyond, all are looked at anew.
const KEPT: usize = 4096;

/// What a macro can do that makes its result depend on more than the files and variables it asks for by name: functions
/// of the C library, one of which it would have to call for that.
const REACHES: [(&str, &[&str]); 6] = [
    ("a procedural macro can read the whole environment", &["environ", "__environ", "_environ"]),
    (
        "a procedural macro can read the clock",
        &["clock_gettime", "gettimeofday", "time", "clock", "timespec_get"],
    ),
    (
        "a procedural macro can start programs",
        &[
            "fork",
            "vfork",
            "posix_spawn",
            "posix_spawnp",
            "execv",
            "execve",
            "execvp",
            "execvpe",
            "system",
            "popen",
        ],
    ),
    ("a procedural macro can reach the network", &["socket", "getaddrinfo"]),
    ("a procedural macro can load libraries", &["dlopen", "dlmopen"]),
    ("a procedural macro can ask what machine this is", &["uname", "gethostname", "sysinfo"]),
];
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
    /// libraries, the interpreter of a script, and what a linker loads by its driver's word.
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
        mapped(path, SCRIPTS, &mut files)?;
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

fn mapped(path: &Path, depth: u32, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if let Some(interpreter) = interpreter(path)? {
        if depth == 0 {
            return Err(io::Error::other(format!("{}: scripts nested too deeply", path.display())));
        }
        files.push(interpreter.clone());
        return mapped(&interpreter, depth - 1, files);
    }
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

/// The program that the `#!` line of a script names.
fn interpreter(path: &Path) -> io::Result<Option<PathBuf>> {
    // What the kernel reads of the line.
    let mut head = Vec::with_capacity(256);
    fs_err::File::open(path)?.take(256).read_to_end(&mut head)?;
    let Some(line) = head.strip_prefix(b"#!") else { return Ok(None) };
    let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let name = line.split(|byte| matches!(byte, b' ' | b'\t')).find(|word| !word.is_empty());
    Ok(name.map(|name| PathBuf::from(OsStr::from_bytes(name))))
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
    let asks = |names: &[&str]| names.iter().any(|name| asked.contains(&name.as_bytes()));
    if let Some((reason, _)) = REACHES.iter().find(|(_, names)| asks(names)) {
        return Ok(Some(reason));
    }
    let known = |library: &OsStr| toolchain.libraries().any(|path| path.file_name() == Some(library));
    let needs = elf::needed(path)?;
    Ok(needs.iter().any(|library| !known(library)).then_some(LOADS))
}
