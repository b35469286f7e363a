//! Why something is run here, or not cached: one enum, one short and stable text each.
//!
//! The texts are counted in `dbuild stats` under `reasons`, so none holds a file name.

/// Why a call or a task is not treated like any other. `Display` gives the text; texts are stable.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Reason {
    // What the call is for.
    #[error("link")]
    Link,
    #[error("no source files")]
    NoSources,
    #[error("reads stdin")]
    ReadsStdin,
    #[error("writes stdout")]
    WritesStdout,
    #[error("preprocess only (-E)")]
    PreprocessOnly,
    #[error("dependencies only (-M)")]
    DependenciesOnly,
    #[error("checks only (-fsyntax-only)")]
    SyntaxOnly,
    #[error("dry run (-###)")]
    DryRun,
    #[error("asks the compiler about itself")]
    Query,
    #[error("analysis or rewriting, not a compile")]
    OtherAction,
    #[error("-wrapper")]
    Wrapper,

    // What we do not know.
    #[error("unknown flag {0}")]
    UnknownFlag(String),
    #[error("flag without its argument")]
    MissingArgument,
    #[error("language unknown to dbuild")]
    UnknownLanguage,
    #[error("response file is not plain text")]
    ResponseFile,
    #[error("response files nested too deeply")]
    ResponseDepth,
    #[error("flags that contradict each other")]
    Contradiction,
    #[error("flags from a configuration file")]
    ConfigFile,
    #[error("changes its working directory")]
    WorkingDirectory,

    // What is not where it should be: the compiler itself says so best.
    #[error("source file missing")]
    SourceMissing,
    #[error("source is not a regular file")]
    SourceNotRegular,
    #[error("output is not a regular file")]
    OutputNotRegular,
    #[error("output directory missing")]
    OutputDirectoryMissing,
    #[error("an output is also an input or another output")]
    OutputsCollide,
    #[error("one -o for several sources")]
    OneOutputManySources,
    #[error("objects or libraries without a link")]
    UnusedLinkerInput,
    #[error("compile and link in one call leaves further outputs")]
    LinkWithOtherOutputs,
    #[error("compile and link in one call with -flto")]
    LinkTimeOptimization,

    // Outputs and inputs that flags name in ways that are not followed.
    #[error("dumps of the compiler's inside")]
    Dumps,
    #[error("assembler listing")]
    AssemblerListing,
    #[error("report to a file")]
    ReportFile,
    #[error("reports times or memory")]
    Volatile,
    #[error("compiler plug-in")]
    Plugin,
    #[error("C++ modules")]
    Modules,
    #[error("clang precompiled header")]
    ClangPch,
    #[error("precompiled header with default depfile name")]
    PchDepfile,
    #[error("compiles twice to compare (-fcompare-debug)")]
    CompareDebug,
    #[error("LTO back end")]
    LtoBackend,
    #[error("records its command line")]
    RecordsCommandLine,

    // Environment.
    #[error("environment names an output ({0})")]
    EnvironmentOutput(&'static str),
    #[error("environment changes the command line ({0})")]
    EnvironmentFlags(&'static str),

    // Rust.
    #[error("incremental: its state is cargo's")]
    Incremental,
    #[error("messages for a terminal")]
    Terminal,
    #[error("loads code that dbuild cannot see")]
    LoadsCode,
    #[error("target described by a file")]
    DescribedTarget,
    #[error("writes files that are only known afterwards")]
    OtherResults,

    // Kept on this machine, but cached.
    #[error("-march=native is meant for this machine")]
    Native,
    #[error("profile found by name")]
    ProfileByName,
    #[error("-B names other tools")]
    OtherTools,
}

impl Reason {
    /// Names a flag without what the user put into it: cut at `=`, `,` or `/`, at most 40 bytes.
    pub(crate) fn unknown(flag: &std::ffi::OsStr) -> Reason {
        let text = flag.to_string_lossy();
        let end = text.find(['=', ',', '/', ' ']).unwrap_or(text.len());
        Reason::UnknownFlag(text[..end].chars().take(40).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_flags_lose_their_values() {
        let text = |flag: &str| Reason::unknown(flag.as_ref()).to_string();
        assert_eq!(text("-fxyz"), "unknown flag -fxyz");
        assert_eq!(text("-fxyz=/home/me/secret"), "unknown flag -fxyz");
        assert_eq!(text("-Zhome/me"), "unknown flag -Zhome");
    }
}
