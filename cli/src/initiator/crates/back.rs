//! What a helper says that a crate's compile read, held against this machine: only if the compile would have seen the
//! same here does its answer count.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use dbuild_compilers::CrateUnit;
use dbuild_intake::observe::{self, Scope};
use dbuild_intake::{Inputs, JOBSERVER};
use dbuild_proto::Digest;
use dbuild_shims::trace::Trace;

use super::super::context::Context;
use super::super::task::Prepared;
use super::away::{Luggage, OWN};
use super::{Objection, WIDTH, asks_for_the_jobserver, idle, inputs, variable};

/// Why an answer is not taken.
const OTHER_FILES: &str = "would have read other files here";

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
    let idle = idle(context, unit);
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
    if returned.moment == Moment::End && !all_came {
        return Err(Objection::Because("writes a file that dbuild did not expect"));
    }
    if !observed.programs.is_empty() || !observed.listed.is_empty() {
        return Err(Objection::Because("runs programs or lists directories"));
    }
    if returned.depfile.as_deref().is_some_and(asks_for_the_jobserver) {
        return Err(Objection::Because("asks for the jobserver's variables"));
    }
    let idle = |name: &OsStr| returned.depfile.is_some() && JOBSERVER.iter().any(|idle| name == *idle);
    let name_differs = |name: &&OsString| {
        let matters = !idle(name) && *name != WIDTH;
        let there = sent.env.iter().find(|(known, _)| known == *name).map(|(_, value)| value.as_os_str());
        matters && there != variable(context, Some(unit), name)
    };
    if let Some(name) = observed.variables.iter().find(name_differs) {
        tracing::info!(name = %name.display(), "a helper's compile asked for a variable that was not sent");
        return Err(Objection::Because("asks for a variable that was not sent"));
    }
    let found = inputs(context, &prepared.toolchain, unit, &observed, (sent.start, returned.stderr))?;
    let packed = Packed::new(&sent.inputs);
    match found.files.iter().find(|input| !packed.has(&input.path, &input.digest)) {
        None => Ok(found),
        Some(input) => {
            tracing::info!(path = %input.path.display(), "a helper's compile read another file");
            Err(Objection::Because(OTHER_FILES))
        }
    }
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

    fn has(&self, path: &Path, digest: &Digest) -> bool {
        if let Some(sent) = self.by_path.get(path.as_os_str()) {
            return *sent == digest;
        }
        // By another way, through a link or `..`.
        let Ok(real) = std::fs::canonicalize(path) else { return false };
        let same = |sent: &Path| std::fs::canonicalize(sent).is_ok_and(|sent| sent == real);
        match self.by_path.get(real.as_os_str()) {
            Some(sent) => *sent == digest,
            None => self.inputs.files.iter().any(|input| input.digest == *digest && same(&input.path)),
        }
    }
}
