//! What an ELF file needs in order to run: its loader and its shared libraries. The loader itself is asked, because
//! it alone knows all of its rules (run paths, `$ORIGIN`, its cache, hardware directories).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use object::read::ReadCache;
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, elf};

use crate::run::Run;

/// The loader maps libraries and runs nothing of theirs; it needs milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

/// A read ELF header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Elf {
    /// `PT_INTERP`: absent in static programs and in shared libraries.
    pub interpreter: Option<PathBuf>,
    /// Has a dynamic section, and so may need libraries.
    pub dynamic: bool,
}

/// `None`: no 64-bit ELF file.
pub(crate) fn read(path: &Path) -> io::Result<Option<Elf>> {
    let file = fs_err::File::open(path)?;
    let cache = ReadCache::new(file);
    let Ok(header) = elf::FileHeader64::<Endianness>::parse(&cache) else { return Ok(None) };
    let damaged = |error: object::Error| io::Error::other(format!("{}: {error}", path.display()));
    let endian = header.endian().map_err(damaged)?;
    let mut found = Elf { interpreter: None, dynamic: false };
    for segment in header.program_headers(endian, &cache).map_err(damaged)? {
        if let Some(name) = segment.interpreter(endian, &cache).map_err(damaged)? {
            found.interpreter = Some(PathBuf::from(OsStr::from_bytes(name)));
        }
        found.dynamic |= segment.p_type(endian) == elf::PT_DYNAMIC;
    }
    Ok(Some(found))
}

/// The names of the libraries that a file itself asks for (`DT_NEEDED`).
pub(crate) fn needed(path: &Path) -> io::Result<Vec<OsString>> {
    let damaged = |error: object::Error| io::Error::other(format!("{}: {error}", path.display()));
    let cache = ReadCache::new(fs_err::File::open(path)?);
    let header = elf::FileHeader64::<Endianness>::parse(&cache).map_err(damaged)?;
    let endian = header.endian().map_err(damaged)?;
    let sections = header.sections(endian, &cache).map_err(damaged)?;
    let Some((dynamic, strings)) = sections.dynamic(endian, &cache).map_err(damaged)? else {
        return Ok(Vec::new());
    };
    let strings = sections.strings(endian, &cache, strings).map_err(damaged)?;
    let mut names = Vec::new();
    for entry in dynamic {
        if entry.tag32(endian) == Some(elf::DT_NEEDED) {
            let at = entry.d_val(endian).try_into().map_err(io::Error::other)?;
            let name = strings.get(at).map_err(|()| io::Error::other("a library's name lies nowhere"))?;
            names.push(OsStr::from_bytes(name).to_os_string());
        }
    }
    Ok(names)
}

/// The shared libraries of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Libraries {
    /// As the loader spells them, the loader included.
    pub paths: Vec<PathBuf>,
    /// Where it looked for them, those found included; only glibc's tells.
    pub tried: Vec<PathBuf>,
    /// It looked into `/etc/ld.so.cache`, which comes before the system's directories (ld.so(8)).
    pub asked_cache: bool,
}

/// The libraries that `loader` maps for `file`. `library_path` is the `LD_LIBRARY_PATH` of whoever runs it.
///
/// # Errors
/// When one is missing, or the loader does not know the file.
pub(crate) fn libraries(loader: &Path, file: &Path, library_path: Option<&OsStr>) -> io::Result<Libraries> {
    list(loader, &["--list"], file, library_path)
}

/// Whether the loader finds the same libraries where there is no cache.
pub(crate) fn needs_no_cache(
    found: &Libraries,
    loader: &Path,
    file: &Path,
    library_path: Option<&OsStr>,
) -> bool {
    let without = || list(loader, &["--inhibit-cache", "--list"], file, library_path);
    !found.asked_cache || without().is_ok_and(|without| without.paths == found.paths)
}

