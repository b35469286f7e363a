//! From a call to a plan: independent tasks, and the link after them.
//!
//! `request` has read the arguments, `outputs` predicts files; here the arguments are dealt out again, in their order.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::args::row::{Arg, Effect, Table};
use crate::args::{gcc_style, response, row};
use crate::request::{Request, Setting, Source, Stage};
use crate::{
    Call, CompilerInfo, Family, FileKind, Files, Output, OutputKind, Place, Plan, Reason, Task, clang,
    colour, depend, environment, gcc, link, naming, outputs, rustc,
};

/// Stands for an intermediate object in `Task::args` and `Link::args`: one text for all, so that equal compiles
/// have equal arguments.
pub(crate) const PLACEHOLDER: &str = "dbuild-intermediate.o";

/// What is to be done with `call`. Never fails: what it does not understand is [`Plan::Local`].
///
/// Asks `files` for response files, for the kind of each source and output, and for what lies beside `-include`, `-B` and
/// `-fprofile-use` paths.
pub fn analyse(call: &Call<'_>, info: &CompilerInfo, files: &dyn Files) -> Plan {
    let plan = match info.family {
        Family::Gcc => plan(call, info, &GCC, files),
        Family::Clang => plan(call, info, &CLANG, files),
        Family::Rustc => return analyse_crate(call, files),
    };
    plan.unwrap_or_else(Plan::Local)
}

static GCC: LazyLock<Table> = LazyLock::new(|| Table::new(&[gcc_style::ROWS, gcc::ROWS]));
static CLANG: LazyLock<Table> = LazyLock::new(|| Table::new(&[gcc_style::ROWS, clang::ROWS]));

/// What is to be done with a rustc call, of whose compiler nothing has to be known: only that it is rustc's.
pub fn analyse_crate(call: &Call<'_>, files: &dyn Files) -> Plan {
    rustc::plan(call, files).unwrap_or_else(Plan::Local)
}

fn plan(call: &Call<'_>, info: &CompilerInfo, table: &Table, files: &dyn Files) -> Result<Plan, Reason> {
    let (argv0, argv) = call.argv.split_first().ok_or(Reason::NoSources)?;
    environment::refuse(info.family, call.env)?;
    let words = response::expand(argv, info.family, call.cwd, files)?;
    let args = row::cut(words, table)?;
    let setting = Setting { family: info.family, argv0, cwd: call.cwd, files };
    let mut request = Request::read(args, &setting)?;
    check_sources(&mut request, call.cwd, files)?;
    let terminal = colour::terminal_args(call, info, &request, files)?;
    let alone = request.sources.len() == 1;
    let as_written = alone && !argv.iter().any(|word| word.as_bytes().starts_with(b"@"));
    if request.records_command_line && !as_written {
        return Err(Reason::RecordsCommandLine);
    }
    if request.stage == Stage::Link {
        return compile_and_link(&request, &terminal, call.cwd);
    }

    let mut tasks = Vec::with_capacity(request.sources.len());
    for source in &request.sources {
        let outputs = outputs::predict(&request, source, info)?;
        let path = Path::new(request.args[source.index].value());
        outputs::check(&outputs, path, call.cwd, files)?;
        let mut args: Vec<OsString> = match alone {
            true => request.args.iter().flat_map(|arg| arg.words.iter().cloned()).collect(),
            false => task_words(&request, source, |_| true),
        };
        args.extend(terminal.iter().cloned());
        tasks.push(Task { same_as_call: alone, ..task(&request, source, args, outputs) });
    }
    if shares_outputs(&tasks, call.cwd) {
        return Err(Reason::OutputsCollide);
    }
    Ok(Plan::Tasks { tasks, then: None })
}

