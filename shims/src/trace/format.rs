//! The trace file's layout, written by the interceptor and read by [`super`]; `core` only.
//!
//! The file is made sparse at its full capacity and mapped shared by every process of one compile. Native
//! byte order: it never leaves the machine.
//!
//! Header, [`HEADER`] bytes: [`MAGIC`]; at [`CAPACITY_AT`] a `u64`, the file's size; at [`NEXT_AT`] a `u64`,
//! the offset of the next record, moved by atomic addition (so it can pass the capacity); at [`FLAGS_AT`] a
//! `u32` of `FLAG_…` bits, set by atomic or.
//!
//! Record, at a multiple of 8: `u32` size (of the whole record, a multiple of 8, stored *last*, with release
//! order: 0 means that its writer was killed half-way), `u8` kind, `u8` result, `u16` errno, `u32` length of the
//! path, `u32` length of the second path, then the two paths.

/// First bytes of the file; the digit is the format's version.
pub const MAGIC: [u8; 8] = *b"dbtrace2";
/// Size of the header, and offset of the first record.
pub const HEADER: usize = 64;
/// Offset of the capacity in the header.
pub const CAPACITY_AT: usize = 8;
/// Offset of the next record's offset in the header.
pub const NEXT_AT: usize = 16;
/// Offset of the flags in the header.
pub const FLAGS_AT: usize = 24;

/// Size of a record without its paths.
pub const RECORD: usize = 16;
/// Smallest and largest capacity that makes sense.
pub const MIN_CAPACITY: usize = 4096;
pub const MAX_CAPACITY: usize = 1 << 30;

/// A record did not fit, or a path was too long to be made absolute: the trace is not complete.
pub const FLAG_OVERFLOW: u32 = 1;
/// A program was started that the interceptor cannot follow (static, foreign, or with our variables taken
/// out): the trace is not complete.
pub const FLAG_BLIND: u32 = 2;

/// Kinds of records.
pub const OPEN_READ: u8 = 1;
pub const OPEN_WRITE: u8 = 2;
pub const STAT: u8 = 3;
pub const ACCESS: u8 = 4;
pub const READLINK: u8 = 5;
pub const OPENDIR: u8 = 6;
pub const RENAME: u8 = 7;
pub const UNLINK: u8 = 8;
pub const EXEC: u8 = 9;
pub const REALPATH: u8 = 10;
/// The path is a variable's name.
pub const VARIABLE: u8 = 11;
pub const MAKE_DIRECTORY: u8 = 12;

/// Results.
pub const FOUND: u8 = 0;
pub const ABSENT: u8 = 1;
pub const FAILED: u8 = 2;

/// The size of a record whose two paths have `paths` bytes together.
pub const fn record_size(paths: usize) -> usize {
    (RECORD + paths + 7) & !7
}
