//! The near cache: what this machine knows of a task, and putting a hit in place. Blocks.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::path::Path;

use dbuild_cache::CacheError;
use dbuild_intake::Inputs;
use dbuild_intake::recall::{self, Earlier, Recalled};
use dbuild_proto::Digest;
use dbuild_proto::record::{OutputFile, TaskOutcome};

use super::context::Context;
use super::crates;
use super::outputs::{self, Manner, Ready};
use super::policy;
use super::pool::Described;
use super::roots;
use super::task::{Answered, Here, Prepared};
use crate::record::{Event, Placement};

/// What the near cache said of a task.
pub enum Near {
    Answered(Answered),
    Missed(Box<Missed>),
    Here(Box<Here>),
}

impl Near {
    pub fn into_answer(self) -> Option<Answered> {
        match self {
            Near::Answered(answered) => Some(answered),
            Near::Missed(_) | Near::Here(_) => None,
        }
    }
}

/// A task of which the near cache has no answer.
pub struct Missed {
    pub prepared: Prepared,
    /// Why there is none.
    pub miss: Option<String>,
    /// What is to be said in the summary.
    pub notice: Option<String>,
    /// What the command read before.
    pub earlier: Option<Earlier>,
    /// For the pool, if that is done already.
    pub described: Option<Described>,
}

impl Missed {
    fn new(prepared: Prepared) -> Missed {
        Missed { prepared, miss: None, notice: None, earlier: None, described: None }
    }
}

/// Looks into the near cache and puts a hit in place.
pub fn ask(context: &Context, prepared: Prepared) -> Near {
    let destinations = prepared.outputs(context);
    // rustc and its linkers put new files in place, whatever other names the old ones have (cargo gives them some).
    let links_matter = prepared.task.unit.is_none();
    let objection = destinations.iter().find_map(|output| outputs::objection(&output.path, links_matter));
    if let Some(objection) = objection.or_else(|| policy::side_effect(&prepared.task, &destinations)) {
        // The compiler itself deals with it; what it writes there is not ours to keep.
        let mut here = Here::new(prepared, objection);
        here.uncacheable = Some(objection.to_owned());
        return Near::Here(Box::new(here));
    }
    let initiator = &context.initiator;
    let (Ok(store), Ok(())) = (&initiator.store, &prepared.task.cache) else {
        return Near::Missed(Box::new(Missed::new(prepared)));
    };
    let damaged = store.counters().damaged;
    let reads = |text: &[u8]| prepared.roots.unmask(text).is_some();
    let usable = |outcome: &TaskOutcome| {
        reads(&outcome.stdout) && reads(&outcome.stderr) && readies(context, &prepared, outcome).is_some()
    };
    let variables = |name: &OsStr| crates::variable(context, prepared.task.unit.as_ref(), name);
    let recalled = recall::recall(store, &prepared.key, &prepared.world(context, &variables), &usable);
    let (recalled, earlier) = match recalled {
        Ok((recalled, earlier)) => (Ok(recalled), earlier),
        Err(error) => (Err(error), None),
    };
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
    Near::Missed(Box::new(Missed { miss: Some(miss), notice, earlier, ..Missed::new(prepared) }))
}

/// The files of an outcome with their places in this build's tree; `None` if it is not one of this task's.
pub fn readies(context: &Context, prepared: &Prepared, outcome: &TaskOutcome) -> Option<Vec<Ready>> {
    let places = prepared.outputs(context);
    let unit = prepared.unit(context);
    let is_crates = |path: &Path| {
        let name = path.file_name().filter(|_| path.parent() == unit.as_ref().map(|unit| &*unit.out_dir));
        name.is_some_and(|name| unit.as_ref().is_some_and(|unit| unit.owns(name)))
    };
    let ready = |output: &OutputFile| {
        let name = &*prepared.roots.unmask_path(&output.path)?;
        let (path, manner) = match places.iter().find(|place| place.name == name) {
            Some(place) => (place.path.clone(), place.manner),
            None => (name.to_path_buf(), Some(Manner::Replace).filter(|_| is_crates(name))?),
        };
        let digest = Digest::try_from(output.blob.as_ref()?).ok()?;
        Some(Ready { path, digest, executable: output.executable, manner })
    };
    outcome.outputs.iter().map(ready).collect()
}

fn hit(context: &Context, prepared: &Prepared, outcome: TaskOutcome) -> Result<Answered, CacheError> {
    let mut files = readies(context, prepared, &outcome).unwrap_or_default();
    if let Ok(store) = &context.initiator.store {
        for (file, output) in files.iter_mut().zip(&outcome.outputs).filter(|(_, output)| output.masked) {
            file.digest = roots::unmasked(store, &prepared.roots, output)?;
        }
        outputs::place(store, &files, context.invoke.umask)?;
    }
    let mut end = prepared.end(context, Placement::HitLocal, "hit");
    end.run_ms = outcome.run_ms;
    end.outputs = files.into_iter().map(|file| file.path).collect();
    context.initiator.record(Event::Ended(Box::new(end)));
    let plain = |text: Vec<u8>| prepared.roots.unmask(&text).map_or_else(Vec::new, Cow::into_owned);
    Ok(Answered { stdout: plain(outcome.stdout), stderr: plain(outcome.stderr), status: 0 })
}

/// Remembers what came of a task. Where directories go by their names, texts get these names, too, and what cannot be
/// rewritten binds the outcome to the directories.
pub fn remember(
    context: &Context,
    prepared: &Prepared,
    inputs: &Inputs,
    mut outcome: TaskOutcome,
) -> Result<(), CacheError> {
    let Ok(store) = &context.initiator.store else { return Ok(()) };
    roots::name_places(store, context, prepared, inputs, &mut outcome)?;
    let variables = |name: &OsStr| crates::variable(context, prepared.task.unit.as_ref(), name);
    recall::remember(store, &prepared.key, &prepared.world(context, &variables), inputs, outcome)
}
