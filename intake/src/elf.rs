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
    /// Some were found through `/etc/ld.so.cache` only: it belongs to them.
    pub by_cache: bool,
}

/// The libraries that `loader` maps for `file`. `library_path` is the `LD_LIBRARY_PATH` of whoever runs it.
///
/// # Errors
/// When one is missing, or the loader does not know the file.
pub(crate) fn libraries(loader: &Path, file: &Path, library_path: Option<&OsStr>) -> io::Result<Libraries> {
    if let Ok(paths) = list(loader, &["--inhibit-cache", "--list"], file, library_path) {
        return Ok(Libraries { paths, by_cache: false });
    }
    // Loaders other than glibc's know no cache, and no such option.
    let paths = list(loader, &["--list"], file, library_path)?;
    Ok(Libraries { paths, by_cache: true })
}

fn list(
    loader: &Path,
    flags: &[&str],
    file: &Path,
    library_path: Option<&OsStr>,
) -> io::Result<Vec<PathBuf>> {
    let mut args: Vec<OsString> = flags.iter().map(OsString::from).collect();
    args.push(file.into());
    let mut env: Vec<(OsString, OsString)> = vec![("LC_ALL".into(), "C".into())];
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
    if !ran.status.success() {
        let message = format!("list the libraries of {}: {}", file.display(), ran.stderr_text().trim());
        return Err(io::Error::other(message));
    }
    parse(&ran.stdout).map_err(|name| {
        let name = name.display();
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("{} needs {name}, which is not there", file.display()),
        )
    })
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
    fn this_program_has_a_loader_and_libraries() {
        let me = std::env::current_exe().unwrap();
        let elf = read(&me).unwrap().unwrap();
        let loader = elf.interpreter.unwrap();
        let found = libraries(&loader, &me, None).unwrap();
        assert!(found.paths.iter().any(|path| path.to_string_lossy().contains("libc.so")), "{found:?}");
        assert_eq!(read(Path::new("/etc/passwd")).unwrap(), None);
    }
}
