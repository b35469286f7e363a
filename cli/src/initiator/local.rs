//! What follows a run on this machine: read the trace, keep the outputs, remember the result.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use dbuild_cache::Store;
use dbuild_compilers::{Family, Task, scan_args};
use dbuild_intake::observe::{self, Scope};
use dbuild_intake::{Doubt, Inputs, Observed};
use dbuild_proto::Digest;
use dbuild_proto::record::{OutputFile, TaskOutcome};
use dbuild_shims::frame::Ran;

use super::context::Context;
use super::crates;
use super::near;
use super::outputs::{self, IngestError};
use super::policy;
use super::task::{Answered, Here, Prepared, Traced};
use crate::record::{Event, Placement};

/// The exit code as a shell has it.
pub fn exit_code(status: i32) -> i32 {
    match status & 0x7f {
        0 => (status >> 8) & 0xff,
        signal => 128 + signal,
    }
}

/// Ends a run on this machine: whatever happens here, the build has its outputs already.
pub fn finish(context: &Context, here: Here, ran: Ran) -> Answered {
    let mut end = here.prepared.end(context, Placement::Local, &here.reason);
    end.exit_code = exit_code(ran.status);
    end.run_ms = ran.wall_us / 1000;
    end.fault = here.fault.clone();
    end.notice = here.notice.clone();
    end.miss = here.miss.clone();
    end.uncacheable = match (&here.uncacheable, &here.traced) {
        (Some(reason), _) => Some(reason.clone()),
        (None, None) => Some("not traced".to_owned()),
        _ if ran.status != 0 => Some("failed".to_owned()),
        _ if ran.truncated => Some("printed too much".to_owned()),
        (None, Some(traced)) => match keep(context, &here, traced, &ran, &mut end.outputs) {
            Ok(()) => None,
            Err(Unkept::Because(reason)) => Some(reason),
            Err(Unkept::Fault(fault)) => {
                end.fault.get_or_insert(fault.clone());
                Some("a fault of the cache".to_owned())
            }
        },
    };
    if let Some(traced) = &here.traced {
        // The scratch directory is cleared at the next start at the latest.
        let _ = std::fs::remove_file(&traced.trace);
    }
    context.initiator.record(Event::Ended(Box::new(end)));
    Answered::of(ran)
}

/// Why a result is not remembered.
enum Unkept {
    /// By its nature.
    Because(String),
    Fault(String),
}

impl From<&'static str> for Unkept {
    fn from(reason: &'static str) -> Self {
        Unkept::Because(reason.to_owned())
    }
}

/// Keeps a result. Outputs that were not foretold are added to `outputs`, also where nothing is kept.
fn keep(
    context: &Context,
    here: &Here,
    traced: &Traced,
    ran: &Ran,
    outputs: &mut Vec<PathBuf>,
) -> Result<(), Unkept> {
    let initiator = &context.initiator;
    let store = initiator.store.as_ref().map_err(|reason| Unkept::Fault(reason.clone()))?;
    let prepared = &here.prepared;
    let places = prepared.outputs(context);
    let declared: Vec<PathBuf> = places.iter().map(|place| place.path.clone()).collect();
    let own = initiator.own_directories();
    let unit = prepared.unit(context);
    let idle = unit.as_ref().map(|unit| crates::idle(context, unit)).unwrap_or_default();
    let toolchain = Some(&*prepared.toolchain);
    let scope = Scope { toolchain, outputs: &declared, own: &own, idle: &idle, unit: unit.as_ref() };
    let observed = observe::read(&traced.trace, &scope).map_err(|doubt| doubted(&doubt))?;
    let more = || observed.written.iter().filter(|path| !declared.contains(path));
    outputs.extend(more().cloned());
    if !observed.strays.is_empty() {
        tracing::info!(strays = ?observed.strays, "a compile wrote more than was expected");
        return Err("writes a file that dbuild did not expect".into());
    }
    let (inputs, in_place) = match &unit {
        Some(unit) => {
            let run = (traced.started, ran.stderr.as_slice());
            crates::inputs(context, &prepared.toolchain, unit, &observed, run)?
        }
        None => (preprocessed_inputs(context, prepared, &observed, traced)?, false),
    };

    let mut outcome = TaskOutcome {
        outputs: Vec::new(),
        stdout: ran.stdout.clone(),
        stderr: ran.stderr.clone(),
        run_ms: ran.wall_us / 1000,
        ..TaskOutcome::default()
    };
    for place in &places {
        let kept = ingested(store, &place.path)?;
        // A file that was there before and that this run did not write is no output of it.
        let written = |path: &Path| observed.written.iter().any(|written| written == path);
        let Some((digest, executable)) = kept.filter(|_| written(&place.path)) else { continue };
        let path = place.name.as_os_str().as_bytes().to_vec();
        outcome.outputs.push(OutputFile { path, blob: Some(digest.into()), executable, masked: false });
    }
    for path in more() {
        if let Some((digest, executable)) = ingested(store, path)? {
            let path = path.as_os_str().as_bytes().to_vec();
            outcome.outputs.push(OutputFile { path, blob: Some(digest.into()), executable, masked: false });
        }
    }
    if outcome.outputs.is_empty() || policy::complete(&places, &outcome).is_err() {
        return Err("an expected output is missing".into());
    }
    near::remember(context, prepared, &inputs, outcome, in_place)
        .map_err(|error| Unkept::Fault(outputs::cache_fault(&error)))
}

