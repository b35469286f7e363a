//! The arguments of a run that only reads what a compile would read.
//!
//! `-M` with the compile's own flags opens the same headers (`-O2`, `-fopenmp`, `-march=` and the like change
//! predefined macros, so nothing of that kind may be dropped); what is dropped only names outputs.

use std::ffi::OsString;

use crate::Family;
use crate::args::passed_on::{self, ToPreprocessor};
use crate::args::row::{Arg, Effect};

/// `words`: those of one task for which `keeps` is true, its source among them.
pub(crate) fn reading_args(family: Family, mut words: Vec<OsString>) -> Vec<OsString> {
    // Nothing but the files that it opens is of interest: the rule for make goes nowhere.
    words.extend(["-M", "-MF", "/dev/null", "-o", "/dev/null"].map(OsString::from));
    words.extend(match family {
        // Makes cpp look for precompiled headers as a compile does (GCC manual, "Preprocessor Options"); plain -M
        // would read the header in their place.
        Family::Gcc => Some(OsString::from("-fpch-preprocess")),
        // With -Werror, a flag that a -M run does not use would be an error.
        Family::Clang => Some(OsString::from("-Qunused-arguments")),
        Family::Rustc => None,
    });
    words
}

/// Whether an argument of a compile belongs into the run that only reads.
pub(crate) fn keeps(arg: &Arg) -> bool {
    match arg.effect() {
        Some(Effect::ToPreprocessor) => {
            matches!(passed_on::judge_preprocessor(arg.value()), Ok(ToPreprocessor::Pass))
        }
        Some(
            Effect::Compile
            | Effect::Assemble
            | Effect::Output
            | Effect::Depend(_)
            | Effect::Link
            | Effect::LinkerInput
            | Effect::SplitDwarf(_)
            | Effect::StackUsage
            | Effect::CallGraph
            | Effect::OptimizationRecord
            | Effect::SaveTemps(_)
            | Effect::EmitLlvm
            | Effect::ToAssembler,
        ) => false,
        _ => true,
    }
}
