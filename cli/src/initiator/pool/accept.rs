//! What comes back from the pool: checked, put in place, remembered.

use std::borrow::Cow;
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use dbuild_compilers::{DependStyle, Depfile, OutputKind};
use dbuild_intake::action::BuiltAction;
use dbuild_intake::{Doubt, Inputs, verify};
use dbuild_proto::record::{OutputFile, TaskOutcome};
use dbuild_proto::{Digest, DigestFunction};

use super::super::context::Context;
use super::super::crates::Objection;
use super::super::crates::away::{self, Luggage};
use super::super::crates::back::{self, Moment};
use super::super::near::{self, readies};
use super::super::outputs::Ready;
use super::super::task::{Answered, Prepared};
use super::super::{outputs, policy, remote};
use super::Refusal;
use super::errand::{Content, Errand};
use crate::record::{Event, Placement};

/// The reason under which tasks are counted whose depfile differed from what the scan of directives had found.
pub const SCAN_DIFFERS: &str = "the compiler read other files than the scan had found";

/// Puts a helper's answer in place and remembers it.
pub fn accept(
    context: &Context,
    prepared: &Prepared,
    Errand { inputs, built, .. }: &Errand,
    mut answer: remote::Answer,
    placed: &[Ready],
) -> Result<Answered, Refusal> {
    let store = context.initiator.store.as_ref().map_err(Refusal::fault)?;
    let inputs = match inputs {
        Content::Found(inputs) => Some(Cow::Borrowed(inputs)),
        Content::Packed(luggage) => {
            match seen(context, prepared, luggage, built, &mut answer, Moment::End) {
                Ok(inputs) => Some(Cow::Owned(inputs)),
                // The build goes on with the metadata, so this is its other half, whatever the disk says now. Plain
                // cargo's rustc would not notice, either.
                Err(Untaken::Changed(reason)) if !placed.is_empty() => {
                    tracing::info!(reason, "inputs changed after the metadata was taken");
                    None
                }
                Err(untaken) => return Err(untaken.into()),
            }
        }
    };
    let places = prepared.outputs(context);
    let mut outcome = TaskOutcome {
        stdout: answer.stdout,
        stderr: answer.stderr,
        run_ms: answer.run_ms,
        ..TaskOutcome::default()
    };
    for (name, digest, executable) in &answer.outputs {
        // A helper may be hostile: only paths that were asked for are ever written.
        let known = |output: &&PathBuf| places.iter().any(|place| place.name == **output);
        let Some(output) = built.outputs.get(name).filter(known) else {
            return Err(Refusal::fault("a helper sent an output that was not asked for"));
        };
        outcome.outputs.push(OutputFile {
            path: output.as_os_str().as_bytes().to_vec(),
            blob: Some((*digest).into()),
            executable: *executable,
            masked: false,
        });
    }
    if answer.exit_code == 0 {
        policy::complete(&places, &outcome).map_err(Refusal::fault)?;
    } else if let Some(reason) = policy::doubtful_failure(&outcome.stderr, answer.exit_code, &places) {
        return Err(Refusal::because(reason));
    }
    if answer.exit_code == 0
        && let Some(inputs) = &inputs
    {
        verify(context, prepared, inputs, &outcome)?;
    }
    let mut files = readies(context, prepared, &outcome).unwrap_or_default();
    // Whoever reads it already must not see it change.
    files.retain(|file| !placed.iter().any(|early| early.path == file.path && early.digest == file.digest));
    outputs::place(store, &files, context.invoke.umask)
        .map_err(|_| Refusal::because("output could not be put in place"))?;
    let (placement, reason) =
        if answer.cached { (Placement::HitShared, "hit") } else { (Placement::Remote, "remote") };
    let mut end = prepared.end(context, placement, reason);
    end.helper = answer.helper.filter(|_| !answer.cached);
    end.exit_code = answer.exit_code;
    end.notice = answer.notice;
    (end.sent, end.received, end.run_ms) = (answer.sent, answer.received, answer.run_ms);
    end.phases = answer.phases;
    end.uncacheable = match (&inputs, &prepared.task.cache) {
        (None, _) => Some("an input changed during the compile".to_owned()),
        (_, cache) => cache.as_ref().err().map(ToString::to_string),
    };
    context.initiator.record(Event::Ended(Box::new(end)));
    let answered = Answered {
        stdout: outcome.stdout.clone(),
        stderr: outcome.stderr.clone(),
        status: answer.exit_code << 8,
    };
    if answer.exit_code == 0
        && prepared.task.cache.is_ok()
        && let Some(inputs) = inputs
        && let Err(error) = near::remember(context, prepared, &inputs, outcome)
    {
        tracing::warn!(%error, "failed to remember a result");
    }
    Ok(answered)
}

