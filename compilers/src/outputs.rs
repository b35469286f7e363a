//! What a task writes: the list of outputs, and whether they can be written as they should.
//!
//! The naming rules differ and stand in `gcc` and `clang`; here is what they have in common.

use std::path::{Path, PathBuf};

use crate::request::{Request, Source, Stage};
use crate::{CompilerInfo, Family, FileKind, Files, Output, OutputKind, Place, Reason, clang, gcc, naming};

impl Output {
    pub(crate) fn certain(path: PathBuf, kind: OutputKind) -> Output {
        Output { place: Place::Named(path), kind, certain: true }
    }

    pub(crate) fn possible(path: PathBuf, kind: OutputKind) -> Output {
        Output { place: Place::Named(path), kind, certain: false }
    }
}

/// The outputs of the compile of `source`, the main one first.
pub(crate) fn predict(
    request: &Request,
    source: &Source,
    info: &CompilerInfo,
) -> Result<Vec<Output>, Reason> {
    let path = Path::new(request.args[source.index].value());
    let mut outputs = vec![main_output(request, source, path)];
    match info.family {
        Family::Gcc => gcc::further_outputs(request, source, path, info, &mut outputs)?,
        Family::Clang => clang::further_outputs(request, source, path, &mut outputs)?,
        Family::Rustc => return Err(Reason::UnknownLanguage),
    }
    Ok(outputs)
}

fn main_output(request: &Request, source: &Source, path: &Path) -> Output {
    let (kind, suffix) = match request.stage {
        Stage::Assembly if request.emit_llvm => (OutputKind::Assembly, "ll"),
        Stage::Assembly => (OutputKind::Assembly, "s"),
        _ if source.language.is_header() => (OutputKind::PrecompiledHeader, "gch"),
        _ if request.emit_llvm => (OutputKind::Object, "bc"),
        _ => (OutputKind::Object, "o"),
    };
    let path = match &request.output {
        Some(output) => output.clone(),
        // Beside the header, where -include finds it.
        None if kind == OutputKind::PrecompiledHeader => naming::appended(path, suffix),
        None => naming::in_cwd(path, suffix),
    };
    Output::certain(path, kind)
}

/// Refuses outputs that are not to be replaced by a file (`/dev/null`), that lie in no directory (a compile fails then;
/// a helper, which makes its own directories, would not notice), or that are the source itself.
pub(crate) fn check(outputs: &[Output], source: &Path, cwd: &Path, files: &dyn Files) -> Result<(), Reason> {
    let mut seen: Vec<&Path> = Vec::new();
    for path in outputs.iter().filter_map(Output::path) {
        if naming::resolved(cwd, path) == naming::resolved(cwd, source) {
            return Err(Reason::OutputsCollide);
        }
        match files.kind(&cwd.join(path)) {
            Some(FileKind::Directory | FileKind::Other) => return Err(Reason::OutputNotRegular),
            Some(FileKind::File) | None => {}
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        if !seen.contains(&parent) {
            if files.kind(&cwd.join(parent)) != Some(FileKind::Directory) {
                return Err(Reason::OutputDirectoryMissing);
            }
            seen.push(parent);
        }
    }
    Ok(())
}
