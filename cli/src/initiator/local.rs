//! What follows a run on this machine: read the trace, keep the outputs, remember the result.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dbuild_cache::Store;
use dbuild_compilers::{CrateUnit, Family, OutputKind, Task, scan_args};
use dbuild_intake::observe::{self, Scope};
use dbuild_intake::{Doubt, Inputs, Observed, Signature, Start};
use dbuild_proto::Digest;
use dbuild_proto::record::{OutputFile, TaskOutcome};
use dbuild_shims::frame::Ran;

use super::context::Context;
use super::crates::{self, linkers};
use super::near;
use super::outputs::{self, IngestError};
use super::policy;
use super::task::{Answered, Destination, Here, Prepared, Traced};
use crate::record::{Event, Placement};

/// The exit code as a shell has it.
pub fn exit_code(status: i32) -> i32 {
    match status & 0x7f {
        0 => (status >> 8) & 0xff,
        signal => 128 + signal,
    }
}

/// Ends a run on this machine: whatever happens here, the build has its outputs already. What is left to be done for the
/// cache (reading, hashing) may go on when the build does; what the run did is seen before that.
pub fn finish(context: &Arc<Context>, here: Here, ran: Ran) -> (Answered, impl FnOnce() + Send + use<>) {
    let mut end = here.prepared.end(context, Placement::Local, &here.reason);
    end.exit_code = exit_code(ran.status);
    end.run_ms = ran.wall_us / 1000;
    end.fault = here.fault.clone();
    end.notice = here.notice.clone();
    end.miss = here.miss.clone();
    let seen = match (&here.uncacheable, &here.traced) {
        (Some(reason), _) => Err(Unkept::Because(reason.clone())),
        (None, None) => Err("not traced".into()),
        _ if ran.status != 0 => Err("failed".into()),
        _ if ran.truncated => Err("printed too much".into()),
        (None, Some(traced)) => look(context, &here, traced),
    };
    if let Some(traced) = &here.traced {
        // The scratch directory is cleared at the next start at the latest.
        let _ = std::fs::remove_file(&traced.trace);
    }
    if let Ok(seen) = &seen {
        end.outputs.extend(seen.more().cloned());
    }
    let said = (ran.stdout.clone(), ran.stderr.clone());
    let context = context.clone();
    let rest = move || {
        end.uncacheable = match seen.and_then(|seen| keep(&context, &here, &seen, said, end.run_ms)) {
            Ok(()) => None,
            Err(Unkept::Because(reason)) => Some(reason),
            Err(Unkept::Fault(fault)) => {
                end.fault.get_or_insert(fault);
                Some("a fault of the cache".to_owned())
            }
        };
        context.initiator.record(Event::Ended(Box::new(end)));
    };
    (Answered::of(ran), rest)
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

/// What a run did, taken down at once when it had ended.
struct Seen {
    started: Start,
    observed: Observed,
    places: Vec<Destination>,
    unit: Option<CrateUnit>,
    /// What was written, as it was then.
    written: Vec<(PathBuf, Signature)>,
}

impl Seen {
    /// Files that were written and had not been foretold.
    fn more(&self) -> impl Iterator<Item = &PathBuf> {
        let foretold = |path: &&PathBuf| self.places.iter().any(|place| place.path == **path);
        self.observed.written.iter().filter(move |path| !foretold(path))
    }

    /// Whether the file is as the run left it.
    fn stands(&self, path: &Path) -> bool {
        let content = |signature: Signature| Signature { ctime: 0, ..signature };
        let now = std::fs::metadata(path).map(|meta| content(Signature::of(&meta)));
        let then = self.written.iter().find(|(written, _)| written == path);
        // Another name for it (cargo links programs) changes ctime only.
        then.is_some_and(|(_, then)| now.is_ok_and(|now| now == content(*then)))
    }
}

fn look(context: &Context, here: &Here, traced: &Traced) -> Result<Seen, Unkept> {
    let initiator = &context.initiator;
    let prepared = &here.prepared;
    let places = prepared.outputs(context);
    let declared: Vec<PathBuf> = places.iter().map(|place| place.path.clone()).collect();
    let own = initiator.own_directories();
    let unit = prepared.unit(context);
    let idle = unit.as_ref().map(|unit| crates::idle(context, unit)).unwrap_or_default();
    let toolchain = Some(&*prepared.toolchain);
    let scope = Scope {
        toolchain,
        outputs: &declared,
        own: &own,
        idle: &idle,
        elsewhere: false,
        unit: unit.as_ref(),
    };
    let observed = observe::read(&traced.trace, &scope).map_err(|doubt| doubted(&doubt))?;
    if !observed.strays.is_empty() {
        tracing::info!(strays = ?observed.strays, "a compile wrote more than was expected");
        return Err("writes a file that dbuild did not expect".into());
    }
    let signed = |path: &PathBuf| Some((path.clone(), Signature::of(&std::fs::metadata(path).ok()?)));
    let written = observed.written.iter().filter_map(signed).collect();
    Ok(Seen { started: traced.started, observed, places, unit, written })
}

fn keep(
    context: &Context,
    here: &Here,
    seen: &Seen,
    (stdout, stderr): (Vec<u8>, Vec<u8>),
    run_ms: u64,
) -> Result<(), Unkept> {
    let store = context.initiator.store.as_ref().map_err(|reason| Unkept::Fault(reason.clone()))?;
    let prepared = &here.prepared;
    let Seen { started, observed, places, unit, .. } = seen;
    let inputs = match unit {
        Some(unit) => {
            let found =
                crates::inputs(context, &prepared.toolchain, unit, observed, (*started, stderr.as_slice()))?;
            if unit.links && context.coordinator.is_some() {
                linkers::note(context, prepared, unit, observed, &found, *started)
                    .map_err(|error| Unkept::Fault(outputs::cache_fault(&error)))?;
            }
            found
        }
        None => preprocessed_inputs(context, prepared, observed, *started)?,
    };

    let mut outcome = TaskOutcome { stdout, stderr, run_ms, ..TaskOutcome::default() };
    // A file that was there before and that this run did not write is no output of it.
    let foretold = places.iter().filter(|place| observed.written.contains(&place.path));
    let foretold = foretold.map(|place| (&place.name, &place.path));
    for (name, path) in foretold.chain(seen.more().map(|path| (path, path))) {
        let Some((digest, executable)) = ingested(store, path)? else { continue };
        if !seen.stands(path) {
            return Err("an output changed after the compile".into());
        }
        let path = name.as_os_str().as_bytes().to_vec();
        outcome.outputs.push(OutputFile { path, blob: Some(digest.into()), executable, masked: false });
    }
    let depfiles =
        prepared.task.outputs.iter().zip(places).filter(|(output, _)| output.kind == OutputKind::Depfile);
    for (_, place) in depfiles.filter(|_| unit.is_some()) {
        let text = std::fs::read(&place.path).map_err(|_| Unkept::from("output cannot be read back"))?;
        if crates::asks_for_the_jobserver(&text) {
            return Err("asks for the jobserver's variables".into());
        }
    }
    if outcome.outputs.is_empty() || policy::complete(places, &outcome).is_err() {
        return Err("an expected output is missing".into());
    }
    near::remember(context, prepared, &inputs, outcome)
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
    started: Start,
) -> Result<Inputs, Unkept> {
    if !observed.programs.is_empty() {
        return Err("runs a program that is not the compiler's".into());
    }
    let files = &context.initiator.files;
    let mut inputs = Inputs::gather(observed, files, started).map_err(|doubt| doubted(&doubt))?;
    for path in &prepared.task.extra_inputs {
        let added = inputs.add(&context.absolute(path), files, started);
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
