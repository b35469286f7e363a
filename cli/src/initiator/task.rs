//! One task's way: the near cache, then the pool, then this machine.
//!
//! Finding an answer never fails: whatever goes wrong makes the task run here, with the reason.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dbuild_cache::CacheError;
use dbuild_compilers::{Output, Place, Task, relevant_env};
use dbuild_intake::action::{ActionRequest, BuiltAction, build, logical_directory};
use dbuild_intake::recall::{KeyParts, RecallKey, Recalled, recall, remember};
use dbuild_intake::{
    FindError, FindRequest, InputFinder, Inputs, IntakeError, Start, Toolchain, TracedDepends,
};
use dbuild_proto::Digest;
use dbuild_proto::record::{OutputFile, TaskOutcome};
use dbuild_shims::frame::{Command, Ran};

use super::invocation::{Context, blocking};
use super::outputs::{self, Manner, Ready};
use super::policy;
use super::remote::{self, Remote};
use crate::config::processors;
use crate::record::{Event, Placement, TaskEnd};

/// The longest that an action may run on a helper.
const ACTION_TIMEOUT: Duration = Duration::from_secs(3600);

/// The longest that the search for inputs may take.
const FIND_LIMIT: Duration = Duration::from_secs(300);

/// How the object between compile and link is called in records and on helpers, whose directories are their own.
const OBJECT: &str = ".dbuild-object.o";

/// What a compiler gave, wherever it ran.
#[derive(Debug)]
pub struct Answered {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// A wait status, as waitpid(2) gives it.
    pub status: i32,
}

impl Answered {
    /// What the shim's child gave, as far as it is still to be printed.
    pub fn of(ran: Ran) -> Self {
        let (stdout, stderr) = if ran.truncated { Default::default() } else { (ran.stdout, ran.stderr) };
        Answered { stdout, stderr, status: ran.status }
    }
}

/// What is to be done with a task after everything was asked.
pub enum Verdict {
    Answered(Answered),
    Here(Box<Here>),
}

/// A task that runs on this machine.
pub struct Here {
    pub prepared: Prepared,
    pub reason: String,
    pub fault: Option<String>,
    pub notice: Option<String>,
    pub miss: Option<String>,
    /// Why its answer is not kept, as far as that is known before it runs.
    pub uncacheable: Option<String>,
    pub traced: Option<Traced>,
}

/// A run that is observed.
pub struct Traced {
    pub trace: PathBuf,
    pub started: Start,
}

/// A task with all that is the same wherever it runs.
#[derive(Clone)]
pub struct Prepared {
    pub toolchain: Arc<Toolchain>,
    pub task: Arc<Task>,
    /// Where the object goes if the task leaves that to us.
    pub object: Option<PathBuf>,
    /// The environment as far as compilers read it.
    pub env: Vec<(OsString, OsString)>,
    pub key: RecallKey,
    /// The key's fields, for `dbuild why`.
    pub fields: Vec<(String, String)>,
}

/// Where an output of a task goes. Paths are absolute.
#[derive(Clone, Debug)]
pub struct Destination {
    /// As records and actions name it.
    pub name: PathBuf,
    /// Where it is in the build's tree; differs from the name for an object between compile and link.
    pub path: PathBuf,
    pub manner: Manner,
    /// The compile writes it whenever it succeeds.
    pub certain: bool,
}

impl Here {
    fn new(prepared: Prepared, reason: impl Into<String>) -> Self {
        Here {
            prepared,
            reason: reason.into(),
            fault: None,
            notice: None,
            miss: None,
            uncacheable: None,
            traced: None,
        }
    }

    /// Readies the run: traced if its answer may be kept.
    pub fn begin(&mut self, context: &Context) -> std::io::Result<Command> {
        let Prepared { task, object, .. } = &self.prepared;
        let args = match object {
            Some(object) => task.args_with_object(object),
            None => task.args.clone(),
        };
        if self.uncacheable.is_none() {
            let trace = context.initiator.new_trace();
            dbuild_shims::trace::create(&trace, dbuild_shims::trace::DEFAULT_CAPACITY)?;
            let started = Start::after(&context.absolute(&task.source));
            self.traced = Some(Traced { trace, started });
        }
        Ok(context.command(args, self.traced.as_ref().map(|traced| traced.trace.clone())))
    }
}