fn ingested(store: &Store, path: &Path) -> Result<Option<(Digest, bool)>, Unkept> {
    outputs::ingest(store, path).map_err(|error| match error {
        IngestError::Read(_) => Unkept::Because("output cannot be read back".to_owned()),
        IngestError::Store(error) => Unkept::Fault(outputs::cache_fault(&error)),
    })
}

/// What a C compile depended on.
fn preprocessed_inputs(
    context: &Context,
    prepared: &Prepared,
    observed: &Observed,
    traced: &Traced,
) -> Result<Inputs, Unkept> {
    if !observed.programs.is_empty() {
        return Err("runs a program that is not the compiler's".into());
    }
    let files = &context.initiator.files;
    let mut inputs = Inputs::gather(observed, files, traced.started).map_err(|doubt| doubted(&doubt))?;
    for path in &prepared.task.extra_inputs {
        let added = inputs.add(&context.absolute(path), files, traced.started);
        added.map_err(|doubt| doubted(&doubt))?;
    }
    if policy::specs_read_environment(&prepared.task.args, &context.invoke.cwd) {
        return Err("specs that read the environment".into());
    }
    let mentions = inputs.mentions.union(scan_args(&prepared.task.args));
    policy::may_be_kept(mentions, &prepared.toolchain.info, &prepared.env)?;
    Ok(inputs)
}

impl From<crates::Objection> for Unkept {
    fn from(objection: crates::Objection) -> Self {
        match objection {
            crates::Objection::Because(reason) => reason.into(),
            crates::Objection::Doubt(doubt) => doubted(&doubt),
        }
    }
}

/// A doubt's stable text: reasons are counted, so they name no files.
fn doubted(doubt: &Doubt) -> Unkept {
    tracing::info!(%doubt, "a result is not remembered");
    Unkept::from(match doubt {
        Doubt::Trace(_) => "its trace is not certain",
        Doubt::TooNew(_) => "an input is as new as the compile",
        Doubt::Appeared(_) | Doubt::Gone(_) => "an input changed during the compile",
        Doubt::Special(_) => "reads something that is no regular file",
        Doubt::Io(_) => "an input cannot be read back",
    })
}

/// The objects between compile and link: named like the driver's own, because a linker names them in messages and maps;
/// removed with this value.
pub struct Objects(Vec<Option<tempfile::TempPath>>);

impl Objects {
    /// Chooses a path in `dir` for each task that leaves it to us.
    pub fn choose(dir: &Path, family: Family, tasks: &[Task]) -> std::io::Result<Self> {
        let choose = |task: &Task| {
            if !task.needs_object_path() {
                return Ok(None);
            }
            let mut prefix = OsString::from("cc");
            if family == Family::Clang {
                prefix = task.source.file_stem().unwrap_or_default().to_owned();
                prefix.push("-");
            }
            let mut builder = tempfile::Builder::new();
            builder
                .prefix(&prefix)
                .suffix(".o")
                .rand_bytes(6)
                .tempfile_in(dir)
                .map(|file| Some(file.into_temp_path()))
        };
        tasks.iter().map(choose).collect::<std::io::Result<_>>().map(Objects)
    }

    /// One per task.
    pub fn paths(&self) -> impl Iterator<Item = Option<PathBuf>> {
        self.0.iter().map(|path| path.as_ref().map(|path| path.to_path_buf()))
    }

    /// The objects in the order of the tasks.
    pub fn all(&self) -> Vec<PathBuf> {
        self.paths().flatten().collect()
    }
}
