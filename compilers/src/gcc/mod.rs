//! gcc: its own flags, and the names of its further outputs.
//!
//! Source: GCC manual, "Overall Options" (`-dumpbase`, `-dumpdir`: since gcc 11 all auxiliary names derive from the
//! output), "Preprocessor Options" (`-MD`), "Developer Options" (`-save-temps`); checked against gcc 12 by
//! `tests/real_compilers.rs`.

mod flags;

use std::path::{Path, PathBuf};

use crate::args::row::SaveTemps;
use crate::naming;
use crate::request::{Request, Source, Stage};
use crate::{CompilerInfo, Output, OutputKind, Reason};

pub(crate) use flags::ROWS;

/// All that one compile may leave besides its object.
pub(crate) fn further_outputs(
    request: &Request,
    source: &Source,
    path: &Path,
    info: &CompilerInfo,
    outputs: &mut Vec<Output>,
) -> Result<(), Reason> {
    let preprocesses = source.language.is_preprocessed_now();
    let compiles = !source.language.is_assembly();

    if request.depend.wanted && preprocesses {
        outputs.push(Output::certain(depfile(request, source, path)?, OutputKind::Depfile));
    }
    if request.split_dwarf && request.stage == Stage::Object && !source.language.is_header() {
        // With -flto gcc says that it does without.
        let file = auxiliary(request, path, "dwo");
        outputs.push(Output::possible(file, OutputKind::SplitDwarf));
    }
    if compiles {
        // A source without functions leaves none of these.
        let named = [
            (request.coverage, "gcno", OutputKind::CoverageNotes),
            (request.stack_usage, "su", OutputKind::StackUsage),
            (request.call_graph, "ci", OutputKind::CallGraph),
        ];
        for (wanted, suffix, kind) in named {
            if wanted {
                outputs.push(Output::possible(auxiliary(request, path, suffix), kind));
            }
        }
        if request.optimization_record {
            let source_suffix = naming::suffix(path).map(|suffix| format!("{}.", suffix.to_string_lossy()));
            let suffix = format!("{}opt-record.json.gz", source_suffix.unwrap_or_default());
            outputs.push(Output::possible(auxiliary(request, path, &suffix), OutputKind::OptimizationRecord));
        }
    }
    if let Some(place) = request.save_temps {
        let suffixes = source.language.preprocessed_suffix().into_iter().chain(["s"]);
        for suffix in suffixes {
            let file = temporary(request, path, place, info, suffix);
            if file != path && outputs[0].path() != Some(&file) {
                outputs.push(Output::possible(file, OutputKind::Temporary));
            }
        }
    }
    Ok(())
}

/// The driver's spec: `%{MD:-MD %{!o:%b.d}%{o*:%.d%*}}`.
fn depfile(request: &Request, source: &Source, path: &Path) -> Result<PathBuf, Reason> {
    match (&request.depend.file, &request.output) {
        (Some(file), _) => Ok(file.clone()),
        (None, Some(output)) => Ok(naming::replaced(output, "d")),
        // `gcc h.h -MD` writes `a-h.d`, `gcc -c h.h -MD` writes `h.d`.
        (None, None) if source.language.is_header() => Err(Reason::PchDepfile),
        (None, None) => Ok(naming::in_cwd(path, "d")),
    }
}

/// Beside the output, with its name; in the working directory with the source's name if there is no `-o`.
fn auxiliary(request: &Request, path: &Path, suffix: &str) -> PathBuf {
    match &request.output {
        Some(output) => naming::replaced_keeping_dotfiles(output, suffix),
        None => naming::in_cwd(path, suffix),
    }
}

fn temporary(request: &Request, path: &Path, place: SaveTemps, info: &CompilerInfo, suffix: &str) -> PathBuf {
    match (place, &request.output) {
        (SaveTemps::Object, _) => auxiliary(request, path, suffix),
        // Before gcc 11, -save-temps meant the working directory and the source's name.
        _ if info.version < (11, 0, 0) => naming::in_cwd(path, suffix),
        (SaveTemps::Default, _) => auxiliary(request, path, suffix),
        (SaveTemps::Cwd, Some(output)) => naming::in_cwd(output, suffix),
        (SaveTemps::Cwd, None) => naming::in_cwd(path, suffix),
    }
}
