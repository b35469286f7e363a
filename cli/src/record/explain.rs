//! The record behind `dbuild why OUTPUT`: one small JSON file per output, named after a hash of its path.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use dbuild_proto::DigestFunction;
use serde::{Deserialize, Serialize};

use super::{Placement, TaskEnd};

/// What `dbuild why` prints of one output.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// The output, lossy where it is not UTF-8 (the file's name is made of the bytes).
    pub output: String,
    pub placement: Placement,
    pub reason: String,
    pub helper: Option<String>,
    pub uncacheable: Option<String>,
    pub miss: Option<String>,
    pub fault: Option<String>,
    pub exit_code: i32,
    pub run_ms: u64,
    /// Seconds since the epoch.
    pub at: u64,
    pub key: Vec<(String, String)>,
}

impl Explanation {
    fn new(output: &Path, end: &TaskEnd) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Explanation {
            output: output.to_string_lossy().into_owned(),
            placement: end.placement,
            reason: end.reason.clone(),
            helper: end.helper.clone(),
            uncacheable: end.uncacheable.clone(),
            miss: end.miss.clone(),
            fault: end.fault.clone(),
            exit_code: end.exit_code,
            run_ms: end.run_ms,
            at: now.map_or(0, |since| since.as_secs()),
            key: end.key.clone(),
        }
    }
}

/// Writes the record of each output of a task.
pub fn write(records: &Path, end: &TaskEnd) -> std::io::Result<()> {
    for output in &end.outputs {
        let file = file_of(records, output);
        if let Some(dir) = file.parent() {
            fs_err::create_dir_all(dir)?;
        }
        let temporary = file.with_extension(format!("tmp-{}", std::process::id()));
        fs_err::write(&temporary, serde_json::to_vec(&Explanation::new(output, end))?)?;
        fs_err::rename(&temporary, &file)?;
    }
    Ok(())
}

/// The record of `output` (absolute), if there is one.
pub fn find(records: &Path, output: &Path) -> std::io::Result<Option<Explanation>> {
    match fs_err::read(file_of(records, output)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The path as the file system has it: `../lib/a.o` and `lib/a.o` are one file.
fn plain(output: &Path) -> PathBuf {
    match (output.parent().map(std::fs::canonicalize), output.file_name()) {
        (Some(Ok(dir)), Some(name)) => dir.join(name),
        _ => output.to_owned(),
    }
}

fn file_of(records: &Path, output: &Path) -> PathBuf {
    let name = DigestFunction::Blake3.digest(plain(output).as_os_str().as_bytes()).hex();
    records.join("why-v1").join(&name[..2]).join(&name[2..34])
}
