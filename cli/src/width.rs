//! Width by itself: a build that says nothing of how many jobs it wants is told the pool's width.
//!
//! Whoever says `-j` is obeyed; only silence is filled in. Pure: what is on the command line and in the environment
//! comes in, what is to be changed comes out. Knows make, ninja and cmake, and no pool.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use dbuild_shims::names;

/// More jobs than this are never asked for.
const MOST: u32 = 256;

pub const MAKEFLAGS: &str = "MAKEFLAGS";
pub const CMAKE_LEVEL: &str = "CMAKE_BUILD_PARALLEL_LEVEL";

/// cargo's configuration `build.jobs`, as a variable.
pub const CARGO_JOBS: &str = "CARGO_BUILD_JOBS";

/// What is changed about a build so that it is as wide as it can be.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Widened {
    pub variables: Vec<(&'static str, OsString)>,
    /// Arguments to be added after the command's first word.
    pub arguments: Vec<OsString>,
}

/// Jobs for a pool of so many slots and so many here; none where that is no more than one.
pub fn jobs(pool: u32, here: u32) -> Option<u32> {
    let jobs = pool.saturating_add(here).min(MOST);
    (pool > 0 && jobs > 1).then_some(jobs)
}

/// Whether silence about the number of jobs could be filled in at all for this command.
pub fn may_widen(words: &[OsString], variable: &dyn Fn(&str) -> Option<OsString>) -> bool {
    widen(words, variable, MOST, MOST) != Widened::default()
}

/// What makes the command `words` run `jobs` jobs; `processors` are those of this machine.
pub fn widen(
    words: &[OsString],
    variable: &dyn Fn(&str) -> Option<OsString>,
    jobs: u32,
    processors: u32,
) -> Widened {
    let mut widened = Widened::default();
    let Some((program, args)) = words.split_first() else { return widened };
    let said = says_jobs(args);
    let name = Path::new(program).file_name().unwrap_or_default().as_bytes();
    let option = |jobs: u32| OsString::from(format!("-j{jobs}"));
    match name {
        // Its own choice where nobody says anything: processors + 2 (ninja's manual, "Running Ninja").
        b"ninja" | b"ninja-build" | b"samu" => {
            widened.arguments.extend((!said).then(|| option(jobs.max(processors + 2))));
        }
        // Its own choice where nobody says anything: the processors. What its build scripts start is its own affair.
        b"cargo" => {
            let configured = args.iter().any(|arg| contains(arg.as_bytes(), b"build.jobs"));
            if !said && !configured && variable(CARGO_JOBS).is_none() {
                widened.variables.push((CARGO_JOBS, jobs.max(processors).to_string().into()));
            }
            return widened;
        }
        _ if names::is_compiler(name) => return widened,
        b"make" | b"gmake" | b"cmake" if said => return widened,
        b"cmake" if args.iter().any(|arg| arg == "--build") && variable(CMAKE_LEVEL).is_none() => {
            widened.variables.push((CMAKE_LEVEL, jobs.to_string().into()));
        }
        _ => {}
    }
    let flags = variable(MAKEFLAGS).unwrap_or_default();
    if !flags_say_jobs(&flags) {
        widened.variables.push((MAKEFLAGS, with_jobs(&flags, &option(jobs))));
    }
    widened
}

/// Whether a command line has a `-j` of any form, also in a bundle of letters. In doubt it has.
fn says_jobs(args: &[OsString]) -> bool {
    args.iter().any(|arg| match arg.as_bytes() {
        [b'-', b'-', long @ ..] => long.starts_with(b"j") || long.starts_with(b"parallel"),
        [b'-', letters @ ..] => letters.contains(&b'j'),
        _ => false,
    })
}

