//! `Directory` as it travels, written straight from a tree: fields in the order of their numbers, children by name
//! (REAPI, `message Directory`). One action has hundreds of nodes, and a message of its own for each would be copied twice.

use std::collections::BTreeMap;

use dbuild_proto::{Digest, DigestFunction};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::Node;

/// Field numbers of `Directory`, `FileNode`, `DirectoryNode`, `SymlinkNode` and `Digest`.
const FILES: u32 = 1;
const DIRECTORIES: u32 = 2;
const SYMLINKS: u32 = 3;
const NAME: u32 = 1;
const DIGEST: u32 = 2;
const TARGET: u32 = 2;
const IS_EXECUTABLE: u32 = 4;
const HASH: u32 = 1;
const SIZE_BYTES: u32 = 2;

/// Bytes of the key of a field whose number is below 16.
const KEY: usize = 1;

pub(super) fn directory(children: &BTreeMap<String, Node>, function: DigestFunction) -> Vec<u8> {
    let mut out = Vec::with_capacity(children.len() * 96);
    for (name, node) in children {
        if let Node::File(file) = node {
            let more = if file.executable { KEY + 1 } else { 0 };
            header(&mut out, FILES, field_length(name.len()) + digest_length(&file.digest) + more);
            field(&mut out, NAME, name.as_bytes());
            digest(&mut out, &file.digest);
            if file.executable {
                number(&mut out, IS_EXECUTABLE, 1);
            }
        }
    }
    for (name, node) in children {
        if let Node::Directory(below) = node {
            let below = below.seal(function).0;
            header(&mut out, DIRECTORIES, field_length(name.len()) + digest_length(&below));
            field(&mut out, NAME, name.as_bytes());
            digest(&mut out, &below);
        }
    }
    for (name, node) in children {
        if let Node::Symlink(target) = node {
            header(&mut out, SYMLINKS, field_length(name.len()) + field_length(target.len()));
            field(&mut out, NAME, name.as_bytes());
            field(&mut out, TARGET, target.as_bytes());
        }
    }
    out
}

fn digest(out: &mut Vec<u8>, digest: &Digest) {
    header(out, DIGEST, digest_body(digest));
    field(out, HASH, &digest.hex_digits());
    if digest.size != 0 {
        number(out, SIZE_BYTES, digest.size);
    }
}

/// Of the field with its header.
fn digest_length(digest: &Digest) -> usize {
    field_length(digest_body(digest))
}

fn digest_body(digest: &Digest) -> usize {
    let size = if digest.size == 0 { 0 } else { KEY + encoded_len_varint(digest.size) };
    field_length(2 * digest.hash.len()) + size
}

fn field_length(bytes: usize) -> usize {
    KEY + encoded_len_varint(bytes as u64) + bytes
}

/// A text. proto3 would leave an empty one out; no name, target or hash is.
fn field(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    header(out, number, bytes.len());
    out.extend_from_slice(bytes);
}

fn header(out: &mut Vec<u8>, number: u32, length: usize) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

fn number(out: &mut Vec<u8>, field: u32, value: u64) {
    encode_key(field, WireType::Varint, out);
    encode_varint(value, out);
}
