//! The record behind `dbuild why OUTPUT`: a log with one line of JSON per output, newest last.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Placement, TaskEnd};

const NEWEST: &str = "why-v2.log";
const OLDER: &str = "why-v2.old.log";

/// Bytes from which on a log is put aside: some ten thousands of records.
const MAX_LOG: u64 = 32 << 20;

/// What `dbuild why` prints of one output.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// The output, lossy where it is not UTF-8.
    pub output: String,
    /// Its bytes, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_bytes: Option<Vec<u8>>,
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
            output_bytes: output.to_str().is_none().then(|| output.as_os_str().as_bytes().to_vec()),
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

    fn path(&self) -> PathBuf {
        let bytes = self.output_bytes.as_deref().unwrap_or(self.output.as_bytes());
        PathBuf::from(OsStr::from_bytes(bytes))
    }
}

/// Appends the records of a task's outputs to `log`.
pub fn append(log: &mut Vec<u8>, end: &TaskEnd) -> serde_json::Result<()> {
    for output in &end.outputs {
        serde_json::to_writer(&mut *log, &Explanation::new(output, end))?;
        log.push(b'\n');
    }
    Ok(())
}

/// Writes records down, after what was written before. What is older than the last [`MAX_LOG`] bytes or so is forgotten.
pub fn write(records: &Path, log: &[u8]) -> std::io::Result<()> {
    fs_err::create_dir_all(records)?;
    let newest = records.join(NEWEST);
    if fs_err::metadata(&newest).is_ok_and(|meta| meta.len() > MAX_LOG) {
        fs_err::rename(&newest, records.join(OLDER))?;
    }
    fs_err::OpenOptions::new().create(true).append(true).open(&newest)?.write_all(log)
}

/// The newest record of `output` (absolute), if there is one.
pub fn find(records: &Path, output: &Path) -> std::io::Result<Option<Explanation>> {
    let Some(name) = output.file_name() else { return Ok(None) };
    let wanted = plain(output);
    for log in [NEWEST, OLDER] {
        let bytes = match fs_err::read(records.join(log)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        // A line that a full disk cut off is none.
        let found = bytes.rsplit(|byte| *byte == b'\n').find_map(|line| {
            let record: Explanation = serde_json::from_slice(line).ok()?;
            let path = record.path();
            (path.file_name() == Some(name) && plain(&path) == wanted).then_some(record)
        });
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The path as the file system has it: `../lib/a.o` and `lib/a.o` are one file.
fn plain(output: &Path) -> PathBuf {
    match (output.parent().map(std::fs::canonicalize), output.file_name()) {
        (Some(Ok(dir)), Some(name)) => dir.join(name),
        _ => output.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(output: PathBuf, reason: &str) -> TaskEnd {
        TaskEnd {
            session: String::new(),
            placement: Placement::Local,
            reason: reason.to_owned(),
            helper: None,
            uncacheable: None,
            fault: None,
            notice: None,
            exit_code: 0,
            sent: 0,
            received: 0,
            run_ms: 1,
            phases: None,
            began: std::time::SystemTime::now(),
            outputs: vec![output],
            key: Vec::new(),
            miss: None,
        }
    }

    fn record(records: &Path, output: PathBuf, reason: &str) {
        let mut log = Vec::new();
        append(&mut log, &end(output, reason)).unwrap();
        write(records, &log).unwrap();
    }

    #[test]
    fn the_newest_record_of_a_file_is_found_by_every_spelling() {
        let place = tempfile::tempdir().unwrap();
        let (records, lib) = (place.path().join("records"), place.path().join("lib"));
        fs_err::create_dir(&lib).unwrap();
        assert!(find(&records, &lib.join("a.o")).unwrap().is_none());
        let odd = lib.join(OsStr::from_bytes(b"\xff.o"));
        record(&records, lib.join("a.o"), "first");
        record(&records, lib.join("b.o"), "other");
        record(&records, lib.join("../lib/a.o"), "second");
        record(&records, odd.clone(), "odd");
        let reason = |path: &Path| find(&records, path).unwrap().map(|found| found.reason);
        assert_eq!(reason(&lib.join("a.o")).as_deref(), Some("second"));
        assert_eq!(reason(&odd).as_deref(), Some("odd"));
        assert_eq!(reason(&lib.join(OsStr::from_bytes(b"\xfe.o"))), None);
    }

    #[test]
    fn cut_lines_and_old_logs_do_no_harm() {
        let place = tempfile::tempdir().unwrap();
        let records = place.path();
        record(records, "/x/a.o".into(), "old");
        fs_err::rename(records.join(NEWEST), records.join(OLDER)).unwrap();
        record(records, "/x/b.o".into(), "new");
        write(records, b"{\"output\":\"/x/a").unwrap();
        assert_eq!(find(records, Path::new("/x/a.o")).unwrap().unwrap().reason, "old");
        assert_eq!(find(records, Path::new("/x/b.o")).unwrap().unwrap().reason, "new");
    }
}
