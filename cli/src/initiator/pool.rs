//! A task's way through the pool: its inputs found, its action described, the helper's answer accepted.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dbuild_compilers::{DependStyle, Depfile, OutputKind};
use dbuild_intake::action::{ActionRequest, BuiltAction, build, logical_directory};
use dbuild_intake::recall::Earlier;
use dbuild_intake::{FindError, FindRequest, InputFinder, Inputs, IntakeError, verify};
use dbuild_proto::record::{OutputFile, TaskOutcome};
use dbuild_proto::{Digest, DigestFunction};

use super::context::{Context, blocking};
use super::near::{self, Missed, readies};
use super::remote::{self, Remote};
use super::slots::Slot;
use super::task::{Answered, Here, OBJECT, Prepared, Verdict};
use super::{outputs, policy};
use crate::config::processors;
use crate::record::{Event, Placement};

/// The reason under which tasks are counted whose depfile differed from what the scan of directives had found.
pub const SCAN_DIFFERS: &str = "the compiler read other files than the scan had found";

/// The longest that an action may run on a helper.
const ACTION_TIMEOUT: Duration = Duration::from_secs(3600);

/// Why a task runs here that helpers could have run.
const FULL: &str = "helpers are busy";

/// Asks the pool, if there is one for this task. `alone`: it is the only task of its call.
pub async fn answer(context: Arc<Context>, missed: Missed, alone: bool) -> Verdict {
    let Missed { prepared, miss, notice, earlier, described } = missed;
    let task = prepared.task.clone();
    let mut here = match reachable(&context, &prepared) {
        Err(reason) => Here::new(prepared, reason),
        Ok(url) => match ask(&context, &prepared, (earlier, described), url, alone).await {
            Ok(answered) => return Verdict::Answered(answered),
            Err(refusal) => {
                let mut here = Here::new(prepared, refusal.reason);
                here.fault = refusal.fault;
                here.slot = refusal.slot;
                here
            }
        },
    };
    here.miss = miss;
    here.notice = notice;
    here.uncacheable = task.cache.as_ref().err().map(ToString::to_string);
    if let Err(reason) = &context.initiator.store {
        here.uncacheable = Some("the cache cannot be used".to_owned());
        here.fault.get_or_insert_with(|| reason.clone());
    }
    Verdict::Here(Box::new(here))
}

/// The coordinator of a task that may leave this machine; else why it may not.
fn reachable<'c>(context: &'c Context, prepared: &Prepared) -> Result<&'c str, String> {
    let url = context.coordinator.as_deref().ok_or("no pool")?;
    prepared.task.distribute.as_ref().map_err(ToString::to_string)?;
    match context.variable("LD_PRELOAD") {
        Some(_) => Err("LD_PRELOAD".to_owned()),
        None => Ok(url),
    }
}

/// A task's inputs and its action, or why it does not go to the pool.
pub struct Described(Result<(Inputs, BuiltAction), Refusal>);

/// Describes the task on the calling thread, if it goes to the pool and nothing has to be waited for: that saves handing
/// it over twice.
pub fn describe_at_once(context: &Context, missed: &mut Missed) {
    let Ok(url) = reachable(context, &missed.prepared) else { return };
    let initiator = &context.initiator;
    if initiator.known_remote(url).is_some_and(|remote| remote.is_ready())
        && let Some(_turn) = initiator.scans.try_take(processors())
    {
        // It is of no use afterwards, and holds on to a whole manifest.
        let earlier = missed.earlier.take();
        let described = describe(context, &missed.prepared, earlier.as_ref());
        missed.described = Some(Described(described));
    }
}

/// Why the pool did not answer: the reason for statistics, and the fault if it is one.
struct Refusal {
    reason: String,
    fault: Option<String>,
    /// The slot that it is to run in.
    slot: Option<Slot>,
}

impl Refusal {
    /// The task is not one for helpers; nothing is wrong.
    fn because(reason: impl Into<String>) -> Self {
        Refusal { reason: reason.into(), fault: None, slot: None }
    }

    fn fault(message: impl Into<String>) -> Self {
        let message = message.into();
        Refusal { reason: message.clone(), fault: Some(message), slot: None }
    }
}

impl From<remote::Fault> for Refusal {
    fn from(fault: remote::Fault) -> Self {
        Refusal::fault(fault.message)
    }
}

