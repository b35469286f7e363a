//! Trees of `Directory` messages out of a fuzzer's bytes. A fuzzer cannot guess digests, so it says which directory
//! holds which, and the digests follow; everything else (names, targets, order) is its own.

use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::{Digest, DigestFunction};
use prost::Message;

use crate::raw::{Raw, long, short};

pub const FUNCTION: DigestFunction = DigestFunction::Blake3;

/// Directories, each holding only earlier ones; the last is the root. Never empty.
pub struct Shape {
    pub dirs: Vec<Shaped>,
    /// Contents of files, each known by one byte.
    pub contents: Vec<(Digest, [u8; 1])>,
}

pub struct Shaped {
    pub message: re::Directory,
    pub bytes: Vec<u8>,
    pub digest: Digest,
}

impl Shape {
    /// One byte: number of directories and (top bit) whether names are put in order. For each directory a number of
    /// entries, for each entry a kind, a name and what the kind needs.
    pub fn read(raw: &mut Raw<'_>) -> Shape {
        let header = raw.byte();
        let mut shape = Shape { dirs: Vec::new(), contents: Vec::new() };
        for _ in 0..=(header & 0x7f) % 24 {
            let mut message = re::Directory::default();
            for _ in 0..raw.below(8) {
                shape.entry(raw, &mut message);
            }
            if header & 0x80 != 0 {
                in_order(&mut message);
            }
            let bytes = message.encode_to_vec();
            let digest = FUNCTION.digest(&bytes);
            shape.dirs.push(Shaped { message, bytes, digest });
        }
        shape
    }

    pub fn root(&self) -> Digest {
        self.dirs.last().expect("a shape has a root").digest
    }

    fn entry(&mut self, raw: &mut Raw<'_>, message: &mut re::Directory) {
        let (kind, name) = (raw.below(4), raw.text());
        match kind {
            0 | 1 => {
                let content = [raw.byte()];
                let digest = FUNCTION.digest(&content);
                self.contents.push((digest, content));
                let digest = Some(digest.to_wire());
                message.files.push(re::FileNode {
                    name,
                    digest,
                    is_executable: kind == 1,
                    ..Default::default()
                });
            }
            2 => message.symlinks.push(re::SymlinkNode {
                name,
                target: raw.long_text(),
                node_properties: None,
            }),
            _ => {
                if let Some(child) = self.dirs.get(raw.below(self.dirs.len().max(1))) {
                    let digest = Some(child.digest.to_wire());
                    message.directories.push(re::DirectoryNode { name, digest });
                }
            }
        }
    }
}

fn in_order(message: &mut re::Directory) {
    message.files.sort_by(|a, b| a.name.cmp(&b.name));
    message.files.dedup_by(|a, b| a.name == b.name);
    message.symlinks.sort_by(|a, b| a.name.cmp(&b.name));
    message.symlinks.dedup_by(|a, b| a.name == b.name);
    message.directories.sort_by(|a, b| a.name.cmp(&b.name));
    message.directories.dedup_by(|a, b| a.name == b.name);
}

/// What [`Shape::read`] reads as `src/a.c`, `usr/lib/x`, a few links, and an empty directory.
pub fn seed() -> Vec<u8> {
    let file = |name: &str| [vec![0], short(name), vec![b'x']].concat();
    let link = |name: &str, target: &str| [vec![2], short(name), long(target.as_bytes())].concat();
    let dir = |name: &str, index: u8| [vec![3], short(name), vec![index]].concat();
    let dirs: [Vec<Vec<u8>>; 5] = [
        vec![],
        vec![file("a.c"), [vec![1], short("run"), vec![b'r']].concat()],
        vec![file("x"), link("up", "../../src"), dir("empty", 0)],
        vec![dir("lib", 2)],
        vec![
            link("abs", "/../../usr/lib"),
            link("lib", "usr/lib"),
            dir("out", 0),
            dir("src", 1),
            dir("usr", 3),
        ],
    ];
    let entries = dirs.map(|entries| [vec![entries.len() as u8], entries.concat()].concat());
    [vec![0x80 | 4], entries.concat()].concat()
}
