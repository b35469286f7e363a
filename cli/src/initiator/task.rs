//! One task: what is the same wherever it runs, and what is known when it is to run here. Its way leads through `near`,
//! then `pool`, then this machine (`local`).
//!
//! Finding an answer never fails: whatever goes wrong makes the task run here, with the reason.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dbuild_compilers::{CrateUnit, Output, OutputKind, Place, Task, relevant_env};
use dbuild_intake::action::logical_directory;
use dbuild_intake::recall::{KeyParts, RecallKey};
use dbuild_intake::{Roots, Start, Toolchain, World};
use dbuild_shims::frame::{Command, Ran};

use super::context::Context;
use super::crates;
use super::outputs::{self, Manner};
use super::roots;
use super::slots::Slot;
use crate::record::{Placement, TaskEnd};

/// How the object between compile and link is called in records and on helpers, whose directories are their own.
pub const OBJECT: &str = ".dbuild-object.o";

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
        let (stdout, stderr) = if ran.printed { Default::default() } else { (ran.stdout, ran.stderr) };
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
    /// The slot that was taken for it, if one was.
    pub slot: Option<Slot>,
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
    /// Directories that go by their names in key and records.
    pub roots: Roots,
    /// Arguments that come before the call's own.
    pub more_args: Vec<OsString>,
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
    /// It is of a format that has no empty file.
    pub filled: bool,
}

impl Here {
    pub fn new(prepared: Prepared, reason: impl Into<String>) -> Self {
        Here {
            prepared,
            reason: reason.into(),
            fault: None,
            notice: None,
            miss: None,
            uncacheable: None,
            traced: None,
            slot: None,
        }
    }

    /// Readies the run: traced if its answer may be kept.
    pub fn begin(&mut self, context: &Context) -> std::io::Result<Command> {
        let Prepared { task, object, .. } = &self.prepared;
        let args = match (object, &task.unit) {
            (Some(object), _) => task.args_with_object(object),
            // Words from files may be too many for a command line.
            (None, Some(_)) => self.prepared.crate_args(context),
            (None, None) => task.args.clone(),
        };
        if self.uncacheable.is_none() {
            let trace = context.initiator.new_trace();
            match create_trace(&trace) {
                Ok(()) => {
                    let started = Start::after(&context.absolute(&task.source));
                    self.traced = Some(Traced { trace, started });
                }
                Err(error) => {
                    let fault = outputs::cache_fault(&error.into());
                    self.uncacheable = Some(fault.clone());
                    self.fault.get_or_insert(fault);
                }
            }
        }
        let trace = self.traced.as_ref().map(|traced| traced.trace.clone());
        // cargo starts what depends on a crate when rustc says that its metadata is there.
        Ok(Command { pass_on: task.unit.is_some(), ..context.command(args, trace) })
    }
}

/// Makes the file that a compile is traced into. Compilers map it, and a page that the disk has no room for would end them by
/// SIGBUS: it must have room.
fn create_trace(path: &Path) -> std::io::Result<()> {
    use dbuild_shims::trace::{DEFAULT_CAPACITY, create};
    let disk = rustix::fs::statvfs(path.parent().unwrap_or(Path::new("/")))?;
    // Some file systems do not tell.
    if disk.f_blocks != 0 && disk.f_bavail.saturating_mul(disk.f_frsize) < 2 * DEFAULT_CAPACITY {
        return Err(std::io::ErrorKind::StorageFull.into());
    }
    create(path, DEFAULT_CAPACITY)
}

impl Prepared {
    pub fn new(
        context: &Context,
        toolchain: Arc<Toolchain>,
        task: Arc<Task>,
        object: Option<PathBuf>,
    ) -> Self {
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
        let (roots, more_args) = match &task.unit {
            Some(unit) => {
                let source = context.absolute(&task.source);
                let root = source.parent().unwrap_or(Path::new("/"));
                context.initiator.needs.note(&crates::absolute(context, unit), root);
                roots::of(context, unit)
            }
            None => (roots::of_c(context), Vec::new()),
        };
        let libraries = context.variable(crates::LIBRARY_PATH).filter(|_| task.unit.is_some());
        let libraries = libraries.map(|list| roots.mask(list.as_bytes()));
        if let Some(libraries) = &libraries {
            more.push(("directories for the loader", libraries));
        }
        let mapped = more_args.iter().map(|arg| arg.as_bytes()).collect::<Vec<_>>().join(&b' ');
        let mapped = roots.mask(&mapped);
        if !mapped.is_empty() {
            more.push(("arguments for any path", &mapped));
        }
        let args = match roots.is_empty() {
            true => Cow::Borrowed(&task.args),
            false => Cow::Owned(roots::masked(&task.args, &roots)),
        };
        let argv0 = invoke.argv.first().cloned().unwrap_or_default();
        let parts = KeyParts {
            toolchain: &toolchain.id,
            argv0: &argv0,
            args: &args,
            cwd: &invoke.cwd,
            logical_cwd: logical_directory(&invoke.cwd, &invoke.env),
            env: &env,
            roots: &roots,
            more: &more,
        };
        let (key, fields) = (parts.key(), parts.explain());
        Prepared { toolchain, task, object, env, key, fields, roots, more_args }
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
                filled: matches!(output.kind, OutputKind::Object | OutputKind::PrecompiledHeader),
            })
        };
        self.task.outputs.iter().filter_map(destination).collect()
    }

    /// The arguments of a rustc call: its own, behind those that its own may overrule. A wrapper is told its compiler
    /// first.
    pub fn crate_args(&self, context: &Context) -> Vec<OsString> {
        let mut args: Vec<OsString> = context.invoke.argv.iter().skip(1).cloned().collect();
        let wraps = args.first().is_some_and(|first| {
            Path::new(first).file_name().is_some_and(|name| name.as_bytes().starts_with(b"rustc"))
        });
        let at = usize::from(wraps);
        args.splice(at..at, self.more_args.iter().cloned());
        args
    }

    /// The crate that is compiled, with absolute paths.
    pub fn unit(&self, context: &Context) -> Option<CrateUnit> {
        self.task.unit.as_ref().map(|unit| crates::absolute(context, unit))
    }

    /// What its manifests are held against.
    pub fn world<'w>(
        &'w self,
        context: &'w Context,
        variables: &'w dyn Fn(&OsStr) -> Option<&'w OsStr>,
    ) -> World<'w> {
        let initiator = &context.initiator;
        World {
            files: &initiator.files,
            directories: &initiator.directories,
            variables,
            preprocessed: self.task.unit.is_none(),
            roots: &self.roots,
        }
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
