//! Rules about what may be kept, what may leave this machine, and what a helper's answer must look like. They look at
//! the file system, and change nothing.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use dbuild_compilers::{CompilerInfo, Family, Mentions, OutputKind, Task, scan_args};
use dbuild_intake::Inputs;
use dbuild_proto::record::TaskOutcome;

use super::task::Destination;

/// Whether a result may be kept, seeing what its inputs and arguments mention.
pub fn may_be_kept(
    mentions: Mentions,
    info: &CompilerInfo,
    env: &[(OsString, OsString)],
) -> Result<(), &'static str> {
    // gcc ≥ 7 and clang ≥ 16 take both from SOURCE_DATE_EPOCH, which is part of the key.
    let dated = match info.family {
        Family::Gcc => info.version.0 >= 7,
        Family::Clang => info.version.0 >= 16,
        Family::Rustc => true,
    };
    let dated = dated && env.iter().any(|(name, _)| name == "SOURCE_DATE_EPOCH");
    match mentions {
        Mentions { timestamp: true, .. } => Err("mentions __TIMESTAMP__"),
        Mentions { time: true, .. } if !dated => Err("mentions __TIME__"),
        Mentions { date: true, .. } if !dated => Err("mentions __DATE__"),
        _ => Ok(()),
    }
}

/// Whether a task may run on a helper, seeing its inputs: everything it will read must be among them.
pub fn may_leave(inputs: &Inputs, task: &Task) -> Result<(), &'static str> {
    match inputs.mentions.union(scan_args(&task.args)) {
        Mentions { timestamp: true, .. } => Err("mentions __TIMESTAMP__"),
        Mentions { time: true, .. } => Err("mentions __TIME__"),
        Mentions { date: true, .. } => Err("mentions __DATE__"),
        Mentions { incbin: true, .. } => Err("mentions .incbin"),
        Mentions { include: true, .. } if task.language.is_assembly() => Err("mentions .include"),
        Mentions { embed: true, .. } => Err("mentions #embed"),
        _ if !inputs.programs.is_empty() => Err("runs a program that is not the compiler's"),
        _ => Ok(()),
    }
}

/// Whether a successful answer has every output that the task certainly writes.
pub fn complete(places: &[Destination], outcome: &TaskOutcome) -> Result<(), String> {
    let sent = |name: &Path| outcome.outputs.iter().any(|output| output.path == name.as_os_str().as_bytes());
    if places.iter().any(|place| place.certain && !sent(&place.name)) {
        return Err("a helper did not send every output".to_owned());
    }
    let empty = |place: &Destination| {
        outcome.outputs.iter().any(|output| {
            output.path == place.name.as_os_str().as_bytes()
                && output.blob.as_ref().is_some_and(|blob| blob.size == 0)
        })
    };
    if places.iter().any(|place| place.filled && empty(place)) {
        return Err("a helper sent an empty object".to_owned());
    }
    Ok(())
}

/// Whether the compile would change more than its outputs: with coverage notes gcc removes the counts (`.gcda`) of an
/// older build, which no cached answer does.
pub fn side_effect(task: &Task, places: &[Destination]) -> Option<&'static str> {
    let notes =
        task.outputs.iter().zip(places).filter(|(output, _)| output.kind == OutputKind::CoverageNotes);
    let counts = |place: &Destination| std::fs::symlink_metadata(place.path.with_extension("gcda")).is_ok();
    notes.into_iter().any(|(_, place)| counts(place)).then_some("removes the counts of an older build")
}

/// Specs that read the environment make a result depend on what is not in its key.
pub fn specs_read_environment(args: &[OsString], cwd: &Path) -> bool {
    let specs = |arg: &OsString| {
        let bytes = arg.as_bytes();
        let name = bytes.strip_prefix(b"-specs=").or_else(|| bytes.strip_prefix(b"--specs="))?;
        Some(cwd.join(OsStr::from_bytes(name)))
    };
    let reads = |path: PathBuf| match std::fs::read(path) {
        Ok(text) => text.windows(b"getenv".len()).any(|word| word == b"getenv"),
        // One of the compiler's own, or none: the compiler says so.
        Err(_) => false,
    };
    args.iter().filter_map(specs).any(reads)
}

/// A failure that may be the machine's and not the source's: the task then runs here once more, because a person
/// must never see an error that the plain command would not give.
/// The same where outputs of an older compile are there: which of them a driver removes is its own affair.
pub fn doubtful_failure(stderr: &[u8], exit_code: i32, places: &[Destination]) -> Option<&'static str> {
    const SIGNS: [&str; 14] = [
        "internal compiler error",
        "No such file or directory",
        "cannot execute",
        "No space left",
        "Cannot allocate memory",
        "out of memory",
        // The compiler proper was ended from outside; the driver reports that as an error (gcc's gcc.cc, `execute`).
        "signal terminated program",
        "nable to execute command",
        "Permission denied",
        "Assembler messages",
        "inline asm",
        "<instantiation>",
        "ould not find",
        "incbin",
    ];
    let text = String::from_utf8_lossy(stderr);
    // Drivers end with 1 when the source is at fault (gcc manual, "Overall Options"); 4 is an internal error.
    // None fails without a word, in whatever language.
    if exit_code != 1 || stderr.trim_ascii().is_empty() {
        return Some("compiler failed strangely on a helper");
    }
    let old =
        |place: &&Destination| place.name == place.path && std::fs::symlink_metadata(&place.path).is_ok();
    if places.iter().any(|place| old(&place)) {
        return Some("failed on a helper, with outputs of an older compile here");
    }
    SIGNS
        .iter()
        .any(|sign| text.contains(sign))
        .then_some("compiler failed on a helper, maybe for want of a file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(family: Family, major: u32) -> CompilerInfo {
        CompilerInfo { family, version: (major, 0, 0), target: "x86_64-linux-gnu".into() }
    }

    #[test]
    fn a_date_may_be_kept_only_where_it_is_fixed() {
        let date = Mentions { date: true, ..Mentions::default() };
        let fixed = [("SOURCE_DATE_EPOCH".into(), "0".into())];
        assert!(may_be_kept(date, &info(Family::Gcc, 12), &[]).is_err());
        assert!(may_be_kept(date, &info(Family::Gcc, 12), &fixed).is_ok());
        assert!(may_be_kept(date, &info(Family::Clang, 14), &fixed).is_err());
        let stamp = Mentions { timestamp: true, ..Mentions::default() };
        assert!(may_be_kept(stamp, &info(Family::Gcc, 12), &fixed).is_err());
    }

    #[test]
    fn errors_of_the_source_are_passed_on_and_others_are_tried_here() {
        assert_eq!(doubtful_failure(b"a.c:1:1: error: expected ';'", 1, &[]), None);
        assert!(doubtful_failure(b"a.c:1:10: fatal error: x.h: No such file or directory", 1, &[]).is_some());
        let killed = b"g++: fatal error: Killed signal terminated program cc1plus\ncompilation terminated.";
        assert!(doubtful_failure(killed, 1, &[]).is_some());
        let memory = b"cc1plus: out of memory allocating 4072 bytes after a total of 1323008 bytes";
        assert!(doubtful_failure(memory, 1, &[]).is_some());
        assert!(doubtful_failure(b" \n", 1, &[]).is_some());
        assert!(doubtful_failure(b"", 4, &[]).is_some());
        assert!(doubtful_failure(b"", 139, &[]).is_some());
    }
}
