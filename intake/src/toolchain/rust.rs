//! Asking rustc where its parts are: `-vV` and `--print sysroot` (rustc book, "Command-line Arguments"). clippy-driver is
//! linked with the same driver library and asked through `--rustc`.

use std::path::{Path, PathBuf};

use dbuild_compilers::{CompilerInfo, Family};

use super::probe::{Parts, ask, children, load};
use super::{Key, refusal};
use crate::error::IntakeError;

const CLIPPY: &str = "clippy-driver";

/// Whether a program of this name is rustc, or clippy-driver.
pub(super) fn is_rustc(compiler: &Path) -> bool {
    let name = compiler.file_name().unwrap_or_default().as_encoded_bytes();
    name == CLIPPY.as_bytes()
        || name.strip_prefix(b"rustc").is_some_and(|rest| matches!(rest.first(), None | Some(b'-')))
}

/// Driver, libraries, and the crates that come with it for its own target; those for others are inputs like any other.
pub(super) fn probe(key: &Key, traceable: bool) -> Result<Parts, IntakeError> {
    let compiler = key.compiler.as_path();
    let clippy = compiler.ends_with(CLIPPY);
    let asked = |args: &[&str]| {
        let through: &[&str] = if clippy { &["--rustc"] } else { &[] };
        let ran = ask(key, &[through, args].concat())?;
        Ok::<_, IntakeError>(String::from_utf8_lossy(&ran.stdout).into_owned())
    };
    let info = understand(&asked(&["-vV"])?).ok_or_else(|| refusal(compiler, "it is no rustc"))?;
    let sysroot = PathBuf::from(asked(&["--print", "sysroot"])?.trim_end());
    let crates = sysroot.join("lib/rustlib").join(&info.target).join("lib");
    if !crates.is_dir() {
        return Err(refusal(compiler, "its own crates are not in its sysroot"));
    }
    let mut parts = Parts {
        info,
        traceable,
        files: vec![compiler.to_path_buf()],
        directories: Vec::new(),
        listed: Vec::new(),
        library_path: false,
        sysroot: Some(sysroot),
    };
    load(key, &mut parts)?;
    parts.files.extend(children(&crates).into_iter().filter(|path| path.is_file()));
    // Where they are, rustc names the sources of its own crates by their real places (`rustc_session::filesearch`).
    let sources = ["src/rust/library/std/src/lib.rs", "rustc-src/rust/compiler/rustc/src/main.rs"];
    let rustlib = parts.sysroot.as_deref().unwrap_or(Path::new("/")).join("lib/rustlib");
    parts.files.extend(sources.iter().map(|name| rustlib.join(name)).filter(|path| path.is_file()));
    parts.listed.push(crates);
    Ok(parts)
}

/// Version and host out of what `-vV` prints.
fn understand(text: &str) -> Option<CompilerInfo> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let release = field("release: ")?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    let major = numbers.next().filter(|&major| major > 0)?;
    let version = (major, numbers.next()?, numbers.next()?);
    Some(CompilerInfo { family: Family::Rustc, version, target: field("host: ")?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rustc_is_known_by_its_name() {
        for (name, is) in [
            ("/usr/bin/rustc", true),
            ("/usr/bin/rustc-1.85", true),
            ("/x/clippy-driver", true),
            ("/usr/bin/rustcc", false),
            ("/usr/bin/rustdoc", false),
        ] {
            assert_eq!(is_rustc(Path::new(name)), is, "{name}");
        }
    }

    #[test]
    fn version_and_host_are_read() {
        let text = "rustc 1.95.0-nightly (5 2026-04-14)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\n\
                    release: 1.95.0-nightly\nLLVM version: 22.1.2\n";
        let info = understand(text).unwrap();
        assert_eq!((info.version, info.target.as_str()), ((1, 95, 0), "x86_64-unknown-linux-gnu"));
        for other in ["", "release: 1.95.0\n", "host: x\n", "release: x\nhost: y\n"] {
            assert_eq!(understand(other), None, "{other}");
        }
    }
}
