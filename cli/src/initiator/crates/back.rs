//! What a helper says that a crate's compile read, held against this machine: only if the compile would have seen the
//! same here does its answer count.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use dbuild_compilers::CrateUnit;
use dbuild_intake::observe::{self, Scope};
use dbuild_intake::{Input, Inputs, JOBSERVER};
use dbuild_proto::{Digest, JOBSERVER_FDS};
use dbuild_shims::trace::Trace;

use super::super::context::Context;
use super::super::task::Prepared;
use super::away::{Luggage, OWN, is_ours};
use super::{Objection, WIDTH, asks_for_the_jobserver, idle, inputs, siblings, variable};

/// Why an answer is not taken.
pub const OTHER_FILES: &str = "would have read other files here";

/// When the trace was taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The metadata is there: all sources, crates and variables were read.
    Metadata,
    End,
}

/// What came back of a crate.
pub struct Returned<'r> {
    pub trace: Vec<u8>,
    pub stderr: &'r [u8],
    pub moment: Moment,
    /// It says which variables the crate itself asked for.
    pub depfile: Option<Vec<u8>>,
    /// Absolute paths of the files that came.
    pub outputs: &'r [&'r Path],
}

/// Everything that the compile depended on, as it is here.
pub fn verified(
    context: &Context,
    prepared: &Prepared,
    unit: &CrateUnit,
    sent: &Luggage,
    returned: Returned,
) -> Result<Inputs, Objection> {
    let trace = Trace::parse(returned.trace).map_err(|_| Objection::Because("its trace is damaged"))?;
    let declared: Vec<PathBuf> = prepared.outputs(context).into_iter().map(|output| output.name).collect();
    let own = [PathBuf::from(OWN)];
    let mut idle = idle(context, unit);
    idle.extend(JOBSERVER_FDS.map(|fd| PathBuf::from(format!("/dev/fd/{fd}"))));
    let scope = Scope {
        toolchain: Some(&prepared.toolchain),
        outputs: &declared,
        own: &own,
        idle: &idle,
        elsewhere: true,
        unit: Some(unit),
    };
    let observed = observe::observe(&trace, &scope)?;
    let came = |path: &PathBuf| returned.outputs.contains(&path.as_path());
    let all_came = observed.strays.is_empty() && observed.written.iter().all(came);
    // The compile's own directories are still there while it goes on.
    let own = || observed.strays.iter().all(|stray| stray.starts_with(&unit.out_dir));
    if !all_came && (returned.moment == Moment::End || !own()) {
        return Err(Objection::Because("writes a file that dbuild did not expect"));
    }
    if !(unit.links || observed.programs.is_empty()) || !observed.listed.is_empty() {
        return Err(Objection::Because("runs programs or lists directories"));
    }
    if returned.depfile.as_deref().is_some_and(asks_for_the_jobserver) {
        return Err(Objection::Because("asks for the jobserver's variables"));
    }
    let idle = |name: &OsStr| returned.depfile.is_some() && JOBSERVER.iter().any(|idle| name == *idle);
    // What stands there instead of the caller's (`PATH`, `PWD`) is another value even where it is the same.
    let differs = |name: &&OsString| {
        let sent = sent.env.iter().find(|(known, _)| known == *name).map(|(_, value)| value.as_os_str());
        let here = variable(context, Some(unit), name);
        let other = if sent.is_none() && is_ours(name) { here.is_some() } else { sent != here };
        other && !idle(name) && *name != WIDTH
    };
    if let Some(name) = observed.variables.iter().find(differs) {
        tracing::info!(name = %name.display(), "a helper's compile asked for a variable that was not sent");
        return Err(Objection::Because("asks for a variable that was not sent"));
    }
    // Before anything is read: a helper may name what it likes.
    let packed = Packed::new(&sent.inputs);
    let missing = |path: &&PathBuf| packed.digest(path).is_none();
    if let Some(path) = observed.files.iter().find(missing) {
        return Err(other(path));
    }
    // Where crates are searched rustc lists, and the trace does not say what it would have met here.
    if unit.links
        && let Some(path) = siblings(context, unit).find(|path| path.is_file() && missing(&path))
    {
        return Err(other(&path));
    }
    // With what the loader maps for programs, which shows in no trace.
    let found = inputs(context, &prepared.toolchain, unit, &observed, (sent.start, returned.stderr))?;
    let same = |input: &Input| packed.digest(&input.path) == Some(&input.digest);
    match found.files.iter().find(|input| !same(input)) {
        None => Ok(found),
        Some(input) => Err(other(&input.path)),
    }
}

fn other(path: &Path) -> Objection {
    tracing::info!(path = %path.display(), "a helper did not have this file, or another one");
    Objection::Because(OTHER_FILES)
}

/// What was sent, by the paths under which it lay in the action.
struct Packed<'s> {
    inputs: &'s Inputs,
    by_path: HashMap<&'s OsStr, &'s Digest>,
}

impl<'s> Packed<'s> {
    fn new(inputs: &'s Inputs) -> Self {
        let by_path = inputs.files.iter().map(|input| (input.path.as_os_str(), &input.digest)).collect();
        Packed { inputs, by_path }
    }

    fn digest(&self, path: &Path) -> Option<&'s Digest> {
        if let Some(sent) = self.by_path.get(path.as_os_str()) {
            return Some(sent);
        }
        // By another way, through a link or `..`.
        let real = std::fs::canonicalize(path).ok()?;
        if let Some(sent) = self.by_path.get(real.as_os_str()) {
            return Some(sent);
        }
        let same = |sent: &Path| std::fs::canonicalize(sent).is_ok_and(|sent| sent == real);
        self.inputs.files.iter().find(|input| same(&input.path)).map(|input| &input.digest)
    }
}
