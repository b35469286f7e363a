//! Blobs piece by piece: writers, readers at offsets, zstd both ways.

use std::io::Read;

use dbuild_cache::{CacheError, Store};
use proptest::prelude::*;

use crate::support::*;

fn read_all(mut from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).map(|_| bytes)
}

fn nothing_kept(store: &Store) -> bool {
    files(store.dir()).is_empty()
}

#[test]
fn a_writer_takes_pieces_and_verifies_the_whole() {
    let Fixture { store, dir: _dir } = fixture();
    let bytes = noise(1, 200_000);
    let digest = F.digest(&bytes);
    let mut writer = store.writer(F, &digest).unwrap();
    for piece in bytes.chunks(7_777) {
        let before = writer.written();
        writer.write(piece).unwrap();
        assert_eq!(writer.written(), before + piece.len() as u64);
        assert!(!store.contains(F, &digest), "not there before it is whole");
    }
    writer.commit().unwrap();
    assert_eq!(store.read(F, &digest).unwrap(), bytes);
}

#[test]
fn writers_that_end_badly_leave_nothing() {
    let Fixture { store, dir: _dir } = fixture();
    let digest = F.digest(b"0123456789");
    let mut dropped = store.writer(F, &digest).unwrap();
    dropped.write(b"01234").unwrap();
    drop(dropped);
    let mut short = store.writer(F, &digest).unwrap();
    short.write(b"01234").unwrap();
    assert!(matches!(short.commit(), Err(CacheError::DigestMismatch { .. })));
    let mut wrong = store.writer(F, &digest).unwrap();
    wrong.write(b"0123456780").unwrap();
    assert!(matches!(wrong.commit(), Err(CacheError::DigestMismatch { .. })));
    let mut long = store.writer(F, &digest).unwrap();
    long.write(b"01234").unwrap();
    assert!(matches!(long.write(b"567890"), Err(CacheError::TooLong { .. })));
    assert_eq!(long.written(), 5, "nothing of a piece that is too long");
    drop(long);
    assert!(nothing_kept(&store));
}

#[test]
fn a_reader_reads_from_any_offset() {
    let Fixture { store, dir: _dir } = fixture();
    let bytes = noise(3, 700_000);
    let digest = store.put(F, &bytes).unwrap();
    let mut reader = store.open_blob(F, &digest).unwrap();
    assert_eq!(reader.size(), 700_000);
    for offset in [0, 1, 699_999, 300_000, 700_000, 5] {
        reader.seek_to(offset).unwrap();
        assert_eq!(read_all(&mut reader).unwrap(), bytes[offset as usize..]);
    }
    assert!(reader.seek_to(700_001).is_err());
    assert!(store.open_blob(F, &F.digest(b"absent")).err().unwrap().is_not_found());
}

#[test]
fn compressed_reads_decompress_to_the_blob_and_are_made_once() {
    let Fixture { store, dir: _dir } = fixture();
    for (len, kept) in [(0, 0), (1, 0), (65_536, 0), (65_537, 1), (1_500_000, 2)] {
        let bytes = noise(4, len);
        let digest = store.put(F, &bytes).unwrap();
        let mut first = store.read_zstd(F, &digest).unwrap();
        let stream = read_all(&mut first).unwrap();
        assert_eq!(first.compressed_size(), Some(stream.len() as u64));
        assert_eq!(zstd::decode_all(&stream[..]).unwrap(), bytes);
        assert_eq!(store.usage().variants, kept);
        let mut again = store.read_zstd(F, &digest).unwrap();
        let offset = stream.len() / 2;
        again.seek_to(offset as u64).unwrap();
        assert_eq!(read_all(&mut again).unwrap(), stream[offset..]);
        assert!(again.seek_to(stream.len() as u64 + 1).is_err());
    }
    assert!(store.read_zstd(F, &F.digest(&noise(5, 100_000))).err().unwrap().is_not_found());
}

#[test]
fn zstd_comes_in_as_frames_cut_anywhere() {
    let Fixture { store, dir: _dir } = fixture();
    let bytes = noise(6, 300_000);
    let digest = F.digest(&bytes);
    let mut stream = zstd::encode_all(&bytes[..100_000], 3).unwrap();
    stream.extend(zstd::encode_all(&bytes[100_000..], 19).unwrap());
    store.put_zstd(F, &digest, &stream[..]).unwrap();
    assert_eq!(store.read(F, &digest).unwrap(), bytes);
    store.clear().unwrap();
    let mut writer = store.zstd_writer(F, &digest).unwrap();
    for piece in stream.chunks(1_001) {
        writer.write(piece).unwrap();
    }
    assert_eq!(writer.written(), stream.len() as u64);
    writer.commit().unwrap();
    assert_eq!(store.read(F, &digest).unwrap(), bytes);
}

#[test]
fn hostile_zstd_is_bounded() {
    let Fixture { store, dir: _dir } = fixture();
    let small = F.digest(b"small");
    // 100 MB of zeros in a few KB: stops at the expected size.
    let bomb = zstd::encode_all(std::io::repeat(0).take(100_000_000), 1).unwrap();
    assert!(matches!(store.put_zstd(F, &small, &bomb[..]), Err(CacheError::TooLong { .. })));
    // Frames that hold nothing, for ever.
    let nothing = zstd::encode_all(&b""[..], 1).unwrap();
    let endless = std::iter::repeat_n(nothing, 100_000).flatten().collect::<Vec<u8>>();
    assert!(matches!(store.put_zstd(F, &small, &endless[..]), Err(CacheError::BadCompression(_))));
    // A frame that wants a window of 1 GiB (RFC 8878, 3.1.1.1.2: exponent 20, mantissa 0).
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 20 << 3, 0x01, 0x00, 0x00];
    assert!(matches!(store.put_zstd(F, &small, &window[..]), Err(CacheError::BadCompression(_))));
    assert!(matches!(store.put_zstd(F, &small, &b"not zstd"[..]), Err(CacheError::BadCompression(_))));
    let cut = zstd::encode_all(&b"small"[..], 1).unwrap();
    let result = store.put_zstd(F, &small, &cut[..cut.len() - 1]);
    assert!(matches!(result, Err(CacheError::BadCompression(_) | CacheError::DigestMismatch { .. })));
    let mut broken = store.zstd_writer(F, &small).unwrap();
    assert!(broken.write(b"not zstd").is_err());
    assert!(broken.write(&cut).is_err());
    assert!(broken.commit().is_err());
    assert!(nothing_kept(&store));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_comes_as_zstd_is_the_blob_or_an_error(
        stream in prop::collection::vec(any::<u8>(), 0..300),
        at: prop::sample::Index,
    ) {
        let Fixture { store, dir: _dir } = fixture();
        let bytes = noise(7, 5_000);
        let digest = F.digest(&bytes);
        // Good at the start, any bytes after; and any bytes at all.
        let mut mixed = zstd::encode_all(&bytes[..], 1).unwrap();
        let cut = at.index(mixed.len() + 1);
        mixed.truncate(cut);
        mixed.extend(&stream);
        for hostile in [&mixed, &stream] {
            match store.put_zstd(F, &digest, &hostile[..]) {
                Ok(()) => prop_assert_eq!(store.read(F, &digest).unwrap(), bytes.clone()),
                Err(_) => prop_assert!(nothing_kept(&store)),
            }
        }
    }
}
