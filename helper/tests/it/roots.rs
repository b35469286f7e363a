//! Input roots for tests: a tree in memory that becomes Directory messages, and this machine's programs with the
//! libraries that they need.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use dbuild_proto::Digest;
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;

use crate::store::Blobs;

#[derive(Clone, Debug)]
enum Node {
    File(Digest, bool),
    Link(String),
    Dir(BTreeMap<String, Node>),
}

#[derive(Clone, Debug)]
pub struct Root {
    blobs: Blobs,
    top: BTreeMap<String, Node>,
}

impl Root {
    pub fn new(blobs: &Blobs) -> Root {
        Root { blobs: blobs.clone(), top: BTreeMap::new() }
    }

    pub fn file(mut self, path: &str, bytes: impl Into<Vec<u8>>, executable: bool) -> Root {
        let digest = self.blobs.put(bytes);
        self.place(path, Node::File(digest, executable));
        self
    }

    pub fn link(mut self, path: &str, target: &str) -> Root {
        self.place(path, Node::Link(target.to_owned()));
        self
    }

    pub fn dir(mut self, path: &str) -> Root {
        self.place(path, Node::Dir(BTreeMap::new()));
        self
    }

    /// A file of this machine at its own path, with every symlink that leads to it.
    pub fn host(mut self, path: impl AsRef<Path>) -> Root {
        let mut path = path.as_ref().to_owned();
        'again: for _ in 0..40 {
            let mut walked = PathBuf::from("/");
            let parts: Vec<_> = path.components().skip(1).collect();
            for (at, part) in parts.iter().enumerate() {
                if part.as_os_str() == ".." {
                    walked.pop();
                    continue;
                }
                let next = walked.join(part);
                if let Ok(target) = std::fs::read_link(&next) {
                    self.place(next.to_str().unwrap(), Node::Link(target.to_str().unwrap().to_owned()));
                    path = walked.join(target).join(parts[at + 1..].iter().collect::<PathBuf>());
                    continue 'again;
                }
                walked = next;
            }
            let executable = {
                use std::os::unix::fs::PermissionsExt;
                std::fs::metadata(&walked).unwrap().permissions().mode() & 0o111 != 0
            };
            let bytes = std::fs::read(&walked).unwrap();
            return self.file(walked.to_str().unwrap(), bytes, executable);
        }
        panic!("{} loops", path.display());
    }

    /// A program with its loader and libraries.
    pub fn program(self, path: impl AsRef<Path>) -> Root {
        let mut root = self.host(&path);
        let ldd = Command::new("ldd").arg(path.as_ref()).output().unwrap();
        for word in String::from_utf8_lossy(&ldd.stdout).split_ascii_whitespace() {
            if word.starts_with('/') {
                root = root.host(word.trim_end_matches(':'));
            }
        }
        root
    }

    /// A shell and a few tools.
    pub fn with_shell(self) -> Root {
        [
            "sh", "cat", "ls", "sleep", "head", "tail", "id", "chmod", "mkdir", "ln", "true", "bash",
            "touch", "setsid",
        ]
        .iter()
        .fold(self, |root, name| root.program(which(name)))
    }

    fn place(&mut self, path: &str, node: Node) {
        let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let last = parts.pop().unwrap();
        let mut dir = &mut self.top;
        for part in parts {
            let below = dir.entry(part.to_owned()).or_insert_with(|| Node::Dir(BTreeMap::new()));
            let Node::Dir(inner) = below else { panic!("{path}: {part} is no directory") };
            dir = inner;
        }
        match (dir.get(last), &node) {
            (Some(Node::Dir(_)), Node::Dir(_)) => {}
            _ => drop(dir.insert(last.to_owned(), node)),
        }
    }

    /// Puts the messages into the store; the digest of the top one.
    pub fn put(&self) -> Digest {
        put(&self.blobs, &self.top)
    }
}

fn put(blobs: &Blobs, dir: &BTreeMap<String, Node>) -> Digest {
    let mut message = re::Directory::default();
    for (name, node) in dir {
        let name = name.clone();
        match node {
            Node::File(digest, is_executable) => message.files.push(re::FileNode {
                name,
                digest: Some(digest.to_wire()),
                is_executable: *is_executable,
                node_properties: None,
            }),
            Node::Link(target) => {
                message.symlinks.push(re::SymlinkNode {
                    name,
                    target: target.clone(),
                    node_properties: None,
                });
            }
            Node::Dir(below) => {
                let digest = Some(put(blobs, below).to_wire());
                message.directories.push(re::DirectoryNode { name, digest });
            }
        }
    }
    blobs.put_message(&message)
}

/// Where this machine has a program.
pub fn which(name: &str) -> PathBuf {
    ["/usr/bin", "/bin", "/usr/local/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is not installed"))
}
