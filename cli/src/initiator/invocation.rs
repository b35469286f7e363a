//! One compiler call, from the shim's first frame to its last: plan, tasks, link, answer.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;

use dbuild_compilers::{
    Call, Family, Link, Plan, Reason, Task, analyse, analyse_crate, cut_on_terminal, driver_spoke,
};
use dbuild_intake::{OnDisk, Toolchain, ToolchainRequest, Toolchains};
use dbuild_shims::frame::{Command, Done, Exec, FromShim, Invoke, Part, Run, ToShim};
use futures_util::future::join_all;
use tokio::sync::mpsc;

use super::connection::Connection;
use super::context::{Context, blocking};
use super::crates;
use super::local::{self, Objects};
use super::near::{self, Near};
use super::pool;
use super::slots::Slot;
use super::task::{Answered, Here, Prepared, Verdict};
use crate::record::Event;

/// What the first attempt at a call led to.
pub enum Attempt {
    /// Everything is answered.
    Done(Done),
    /// Somebody has to work, or the shim has to become the compiler.
    GoesOn(Rest),
}

/// What is left of a call that was not answered at once.
pub enum Rest {
    /// Run it as it is, for this reason; whether it needs a slot.
    Local(String, bool),
    Tasks(Tasks),
}

/// The tasks of a call, each with what the near cache said.
pub struct Tasks {
    family: Family,
    near: Vec<Near>,
    objects: Objects,
    then: Option<Link>,
}

/// Plans a call and asks the near cache. Blocks.
pub fn attempt(context: &Context) -> io::Result<Attempt> {
    let (toolchain, tasks, then) = match plan(context) {
        Planned::Local(reason, slot) => return Ok(Attempt::GoesOn(Rest::Local(reason, slot))),
        Planned::Tasks(toolchain, tasks, then) => (toolchain, tasks, then),
    };
    let temporary = context
        .variable("TMPDIR")
        .map_or_else(|| PathBuf::from("/tmp"), |dir| context.absolute(Path::new(dir)));
    let family = toolchain.info.family;
    let objects = Objects::choose(&temporary, family, &tasks)?;
    let ask = |(task, object)| near::ask(context, Prepared::new(context, toolchain.clone(), task, object));
    let mut near: Vec<Near> = tasks.into_iter().map(Arc::new).zip(objects.paths()).map(ask).collect();
    if let [Near::Missed(missed)] = near.as_mut_slice() {
        pool::describe_at_once(context, missed);
    }
    if then.is_none() && near.iter().all(|near| matches!(near, Near::Answered(_))) {
        let answers: Vec<Answered> = near.into_iter().filter_map(Near::into_answer).collect();
        if cut(context, family, &answers) {
            return Ok(Attempt::GoesOn(Rest::Local(CUT.to_owned(), true)));
        }
        return Ok(Attempt::Done(done(answers, 0)));
    }
    Ok(Attempt::GoesOn(Rest::Tasks(Tasks { family, near, objects, then })))
}

/// Serves a shim whose call was not answered at once, to the end.
pub async fn go_on(context: Arc<Context>, mut connection: Connection, rest: Rest) -> io::Result<()> {
    match rest {
        Rest::Local(reason, slot) => exec(&context, &mut connection, &reason, slot).await,
        Rest::Tasks(tasks) => run_tasks(&context, &mut connection, tasks).await,
    }
}

/// Why a call runs again as it is, though its tasks were answered.
const CUT: &str = "diagnostics wider than the terminal";

enum Planned {
    /// Run the call as it is, for this reason; whether it needs a slot.
    Local(String, bool),
    Tasks(Arc<Toolchain>, Vec<Task>, Option<Link>),
}

