//! Is a file name that of a compiler that we stand in for?
//!
//! Pure text, `core` only (the interceptor shares it). Knows no file system: whether the file is there, is
//! executable, or is a script is for the caller to see.

/// The names without prefix and version. The shims directory has a link for each.
pub const PLAIN: [&str; 10] = ["cc", "c++", "gcc", "g++", "clang", "clang++", "c89", "c99", "rustc", CLIPPY];

/// Compiles Rust as rustc does, and is called as a wrapper around it.
const CLIPPY: &str = "clippy-driver";

/// Programs that a compiler's name may be a link to and that only pass the call on to the real compiler.
pub const LAUNCHERS: [&str; 4] = ["ccache", "distcc", "icecc", "sccache"];

/// First words of names like `afl-gcc` that look like a target's prefix, but whose program changes the code.
const WRAPPERS: [&str; 6] = ["afl", "goto", "ccache", "distcc", "icecc", "sccache"];

/// Whether `name` (a path's last component) is `[target-]plain[-version]`, such as `cc`, `g++-12`,
/// `clang-4.9`, `x86_64-linux-gnu-gcc-12`.
///
/// Tools that only share the stem are not: `gcc-ar`, `clang-format`, `clang-cpp-14`, `clang-cl`, `ccache`.
pub fn is_compiler(name: &[u8]) -> bool {
    if name == CLIPPY.as_bytes() {
        return true;
    }
    let unversioned = match split_last(name) {
        Some((front, last)) if is_version(last) => front,
        _ => name,
    };
    match split_last(unversioned) {
        None => is_plain(unversioned),
        Some((prefix, stem)) => is_plain(stem) && is_target(prefix),
    }
}

/// Whether `name` is a program that passes compiler calls on ([`LAUNCHERS`]).
pub fn is_launcher(name: &[u8]) -> bool {
    LAUNCHERS.iter().any(|launcher| launcher.as_bytes() == name)
}

/// The part of `path` after its last slash; empty for a path that ends in one.
pub fn basename(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => path.get(slash + 1..).unwrap_or_default(),
        None => path,
    }
}

fn is_plain(name: &[u8]) -> bool {
    PLAIN.iter().any(|plain| plain.as_bytes() == name)
}

/// Digits, in groups separated by single dots: `12`, `4.9`, `13.2.0`.
fn is_version(text: &[u8]) -> bool {
    text.split(|&b| b == b'.').all(|group| !group.is_empty() && group.iter().all(u8::is_ascii_digit))
}

/// One or more words of a configuration triplet: `avr`, `arm-none-eabi`, `x86_64-pc-linux-gnu`.
fn is_target(prefix: &[u8]) -> bool {
    let mut words = prefix.split(|&b| b == b'-');
    let known_wrapper = |word: &[u8]| WRAPPERS.iter().any(|wrapper| wrapper.as_bytes() == word);
    let first = words.clone().next().unwrap_or_default();
    !known_wrapper(first)
        && words.all(|word| {
            !word.is_empty() && word.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'))
        })
}

/// The text before and after the last `-`.
fn split_last(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let dash = name.iter().rposition(|&b| b == b'-')?;
    Some((name.get(..dash)?, name.get(dash + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compilers_by_plain_versioned_and_prefixed_name() {
        for name in [
            "cc",
            "c++",
            "gcc",
            "g++",
            "clang",
            "clang++",
            "c89",
            "c99",
            "gcc-12",
            "g++-4.9",
            "clang-19",
            "clang++-14",
            "gcc-13.2.0",
            "x86_64-linux-gnu-gcc",
            "x86_64-linux-gnu-g++-12",
            "avr-gcc",
            "arm-none-eabi-c++",
            "i686-w64-mingw32-gcc",
            "x86_64-pc-linux-gnu-gcc-13.2.1",
            "c99-gcc",
            "rustc",
            "rustc-1.85",
            "clippy-driver",
        ] {
            assert!(is_compiler(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn tools_that_share_a_stem_are_not_compilers() {
        for name in [
            "",
            "-",
            "gcc-",
            "-gcc",
            "--gcc",
            "gcc-ar",
            "gcc-nm",
            "gcc-ranlib",
            "gcc-ar-12",
            "clang-format",
            "clang-tidy",
            "clang-cpp",
            "clang-cpp-14",
            "clang-cl",
            "x86_64-linux-gnu-gcc-ar-12",
            "ccache",
            "cpp",
            "gccgo",
            "gcc-12-",
            "gcc-1..2",
            "gcc-.",
            "afl-gcc",
            "distcc-gcc",
            "cc1",
            "c++filt",
            "mpicc",
            "rustdoc",
            "rustup",
            "rustc_driver",
            "driver",
            "cargo-clippy",
            "ld",
            "clang-14-linker",
            "a b-gcc",
            "gcc12",
            "12",
        ] {
            assert!(!is_compiler(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn last_component_of_a_path() {
        assert_eq!(basename(b"/usr/bin/cc"), b"cc");
        assert_eq!(basename(b"cc"), b"cc");
        assert_eq!(basename(b"/usr/bin/"), b"");
        assert!(is_launcher(b"ccache") && !is_launcher(b"gcc"));
    }
}
