//! What rustc and clippy-driver mean by their arguments (rustc book, "Command-line Arguments", "Codegen Options").
//!
//! A call is one task. Its inputs are not foretold: a compile that was watched tells them. Its outputs are foretold as
//! far as every target has them; the others are known by how their names begin.

mod options;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::{Call, CrateUnit, Files, Language, Output, OutputKind, Plan, Reason, Task, outputs};
use options::{Made, Options, expand};

pub(crate) fn plan(call: &Call<'_>, files: &dyn Files) -> Result<Plan, Reason> {
    let (argv0, argv) = call.argv.split_first().ok_or(Reason::NoSources)?;
    let (words, argument_files) = expand(argv, call.cwd, files)?;
    // A wrapper is told the compiler that it stands for first.
    let wraps = is_clippy(argv0) && words.first().is_some_and(|word| !is_option(word));
    let options = Options::read(&words[usize::from(wraps)..])?;
    if call.stderr_tty && !options.json {
        return Err(Reason::Terminal);
    }
    let source = check_source(&options, call.cwd, files)?;
    let (unit, outputs) = results(&options, &source, argument_files);
    outputs::check(&outputs, &source, call.cwd, files)?;
    let width = |word: &OsString| !word.as_bytes().starts_with(options::WIDTH.as_bytes());
    let task = Task {
        source,
        language: Language::Rust,
        args: words.into_iter().filter(width).collect(),
        same_as_call: true,
        outputs,
        depend_args: None,
        extra_inputs: Vec::new(),
        distribute: may_leave(&options),
        cache: Ok(()),
        needs_cpu_identity: options.native,
        object_slot: None,
        unit: Some(unit),
    };
    Ok(Plan::Tasks { tasks: vec![task], then: None })
}

/// A helper must be told what to send back.
fn may_leave(options: &Options) -> Result<(), Reason> {
    let foretold = |emit: &options::Emit| {
        emit.path.is_some() || ["dep-info", "metadata", "link"].iter().any(|kind| emit.kind == *kind)
    };
    let named = |made: &Made| *made == Made::Library || (options.is_elf() && *made != Made::Unknown);
    let named = !options.links() || options.made().iter().all(named);
    if options.native {
        Err(Reason::Native)
    } else if options.is_described() {
        Err(Reason::DescribedTarget)
    } else if !named || options.output.is_some() || options.keeps_more || !options.emits.iter().all(foretold)
    {
        Err(Reason::OtherResults)
    } else {
        Ok(())
    }
}

fn is_clippy(argv0: &OsStr) -> bool {
    Path::new(argv0).file_name() == Some(OsStr::new("clippy-driver"))
}

fn is_option(word: &OsStr) -> bool {
    word.as_bytes().starts_with(b"-")
}

fn check_source(options: &Options, cwd: &Path, files: &dyn Files) -> Result<PathBuf, Reason> {
    let source = match options.inputs.as_slice() {
        [] => return Err(Reason::NoSources),
        [one] if one == "-" => return Err(Reason::ReadsStdin),
        [one] => PathBuf::from(one),
        _ => return Err(Reason::Contradiction),
    };
    match files.kind(&cwd.join(&source)) {
        Some(crate::FileKind::File) => Ok(source),
        Some(_) => Err(Reason::SourceNotRegular),
        None => Err(Reason::SourceMissing),
    }
}

/// What the call writes ("Command-line Arguments", `--out-dir`, `-o`, `--emit`; "Codegen Options", `extra-filename`).
fn results(options: &Options, source: &Path, argument_files: Vec<PathBuf>) -> (CrateUnit, Vec<Output>) {
    let named = |name: &str| OsString::from(name);
    let crate_name = options.crate_name.clone().unwrap_or_else(|| {
        let stem = source.file_stem().unwrap_or_default().to_string_lossy();
        OsString::from(stem.replace('-', "_"))
    });
    let (out_dir, stems) = match &options.output {
        Some(output) => {
            let stem = output.file_stem().unwrap_or_default().to_owned();
            let whole = output.file_name().unwrap_or_default().to_owned();
            (output.parent().unwrap_or(Path::new("")).to_path_buf(), vec![stem, whole])
        }
        None => {
            let mut stem = crate_name;
            stem.push(&options.extra_filename);
            let mut library = named("lib");
            library.push(&stem);
            (options.out_dir.clone().unwrap_or_default(), vec![stem, library])
        }
    };
    let in_out_dir = |stem: &OsStr, suffix: &str| {
        let mut name = stem.to_owned();
        name.push(suffix);
        out_dir.join(name)
    };
    let mut outputs = Vec::new();
    for emit in &options.emits {
        match (&emit.path, emit.kind.as_bytes()) {
            (Some(path), kind) => {
                let kind = if kind == b"dep-info" { OutputKind::Depfile } else { OutputKind::Crate };
                outputs.push(Output::possible(path.clone(), kind));
            }
            (None, b"dep-info") => {
                outputs.push(Output::certain(in_out_dir(&stems[0], ".d"), OutputKind::Depfile));
            }
            (None, b"metadata") if options.output.is_none() => {
                outputs.push(Output::possible(in_out_dir(&stems[1], ".rmeta"), OutputKind::Crate));
            }
            _ => {}
        }
    }
    // The main output comes first where there is one.
    if options.links() && options.output.is_none() {
        for made in options.made().iter().filter(|made| **made == Made::Library || options.is_elf()) {
            let Some((is_library, suffix)) = made.elf_suffix() else { continue };
            let name = in_out_dir(&stems[usize::from(is_library)], suffix);
            outputs.insert(0, Output::possible(name, OutputKind::Crate));
        }
    }
    let unit = CrateUnit {
        searched: options.searched.clone(),
        libraries: options.libraries.clone(),
        rpath: options.rpath,
        out_dir,
        stems,
        linker: options.linker.clone(),
        width: options.width.clone(),
        argument_files,
        externs: options.externs.clone(),
        links: options.links() && options.made().iter().any(|made| *made != Made::Library),
    };
    (unit, outputs)
}