fn plan(context: &Context) -> Planned {
    let invoke = &context.invoke;
    if !invoke.streams_usable {
        // What a compiler does then (fail, be killed, remove its object, go on) is its own affair.
        return Planned::Local("nobody takes what it prints".to_owned(), true);
    }
    let call = Call {
        argv: &invoke.argv,
        cwd: &invoke.cwd,
        env: &invoke.env,
        umask: invoke.umask,
        stderr_tty: invoke.stderr_tty,
    };
    let compiler = context.absolute(&invoke.compiler_path);
    // What is to be left alone needs no toolchain: to know rustc's is to read half a gigabyte.
    let early = Toolchains::is_rustc(&compiler).then(|| analyse_crate(&call, &OnDisk));
    if let Some(Plan::Local(reason)) = &early {
        if *reason == Reason::Query {
            meet(context, compiler);
        }
        return left_alone(reason);
    }
    let request = ToolchainRequest { compiler: &compiler, env: &invoke.env };
    let toolchain = match context.initiator.toolchains.get(request) {
        Ok(toolchain) => toolchain,
        Err(error) => {
            tracing::info!(%error, "a compiler was not understood");
            return Planned::Local("compiler unknown to dbuild".to_owned(), true);
        }
    };
    if toolchain.info.family == Family::Rustc && crates::is_misled(context, &toolchain) {
        return Planned::Local(crates::OTHER_LIBRARIES.to_owned(), true);
    }
    if !toolchain.traceable {
        return Planned::Local("statically linked compiler".to_owned(), true);
    }
    match early.unwrap_or_else(|| analyse(&call, &toolchain.info, &OnDisk)) {
        Plan::Local(reason) => left_alone(&reason),
        Plan::Tasks { tasks, then } => Planned::Tasks(toolchain, tasks, then),
    }
}

/// cargo asks rustc about itself before it starts compiles: time enough to read half a gigabyte.
fn meet(context: &Context, compiler: PathBuf) {
    let env = context.invoke.env.clone();
    let request = ToolchainRequest { compiler: &compiler, env: &env };
    if context.initiator.toolchains.is_met(request) {
        return;
    }
    let initiator = context.initiator.clone();
    let read = move || {
        // If it is not understood, the compile that comes will say so.
        let _ = initiator.toolchains.get(ToolchainRequest { compiler: &compiler, env: &env });
        initiator.leave_known_files();
    };
    if let Err(error) = std::thread::Builder::new().name("toolchain".to_owned()).spawn(read) {
        tracing::debug!(%error, "no thread for a compiler's files");
    }
}

fn left_alone(reason: &Reason) -> Planned {
    // What reads or writes a pipe may wait for another compiler that waits for this slot; queries cost nothing.
    let without_slot = matches!(
        reason,
        Reason::ReadsStdin
            | Reason::SourceNotRegular
            | Reason::ResponseFile
            | Reason::WritesStdout
            | Reason::OutputNotRegular
            | Reason::PreprocessOnly
            | Reason::Query
            | Reason::DryRun
    );
    Planned::Local(reason.to_string(), !without_slot)
}

/// The shim becomes the real compiler; its end of file tells us that it ended.
async fn exec(context: &Context, connection: &mut Connection, reason: &str, slot: bool) -> io::Result<()> {
    let taken = if slot {
        tokio::select! {
            taken = context.initiator.slots.take(context.slots_for_local_work()) => Some(taken),
            () = connection.closed() => return Ok(()),
        }
    } else {
        None
    };
    let end = context.ran_here(reason.to_owned(), Some(reason.to_owned()));
    context.initiator.record(Event::Ended(Box::new(end)));
    let invoke = &context.invoke;
    let exec =
        Exec { program: invoke.compiler_path.clone(), argv: invoke.argv.clone(), env: invoke.env.clone() };
    connection.send(&ToShim::Exec(exec)).await?;
    connection.closed().await;
    drop(taken);
    Ok(())
}

