//! Digests: what names a blob. BLAKE3 is dbuild's own function, SHA-256 is served to other clients.
//!
//! A `Digest` does not carry its function: like the REAPI's, it is read in the context of a request.

use std::fmt;
use std::str::FromStr;

use sha2::Digest as _;

use crate::reapi::build::bazel::remote::execution::v2 as re;

/// The functions that name blobs here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DigestFunction {
    Blake3,
    Sha256,
}

/// A blob's name: 32 bytes of hash and the blob's size in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    pub hash: [u8; 32],
    pub size: u64,
}

/// What is wrong with a digest that came from outside.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DigestError {
    #[error("hash {0:?} is not 64 lower-case hexadecimal digits")]
    Hash(String),
    #[error("size {0} is negative")]
    Size(i64),
    #[error("digest function {0} is not supported here (supported: BLAKE3, SHA256)")]
    Function(i32),
    #[error("digest is missing")]
    Missing,
    #[error("{0:?} is not of the form HASH/SIZE")]
    Form(String),
}

impl DigestFunction {
    /// The name as it stands in paths on disk.
    pub fn name(self) -> &'static str {
        match self {
            DigestFunction::Blake3 => "blake3",
            DigestFunction::Sha256 => "sha256",
        }
    }

    /// REAPI `DigestFunction.Value`.
    pub fn to_wire(self) -> i32 {
        match self {
            DigestFunction::Blake3 => re::digest_function::Value::Blake3 as i32,
            DigestFunction::Sha256 => re::digest_function::Value::Sha256 as i32,
        }
    }

    /// Reads a REAPI `DigestFunction.Value`; 0 (`UNKNOWN`) means `default`, as for clients that send none.
    pub fn from_wire(value: i32, default: DigestFunction) -> Result<Self, DigestError> {
        match re::digest_function::Value::try_from(value) {
            Ok(re::digest_function::Value::Unknown) => Ok(default),
            Ok(re::digest_function::Value::Blake3) => Ok(DigestFunction::Blake3),
            Ok(re::digest_function::Value::Sha256) => Ok(DigestFunction::Sha256),
            _ => Err(DigestError::Function(value)),
        }
    }

    /// The digest of `bytes`.
    pub fn digest(self, bytes: &[u8]) -> Digest {
        let hash = match self {
            DigestFunction::Blake3 => blake3::hash(bytes).into(),
            DigestFunction::Sha256 => sha2::Sha256::digest(bytes).into(),
        };
        Digest { hash, size: bytes.len() as u64 }
    }
}

impl Digest {
    /// The hash as 64 lower-case hexadecimal digits.
    pub fn hex(&self) -> String {
        self.hex_digits().iter().map(|&digit| char::from(digit)).collect()
    }

    /// As [`Digest::hex`], in ASCII.
    pub fn hex_digits(&self) -> [u8; 64] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut out = [0; 64];
        for (pair, byte) in out.chunks_exact_mut(2).zip(self.hash) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        out
    }

    /// Reads 64 lower-case hexadecimal digits and a size.
    pub fn from_hex(hash: &str, size: u64) -> Result<Self, DigestError> {
        let bad = || DigestError::Hash(hash.chars().take(80).collect());
        let digits = hash.as_bytes();
        if digits.len() != 64 {
            return Err(bad());
        }
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(bad()),
        };
        let mut out = [0; 32];
        for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = value(pair[0])? << 4 | value(pair[1])?;
        }
        Ok(Digest { hash: out, size })
    }

    /// As the REAPI writes it.
    pub fn to_wire(&self) -> re::Digest {
        re::Digest { hash: self.hex(), size_bytes: self.size as i64 }
    }

    /// Reads the REAPI's form, which is hostile until checked.
    pub fn from_wire(digest: &re::Digest) -> Result<Self, DigestError> {
        let size = u64::try_from(digest.size_bytes).map_err(|_| DigestError::Size(digest.size_bytes))?;
        Digest::from_hex(&digest.hash, size)
    }

    /// Reads an optional field that must be there.
    pub fn from_field(digest: Option<&re::Digest>) -> Result<Self, DigestError> {
        Digest::from_wire(digest.ok_or(DigestError::Missing)?)
    }

    /// True for the blob of no bytes, which every store has.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }
}

