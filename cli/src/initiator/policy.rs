//! Rules about what may be kept, what may leave this machine, and what a helper's answer must look like. Pure, but
//! for the removal of what a failed compile leaves.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use dbuild_compilers::{CompilerInfo, Family, Mentions, Output, Task, scan_args};
use dbuild_intake::Inputs;
use dbuild_proto::record::TaskOutcome;

use super::outputs::Ready;

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
pub fn complete(task: &Task, places: &[(PathBuf, PathBuf)], outcome: &TaskOutcome) -> Result<(), String> {
    use std::os::unix::ffi::OsStrExt;
    let sent = |name: &Path| outcome.outputs.iter().any(|output| output.path == name.as_os_str().as_bytes());
    let pairs = task.outputs.iter().zip(places);
    match pairs.into_iter().find(|(Output { certain, .. }, (name, _))| *certain && !sent(name)) {
        Some((_, (name, _))) => Err(format!("a helper did not send {}", name.display())),
        None => Ok(()),
    }
}

/// A failure that may be the machine's and not the source's: the task then runs here once more, because a person
/// must never see an error that the plain command would not give.
pub fn doubtful_failure(stderr: &[u8], exit_code: i32) -> Option<&'static str> {
    const SIGNS: [&str; 7] = [
        "internal compiler error",
        "No such file or directory",
        "cannot execute",
        "No space left",
        "Cannot allocate memory",
        "Permission denied",
        "Assembler messages",
    ];
    let text = String::from_utf8_lossy(stderr);
    // Drivers end with 1 when the source is at fault (gcc manual, "Overall Options"); 4 is an internal error.
    if exit_code != 1 {
        return Some("compiler failed strangely on a helper");
    }
    SIGNS
        .iter()
        .any(|sign| text.contains(sign))
        .then_some("compiler failed on a helper, maybe for want of a file")
}

/// clang removes the outputs of a compile that failed; gcc leaves them as they were when the compiler proper failed.
pub fn clean_up_after_failure(family: Family, places: &[(PathBuf, PathBuf)], written: &[Ready]) {
    if family != Family::Clang {
        return;
    }
    for (_, path) in places.iter().filter(|(_, path)| !written.iter().any(|ready| ready.path == *path)) {
        // Not there: nothing to remove.
        let _ = std::fs::remove_file(path);
    }
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
        assert_eq!(doubtful_failure(b"a.c:1:1: error: expected ';'", 1), None);
        assert!(doubtful_failure(b"a.c:1:10: fatal error: x.h: No such file or directory", 1).is_some());
        assert!(doubtful_failure(b"", 4).is_some());
        assert!(doubtful_failure(b"", 139).is_some());
    }
}
