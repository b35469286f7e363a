//! Finding the inputs of a compile that has not run yet. Nothing else in dbuild may depend on *how* they are found:
//! callers know [`InputFinder`] only.
//!
//! [`TracedDepends`] runs the compiler's own preprocessor over the source (`Task::depend_args`) and observes it, so
//! that failed look-ups and directories are known as exactly as files are.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use dbuild_compilers::Task;
use dbuild_shims::{trace, vars};

use crate::error::Doubt;
use crate::files::FileTable;
use crate::inputs::Inputs;
use crate::observe::{self, Observed, Scope};
use crate::recall::Earlier;
use crate::run::{Ran, Run};
use crate::start::Start;
use crate::toolchain::Toolchain;

/// How often a run is repeated because an input was as new as the run.
const TRIES: usize = 3;

/// Whose inputs are wanted.
#[derive(Clone, Copy, Debug)]
pub struct FindRequest<'a> {
    pub toolchain: &'a Toolchain,
    /// As the build wrote it.
    pub argv0: &'a OsStr,
    pub task: &'a Task,
    pub cwd: &'a Path,
    /// The caller's whole environment.
    pub env: &'a [(OsString, OsString)],
    /// What the same command read before.
    pub earlier: Option<&'a Earlier>,
}

/// Why the inputs of a task are not known. The task runs here, without an answer from any helper.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The compiler itself refused (a missing header, say): the real run will say so with its own words.
    #[error("find the inputs: the compiler ended with {status}")]
    Compiler { status: ExitStatus, stderr: Vec<u8> },
    #[error("find the inputs: {0}")]
    Run(#[from] std::io::Error),
    #[error("find the inputs: failed to {0}")]
    Doubt(#[from] Doubt),
    /// What a static compiler opens cannot be observed.
    #[error("find the inputs: the compiler is statically linked")]
    NotTraceable,
}

/// Finds what a task reads.
pub trait InputFinder: Send + Sync {
    fn find(&self, request: &FindRequest) -> Result<Inputs, FindError>;
}

/// Runs the compiler with the arguments that only list inputs, under the interceptor.
pub struct TracedDepends {
    /// `libdbuild_intercept.so`. Its path may hold neither `:` nor white space.
    pub interceptor: PathBuf,
    /// Where trace files are made; must exist.
    pub scratch: PathBuf,
    /// Directories of dbuild's own, whose files are no inputs.
    pub own: Vec<PathBuf>,
    pub files: Arc<FileTable>,
    /// How long one run may take.
    pub limit: Duration,
}

impl InputFinder for TracedDepends {
    fn find(&self, request: &FindRequest) -> Result<Inputs, FindError> {
        let source = request.cwd.join(&request.task.source);
        let mut tries = 0;
        loop {
            match self.find_since(request, &source, Start::after(&source)) {
                // A header that was generated just now is old enough the next time.
                Err(FindError::Doubt(Doubt::TooNew(file))) if tries < TRIES => {
                    tries += 1;
                    Start::after(&file);
                }
                result => return result,
            }
        }
    }
}

impl TracedDepends {
    fn find_since(&self, request: &FindRequest, source: &Path, start: Start) -> Result<Inputs, FindError> {
        let task = request.task;
        let mut inputs = match &task.depend_args {
            Some(args) => Inputs::gather(&self.observe(request, args)?, &self.files, start)?,
            None => Inputs::default(),
        };
        if task.depend_args.is_none() {
            inputs.add(source, &self.files, start)?;
        } else if !inputs.files.iter().any(|input| input.path == source) {
            return Err(Doubt::Trace("it does not show the source".into()).into());
        }
        for path in &task.extra_inputs {
            inputs.add(&request.cwd.join(path), &self.files, start)?;
        }
        Ok(inputs)
    }

    fn observe(&self, request: &FindRequest, args: &[OsString]) -> Result<Observed, FindError> {
        self.watch(request, args, false).map(|(observed, _)| observed)
    }

    /// Runs the compiler with `args` under observation. `plain`: its words are to be read by a program.
    pub(crate) fn watch(
        &self,
        request: &FindRequest,
        args: &[OsString],
        plain: bool,
    ) -> Result<(Observed, Ran), FindError> {
        if !request.toolchain.traceable {
            return Err(FindError::NotTraceable);
        }
        let place = tempfile::Builder::new().prefix("depends-").tempdir_in(&self.scratch)?;
        let file = place.path().join("trace");
        trace::create(&file, trace::DEFAULT_CAPACITY)?;
        let mut env = clean(request.env);
        if plain {
            speak_plainly(&mut env);
        }
        let ran = self.run(request, args, &file, env)?;
        if !ran.status.success() {
            return Err(FindError::Compiler { status: ran.status, stderr: ran.stderr });
        }
        let outputs: Vec<PathBuf> =
            request.task.outputs.iter().filter_map(|output| Some(request.cwd.join(output.path()?))).collect();
        let mut own = self.own.clone();
        own.push(self.scratch.clone());
        own.extend(self.interceptor.parent().map(Path::to_path_buf));
        let scope =
            Scope { toolchain: Some(request.toolchain), outputs: &outputs, own: &own, ..Scope::default() };
        let observed = observe::read(&file, &scope)?;
        match observed.written.first() {
            // It was to read only; what it wrote may be an input of its own.
            Some(path) => Err(Doubt::Trace(format!("listing inputs wrote {}", path.display())).into()),
            None => Ok((observed, ran)),
        }
    }

    /// Runs the compiler with `args`, its words to be read by a program.
    pub(crate) fn run_unobserved(&self, request: &FindRequest, args: &[OsString]) -> std::io::Result<Ran> {
        let mut env = clean(request.env);
        speak_plainly(&mut env);
        self.start(request, args, &env)
    }

    fn run(
        &self,
        request: &FindRequest,
        args: &[OsString],
        trace: &Path,
        mut env: Vec<(OsString, OsString)>,
    ) -> std::io::Result<Ran> {
        let preload = env.iter().position(|(name, _)| name == vars::LD_PRELOAD);
        let mut value = self.interceptor.clone().into_os_string();
        if let Some(at) = preload {
            let (_, others) = env.swap_remove(at);
            value.push(":");
            value.push(others);
        }
        env.push((vars::LD_PRELOAD.into(), value));
        env.push((vars::TRACE.into(), trace.as_os_str().to_os_string()));
        self.start(request, args, &env)
    }

    fn start(
        &self,
        request: &FindRequest,
        args: &[OsString],
        env: &[(OsString, OsString)],
    ) -> std::io::Result<Ran> {
        let run = Run {
            program: &request.toolchain.compiler,
            argv0: request.argv0,
            args,
            cwd: request.cwd,
            env,
            limit: self.limit,
        };
        run.go()
    }
}

/// English, whatever the build's language is.
fn speak_plainly(env: &mut Vec<(OsString, OsString)>) {
    env.retain(|(name, _)| name != "LC_ALL" && name != "LANGUAGE");
    env.push(("LC_ALL".into(), "C".into()));
}

/// The environment as the build made it: without what dbuild put there.
fn clean(env: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
    let mut kept = Vec::with_capacity(env.len() + 2);
    for (name, value) in env {
        if vars::OURS.iter().any(|ours| name == ours) {
            continue;
        }
        if name != vars::LD_PRELOAD {
            kept.push((name.clone(), value.clone()));
            continue;
        }
        // The loader's separators: colon and space (ld.so(8)).
        let others: Vec<&str> = value
            .to_str()
            .unwrap_or_default()
            .split([':', ' '])
            .filter(|library| !library.is_empty() && !library.ends_with(vars::INTERCEPT_FILE))
            .collect();
        if !others.is_empty() {
            kept.push((name.clone(), others.join(":").into()));
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_ours_is_left_in_the_environment() {
        let env = |pairs: &[(&str, &str)]| -> Vec<(OsString, OsString)> {
            pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
        };
        let dirty = env(&[
            ("A", "1"),
            ("DBUILD_TRACE", "/t"),
            ("DBUILD_SHIMS", "/s"),
            ("LD_PRELOAD", "/s/libdbuild_intercept.so /usr/lib/other.so"),
        ]);
        assert_eq!(clean(&dirty), env(&[("A", "1"), ("LD_PRELOAD", "/usr/lib/other.so")]));
        assert_eq!(clean(&env(&[("LD_PRELOAD", "/s/libdbuild_intercept.so")])), env(&[]));
    }
}
