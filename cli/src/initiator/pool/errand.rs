//! A task as it is sent to the pool: its inputs found or guessed, its action described.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dbuild_compilers::CrateUnit;
use dbuild_intake::action::{ActionRequest, BuiltAction, build, logical_directory};
use dbuild_intake::recall::Earlier;
use dbuild_intake::{FindError, FindRequest, InputFinder, Inputs, IntakeError};
use dbuild_shims::vars;

use super::super::context::Context;
use super::super::crates::away::{self, Luggage};
use super::super::policy;
use super::super::task::{OBJECT, Prepared};
use super::Refusal;

/// The longest that an action may run on a helper.
const ACTION_TIMEOUT: Duration = Duration::from_secs(3600);

/// What is sent.
pub struct Errand {
    pub inputs: Content,
    pub built: BuiltAction,
    /// How long the same command ran before.
    pub expected: Option<Duration>,
}

/// Inputs that are certain, or a guess.
pub enum Content {
    Found(Inputs),
    Packed(Luggage),
}

/// Finds the inputs and builds the action.
pub fn describe(
    context: &Context,
    prepared: &Prepared,
    earlier: Option<&Earlier>,
) -> Result<Errand, Refusal> {
    if let Some(unit) = prepared.unit(context) {
        return describe_crate(context, prepared, &unit, earlier);
    }
    let invoke = &context.invoke;
    let argv0 = invoke.argv.first().cloned().unwrap_or_default();
    let inputs = find(context, prepared, earlier, &argv0)?;
    policy::may_leave(&inputs, &prepared.task).map_err(Refusal::because)?;
    let args = prepared.task.args_with_object(Path::new(OBJECT));
    let outputs: Vec<PathBuf> = prepared.outputs(context).into_iter().map(|output| output.name).collect();
    let built = built(&ActionRequest {
        toolchain: &prepared.toolchain,
        inputs: &inputs,
        files: &context.initiator.files,
        argv0: &argv0,
        args: &args,
        outputs: &outputs,
        cwd: &invoke.cwd,
        env: &prepared.env,
        logical_cwd: logical_directory(&invoke.cwd, &invoke.env),
        own: &[],
        timeout: ACTION_TIMEOUT,
        do_not_cache: prepared.task.cache.is_err(),
        jobserver: None,
    })?;
    let expected = earlier.and_then(Earlier::ran);
    Ok(Errand { inputs: Content::Found(inputs), built, expected })
}

/// Packs what a crate may need, and has it watched.
fn describe_crate(
    context: &Context,
    prepared: &Prepared,
    unit: &CrateUnit,
    earlier: Option<&Earlier>,
) -> Result<Errand, Refusal> {
    let invoke = &context.invoke;
    let luggage = away::pack(context, prepared, unit, earlier)?;
    let interceptor = context.initiator.interceptor_bytes();
    let interceptor = interceptor.map_err(|error| Refusal::fault(format!("failed to {error}")))?;
    let outputs = prepared.outputs(context).into_iter().map(|output| output.name);
    let outputs: Vec<PathBuf> = outputs.chain([away::TRACE.into()]).collect();
    let mut env = luggage.env.clone();
    env.push((vars::LD_PRELOAD.into(), away::INTERCEPTOR.into()));
    env.push((vars::TRACE.into(), format!("{}{}", char::from(vars::MAKES_TRACE), away::TRACE).into()));
    let built = built(&ActionRequest {
        toolchain: &prepared.toolchain,
        inputs: &luggage.inputs,
        files: &context.initiator.files,
        argv0: prepared.toolchain.compiler.as_os_str(),
        args: &prepared.crate_args(context),
        outputs: &outputs,
        cwd: &invoke.cwd,
        env: &env,
        logical_cwd: logical_directory(&invoke.cwd, &invoke.env),
        own: &[(away::INTERCEPTOR.into(), interceptor)],
        timeout: ACTION_TIMEOUT,
        do_not_cache: prepared.task.cache.is_err(),
        jobserver: Some("CARGO_MAKEFLAGS"),
    })?;
    let expected = earlier.and_then(Earlier::ran);
    Ok(Errand { inputs: Content::Packed(luggage), built, expected })
}

fn built(request: &ActionRequest) -> Result<BuiltAction, Refusal> {
    build(request).map_err(|error| match error {
        IntakeError::NotUtf8(_) => Refusal::because("name that is not UTF-8"),
        error => Refusal::fault(format!("failed to {error}")),
    })
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