/// The same for the value of `MAKEFLAGS`, whose first word may be letters without a dash (GNU make's manual,
/// "Communicating Options to a Sub-make"). Variables stand behind `--`.
fn flags_say_jobs(flags: &OsStr) -> bool {
    let words: Vec<OsString> = words_of(flags).map(OsString::from).take_while(|word| word != "--").collect();
    let bundle =
        words.first().is_some_and(|word| is_bundle(word.as_bytes()) && word.as_bytes().contains(&b'j'));
    bundle || says_jobs(&words)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn words_of(flags: &OsStr) -> impl Iterator<Item = &OsStr> {
    flags.as_bytes().split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).map(OsStr::from_bytes)
}

fn is_bundle(word: &[u8]) -> bool {
    !word.starts_with(b"-") && !word.contains(&b'=')
}

fn with_jobs(flags: &OsStr, option: &OsStr) -> OsString {
    let mut all = option.to_owned();
    if flags.is_empty() {
        return all;
    }
    let dash = if words_of(flags).next().is_some_and(|word| is_bundle(word.as_bytes())) { " -" } else { " " };
    all.push(dash);
    all.push(OsStr::from_bytes(flags.as_bytes().trim_ascii_start()));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &str, env: &[(&str, &str)]) -> String {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let variable =
            |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
        let widened = widen(&words, &variable, 20, 4);
        let variables = widened.variables.iter().map(|(name, value)| format!("{name}={}", value.display()));
        let arguments = widened.arguments.iter().map(|arg| arg.display().to_string());
        variables.chain(arguments).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn silence_is_filled_in() {
        assert_eq!(shown("make all", &[]), "MAKEFLAGS=-j20");
        assert_eq!(shown("sh -c make", &[]), "MAKEFLAGS=-j20");
        assert_eq!(shown("/usr/bin/ninja -C b", &[]), "MAKEFLAGS=-j20 | -j20");
        assert_eq!(shown("cmake --build b", &[]), "CMAKE_BUILD_PARALLEL_LEVEL=20 | MAKEFLAGS=-j20");
        assert_eq!(shown("cmake -S . -B b", &[]), "MAKEFLAGS=-j20");
        assert_eq!(shown("cargo +nightly build", &[]), "CARGO_BUILD_JOBS=20");
    }

    #[test]
    fn who_says_something_is_obeyed() {
        for line in [
            "make -j4",
            "make -j",
            "gmake --jobs=3",
            "make -kj2",
            "cargo build -j3",
            "cargo --config build.jobs=2 test",
            "gcc -c a.c",
            "cmake --build b -j3",
        ] {
            assert_eq!(shown(line, &[]), "", "{line}");
        }
        assert_eq!(shown("cmake --build b --parallel 3", &[]), "");
        assert_eq!(shown("ninja -j1", &[("MAKEFLAGS", "-j1")]), "");
        assert_eq!(shown("cargo build", &[(CARGO_JOBS, "4")]), "");
        assert_eq!(shown("cmake --build b", &[(CMAKE_LEVEL, "2"), (MAKEFLAGS, "-j2")]), "");
        for flags in ["-j3", "kj3", "-k -j", "--jobs=2", "ks --jobserver-auth=3,4"] {
            assert_eq!(shown("make", &[(MAKEFLAGS, flags)]), "", "{flags}");
        }
    }

    #[test]
    fn what_makeflags_had_stays() {
        assert_eq!(shown("make", &[(MAKEFLAGS, "ks")]), "MAKEFLAGS=-j20 -ks");
        assert_eq!(shown("make", &[(MAKEFLAGS, " -k -- DIR=-j")]), "MAKEFLAGS=-j20 -k -- DIR=-j");
        assert_eq!(shown("make", &[(MAKEFLAGS, "A=1")]), "MAKEFLAGS=-j20 A=1");
    }

    #[test]
    fn a_pool_without_slots_changes_nothing() {
        assert_eq!(jobs(0, 8), None);
        assert_eq!(jobs(1, 0), None);
        assert_eq!(jobs(4, 2), Some(6));
        assert_eq!(jobs(u32::MAX, 2), Some(256));
    }
}