/// Combinations of inputs and stage that the drivers refuse, warn of, or treat in a way of their own.
fn check_sources(request: &mut Request, cwd: &Path, files: &dyn Files) -> Result<(), Reason> {
    let sources = &request.sources;
    if sources.is_empty() {
        return Err(if request.linker_files + request.libraries > 0 {
            Reason::Link
        } else {
            Reason::NoSources
        });
    }
    // Headers are compiled and never linked, with -c or without.
    if sources.iter().any(|source| source.language.is_header()) {
        if sources.len() > 1 || request.stage == Stage::Assembly || request.linker_files > 0 {
            return Err(Reason::Contradiction);
        }
        request.stage = Stage::Object;
    }
    if request.stage == Stage::Assembly && request.sources.iter().any(|source| source.language.is_assembly())
    {
        return Err(Reason::Contradiction);
    }
    if request.stage != Stage::Link {
        if request.linker_files > 0 {
            return Err(Reason::UnusedLinkerInput);
        }
        if request.sources.len() > 1 && request.output.is_some() {
            return Err(Reason::OneOutputManySources);
        }
    }
    for source in &request.sources {
        match files.kind(&cwd.join(request.args[source.index].value())) {
            Some(FileKind::File) => {}
            Some(FileKind::Directory | FileKind::Other) => return Err(Reason::SourceNotRegular),
            None => return Err(Reason::SourceMissing),
        }
    }
    Ok(())
}

fn compile_and_link(request: &Request, terminal: &[OsString], cwd: &Path) -> Result<Plan, Reason> {
    // In one step these get names from the program's, not from an object's (gcc), or are deleted with it.
    let others = request.depend.wanted
        || request.split_dwarf
        || request.coverage
        || request.profile_name
        || request.stack_usage
        || request.call_graph
        || request.optimization_record
        || request.save_temps.is_some()
        || request.emit_llvm
        || request.here == Some(Reason::ProfileByName);
    if others {
        return Err(Reason::LinkWithOtherOutputs);
    }
    if request.lto {
        return Err(Reason::LinkTimeOptimization);
    }
    // The driver refuses to overwrite an input. It could not see that any more.
    let output = naming::resolved(cwd, request.output.as_deref().unwrap_or(Path::new("a.out")));
    let mut inputs = request.args.iter().filter(|arg| arg.row.is_none());
    if inputs.any(|input| naming::resolved(cwd, Path::new(input.value())) == output) {
        return Err(Reason::OutputsCollide);
    }
    if request.records_command_line {
        return Err(Reason::RecordsCommandLine);
    }
    let mut tasks = Vec::with_capacity(request.sources.len());
    for source in &request.sources {
        let mut args = task_words(request, source, |arg| !link::is_link_only(arg));
        args.extend(terminal.iter().cloned());
        args.extend(["-c", "-o", PLACEHOLDER].map(OsString::from));
        let object = Output { place: Place::Intermediate, kind: OutputKind::Object, certain: true };
        let object_slot = Some(args.len() - 1);
        tasks.push(Task { object_slot, ..task(request, source, args, vec![object]) });
    }
    Ok(Plan::Tasks { tasks, then: Some(link::link(request)) })
}

/// What all tasks of a call have in common.
fn task(request: &Request, source: &Source, args: Vec<OsString>, outputs: Vec<Output>) -> Task {
    let depend = || depend::reading_args(request.family, task_words(request, source, depend::keeps));
    Task {
        source: PathBuf::from(request.args[source.index].value()),
        language: source.language,
        args,
        same_as_call: false,
        outputs,
        depend_args: source.language.is_preprocessed_now().then(depend),
        extra_inputs: request.extra_inputs.clone(),
        distribute: request.here.clone().map_or(Ok(()), Err),
        cache: Ok(()),
        needs_cpu_identity: request.native,
        object_slot: None,
        unit: None,
    }
}

/// The words of a call that concern `source`: no other input, and of all `-x` the one in force, directly before it.
fn task_words(request: &Request, source: &Source, keep: impl Fn(&Arg) -> bool) -> Vec<OsString> {
    let mut words = Vec::with_capacity(request.args.len());
    for (at, arg) in request.args.iter().enumerate() {
        if at == source.index {
            words.extend(source.explicit.iter().flat_map(|name| [OsString::from("-x"), name.clone()]));
        } else if arg.row.is_none() || arg.effect() == Some(&Effect::Language) || !keep(arg) {
            continue;
        }
        words.extend(arg.words.iter().cloned());
    }
    words
}

/// Two sources with one name, one `-MF` for several sources, `-MF` and `-o` with one name.
fn shares_outputs(tasks: &[Task], cwd: &Path) -> bool {
    let named = tasks.iter().flat_map(|task| task.outputs.iter().filter_map(Output::path));
    let mut paths: Vec<PathBuf> = named.map(|path| naming::resolved(cwd, path)).collect();
    paths.sort();
    paths.windows(2).any(|pair| pair[0] == pair[1])
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
