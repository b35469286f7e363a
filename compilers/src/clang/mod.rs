//! clang: its own flags, and the names of its further outputs.
//!
//! Source: clang's driver (`Driver::GetNamedOutputPath`, `SplitDebugName`, `addPGOAndCoverageFlags`); checked
//! against clang 14 by `tests/real_compilers.rs`.

mod flags;

use std::path::{Path, PathBuf};

use crate::args::row::SaveTemps;
use crate::naming;
use crate::request::{Request, Source, Stage};
use crate::{Output, OutputKind, Reason};

pub(crate) use flags::ROWS;

/// All that one compile may leave besides its object.
pub(crate) fn further_outputs(
    request: &Request,
    source: &Source,
    path: &Path,
    outputs: &mut Vec<Output>,
) -> Result<(), Reason> {
    // clang's precompiled headers record the times of headers: one from a cache would be refused later.
    if source.language.is_header() {
        return Err(Reason::ClangPch);
    }
    if request.depend.wanted && source.language.is_preprocessed_now() {
        let file = match &request.depend.file {
            Some(file) => file.clone(),
            None => beside_output(request, path, "d"),
        };
        outputs.push(Output::certain(file, OutputKind::Depfile));
    }
    if request.split_dwarf {
        // Only with debug information. With -S clang names it after the source, wherever the output goes.
        let file = match request.stage {
            Stage::Assembly => naming::in_cwd(path, "dwo"),
            _ => beside_output(request, path, "dwo"),
        };
        outputs.push(Output::possible(file, OutputKind::SplitDwarf));
    }
    if !source.language.is_assembly() {
        let named = [
            (request.coverage, "gcno", OutputKind::CoverageNotes),
            (request.stack_usage, "su", OutputKind::StackUsage),
            (request.optimization_record, "opt.yaml", OutputKind::OptimizationRecord),
        ];
        for (wanted, suffix, kind) in named {
            if wanted {
                outputs.push(Output::possible(beside_output(request, path, suffix), kind));
            }
        }
    }
    if let Some(place) = request.save_temps {
        let suffixes = source.language.preprocessed_suffix().into_iter().chain(["bc", "s"]);
        for suffix in suffixes {
            let file = temporary(request, path, place, suffix);
            if file != path && outputs[0].path() != Some(&file) {
                outputs.push(Output::possible(file, OutputKind::Temporary));
            }
        }
    }
    Ok(())
}

fn beside_output(request: &Request, path: &Path, suffix: &str) -> PathBuf {
    match &request.output {
        Some(output) => naming::replaced(output, suffix),
        None => naming::in_cwd(path, suffix),
    }
}

/// Always with the source's name; `=obj` only chooses the directory.
fn temporary(request: &Request, path: &Path, place: SaveTemps, suffix: &str) -> PathBuf {
    let name = naming::in_cwd(path, suffix);
    match (place, request.output.as_deref().and_then(Path::parent)) {
        (SaveTemps::Object, Some(directory)) => directory.join(name),
        _ => name,
    }
}
