//! Flags inside flags: what `-Wa,`, `-Wp,`, `-Xclang` and `-mllvm` hand on to other programs.
//!
//! Each judge knows a short list of harmless things; all else keeps the call here.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::Reason;

/// What a `-Wp,` means for the task.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ToPreprocessor {
    /// Definitions and the like.
    Pass,
    /// `-Wp,-MD,file`, `-Wp,-MMD,file`: writes a depfile (the Linux kernel does this).
    Depfile(PathBuf),
}

/// `list` is what follows `-Wp,`.
pub(crate) fn judge_preprocessor(list: &OsStr) -> Result<ToPreprocessor, Reason> {
    let items: Vec<&[u8]> = list.as_bytes().split(|&byte| byte == b',').collect();
    match items.as_slice() {
        [b"-MD" | b"-MMD", file] if !file.is_empty() && *file != b"-" => {
            Ok(ToPreprocessor::Depfile(PathBuf::from(OsStr::from_bytes(file))))
        }
        items if items.iter().all(|item| item.len() > 2 && matches!(&item[..2], b"-D" | b"-U")) => {
            Ok(ToPreprocessor::Pass)
        }
        _ => Err(unknown("-Wp,", items[0])),
    }
}

/// Assembler flags that name no file (GNU as, "Command-Line Options"; LLVM takes a subset).
const AS_ALONE: &[&str] = &[
    "--32",
    "--64",
    "--x32",
    "-L",
    "--keep-locals",
    "-W",
    "--no-warn",
    "--warn",
    "--fatal-warnings",
    "-g",
    "--gen-debug",
    "--gstabs",
    "--noexecstack",
    "--execstack",
    "-EB",
    "-EL",
    "-mbig-obj",
    "-R",
    "--strip-local-absolute",
    "--no-pad-sections",
    "--divide",
    "-n",
    "--nocompress-debug-sections",
    "--compress-debug-sections",
    "-Z",
    "-k",
];
/// The same, with whatever follows.
const AS_JOINED: &[&str] = &[
    "--gdwarf-",
    "--compress-debug-sections=",
    "--generate-missing-build-notes=",
    "--size-check=",
    "--elf-stt-common=",
    "--hash-size=",
    "--reduce-memory-overheads",
    "--debug-prefix-map=",
    "-m",
    "--multibyte-handling=",
    "--gdwarf-cie-version=",
];

/// `items`: what follows `-Wa,`, cut at commas, or the one word after `-Xassembler`.
pub(crate) fn judge_assembler(items: &OsStr) -> Result<(), Reason> {
    let mut items = items.as_bytes().split(|&byte| byte == b',').filter(|item| !item.is_empty());
    while let Some(item) = items.next() {
        let listed = AS_ALONE.iter().any(|known| known.as_bytes() == item)
            || AS_JOINED.iter().any(|known| item.starts_with(known.as_bytes()));
        if item == b"--defsym" {
            items.next().ok_or(Reason::MissingArgument)?;
        } else if item == b"-I" {
            // Where `.include` and `.incbin` look; the files themselves are found by `scan`.
            items.next().ok_or(Reason::MissingArgument)?;
        } else if item.starts_with(b"-a") {
            return Err(Reason::AssemblerListing);
        } else if !listed && !item.starts_with(b"-I") {
            return Err(unknown("-Wa,", item));
        }
    }
    Ok(())
}

/// Front end flags of clang that name no file. `-include-pch` and `-emit-pch` have a reason of their own.
const CC1_ALONE: &[&str] = &[
    "-disable-llvm-passes",
    "-disable-llvm-verifier",
    "-disable-O0-optnone",
    "-fno-pch-timestamp",
    "-no-opaque-pointers",
    "-opaque-pointers",
    "-fdebug-pass-manager",
    "-fno-validate-pch",
    "-mno-constructor-aliases",
    "-mconstructor-aliases",
    "-ftrapv-handler",
    "-fsized-deallocation",
    "-funwind-tables=1",
    "-funwind-tables=2",
    "-fnative-half-type",
];

