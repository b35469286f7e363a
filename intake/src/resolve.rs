//! Walking a path the way the kernel does: component by component, through symbolic links and `..`, telling a
//! visitor of every directory and link on the way. Knows no trees; asks a [`Look`] what a path is.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};

/// As the kernel's limit (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// What a path is, its last link not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink(PathBuf),
    /// A pipe, a socket, a device.
    Special,
}

/// Where the walk asks. The pure parts of intake are tested with maps in place of a disk.
pub trait Look {
    /// `lstat`, and `readlink` for links.
    fn look(&self, path: &Path) -> io::Result<Kind>;
}

/// The file system of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Look for Disk {
    fn look(&self, path: &Path) -> io::Result<Kind> {
        let kind = fs_err::symlink_metadata(path)?.file_type();
        Ok(if kind.is_symlink() {
            Kind::Symlink(fs_err::read_link(path)?)
        } else if kind.is_dir() {
            Kind::Directory
        } else if kind.is_file() {
            Kind::File
        } else {
            Kind::Special
        })
    }
}

/// Hears what the walk meets. The paths are real: absolute, without links, `.` and `..`.
pub trait Visitor<E> {
    fn directory(&mut self, real: &Path) -> Result<(), E>;
    fn symlink(&mut self, real: &Path, target: &Path) -> Result<(), E>;
    /// What is already known of a path saves the look.
    fn known(&self, _real: &Path) -> Option<Kind> {
        None
    }
}

/// Follows the absolute `path` to its end; answers where that really is, and what. Every directory that is named on
/// the way is visited, also when `..` leaves it again.
pub fn walk<E: From<io::Error>>(
    path: &Path,
    disk: &dyn Look,
    visitor: &mut dyn Visitor<E>,
) -> Result<(PathBuf, Kind), E> {
    let mut left: VecDeque<OsString> = steps(path);
    let mut real = PathBuf::from("/");
    let mut kind = Kind::Directory;
    let mut links = 0;
    visitor.directory(&real)?;
    while let Some(step) = left.pop_front() {
        if kind != Kind::Directory {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, real.display().to_string()).into());
        }
        if step == ".." {
            real.pop();
            continue;
        }
        let next = real.join(&step);
        let found = match visitor.known(&next) {
            Some(kind) => kind,
            None => disk.look(&next)?,
        };
        match found {
            Kind::Symlink(target) => {
                links += 1;
                if links > MAX_LINKS {
                    let message = format!("{}: too many symbolic links", path.display());
                    return Err(io::Error::other(message).into());
                }
                visitor.symlink(&next, &target)?;
                if target.is_absolute() {
                    real = PathBuf::from("/");
                }
                for step in steps(&target).into_iter().rev() {
                    left.push_front(step);
                }
            }
            Kind::Directory => {
                visitor.directory(&next)?;
                real = next;
            }
            other => {
                real = next;
                kind = other;
            }
        }
    }
    Ok((real, kind))
}

fn steps(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_os_string()),
            Component::ParentDir => Some(OsStr::new("..").to_os_string()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A disk in memory.
    #[derive(Default)]
    pub(crate) struct Map(pub(crate) BTreeMap<PathBuf, Kind>);

    impl Look for Map {
        fn look(&self, path: &Path) -> io::Result<Kind> {
            self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
        }
    }

    #[derive(Default)]
    struct Heard(Vec<String>);

    impl Visitor<io::Error> for Heard {
        fn directory(&mut self, real: &Path) -> io::Result<()> {
            self.0.push(format!("{}/", real.display()));
            Ok(())
        }
        fn symlink(&mut self, real: &Path, target: &Path) -> io::Result<()> {
            self.0.push(format!("{} -> {}", real.display(), target.display()));
            Ok(())
        }
    }

    fn disk() -> Map {
        let kinds = [
            ("/a", Kind::Directory),
            ("/a/b", Kind::Directory),
            ("/a/f", Kind::File),
            ("/l", Kind::Symlink("a/b".into())),
            ("/abs", Kind::Symlink("/a".into())),
            ("/loop", Kind::Symlink("loop".into())),
        ];
        Map(kinds.into_iter().map(|(path, kind)| (path.into(), kind)).collect())
    }

    #[test]
    fn parent_of_a_link_is_the_parent_of_its_target() {
        let mut heard = Heard::default();
        let end = walk::<io::Error>(Path::new("/l/../f"), &disk(), &mut heard).unwrap();
        assert_eq!(end, (PathBuf::from("/a/f"), Kind::File));
        assert_eq!(heard.0, ["//", "/l -> a/b", "/a/", "/a/b/"]);
    }

    #[test]
    fn absolute_links_start_anew_and_loops_end() {
        let mut heard = Heard::default();
        let end = walk::<io::Error>(Path::new("/abs/./b/"), &disk(), &mut heard).unwrap();
        assert_eq!(end, (PathBuf::from("/a/b"), Kind::Directory));
        assert!(walk::<io::Error>(Path::new("/loop"), &disk(), &mut heard).is_err());
    }

    #[test]
    fn nothing_lies_below_a_file() {
        let error = walk::<io::Error>(Path::new("/a/f/x"), &disk(), &mut Heard::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    }
}
