//! What the scanner must be given: files, and answers of the compiler. All paths are as the compiler spells them,
//! relative ones to its working directory.

use std::sync::Arc;

use crate::directives::Content;
use crate::macros::Question;
use crate::search::DirectoryId;
use crate::unsure::Unsure;

/// A file of the unit, numbered by the host.
pub type FileId = u32;

/// What a look-up came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Not there, or a directory: compilers go on to the next place.
    Absent,
    File(FileId),
}

/// The surroundings of one scan. It sees every look-up, so it is what knows the inputs in the end.
pub trait Host {
    /// Announces a directory; numbers count from 0. `path` is empty for the working directory.
    fn directory(&mut self, number: DirectoryId, path: &[u8]);

    /// Looks for the regular file `name` (which may have slashes) in a directory.
    fn look(&mut self, directory: DirectoryId, name: &[u8]) -> Result<Look, Unsure>;

    /// Whether anything is there by that name.
    fn exists(&mut self, directory: DirectoryId, name: &[u8]) -> Result<bool, Unsure>;

    /// The directives of a file that was found. `directory`: where it looks for its own includes.
    fn open(&mut self, file: FileId, directory: DirectoryId) -> Result<Arc<Content>, Unsure>;

    /// The path of a file that was found, as the compiler spells it.
    fn name(&self, file: FileId) -> Vec<u8>;

    /// A number that two files share if the compiler takes them for the same one where a file is to be read once:
    /// clang by device and inode, gcc by modification time (in seconds), size and content.
    fn identity(&mut self, file: FileId) -> u64;

    /// What the operator `question` gives for `operand`; `near` is the file in which it is asked.
    fn ask(&mut self, question: Question, operand: &[u8], near: &Content) -> Result<i64, Unsure>;
}