async fn run_tasks(context: &Arc<Context>, connection: &mut Connection, tasks: Tasks) -> io::Result<()> {
    let Tasks { family, near, objects, then } = tasks;
    let alone = near.len() == 1;
    let split = !alone || then.is_some();

    // What needs no process of the shim's: all tasks at the same time.
    let (prints, mut printed) = mpsc::unbounded_channel();
    let asked = near.into_iter().map(|near| async {
        match near {
            Near::Answered(answered) => Verdict::Answered(answered),
            Near::Here(here) => Verdict::Here(here),
            Near::Missed(missed) => pool::answer(context.clone(), *missed, alone, prints.clone()).await,
        }
    });
    let mut asked = pin!(join_all(asked));
    let verdicts = loop {
        tokio::select! {
            biased;
            Some(text) = printed.recv() => connection.send(&ToShim::Print(text)).await?,
            verdicts = &mut asked => break verdicts,
            // The build was interrupted: dropping the futures cancels what helpers do for it.
            () = connection.closed() => return Ok(()),
        }
    };

    let mut answers: Vec<Option<Answered>> = Vec::with_capacity(verdicts.len());
    let mut here: Vec<(usize, Here)> = Vec::new();
    for (index, verdict) in verdicts.into_iter().enumerate() {
        match verdict {
            Verdict::Answered(answered) => answers.push(Some(answered)),
            Verdict::Here(work) => {
                here.push((index, *work));
                answers.push(None);
            }
        }
    }
    let mut rest = Vec::new();
    match run_here(context, connection, here, (&mut answers, &mut rest)).await? {
        Some(Started::All) => {}
        Some(Started::NotAll) => {
            return exec(context, connection, "could not be started by its stand-in", true).await;
        }
        None => return Ok(()),
    }
    let mut answers: Vec<Answered> = answers.into_iter().flatten().collect();
    let argv0 = context.invoke.argv.first().cloned().unwrap_or_default();
    if split && answers.iter().any(|answer| driver_spoke(&argv0, &answer.stderr)) {
        // The driver would have said it once, and not once for each part.
        return exec(context, connection, "the driver has something to say", true).await;
    }
    if cut(context, family, &answers) {
        return exec(context, connection, CUT, true).await;
    }
    let failed = answers.iter().any(|answer| answer.status != 0);
    let status = match answers.as_slice() {
        [only] => only.status,
        _ if failed => 1 << 8,
        _ => 0,
    };
    let Some(link) = then.filter(|_| !failed) else {
        let sent = answer(connection, answers, status).await;
        for work in rest {
            blocking(work).await?;
        }
        return sent;
    };
    let Some(linked) = run_link(context, connection, link.args_with_objects(&objects.all())).await? else {
        return Ok(());
    };
    let status = linked.status;
    answers.push(linked);
    answer(connection, answers, status).await
}

/// What every part printed, in the order of the call, and the code that ends the shim.
fn done(answers: Vec<Answered>, status: i32) -> Done {
    let part = |answered: Answered| Part { stdout: answered.stdout, stderr: answered.stderr };
    Done { parts: answers.into_iter().map(part).collect(), code: Done::code_of(status) }
}

async fn answer(connection: &mut Connection, answers: Vec<Answered>, status: i32) -> io::Result<()> {
    connection.send(&ToShim::Done(done(answers, status))).await
}

/// Whether the driver would have cut some of this to the width of its terminal.
fn cut(context: &Context, family: Family, answers: &[Answered]) -> bool {
    let Invoke { env, columns, stderr_tty, .. } = &context.invoke;
    let cut = |answer: &Answered| cut_on_terminal(env, *columns, &answer.stderr);
    *stderr_tty && family == Family::Gcc && answers.iter().any(cut)
}

/// Whether the shim could start every run that it was given; it may have been out of files or processes.
enum Started {
    All,
    NotAll,
}

