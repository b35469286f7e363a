//! Which language a source is in: by its suffix, by `-x`, and by the name under which the driver was called.
//!
//! Sources: GCC manual, "Overall Options" (suffixes, `-x`), "Invoking G++"; clang's `Types.def`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::{Family, Language, Reason};

/// What a driver makes of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InputKind {
    Source(Language),
    /// Objects, archives, linker scripts: anything with a suffix that no compiler knows.
    ForLinker,
}

/// Whether the driver was called by a name that makes C++ of `.c` files: `g++`, `x86_64-linux-gnu-c++-12`, `clang++`.
pub(crate) fn is_cxx_driver(argv0: &OsStr) -> bool {
    Path::new(argv0).file_name().is_some_and(|name| name.as_bytes().windows(2).any(|pair| pair == b"++"))
}

/// By suffix, for an input without `-x` (or after `-x none`).
pub(crate) fn by_suffix(input: &OsStr, family: Family, cxx_driver: bool) -> Result<InputKind, Reason> {
    let name = Path::new(input).file_name().unwrap_or(input).as_bytes();
    let suffix = match name.iter().rposition(|&byte| byte == b'.') {
        Some(dot) => &name[dot + 1..],
        None => return Ok(InputKind::ForLinker),
    };
    let language = match suffix {
        b"c" if cxx_driver => Language::Cxx,
        b"c" => Language::C,
        b"i" if cxx_driver => Language::PreprocessedCxx,
        b"i" => Language::PreprocessedC,
        b"cc" | b"cp" | b"cxx" | b"cpp" | b"CPP" | b"c++" | b"C" => Language::Cxx,
        b"CC" | b"C++" | b"CXX" if family == Family::Clang => Language::Cxx,
        b"ii" => Language::PreprocessedCxx,
        b"m" => Language::ObjC,
        b"mm" | b"M" => Language::ObjCxx,
        b"mi" => Language::PreprocessedObjC,
        b"mii" => Language::PreprocessedObjCxx,
        b"s" => Language::Assembly,
        b"S" | b"sx" => Language::AssemblyWithCpp,
        b"h" if cxx_driver => Language::CxxHeader,
        b"h" => Language::CHeader,
        b"hh" | b"H" | b"hp" | b"hxx" | b"hpp" | b"HPP" | b"h++" => Language::CxxHeader,
        b"tcc" if family == Family::Gcc => Language::CxxHeader,
        b"cppm" | b"ccm" | b"cxxm" | b"c++m" | b"ixx" | b"pcm" | b"iim" => return Err(Reason::Modules),
        b"pch" | b"gch" => return Err(Reason::ClangPch),
        other if is_foreign(other, family) => return Err(Reason::UnknownLanguage),
        _ => return Ok(InputKind::ForLinker),
    };
    Ok(InputKind::Source(language))
}

/// Suffixes that one of the drivers hands to a compiler which this crate does not know.
fn is_foreign(suffix: &[u8], family: Family) -> bool {
    const BOTH: &[&str] = &[
        "f", "for", "ftn", "F", "FOR", "FTN", "fpp", "FPP", "f90", "f95", "f03", "f08", "F90", "F95", "F03",
        "F08", "cu",
    ];
    const GCC: &[&str] = &["ads", "adb", "d", "di", "dd", "go", "mod", "mli", "brig"];
    const CLANG: &[&str] = &[
        "ll", "bc", "ast", "cl", "clcpp", "clii", "cui", "cuh", "hip", "hipi", "rs", "fir", "hlsl", "asm",
        "swift",
    ];
    let own = if family == Family::Gcc { GCC } else { CLANG };
    BOTH.iter().chain(own).any(|known| known.as_bytes() == suffix)
}

/// By `-x`; `None` for `-x none`.
pub(crate) fn by_name(name: &OsStr) -> Result<Option<Language>, Reason> {
    Ok(Some(match name.as_bytes() {
        b"none" => return Ok(None),
        b"c" => Language::C,
        b"c++" => Language::Cxx,
        b"objective-c" => Language::ObjC,
        b"objective-c++" => Language::ObjCxx,
        b"assembler-with-cpp" => Language::AssemblyWithCpp,
        b"assembler" => Language::Assembly,
        b"cpp-output" | b"c-cpp-output" => Language::PreprocessedC,
        b"c++-cpp-output" => Language::PreprocessedCxx,
        b"objective-c-cpp-output" => Language::PreprocessedObjC,
        b"objective-c++-cpp-output" => Language::PreprocessedObjCxx,
        b"c-header" => Language::CHeader,
        b"c++-header" => Language::CxxHeader,
        b"c++-system-header" | b"c++-user-header" | b"c++-module" => return Err(Reason::Modules),
        _ => return Err(Reason::UnknownLanguage),
    }))
}

impl Language {
    /// Whether a preprocessor runs, so that there are includes to find and a depfile to write.
    pub fn is_preprocessed_now(self) -> bool {
        !matches!(
            self,
            Language::Assembly
                | Language::Rust
                | Language::PreprocessedC
                | Language::PreprocessedCxx
                | Language::PreprocessedObjC
                | Language::PreprocessedObjCxx
        )
    }

    /// Whether the result is a precompiled header.
    pub fn is_header(self) -> bool {
        matches!(self, Language::CHeader | Language::CxxHeader)
    }

    /// Whether it goes to an assembler without a compiler before it.
    pub fn is_assembly(self) -> bool {
        matches!(self, Language::Assembly | Language::AssemblyWithCpp)
    }

    /// What `-save-temps` calls its preprocessed text; `None` where there is none, or where it is the assembly.
    pub(crate) fn preprocessed_suffix(self) -> Option<&'static str> {
        match self {
            Language::C | Language::CHeader => Some("i"),
            Language::Cxx | Language::CxxHeader => Some("ii"),
            Language::ObjC => Some("mi"),
            Language::ObjCxx => Some("mii"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_suffixes() {
        let kind = |name: &str, cxx| by_suffix(name.as_ref(), Family::Gcc, cxx);
        assert_eq!(kind("d.x/a.c", false), Ok(InputKind::Source(Language::C)));
        assert_eq!(kind("a.c", true), Ok(InputKind::Source(Language::Cxx)));
        assert_eq!(kind("a.S", true), Ok(InputKind::Source(Language::AssemblyWithCpp)));
        assert_eq!(kind("a.o", false), Ok(InputKind::ForLinker));
        assert_eq!(kind("d.c/noext", false), Ok(InputKind::ForLinker));
        assert_eq!(kind("a.f90", false), Err(Reason::UnknownLanguage));
        assert_eq!(by_suffix("a.ll".as_ref(), Family::Clang, false), Err(Reason::UnknownLanguage));
        assert!(is_cxx_driver("/usr/bin/x86_64-linux-gnu-g++-12".as_ref()));
        assert!(!is_cxx_driver("/opt/c++/bin/gcc".as_ref()));
    }
}