impl fmt::Display for Digest {
    /// `HASH/SIZE`, as in REAPI resource names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.hex(), self.size)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    /// Reads exactly what `Display` writes.
    fn from_str(text: &str) -> Result<Self, DigestError> {
        let bad = || DigestError::Form(text.chars().take(100).collect());
        let (hash, digits) = text.split_once('/').ok_or_else(bad)?;
        // Sizes are int64 on the wire.
        let size = digits.parse::<i64>().ok().and_then(|size| u64::try_from(size).ok()).ok_or_else(bad)?;
        if size.to_string() == digits { Digest::from_hex(hash, size) } else { Err(bad()) }
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for crate::record::BlobRef {
    fn from(digest: Digest) -> Self {
        crate::record::BlobRef { hash: bytes::Bytes::copy_from_slice(&digest.hash), size: digest.size }
    }
}

impl TryFrom<&crate::record::BlobRef> for Digest {
    type Error = DigestError;
    fn try_from(blob: &crate::record::BlobRef) -> Result<Self, DigestError> {
        let hash =
            blob.hash.as_ref().try_into().map_err(|_| DigestError::Hash(format!("{:?}", blob.hash)))?;
        Ok(Digest { hash, size: blob.size })
    }
}

/// Hashes a blob piece by piece and counts its bytes.
#[derive(Debug, Clone)]
pub struct Hasher {
    state: State,
    size: u64,
}

#[derive(Debug, Clone)]
enum State {
    Blake3(Box<blake3::Hasher>),
    Sha256(sha2::Sha256),
}

impl Hasher {
    pub fn new(function: DigestFunction) -> Self {
        let state = match function {
            DigestFunction::Blake3 => State::Blake3(Box::default()),
            DigestFunction::Sha256 => State::Sha256(sha2::Sha256::new()),
        };
        Hasher { state, size: 0 }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        match &mut self.state {
            State::Blake3(hasher) => {
                hasher.update(bytes);
            }
            State::Sha256(hasher) => hasher.update(bytes),
        }
    }

    pub fn finish(self) -> Digest {
        let hash = match self.state {
            State::Blake3(hasher) => *hasher.finalize().as_bytes(),
            State::Sha256(hasher) => hasher.finalize().into(),
        };
        Digest { hash, size: self.size }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_blob_has_the_published_hashes() {
        assert_eq!(
            DigestFunction::Sha256.digest(b"").hex(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(
            DigestFunction::Blake3.digest(b"").hex(),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }

    #[test]
    fn hostile_digests_are_refused() {
        for hash in ["", "zz", &"A".repeat(64), &"0".repeat(63), &"é".repeat(32)] {
            assert!(Digest::from_hex(hash, 1).is_err(), "{hash:?}");
        }
        let negative = re::Digest { hash: "0".repeat(64), size_bytes: -1 };
        assert_eq!(Digest::from_wire(&negative), Err(DigestError::Size(-1)));
        let hash = "0".repeat(64);
        for size in ["", "/", "/-1", "/+1", "/01", "/1 ", "/1/1", "/9223372036854775808", " 1"] {
            assert!(format!("{hash}{size}").parse::<Digest>().is_err(), "{size:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn hex_round_trips(hash: [u8; 32], size in 0..i64::MAX as u64) {
            let digest = Digest { hash, size };
            proptest::prop_assert_eq!(Digest::from_wire(&digest.to_wire()), Ok(digest));
            proptest::prop_assert_eq!(digest.to_string().parse(), Ok(digest));
        }
    }
}
