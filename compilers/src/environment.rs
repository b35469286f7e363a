//! Environment variables that gcc and clang read, and what each means for a task.
//!
//! Sources: GCC manual, "Environment Variables Affecting GCC"; Clang manual, "Environment Variables" and "Configuration
//! files"; strings in gcc 12's `cc1` for those that no manual lists. Knows nothing of variables that programs read when
//! they run (ASAN_OPTIONS) or that only say where scratch files go (TMPDIR).

use std::ffi::{OsStr, OsString};

use crate::{Family, Reason};

/// Read by both.
const BOTH: &[&str] = &[
    // Search directories ("…PATH"; clang: "CPATH", "C_INCLUDE_PATH, …").
    "CPATH",
    "C_INCLUDE_PATH",
    "CPLUS_INCLUDE_PATH",
    "OBJC_INCLUDE_PATH",
    "OBJCPLUS_INCLUDE_PATH",
    // Where the driver looks for its parts.
    "COMPILER_PATH",
    // __DATE__ and __TIME__ in its place.
    "SOURCE_DATE_EPOCH",
    // Language and character set of diagnostics. clang is not translated; the assembler that it may run is.
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "LC_MESSAGES",
    // The compilation directory in debug information, if it names the working directory by another path.
    "PWD",
];

const GCC: &[&str] = &[
    "GCC_EXEC_PREFIX",
    // "Diagnostic Message Formatting Options"
    "GCC_COLORS",
    "GCC_URLS",
    "TERM_URLS",
    // Prints fix-it hints in a form for tools (-fdiagnostics-parseable-fixits).
    "GCC_EXTRA_DIAGNOSTIC_OUTPUT",
];

const CLANG: &[&str] =
    &["CLANG_NO_DEFAULT_CONFIG", "CLANG_CONFIG_FILE_SYSTEM_DIR", "CLANG_CONFIG_FILE_USER_DIR"];

/// The part of an environment that can change what a compile writes or says, in the order given. It belongs in the
/// key, and the compile must see it (and nothing else) wherever it runs.
///
/// `PWD` is among them: both compilers take it as the name of the working directory when it leads there
/// (same device and inode). The caller, who can look, should drop it when it does not, or when it equals the real path.
/// `TERM` and `COLUMNS` are not: they matter on a terminal only, and there a task's arguments say what follows from them.
pub fn relevant_env(family: Family, env: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
    let own = match family {
        Family::Gcc => GCC,
        Family::Clang => CLANG,
        // Which variables a crate's compile reads is seen, not known beforehand.
        Family::Rustc => return Vec::new(),
    };
    let is_relevant = |name: &OsStr| BOTH.iter().chain(own).any(|known| name == *known);
    env.iter().filter(|(name, _)| is_relevant(name)).cloned().collect()
}

/// Variables that make a compile write more files than its arguments say, or change the arguments.
pub(crate) fn refuse(family: Family, env: &[(OsString, OsString)]) -> Result<(), Reason> {
    const OUTPUTS: &[&str] = &["DEPENDENCIES_OUTPUT", "SUNPRO_DEPENDENCIES"];
    // Clang's driver: `CC_PRINT_OPTIONS` and its relatives log to a file.
    const CLANG_OUTPUTS: &[&str] = &[
        "CC_PRINT_OPTIONS",
        "CC_PRINT_HEADERS",
        "CC_LOG_DIAGNOSTICS",
        "CC_PRINT_PROC_STAT",
        "CC_PRINT_INTERNAL_STAT",
    ];
    const CLANG_FLAGS: &[&str] = &["CCC_OVERRIDE_OPTIONS", "CCC_ADD_ARGS", "QA_OVERRIDE_GCC3_OPTIONS"];
    const GCC_FLAGS: &[&str] = &["GCC_COMPARE_DEBUG"];

    let first_set = |names: &[&'static str]| names.iter().copied().find(|name| get(env, name).is_some());
    let (outputs, flags): (&[&[&'static str]], _) = match family {
        Family::Gcc => (&[OUTPUTS], GCC_FLAGS),
        Family::Clang => (&[OUTPUTS, CLANG_OUTPUTS], CLANG_FLAGS),
        Family::Rustc => return Ok(()),
    };
    if let Some(name) = outputs.iter().find_map(|names| first_set(names)) {
        return Err(Reason::EnvironmentOutput(name));
    }
    if let Some(name) = first_set(flags) {
        return Err(Reason::EnvironmentFlags(name));
    }
    Ok(())
}

/// The value of a variable; the first one if it is there twice, as for getenv(3).
pub(crate) fn get<'a>(env: &'a [(OsString, OsString)], name: &str) -> Option<&'a OsStr> {
    env.iter().find(|(there, _)| there == name).map(|(_, value)| value.as_os_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(list: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        list.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn keeps_what_matters() {
        let all =
            env(&[("HOME", "/h"), ("CPATH", "x"), ("LC_TIME", "C"), ("GCC_COLORS", ""), ("TMPDIR", "/t")]);
        assert_eq!(relevant_env(Family::Gcc, &all), env(&[("CPATH", "x"), ("GCC_COLORS", "")]));
        assert_eq!(relevant_env(Family::Clang, &all), env(&[("CPATH", "x")]));
    }

    #[test]
    fn refuses_hidden_outputs_and_flags() {
        let deps = env(&[("DEPENDENCIES_OUTPUT", "f")]);
        assert_eq!(refuse(Family::Clang, &deps), Err(Reason::EnvironmentOutput("DEPENDENCIES_OUTPUT")));
        let flags = env(&[("CCC_OVERRIDE_OPTIONS", "+-O0")]);
        assert_eq!(refuse(Family::Clang, &flags), Err(Reason::EnvironmentFlags("CCC_OVERRIDE_OPTIONS")));
        assert_eq!(refuse(Family::Gcc, &flags), Ok(()));
    }
}