async fn ask(
    context: &Arc<Context>,
    prepared: &Prepared,
    (earlier, described): (Option<Earlier>, Option<Described>),
    url: &str,
    alone: bool,
) -> Result<Answered, Refusal> {
    let remote: Remote = context.initiator.remote(url)?;
    remote.ready(&context.session).await?;
    let store = context.initiator.store.clone().map_err(Refusal::fault)?;

    let (inputs, built) = match described {
        Some(Described(described)) => described?,
        None => {
            // Scanning takes a processor of this machine.
            let _turn = context.initiator.scans.take(processors()).await;
            let (context, prepared) = (context.clone(), prepared.clone());
            blocking(move || describe(&context, &prepared, earlier.as_ref()))
                .await
                .map_err(|error| Refusal::fault(error.to_string()))??
        }
    };
    let toolchain = prepared.toolchain.clone();
    // In a full pool it would only wait. A call's other tasks would hold one up that runs here.
    let waits = alone && remote.full(&context.session);
    let answer = match remote.recall(&toolchain.root, &built, &store, waits).await? {
        Some(answer) => answer,
        None => {
            if waits && let Some(slot) = context.spare_slot() {
                return Err(Refusal { slot: Some(slot), ..Refusal::because(FULL) });
            }
            remote.execute(&toolchain.root, &built, &store).await?
        }
    };

    let (context, prepared) = (context.clone(), prepared.clone());
    blocking(move || accept(&context, &prepared, &inputs, &built, answer))
        .await
        .map_err(|error| Refusal::fault(error.to_string()))?
}

/// Finds the inputs and builds the action.
fn describe(
    context: &Context,
    prepared: &Prepared,
    earlier: Option<&Earlier>,
) -> Result<(Inputs, BuiltAction), Refusal> {
    let invoke = &context.invoke;
    let argv0 = invoke.argv.first().cloned().unwrap_or_default();
    let inputs = find(context, prepared, earlier, &argv0)?;
    policy::may_leave(&inputs, &prepared.task).map_err(Refusal::because)?;
    let args = prepared.task.args_with_object(Path::new(OBJECT));
    let outputs: Vec<PathBuf> = prepared.outputs(context).into_iter().map(|output| output.name).collect();
    let request = ActionRequest {
        toolchain: &prepared.toolchain,
        inputs: &inputs,
        files: &context.initiator.files,
        argv0: &argv0,
        args: &args,
        outputs: &outputs,
        cwd: &invoke.cwd,
        env: &prepared.env,
        logical_cwd: logical_directory(&invoke.cwd, &invoke.env),
        timeout: ACTION_TIMEOUT,
        do_not_cache: prepared.task.cache.is_err(),
    };
    let built = build(&request).map_err(|error| match error {
        IntakeError::NotUtf8(_) => Refusal::because("name that is not UTF-8"),
        error => Refusal::fault(format!("failed to {error}")),
    })?;
    Ok((inputs, built))
}

fn find(
    context: &Context,
    prepared: &Prepared,
    earlier: Option<&Earlier>,
    argv0: &std::ffi::OsStr,
) -> Result<Inputs, Refusal> {
    let initiator = &context.initiator;
    let request = FindRequest {
        toolchain: &prepared.toolchain,
        argv0,
        task: &prepared.task,
        cwd: &context.invoke.cwd,
        env: &context.invoke.env,
        earlier,
    };
    initiator.finder.find(&request).map_err(|error| match error {
        FindError::Compiler { .. } => Refusal::because("preprocessing failed"),
        FindError::Doubt(doubt) => {
            tracing::info!(%doubt, "inputs are not certain");
            Refusal::because("inputs are not certain")
        }
        error => Refusal::fault(format!("failed to {error}")),
    })
}

/// Puts a helper's answer in place and remembers it.
fn accept(
    context: &Context,
    prepared: &Prepared,
    inputs: &Inputs,
    built: &BuiltAction,
    answer: remote::Answer,
) -> Result<Answered, Refusal> {
    let store = context.initiator.store.as_ref().map_err(Refusal::fault)?;
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
    if answer.exit_code == 0 {
        verify(context, prepared, inputs, &outcome)?;
    }
    let files = readies(context, prepared, &outcome).unwrap_or_default();
    outputs::place(store, &files, context.invoke.umask)
        .map_err(|_| Refusal::because("output could not be put in place"))?;
    let (placement, reason) =
        if answer.cached { (Placement::HitShared, "hit") } else { (Placement::Remote, "remote") };
    let mut end = prepared.end(context, placement, reason);
    end.helper = answer.helper.filter(|_| !answer.cached);
    end.exit_code = answer.exit_code;
    end.notice = answer.notice;
    (end.sent, end.received, end.run_ms) = (answer.sent, answer.received, answer.run_ms);
    end.uncacheable = prepared.task.cache.as_ref().err().map(ToString::to_string);
    context.initiator.record(Event::Ended(Box::new(end)));
    let answered = Answered {
        stdout: outcome.stdout.clone(),
        stderr: outcome.stderr.clone(),
        status: answer.exit_code << 8,
    };
    if answer.exit_code == 0
        && prepared.task.cache.is_ok()
        && let Err(error) = near::remember(context, prepared, inputs, outcome)
    {
        tracing::warn!(%error, "failed to remember a result");
    }
    Ok(answered)
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
    let mut depfiles = task.outputs.iter().filter(|output| output.kind == OutputKind::Depfile);
    let Some(name) = depfiles.find_map(|output| Some(context.absolute(output.path()?))) else {
        return Ok(());
    };
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
