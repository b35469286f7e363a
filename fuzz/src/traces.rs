//! Trace files, which processes of the build can write to as they like.

use dbuild_intake::observe::{Scope, observe};
use dbuild_shims::trace::{Trace, format::*};

pub fn trace(bytes: &[u8]) -> bool {
    let Ok(trace) = Trace::parse(bytes.to_vec()) else { return false };
    let mut damaged = 0;
    let mut used = HEADER;
    for record in trace.records() {
        assert_eq!(damaged, 0, "reading ends at the first damage");
        let Ok(record) = record else {
            damaged += 1;
            continue;
        };
        let (path, second) = (record.path.as_os_str().len(), record.second.as_os_str().len());
        used += record_size(path + second);
        assert!(used <= bytes.len(), "a record lies in the file");
        assert!(record.path.is_absolute());
    }
    assert!(damaged == 0 || trace.overflowed());
    trace.complete()
}

/// What is made of the records. Looks at this machine's files, changes none.
pub fn observation(bytes: &[u8]) -> bool {
    let Ok(trace) = Trace::parse(bytes.to_vec()) else { return false };
    let outputs = ["/tmp/none/a.o".into()];
    let Ok(seen) = observe(&trace, &Scope { outputs: &outputs, ..Scope::default() }) else { return false };
    assert!(trace.complete(), "nothing is believed of a trace with gaps");
    let paths = seen.files.iter().chain(&seen.directories).chain(&seen.written).chain(&seen.strays);
    for path in paths.chain(seen.absent.iter().map(|absent| &absent.directory)) {
        assert!(path.is_absolute(), "{path:?}");
    }
    for name in seen.absent.iter().flat_map(|absent| &absent.names) {
        let name = name.as_encoded_bytes();
        assert!(!matches!(name, b"" | b"." | b"..") && !name.contains(&b'/'), "{name:?} is a name");
    }
    let sorted =
        |list: &[std::path::PathBuf]| list.windows(2).all(|two| two[0].as_os_str() < two[1].as_os_str());
    assert!(sorted(&seen.files) && sorted(&seen.directories) && sorted(&seen.programs));
    true
}

pub fn seeds() -> Vec<Vec<u8>> {
    let etc = [(OPEN_READ, FOUND, 0, "/etc/passwd", ""), (STAT, ABSENT, 2, "/etc/none/../x.h", "")];
    let more = [
        (OPENDIR, FOUND, 0, "/etc/./", ""),
        (READLINK, FAILED, 22, "/etc/passwd", ""),
        (OPEN_WRITE, FOUND, 0, "/tmp/none/a.tmp", ""),
        (RENAME, FOUND, 0, "/tmp/none/a.tmp", "/tmp/none/a.o"),
        (EXEC, FOUND, 0, "/bin/sh", ""),
        (ACCESS, ABSENT, 2, "/etc/passwd/x", ""),
        (OPEN_WRITE, FOUND, 0, "/tmp/none/b", ""),
        (UNLINK, FOUND, 0, "/tmp/none/b", ""),
    ];
    vec![file(&etc, 0), file(&[&etc[..], &more].concat(), 0)]
}

type Row = (u8, u8, u16, &'static str, &'static str);

fn file(rows: &[Row], flags: u32) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    for (kind, result, errno, path, second) in rows {
        let size = record_size(path.len() + second.len());
        let end = bytes.len() + size;
        bytes.extend((size as u32).to_ne_bytes());
        bytes.extend([*kind, *result]);
        bytes.extend(errno.to_ne_bytes());
        bytes.extend((path.len() as u32).to_ne_bytes());
        bytes.extend((second.len() as u32).to_ne_bytes());
        bytes.extend(path.bytes().chain(second.bytes()));
        bytes.resize(end, 0);
    }
    let used = bytes.len() as u64;
    bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
    bytes[CAPACITY_AT..][..8].copy_from_slice(&(MAX_CAPACITY as u64).to_ne_bytes());
    bytes[NEXT_AT..][..8].copy_from_slice(&used.to_ne_bytes());
    bytes[FLAGS_AT..][..4].copy_from_slice(&flags.to_ne_bytes());
    bytes
}