fn list(loader: &Path, flags: &[&str], file: &Path, library_path: Option<&OsStr>) -> io::Result<Libraries> {
    let mut args: Vec<OsString> = flags.iter().map(OsString::from).collect();
    args.push(file.into());
    let mut env: Vec<(OsString, OsString)> =
        vec![("LC_ALL".into(), "C".into()), ("LD_DEBUG".into(), "libs".into())];
    env.extend(library_path.map(|path| ("LD_LIBRARY_PATH".into(), path.to_os_string())));
    let run = Run {
        program: loader,
        argv0: loader.as_os_str(),
        args: &args,
        cwd: Path::new("/"),
        env: &env,
        limit: LIMIT,
    };
    let ran = run.go()?;
    let (tried, asked_cache, complaint) = search(&ran.stderr);
    if !ran.status.success() {
        let message = format!("list the libraries of {}: {complaint}", file.display());
        return Err(io::Error::other(message));
    }
    let paths = parse(&ran.stdout).map_err(|name| {
        let name = name.display();
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("{} needs {name}, which is not there", file.display()),
        )
    })?;
    Ok(Libraries { paths, tried, asked_cache })
}

/// What glibc's loader tells of its search (`LD_DEBUG=libs`): lines that begin with its process number. Also what else it says.
fn search(told: &[u8]) -> (Vec<PathBuf>, bool, String) {
    let (mut tried, mut asked_cache, mut rest) = (Vec::new(), false, Vec::new());
    for line in told.split(|&byte| byte == b'\n') {
        let text = line.trim_ascii_start();
        let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let Some(step) = text[digits..].strip_prefix(b":\t").filter(|_| digits > 0) else {
            rest.extend_from_slice(line);
            continue;
        };
        let step = step.trim_ascii();
        if let Some(path) = step.strip_prefix(b"trying file=") {
            tried.push(PathBuf::from(OsStr::from_bytes(path)));
        }
        asked_cache |= step.starts_with(b"search cache=");
    }
    (tried, asked_cache, String::from_utf8_lossy(rest.trim_ascii()).into_owned())
}

/// Lines are `NAME => PATH (ADDRESS)`, `PATH (ADDRESS)`, `NAME => not found`, or the kernel's own object without a
/// path. `Err`: the name that was not found.
fn parse(listing: &[u8]) -> Result<Vec<PathBuf>, OsString> {
    let mut paths = Vec::new();
    for line in listing.split(|&byte| byte == b'\n') {
        let line = line.trim_ascii();
        let (name, place) = match line.windows(4).position(|four| four == b" => ") {
            Some(at) => (&line[..at], &line[at + 4..]),
            None => (line, line),
        };
        if place == b"not found" {
            return Err(OsStr::from_bytes(name).to_os_string());
        }
        let end = place.windows(4).rposition(|four| four == b" (0x").unwrap_or(place.len());
        if place.first() == Some(&b'/') {
            paths.push(PathBuf::from(OsStr::from_bytes(&place[..end])));
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_of_glibc_are_read() {
        let text = b"\tlinux-vdso.so.1 (0x00007ffd)\n\tlibz.so.1 => /lib/a b/libz.so.1 (0x00007f)\n\
                     \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let want = ["/lib/a b/libz.so.1", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse(text).unwrap(), want);
        assert_eq!(parse(b"\tlibx.so => not found\n").unwrap_err(), "libx.so");
    }

    #[test]
    fn the_search_of_glibcs_is_read() {
        let told = b"    77:\tfind library=libz.so.1 [0]; searching\n    77:\t search path=/a:/b\t\t(RUNPATH from file x)\n\
                     77:\t  trying file=/a/libz.so.1\n  77:\t search cache=/etc/ld.so.cache\n\
                     77:\t  trying file=/usr/lib/libz.so.1\n    77:\t\nld.so: broken\n";
        let (tried, asked_cache, rest) = search(told);
        assert_eq!(tried, ["/a/libz.so.1", "/usr/lib/libz.so.1"].map(PathBuf::from));
        assert!(asked_cache);
        assert_eq!(rest, "ld.so: broken");
        assert!(search(b"12: no\n:\tx").0.is_empty());
    }

    #[test]
    fn this_program_has_a_loader_and_libraries() {
        let me = std::env::current_exe().unwrap();
        let elf = read(&me).unwrap().unwrap();
        let loader = elf.interpreter.unwrap();
        let found = libraries(&loader, &me, None).unwrap();
        assert!(found.paths.iter().any(|path| path.to_string_lossy().contains("libc.so")), "{found:?}");
        assert_eq!(read(Path::new("/etc/passwd")).unwrap(), None);
    }
}