/// The word after `-Xclang`.
pub(crate) fn judge_frontend(word: &OsStr) -> Result<(), Reason> {
    match word.as_bytes() {
        b"-include-pch" | b"-emit-pch" | b"-fpch-instantiate-templates" => Err(Reason::ClangPch),
        b"-load" | b"-add-plugin" | b"-plugin" => Err(Reason::Plugin),
        bytes if CC1_ALONE.iter().any(|known| known.as_bytes() == bytes) => Ok(()),
        bytes if bytes.starts_with(b"-fmodule") => Err(Reason::Modules),
        bytes => Err(unknown("-Xclang ", bytes)),
    }
}

/// The word after `-mllvm`: LLVM has thousands; those that report or write are known by their words.
pub(crate) fn judge_llvm(word: &OsStr) -> Result<(), Reason> {
    const WRITES: &[&str] =
        &["file", "output", "dir", "path", "dump", "print", "view", "dot", "remarks", "load"];
    const VARIES: &[&str] = &["time", "stats", "track-memory", "debug"];
    let text = word.to_string_lossy();
    if VARIES.iter().any(|part| text.contains(part)) {
        return Err(Reason::Volatile);
    }
    let value_is_file = text.split_once('=').is_some_and(|(_, value)| value.contains(['/', '.']));
    if !text.starts_with('-') || value_is_file || WRITES.iter().any(|part| text.contains(part)) {
        return Err(unknown("-mllvm ", word.as_bytes()));
    }
    Ok(())
}

fn unknown(outer: &str, item: &[u8]) -> Reason {
    let Reason::UnknownFlag(inner) = Reason::unknown(OsStr::from_bytes(item)) else {
        return Reason::unknown(&OsString::from(outer));
    };
    Reason::UnknownFlag(format!("{outer}{inner}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preprocessor_lists() {
        let judge = |list: &str| judge_preprocessor(list.as_ref());
        assert_eq!(judge("-MD,d/.k.o.d"), Ok(ToPreprocessor::Depfile("d/.k.o.d".into())));
        assert_eq!(judge("-MMD,x"), Ok(ToPreprocessor::Depfile("x".into())));
        assert_eq!(judge("-D_FORTIFY_SOURCE=2"), Ok(ToPreprocessor::Pass));
        assert_eq!(judge("-U_X,-DY=1"), Ok(ToPreprocessor::Pass));
        for list in ["", "-MD", "-MD,", "-MD,-", "-MD,x,-MT,y", "-include,x", "-MF,x"] {
            assert!(judge(list).is_err(), "{list}");
        }
    }

    #[test]
    fn assembler_lists() {
        let judge = |list: &str| judge_assembler(list.as_ref());
        for list in
            ["--noexecstack", "-mrelax-relocations=yes", "--defsym,X=1", "-I,dir,-W", "-Idir", "--gdwarf-5"]
        {
            assert_eq!(judge(list), Ok(()), "{list}");
        }
        assert_eq!(judge("-adhln=x.lst"), Err(Reason::AssemblerListing));
        assert_eq!(judge("-ahl"), Err(Reason::AssemblerListing));
        for list in ["-o,x", "--MD,x", "@file", "x.s", "--defsym"] {
            assert!(judge(list).is_err(), "{list}");
        }
        assert_eq!(judge("-o,x").unwrap_err().to_string(), "unknown flag -Wa,-o");
    }

    #[test]
    fn clang_inner_flags() {
        assert_eq!(judge_frontend("-emit-pch".as_ref()), Err(Reason::ClangPch));
        assert_eq!(judge_frontend("-fno-pch-timestamp".as_ref()), Ok(()));
        assert!(judge_frontend("x.pch".as_ref()).is_err());
        assert_eq!(judge_llvm("-inline-threshold=300".as_ref()), Ok(()));
        assert!(judge_llvm("-pass-remarks-output=x".as_ref()).is_err());
        assert_eq!(judge_llvm("-time-passes".as_ref()), Err(Reason::Volatile));
    }
}
