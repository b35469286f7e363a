//! Resource names of ByteStream.

use dbuild_proto::DigestFunction;

use crate::coordinator::resource::{blob_name, check_instance, read_name, write_name};

pub fn resource_name(bytes: &[u8]) -> bool {
    let name = String::from_utf8_lossy(bytes);
    let default = DigestFunction::Sha256;
    let _ = check_instance(&name);
    let (read, write) = (read_name(&name, default), write_name(&name, default));
    assert!(read.is_err() || write.is_err(), "a name is to be read or to be written");
    let Ok(blob) = read.or(write) else { return false };
    assert!(i64::try_from(blob.digest.size).is_ok());
    let plain = read_name(&blob_name(blob.function, &blob.digest), default).expect("our own names are names");
    assert_eq!((plain.function, plain.digest), (blob.function, blob.digest));
    true
}

pub fn seeds() -> Vec<Vec<u8>> {
    let digest = DigestFunction::Blake3.digest(b"abc");
    let names = [
        format!("blobs/{digest}"),
        format!("a/b/blobs/blake3/{digest}"),
        format!("main/compressed-blobs/zstd/sha256/{digest}"),
        format!("uploads/0b2e/blobs/{digest}/meta/x"),
        format!("main/uploads/0b2e/compressed-blobs/zstd/blake3/{digest}"),
    ];
    names.map(String::into_bytes).into()
}
