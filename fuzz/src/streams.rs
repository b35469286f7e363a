//! Compressed uploads: a zstd stream cut anywhere, for a blob whose digest is known. Nothing but that blob may come of it.

use dbuild_cache::Store;
use dbuild_proto::Digest;

use crate::raw::{Raw, long};
use crate::shapes::FUNCTION;
use crate::workshop;

/// An input: size of the pieces, a claimed surplus of the size, the content behind a length of two bytes, the stream.
pub fn zstd_blob(bytes: &[u8]) -> bool {
    let mut raw = Raw(bytes);
    let (piece, surplus) = (raw.byte().max(1), raw.byte());
    let content = raw.long();
    let mut digest = FUNCTION.digest(content);
    digest.size += u64::from(surplus);
    workshop::with(|store| {
        if store.contains(FUNCTION, &digest) {
            store.clear().expect("a store in use can be cleared");
        }
        let taken = take(store, &digest, raw.rest(), piece.into());
        let there = digest == FUNCTION.digest(b"") || store.contains(FUNCTION, &digest);
        assert!(taken.is_none() || there, "what was taken is there");
        assert!(taken.is_some() || content.is_empty() || !there, "what was refused is not");
        if taken.is_some() {
            assert_eq!(store.read(FUNCTION, &digest).expect("it was taken"), content);
        }
        taken.is_some()
    })
}

fn take(store: &Store, digest: &Digest, stream: &[u8], piece: usize) -> Option<()> {
    let mut writer = store.zstd_writer(FUNCTION, digest).ok()?;
    for piece in stream.chunks(piece) {
        writer.write(piece).ok()?;
    }
    assert_eq!(writer.written(), stream.len() as u64);
    writer.commit().ok()
}

pub fn seeds() -> Vec<Vec<u8>> {
    let text = b"int main(void) { return 0; }\n".repeat(40);
    let encode = |content: &[u8]| zstd::encode_all(content, 3).expect("compression in memory");
    let two_frames = [encode(&text[..100]), encode(&text[100..])].concat();
    vec![
        [vec![255, 0], long(&text), encode(&text)].concat(),
        [vec![1, 0], long(&text), two_frames].concat(),
        [vec![9, 0], long(b""), encode(b"")].concat(),
    ]
}
