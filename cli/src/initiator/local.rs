//! What follows a run on this machine: read the trace, keep the outputs, remember the result.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use dbuild_compilers::{Family, Task, scan_args};
use dbuild_intake::observe::{self, Scope};
use dbuild_intake::recall::remember;
use dbuild_intake::{Doubt, Inputs};
use dbuild_proto::record::{OutputFile, TaskOutcome};
use dbuild_shims::frame::Ran;

use super::context::Context;
use super::outputs::{self, IngestError};
use super::policy;
use super::task::{Answered, Here, Traced};
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
        (None, Some(traced)) => match keep(context, &here, traced, &ran) {
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

fn keep(context: &Context, here: &Here, traced: &Traced, ran: &Ran) -> Result<(), Unkept> {
    let initiator = &context.initiator;
    let store = initiator.store.as_ref().map_err(|reason| Unkept::Fault(reason.clone()))?;
    let prepared = &here.prepared;
    let places = prepared.outputs(context);
    let declared: Vec<PathBuf> = places.iter().map(|place| place.path.clone()).collect();
    let own = initiator.own_directories();
    let scope = Scope { toolchain: Some(&prepared.toolchain), outputs: &declared, own: &own };
    let observed = observe::read(&traced.trace, &scope).map_err(|doubt| doubted(&doubt))?;
    if !observed.strays.is_empty() {
        tracing::info!(strays = ?observed.strays, "a compile wrote more than was expected");
        return Err("writes a file that dbuild did not expect".into());
    }
    if !observed.programs.is_empty() {
        return Err("runs a program that is not the compiler's".into());
    }
    let mut inputs =
        Inputs::gather(&observed, &initiator.files, traced.started).map_err(|doubt| doubted(&doubt))?;
    for path in &prepared.task.extra_inputs {
        let added = inputs.add(&context.absolute(path), &initiator.files, traced.started);
        added.map_err(|doubt| doubted(&doubt))?;
    }
    if policy::specs_read_environment(&prepared.task.args, &context.invoke.cwd) {
        return Err("specs that read the environment".into());
    }
    let mentions = inputs.mentions.union(scan_args(&prepared.task.args));
    policy::may_be_kept(mentions, &prepared.toolchain.info, &prepared.env)?;

    let mut outcome = TaskOutcome {
        outputs: Vec::new(),
        stdout: ran.stdout.clone(),
        stderr: ran.stderr.clone(),
        run_ms: ran.wall_us / 1000,
    };
    for place in &places {
        let kept = outputs::ingest(store, &place.path).map_err(|error| match error {
            IngestError::Read(_) => Unkept::Because("output cannot be read back".to_owned()),
            IngestError::Store(error) => Unkept::Fault(outputs::cache_fault(&error)),
        })?;
        // A file that was there before and that this run did not write is no output of it.
        let written = |path: &Path| observed.written.iter().any(|written| written == path);
        let Some((digest, executable)) = kept.filter(|_| written(&place.path)) else { continue };
        let path = place.name.as_os_str().as_bytes().to_vec();
        outcome.outputs.push(OutputFile { path, blob: Some(digest.into()), executable });
    }
    policy::complete(&places, &outcome).map_err(|_| Unkept::from("an expected output is missing"))?;
    remember(store, &prepared.key, (&initiator.files, &initiator.directories), &inputs, outcome)
        .map_err(|error| Unkept::Fault(outputs::cache_fault(&error)))
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