/// Runs tasks as children of the shim, as many at a time as there are slots. `None`: the shim is gone.
async fn run_here(
    context: &Arc<Context>,
    connection: &mut Connection,
    mut waiting: Vec<(usize, Here)>,
    (answers, rest): (&mut [Option<Answered>], &mut Vec<Afterwards>),
) -> io::Result<Option<Started>> {
    let mut started = Started::All;
    while !waiting.is_empty() {
        let must = waiting.iter().all(|(_, work)| work.prepared.task.distribute.is_err());
        let limit = if must { context.slots_for_local_work() } else { context.slots_for_compiles() };
        let mut slots: Vec<Slot> = waiting.iter_mut().filter_map(|(_, work)| work.slot.take()).collect();
        if slots.is_empty() {
            slots.push(tokio::select! {
                slot = context.initiator.slots.take(limit) => slot,
                () = connection.closed() => return Ok(None),
            });
        }
        while slots.len() < waiting.len() {
            match context.initiator.slots.try_take(limit) {
                Some(slot) => slots.push(slot),
                None => break,
            }
        }
        let batch: Vec<(usize, Here)> = waiting.drain(..slots.len()).collect();
        let (mut batch, runs) = {
            let context = context.clone();
            blocking(move || begin(&context, batch)).await??
        };
        let parallel = runs.len() as u32;
        connection.send(&ToShim::Run(Run { runs, parallel })).await?;
        for _ in 0..parallel {
            let Some(FromShim::Ran(ran)) = connection.receive().await? else { return Ok(None) };
            let Some((index, work)) = batch.get_mut(ran.index as usize).and_then(Option::take) else {
                return Err(io::Error::other("the shim reported a run that it was not given"));
            };
            if ran.spawn_errno != 0 {
                started = Started::NotAll;
            }
            // Its processor is free; what follows is reading and hashing.
            slots.pop();
            // A crate's build goes on when rustc has spoken; what is behind it is long.
            let later = ran.printed.then(|| context.initiator.keeping.begin(&context.session));
            let context = context.clone();
            let finished = blocking(move || {
                let (answered, keep) = local::finish(&context, work, ran);
                let Some(turn) = later else {
                    keep();
                    return (answered, None);
                };
                let rest: Afterwards = Box::new(move || {
                    keep();
                    drop(turn);
                });
                (answered, Some(rest))
            });
            let (answered, later) = finished.await?;
            answers[index] = Some(answered);
            rest.extend(later);
        }
        if matches!(started, Started::NotAll) {
            break;
        }
    }
    Ok(Some(started))
}

/// What is left to be done for the cache when a call was answered.
type Afterwards = Box<dyn FnOnce() + Send>;

/// Tasks that are about to run, by number, and the commands that run them.
type Begun = (Vec<Option<(usize, Here)>>, Vec<Command>);

/// Readies each task's run. Blocks: a source that is too fresh for its time stamp is waited for.
fn begin(context: &Context, batch: Vec<(usize, Here)>) -> io::Result<Begun> {
    let mut begun: Begun = Default::default();
    for (index, mut work) in batch {
        begun.1.push(work.begin(context)?);
        begun.0.push(Some((index, work)));
    }
    Ok(begun)
}

/// The link of a call that compiled and linked at once. `None`: the shim is gone.
async fn run_link(
    context: &Arc<Context>,
    connection: &mut Connection,
    args: Vec<OsString>,
) -> io::Result<Option<Answered>> {
    let _slot = tokio::select! {
        slot = context.initiator.slots.take(context.slots_for_local_work()) => slot,
        () = connection.closed() => return Ok(None),
    };
    let run = Run { runs: vec![context.command(args, None)], parallel: 1 };
    connection.send(&ToShim::Run(run)).await?;
    let Some(FromShim::Ran(ran)) = connection.receive().await? else { return Ok(None) };
    if ran.spawn_errno != 0 {
        return Err(io::Error::other("the shim could not start the link; it goes on by itself"));
    }
    let mut end = context.ran_here(Reason::Link.to_string(), Some(Reason::Link.to_string()));
    end.exit_code = local::exit_code(ran.status);
    end.run_ms = ran.wall_us / 1000;
    context.initiator.record(Event::Ended(Box::new(end)));
    Ok(Some(Answered::of(ran)))
}