/// Why an answer of a crate is not taken.
enum Untaken {
    /// This machine is not, or not any more, as the helper had it.
    Changed(&'static str),
    Refused(Refusal),
}

impl From<Refusal> for Untaken {
    fn from(refusal: Refusal) -> Self {
        Untaken::Refused(refusal)
    }
}

impl From<Untaken> for Refusal {
    fn from(untaken: Untaken) -> Self {
        match untaken {
            Untaken::Changed(reason) => Refusal::because(reason),
            Untaken::Refused(refusal) => refusal,
        }
    }
}

/// Puts the metadata of a crate in place while its compile goes on, if everything that it depended on so far is as it is
/// here; gives what was placed, and what rustc has said of it.
pub fn early(
    context: &Context,
    prepared: &Prepared,
    Errand { inputs, built, .. }: &Errand,
    mut answer: remote::Answer,
) -> Result<(Vec<Ready>, Vec<u8>), Refusal> {
    let Content::Packed(luggage) = inputs else { return Err(Refusal::because("it is no crate")) };
    seen(context, prepared, luggage, built, &mut answer, Moment::Metadata)?;
    let store = context.initiator.store.as_ref().map_err(Refusal::fault)?;
    let places = prepared.outputs(context);
    let ready = |(name, digest, executable): &(String, Digest, bool)| {
        let path = built.outputs.get(name).filter(|path| path.extension() == Some("rmeta".as_ref()))?;
        let place = places.iter().find(|place| place.name == *path)?;
        let (path, manner) = (place.path.clone(), place.manner);
        Some(Ready { path, digest: *digest, executable: *executable, manner })
    };
    let files: Vec<Ready> = answer.outputs.iter().filter_map(ready).collect();
    if files.is_empty() {
        return Err(Refusal::because("no metadata came"));
    }
    outputs::place(store, &files, context.invoke.umask)
        .map_err(|_| Refusal::because("output could not be put in place"))?;
    Ok((files, answer.stderr))
}

/// What a crate's compile depended on, by the trace among the outputs, which is taken out of them.
fn seen(
    context: &Context,
    prepared: &Prepared,
    luggage: &Luggage,
    built: &BuiltAction,
    answer: &mut remote::Answer,
    moment: Moment,
) -> Result<Inputs, Untaken> {
    if answer.exit_code != 0 {
        // Maybe for want of a file.
        let (source, error) = (prepared.task.source.display(), first_error(&answer.stderr));
        tracing::info!(%source, error, "a crate's compile failed on a helper");
        return Err(Refusal::because("compiler failed on a helper").into());
    }
    let store = context.initiator.store.as_ref().map_err(Refusal::fault)?;
    let Some(unit) = prepared.unit(context) else { return Ok(Inputs::default()) };
    let came: HashMap<&Path, Digest> = answer
        .outputs
        .iter()
        .filter_map(|(name, digest, _)| Some((built.outputs.get(name)?.as_path(), *digest)))
        .collect();
    let read = |path: &Path| {
        let read = came.get(path).map(|digest| store.read(DigestFunction::Blake3, digest)).transpose();
        read.map_err(|error| Refusal::fault(outputs::cache_fault(&error)))
    };
    let trace = Path::new(away::TRACE);
    let returned = back::Returned {
        trace: read(trace)?.ok_or_else(|| Refusal::because("a helper sent no trace"))?,
        stderr: &answer.stderr,
        depfile: depfile(context, prepared).map_or(Ok(None), |path| read(&path))?,
        moment,
        outputs: &came.keys().copied().collect::<Vec<_>>(),
    };
    answer.outputs.retain(|(name, _, _)| built.outputs.get(name).is_none_or(|path| path != trace));
    back::verified(context, prepared, &unit, luggage, returned).map_err(|objection| match objection {
        Objection::Because(reason @ back::OTHER_FILES) => Untaken::Changed(reason),
        Objection::Doubt(doubt @ (Doubt::TooNew(_) | Doubt::Appeared(_) | Doubt::Gone(_))) => {
            tracing::info!(%doubt, "an answer is not taken");
            Untaken::Changed("an input changed during the compile")
        }
        other => Untaken::Refused(other.into()),
    })
}

/// The first error among messages for a program (rustc book, "JSON Output").
fn first_error(stderr: &[u8]) -> Option<String> {
    let mut lines = stderr.split(|byte| *byte == b'\n');
    lines.find_map(|line| {
        let message: serde_json::Value = serde_json::from_slice(line).ok()?;
        let is_error = message.get("level")?.as_str()? == "error";
        is_error.then(|| message.get("message")?.as_str().map(str::to_owned)).flatten()
    })
}

/// Holds the depfile that came back, if there is one, against what the scan had found. The object of a compile that saw
/// other inputs may be wrong: the task is done again here, where the compiler finds them itself.
fn verify(
    context: &Context,
    prepared: &Prepared,
    inputs: &Inputs,
    outcome: &TaskOutcome,
) -> Result<(), Refusal> {
    let task = &prepared.task;
    if task.unit.is_some() {
        return Ok(());
    }
    let Some(name) = depfile(context, prepared) else { return Ok(()) };
    let sent = outcome.outputs.iter().find(|output| output.path == name.as_os_str().as_bytes());
    let Some(digest) = sent.and_then(|output| Digest::try_from(output.blob.as_ref()?).ok()) else {
        return Ok(());
    };
    let initiator = &context.initiator;
    let store = initiator.store.as_ref().map_err(Refusal::fault)?;
    let text = store
        .read(DigestFunction::Blake3, &digest)
        .map_err(|error| Refusal::fault(outputs::cache_fault(&error)))?;
    let depfile = Depfile::parse(&text).map_err(|_| Refusal::fault("a helper sent a damaged depfile"))?;
    let style = DependStyle::of(&task.args);
    let cwd = &context.invoke.cwd;
    match verify::difference(inputs, &depfile, style, cwd, &prepared.toolchain, &initiator.files) {
        None => Ok(()),
        Some(difference) => {
            tracing::warn!(source = %task.source.display(), %difference, "a scan was wrong");
            Err(Refusal::fault(SCAN_DIFFERS))
        }
    }
}

/// Where the depfile goes, if there is one.
fn depfile(context: &Context, prepared: &Prepared) -> Option<PathBuf> {
    let mut depfiles = prepared.task.outputs.iter().filter(|output| output.kind == OutputKind::Depfile);
    depfiles.find_map(|output| Some(context.absolute(output.path()?)))
}