impl Prepared {
    fn new(context: &Context, toolchain: Arc<Toolchain>, task: Arc<Task>, object: Option<PathBuf>) -> Self {
        let invoke = &context.invoke;
        let env = relevant_env(toolchain.info.family, &invoke.env);
        let mut more: Vec<(&'static str, &[u8])> = Vec::new();
        let preloaded = preloaded(context);
        if let Some(preloaded) = &preloaded {
            more.push(("preloaded", preloaded));
        }
        if task.needs_cpu_identity {
            more.push(("processor", context.initiator.cpu().as_bytes()));
        }
        let argv0 = invoke.argv.first().cloned().unwrap_or_default();
        let parts = KeyParts {
            toolchain: &toolchain.id,
            argv0: &argv0,
            args: &task.args,
            cwd: &invoke.cwd,
            logical_cwd: logical_directory(&invoke.cwd, &invoke.env),
            env: &env,
            more: &more,
        };
        let (key, fields) = (parts.key(), parts.explain());
        Prepared { toolchain, task, object, env, key, fields }
    }

    /// The task's outputs, in its order.
    pub fn outputs(&self, context: &Context) -> Vec<Destination> {
        let family = self.toolchain.info.family;
        let destination = |output: &Output| {
            let (name, path) = match (&output.place, &self.object) {
                (Place::Named(path), _) => (context.absolute(path), context.absolute(path)),
                (Place::Intermediate, Some(object)) => (context.absolute(Path::new(OBJECT)), object.clone()),
                (Place::Intermediate, None) => return None,
            };
            Some(Destination {
                name,
                path,
                manner: outputs::manner(family, output.kind),
                certain: output.certain,
            })
        };
        self.task.outputs.iter().filter_map(destination).collect()
    }

    /// The event for an answer of this task.
    pub fn end(&self, context: &Context, placement: Placement, reason: &str) -> TaskEnd {
        TaskEnd {
            placement,
            outputs: self.outputs(context).into_iter().map(|output| output.path).collect(),
            key: self.fields.clone(),
            ..context.ran_here(reason.to_owned(), None)
        }
    }
}

/// What the build itself preloads into its compilers (fakeroot and its like): the list, and each library's content.
fn preloaded(context: &Context) -> Option<Vec<u8>> {
    let value = context.variable("LD_PRELOAD")?.as_bytes();
    let mut all = value.to_vec();
    for library in value.split(|byte| matches!(byte, b':' | b' ')) {
        let facts = context.initiator.files.unscanned(Path::new(std::ffi::OsStr::from_bytes(library)));
        all.extend(facts.map_or([0; 32], |facts| facts.digest.hash));
    }
    Some(all)
}

/// Asks the near cache and the pool.
pub async fn answer(
    context: Arc<Context>,
    toolchain: Arc<Toolchain>,
    task: Arc<Task>,
    object: Option<PathBuf>,
) -> Verdict {
    let asked = {
        let (context, task) = (context.clone(), task.clone());
        blocking(move || ask_near(&context, Prepared::new(&context, toolchain, task, object))).await
    };
    let (prepared, miss, notice) = match asked {
        Ok(Near::Answered(answered)) => return Verdict::Answered(answered),
        Ok(Near::Here(here)) => return Verdict::Here(here),
        Ok(Near::Missed(prepared, miss, notice)) => (prepared, miss, notice),
        // A bug of ours must not cost the build; the shim goes on alone when the connection breaks.
        Err(error) => panic!("the look-up of a task ended early: {error}"),
    };
    let mut here = match (&context.coordinator, &task.distribute) {
        (None, _) => Here::new(prepared, "no pool"),
        (Some(_), Err(reason)) => Here::new(prepared, reason.to_string()),
        (Some(_), Ok(())) if context.variable("LD_PRELOAD").is_some() => Here::new(prepared, "LD_PRELOAD"),
        (Some(url), Ok(())) => match ask_pool(&context, &prepared, url).await {
            Ok(answered) => return Verdict::Answered(answered),
            Err(refusal) => {
                let mut here = Here::new(prepared, refusal.reason);
                here.fault = refusal.fault;
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

enum Near {
    Answered(Answered),
    /// With the reason, and with what is to be said in the summary.
    Missed(Prepared, Option<String>, Option<String>),
    Here(Box<Here>),
}

/// Looks into the near cache and puts a hit in place.
fn ask_near(context: &Context, prepared: Prepared) -> Near {
    let destinations = prepared.outputs(context);
    let objection = destinations.iter().find_map(|output| outputs::objection(&output.path));
    if let Some(objection) = objection.or_else(|| policy::side_effect(&prepared.task, &destinations)) {
        // The compiler itself deals with it; what it writes there is not ours to keep.
        let mut here = Here::new(prepared, objection);
        here.uncacheable = Some(objection.to_owned());
        return Near::Here(Box::new(here));
    }
    let initiator = &context.initiator;
    let (Ok(store), Ok(())) = (&initiator.store, &prepared.task.cache) else {
        return Near::Missed(prepared, None, None);
    };
    let damaged = store.counters().damaged;
    let usable = |outcome: &TaskOutcome| readies(context, &prepared, outcome).is_some();
    let recalled = recall(store, &prepared.key, &initiator.files, &initiator.directories, &usable);
    let miss = match recalled {
        Ok(Recalled::Hit(outcome)) => match hit(context, &prepared, outcome) {
            Ok(answered) => return Near::Answered(answered),
            Err(error) if error.is_not_found() => "its result was evicted from the cache".to_owned(),
            // The compiler says what is wrong there, or gets around it.
            Err(_) => return Near::Here(Box::new(Here::new(prepared, "output could not be put in place"))),
        },
        Ok(Recalled::Changed(change)) => change.to_string(),
        Ok(Recalled::Unknown) => "this command is new".to_owned(),
        Err(error) => outputs::cache_fault(&error),
    };
    let found = store.counters().damaged > damaged;
    let notice = found.then(|| "a damaged file was found in the cache and removed".to_owned());
    Near::Missed(prepared, Some(miss), notice)
}

/// The files of an outcome with their places in this build's tree; `None` if it is not one of this task's.
fn readies(context: &Context, prepared: &Prepared, outcome: &TaskOutcome) -> Option<Vec<Ready>> {
    let places = prepared.outputs(context);
    let ready = |output: &OutputFile| {
        let name = Path::new(std::ffi::OsStr::from_bytes(&output.path));
        let place = places.iter().find(|place| place.name == name)?;
        let digest = Digest::try_from(output.blob.as_ref()?).ok()?;
        Some(Ready { path: place.path.clone(), digest, executable: output.executable, manner: place.manner })
    };
    outcome.outputs.iter().map(ready).collect()
}

fn hit(context: &Context, prepared: &Prepared, outcome: TaskOutcome) -> Result<Answered, CacheError> {
    let files = readies(context, prepared, &outcome).unwrap_or_default();
    if let Ok(store) = &context.initiator.store {
        outputs::place(store, &files, context.invoke.umask)?;
    }
    let mut end = prepared.end(context, Placement::HitLocal, "hit");
    end.run_ms = outcome.run_ms;
    context.initiator.record(Event::Ended(Box::new(end)));
    Ok(Answered { stdout: outcome.stdout, stderr: outcome.stderr, status: 0 })
}

/// Why the pool did not answer: the reason for statistics, and the fault if it is one.
struct Refusal {
    reason: String,
    fault: Option<String>,
}

impl Refusal {
    /// The task is not one for helpers; nothing is wrong.
    fn because(reason: impl Into<String>) -> Self {
        Refusal { reason: reason.into(), fault: None }
    }

    fn fault(message: impl Into<String>) -> Self {
        let message = message.into();
        Refusal { reason: message.clone(), fault: Some(message) }
    }
}

impl From<remote::Fault> for Refusal {
    fn from(fault: remote::Fault) -> Self {
        Refusal::fault(fault.message)
    }
}

async fn ask_pool(context: &Arc<Context>, prepared: &Prepared, url: &str) -> Result<Answered, Refusal> {
    let remote: Remote = context.initiator.remote(url)?;
    remote.ready(&context.session).await?;
    let store = context.initiator.store.clone().map_err(Refusal::fault)?;

    // Preprocessing takes a processor of this machine.
    let turn = context.initiator.scans.take(processors()).await;
    let (inputs, built) = {
        let (context, prepared) = (context.clone(), prepared.clone());
        blocking(move || describe(&context, &prepared))
            .await
            .map_err(|error| Refusal::fault(error.to_string()))??
    };
    drop(turn);
    let toolchain = prepared.toolchain.clone();
    let answer = remote.execute(&toolchain.root, &built, &store).await?;

    let (context, prepared) = (context.clone(), prepared.clone());
    blocking(move || accept(&context, &prepared, &inputs, &built, answer))
        .await
        .map_err(|error| Refusal::fault(error.to_string()))?
}

/// Finds the inputs and builds the action.
fn describe(context: &Context, prepared: &Prepared) -> Result<(Inputs, BuiltAction), Refusal> {
    let invoke = &context.invoke;
    let argv0 = invoke.argv.first().cloned().unwrap_or_default();
    let inputs = find(context, prepared, &argv0)?;
    policy::may_leave(&inputs, &prepared.task).map_err(Refusal::because)?;
    let args = prepared.task.args_with_object(Path::new(OBJECT));
    let outputs: Vec<PathBuf> = prepared.outputs(context).into_iter().map(|output| output.name).collect();
    let request = ActionRequest {
        toolchain: &prepared.toolchain,
        inputs: &inputs,
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

fn find(context: &Context, prepared: &Prepared, argv0: &std::ffi::OsStr) -> Result<Inputs, Refusal> {
    let initiator = &context.initiator;
    let finder = TracedDepends {
        interceptor: initiator.interceptor.clone(),
        scratch: initiator.config.data_dir.scratch(),
        own: initiator.own_directories(),
        files: initiator.files.clone(),
        limit: FIND_LIMIT,
    };
    let request = FindRequest {
        toolchain: &prepared.toolchain,
        argv0,
        task: &prepared.task,
        cwd: &context.invoke.cwd,
        env: &context.invoke.env,
    };
    finder.find(&request).map_err(|error| match error {
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
        outputs: Vec::new(),
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
        });
    }
    if answer.exit_code == 0 {
        policy::complete(&places, &outcome).map_err(Refusal::fault)?;
    } else if let Some(reason) = policy::doubtful_failure(&outcome.stderr, answer.exit_code, &places) {
        return Err(Refusal::because(reason));
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
        && let Err(error) = remember(store, &prepared.key, inputs, outcome)
    {
        tracing::warn!(%error, "failed to remember a result");
    }
    Ok(answered)
}
