//! Resource names of ByteStream (REAPI, ContentAddressableStorage):
//! `{instance/}blobs/{function/}{hash}/{size}`, `{instance/}compressed-blobs/zstd/{function/}{hash}/{size}`,
//! each with `uploads/{uuid}/` before it and anything behind it when written. Pure parsing.

use dbuild_proto::{Digest, DigestError, DigestFunction};

/// Path segments that end an instance name (REAPI); so none may occur in one.
const KEYWORDS: [&str; 7] =
    ["blobs", "uploads", "actions", "actionResults", "operations", "capabilities", "compressed-blobs"];

/// Longer names are refused before anything looks at them.
const MAX_NAME: usize = 4096;

/// The functions that REAPI knows by name and that are not served here.
const OTHER_FUNCTIONS: [&str; 8] =
    ["sha1", "md5", "vso", "sha384", "sha512", "murmur3", "sha256tree", "gitsha1"];

/// What a resource name names. The instance is checked and then not needed: all share one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobName {
    pub function: DigestFunction,
    pub digest: Digest,
    /// The bytes travel as one zstd stream.
    pub compressed: bool,
}

/// What is wrong with a resource or instance name, as a sentence.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("resource name {0:?} is not of the form {1}")]
    Form(String, &'static str),
    #[error("resource name has {0} bytes, more than {MAX_NAME}")]
    Long(usize),
    #[error("compressor {0:?} is not supported here (supported: zstd)")]
    Compressor(String),
    #[error("digest function {0:?} is not supported here (supported: blake3, sha256)")]
    Function(String),
    #[error("resource name is bad: {0}")]
    Digest(#[from] DigestError),
    #[error("instance name {0:?} has an empty segment, or one that is a keyword of the API")]
    Instance(String),
}

const READ_FORM: &str =
    "[INSTANCE/]blobs/[FUNCTION/]HASH/SIZE or [INSTANCE/]compressed-blobs/zstd/[FUNCTION/]HASH/SIZE";
const WRITE_FORM: &str =
    "[INSTANCE/]uploads/UUID/blobs/[FUNCTION/]HASH/SIZE or [INSTANCE/]uploads/UUID/compressed-blobs/zstd/…";

/// Reads the name of a blob to read.
pub fn read_name(name: &str, default: DigestFunction) -> Result<BlobName, NameError> {
    let form = || NameError::Form(name.to_owned(), READ_FORM);
    let segments = split(name)?;
    let start = segments.iter().position(|segment| is_blob_keyword(segment)).ok_or_else(form)?;
    instance(&segments[..start]).ok_or_else(form)?;
    match blob(&segments[start..], default)? {
        Some((blob, [])) => Ok(blob),
        _ => Err(form()),
    }
}

/// Reads the name of a blob to write. What follows the size is the client's own and ignored.
pub fn write_name(name: &str, default: DigestFunction) -> Result<BlobName, NameError> {
    let form = || NameError::Form(name.to_owned(), WRITE_FORM);
    let segments = split(name)?;
    let start = segments.iter().position(|segment| *segment == "uploads").ok_or_else(form)?;
    instance(&segments[..start]).ok_or_else(form)?;
    match &segments[start + 1..] {
        [uuid, rest @ ..] if !uuid.is_empty() => Ok(blob(rest, default)?.ok_or_else(form)?.0),
        _ => Err(form()),
    }
}

/// `blobs/{function/}{hash}/{size}`; SHA-256 must not be named (REAPI), BLAKE3 must.
pub fn blob_name(function: DigestFunction, digest: &Digest) -> String {
    match function {
        DigestFunction::Sha256 => format!("blobs/{digest}"),
        DigestFunction::Blake3 => format!("blobs/{}/{digest}", function.name()),
    }
}

/// Checks an instance name: empty, or segments between slashes none of which is empty or a keyword.
pub fn check_instance(name: &str) -> Result<(), NameError> {
    let segments: Vec<_> = if name.is_empty() { Vec::new() } else { name.split('/').collect() };
    let fits = name.len() <= MAX_NAME && instance(&segments).is_some();
    if fits { Ok(()) } else { Err(NameError::Instance(name.chars().take(200).collect())) }
}

fn split(name: &str) -> Result<Vec<&str>, NameError> {
    if name.len() > MAX_NAME {
        return Err(NameError::Long(name.len()));
    }
    Ok(name.split('/').collect())
}

fn instance(segments: &[&str]) -> Option<()> {
    segments.iter().all(|segment| !segment.is_empty() && !KEYWORDS.contains(segment)).then_some(())
}

fn is_blob_keyword(segment: &str) -> bool {
    segment == "blobs" || segment == "compressed-blobs"
}

/// Reads from `blobs` or `compressed-blobs` on; gives what follows the size. None: not of this form.
fn blob<'a, 'b>(
    segments: &'a [&'b str],
    default: DigestFunction,
) -> Result<Option<(BlobName, &'a [&'b str])>, NameError> {
    let (compressed, rest) = match segments {
        ["blobs", rest @ ..] => (false, rest),
        ["compressed-blobs", "zstd", rest @ ..] => (true, rest),
        ["compressed-blobs", other, ..] => return Err(NameError::Compressor((*other).to_owned())),
        _ => return Ok(None),
    };
    let (function, rest) = match rest {
        ["blake3", rest @ ..] => (DigestFunction::Blake3, rest),
        ["sha256", rest @ ..] => (DigestFunction::Sha256, rest),
        [other, ..] if OTHER_FUNCTIONS.contains(other) => {
            return Err(NameError::Function((*other).to_owned()));
        }
        rest => (default, rest),
    };
    let [hash, size, rest @ ..] = rest else { return Ok(None) };
    if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    // Sizes are int64 on the wire elsewhere; a larger one could not be answered.
    let Ok(Ok(size)) = size.parse::<i64>().map(u64::try_from) else { return Ok(None) };
    Ok(Some((BlobName { function, digest: Digest::from_hex(hash, size)?, compressed }, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHA: DigestFunction = DigestFunction::Sha256;

    fn digest() -> Digest {
        DigestFunction::Blake3.digest(b"abc")
    }

    #[test]
    fn every_form_is_read() {
        let d = digest();
        let rows = [
            (format!("blobs/{d}"), SHA, false),
            (format!("a/b/c/blobs/{d}"), SHA, false),
            (format!("blobs/blake3/{d}"), DigestFunction::Blake3, false),
            (format!("main/compressed-blobs/zstd/{d}"), SHA, true),
            (format!("compressed-blobs/zstd/blake3/{d}"), DigestFunction::Blake3, true),
        ];
        for (name, function, compressed) in rows {
            let expected = BlobName { function, digest: d, compressed };
            assert_eq!(read_name(&name, SHA), Ok(expected), "{name}");
            let at = name.find("blobs/").unwrap();
            let at = name[..at].strip_suffix("compressed-").map_or(at, str::len);
            let upload = format!("{}uploads/some-uuid/{}", &name[..at], &name[at..]);
            assert_eq!(write_name(&upload, SHA), Ok(expected), "{upload}");
            assert_eq!(write_name(&format!("{upload}/meta/data.txt"), SHA), Ok(expected));
            assert!(read_name(&upload, SHA).is_err(), "{upload}");
        }
    }

    #[test]
    fn a_name_without_function_means_the_default() {
        let name = format!("blobs/{}", digest());
        let read = read_name(&name, DigestFunction::Blake3).unwrap();
        assert_eq!(read.function, DigestFunction::Blake3);
        assert_eq!(read_name(&blob_name(SHA, &digest()), SHA).unwrap().digest, digest());
        assert_eq!(read_name(&blob_name(DigestFunction::Blake3, &digest()), SHA).unwrap().digest, digest());
    }

    #[test]
    fn bad_names_are_refused_with_the_reason() {
        let d = digest();
        let hash = d.hex();
        for (name, part) in [
            (String::new(), "not of the form"),
            ("blobs".into(), "not of the form"),
            (format!("/blobs/{d}"), "not of the form"),
            (format!("a//b/blobs/{d}"), "not of the form"),
            (format!("operations/blobs/{d}"), "not of the form"),
            (format!("blobs/{d}/more"), "not of the form"),
            (format!("blobs/{hash}/-3"), "not of the form"),
            (format!("blobs/{hash}/+3"), "not of the form"),
            (format!("blobs/{hash}/99999999999999999999"), "not of the form"),
            (format!("blobs/{}/3", hash.to_uppercase()), "hexadecimal"),
            ("blobs/abc/3".into(), "hexadecimal"),
            (format!("blobs/md5/{d}"), "not supported"),
            (format!("compressed-blobs/deflate/{d}"), "compressor"),
            (format!("compressed-blobs/identity/{d}"), "compressor"),
            ("a/".repeat(4000), "bytes"),
        ] {
            let error = read_name(&name, SHA).unwrap_err().to_string();
            assert!(error.contains(part), "{name}: {error}");
        }
        assert!(write_name(&format!("uploads//blobs/{d}"), SHA).is_err());
        assert!(write_name(&format!("blobs/{d}"), SHA).is_err());
    }

    #[test]
    fn instance_names_have_slashes_but_no_keywords() {
        for good in ["", "main", "a/b/c", "blobs2"] {
            assert_eq!(check_instance(good), Ok(()));
        }
        for bad in ["/", "a/", "/a", "a//b", "a/blobs", "uploads"] {
            assert!(check_instance(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_name_panics(name in "([a-z0-9/+-]|blobs/|uploads/|zstd/|compressed-|[0-9a-f]{64}/|\\PC){0,12}") {
            let _ = read_name(&name, SHA);
            let _ = write_name(&name, SHA);
            let _ = check_instance(&name);
        }
    }
}
