//! Digests in each of the forms in which they arrive.

use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::record::BlobRef;
use dbuild_proto::{Digest, DigestFunction};
use prost::Message;

use crate::raw::Raw;

pub fn digest(bytes: &[u8]) -> bool {
    let mut raw = Raw(bytes);
    let accepted = match raw.below(3) {
        0 => re::Digest::decode(raw.rest()).ok().and_then(|wire| Digest::from_field(Some(&wire)).ok()),
        1 => BlobRef::decode(raw.rest()).ok().and_then(|blob| Digest::try_from(&blob).ok()),
        _ => {
            let size = u64::from_le_bytes(std::array::from_fn(|_| raw.byte()));
            Digest::from_hex(&String::from_utf8_lossy(raw.rest()), size).ok()
        }
    };
    let number = bytes.first_chunk().map_or(0, |four| i32::from_le_bytes(*four));
    if let Ok(function) = DigestFunction::from_wire(number, DigestFunction::Sha256) {
        assert_eq!(DigestFunction::from_wire(function.to_wire(), DigestFunction::Blake3), Ok(function));
    }
    let Some(digest) = accepted else { return false };
    assert_eq!(Digest::from_hex(&digest.hex(), digest.size), Ok(digest));
    assert_eq!(Digest::try_from(&BlobRef::from(digest)), Ok(digest));
    // A record may hold a size that the API's int64 cannot; it must then not pass for another.
    if i64::try_from(digest.size).is_ok() {
        assert_eq!(Digest::from_wire(&digest.to_wire()), Ok(digest));
    } else {
        assert!(Digest::from_wire(&digest.to_wire()).is_err());
    }
    true
}

pub fn seeds() -> Vec<Vec<u8>> {
    let digest = DigestFunction::Blake3.digest(b"abc");
    vec![
        [vec![0], digest.to_wire().encode_to_vec()].concat(),
        [vec![1], BlobRef::from(digest).encode_to_vec()].concat(),
        [vec![2], digest.size.to_le_bytes().to_vec(), digest.hex().into_bytes()].concat(),
    ]
}
