//! The file system as one unit sees it: every directory is looked at once, every file's facts are taken once, and all
//! that was found or missed is remembered. The tables of `files` and `listings` do the remembering between units.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dbuild_compilers::Mentions;
use dbuild_proto::Digest;
use dbuild_scanner::{Content, DirectoryId, FileId, Host, Look, Question, Unsure};

use super::contents::Contents;
use super::finder::read_as;
use super::probe::{Asked, Probe, absolute};
use crate::files::{FileFacts, FileTable};
use crate::finder::FindRequest;
use crate::inputs::{Input, Inputs, Role};
use crate::listings::{DirTable, gone};
use crate::observe::Absent;

/// A directory of this unit.
struct Place {
    /// Absolute, as the compiler spells it; empty for what a listing showed to be missing.
    path: PathBuf,
    is: Is,
    /// Where names lead that have slashes, by all but their last part.
    below: Map<Box<[u8]>, usize>,
    /// That it is missing is remembered.
    told: bool,
    /// What was looked at in it.
    met: Map<OsString, Option<FileId>>,
}

impl Place {
    fn new(path: PathBuf, is: Is) -> Place {
        Place { path, is, below: Map::default(), told: false, met: Map::default() }
    }
}

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

#[derive(Clone)]
enum Is {
    /// `None`: too large to list.
    There(Option<Arc<HashSet<OsString>>>),
    /// The first name that is missing, and the place where it is.
    Missing(usize, OsString),
    /// A file stands in its way, which is an input.
    Blocked,
}

struct Met {
    path: PathBuf,
    /// As in the directory that the scanner named.
    spelled: Vec<u8>,
    facts: FileFacts,
    /// Its text is part of the unit; otherwise it was only looked for.
    opened: Option<Arc<Content>>,
    /// See [`Host::identity`]; worked out when it is asked for.
    identity: Option<u64>,
}

pub(super) struct Disk<'a> {
    pub request: &'a FindRequest<'a>,
    pub files: &'a FileTable,
    pub directories: &'a DirTable,
    pub contents: &'a Contents,
    pub probe: &'a Probe,
    pub clang: bool,
    /// Questions that nobody has asked the compiler yet, and others that stand near them.
    pub open: Asked,
    pub likely: Asked,
    places: Vec<Place>,
    by_path: Map<OsString, usize>,
    /// The scanner's numbers, with their spelling.
    announced: Vec<(usize, Vec<u8>)>,
    met: Vec<Met>,
    /// Missed names, perhaps more than once: a place, and where the name is in `names`.
    absent: Vec<(u32, u32, u32)>,
    names: Vec<u8>,
    /// Directories that stood where a header was looked for.
    odd_directories: Vec<PathBuf>,
    /// clang: the directory of each file by device and inode.
    homes: Map<(u64, u64), usize>,
    identities: Map<Identity, u64>,
}

#[derive(PartialEq, Eq, Hash)]
enum Identity {
    Inode(u64, u64),
    Like(i128, Digest),
}

impl<'a> Disk<'a> {
    pub fn new(
        request: &'a FindRequest<'a>,
        files: &'a FileTable,
        directories: &'a DirTable,
        contents: &'a Contents,
        probe: &'a Probe,
        clang: bool,
    ) -> Disk<'a> {
        Disk {
            request,
            files,
            directories,
            contents,
            probe,
            clang,
            open: Asked::new(),
            likely: Asked::new(),
            places: Vec::new(),
            by_path: Map::default(),
            announced: Vec::new(),
            met: Vec::new(),
            absent: Vec::new(),
            names: Vec::new(),
            odd_directories: Vec::new(),
            homes: Map::default(),
            identities: Map::default(),
        }
    }

    /// A place in words.
    pub fn told(&self, file: FileId, text: &[u8]) -> (PathBuf, String) {
        let path = self.met.get(file as usize).map(|met| met.path.clone()).unwrap_or_default();
        (path, String::from_utf8_lossy(text).into_owned())
    }

    /// Everything that was seen, and what the probe saw.
    pub fn finish(self) -> Inputs {
        let mut inputs = Inputs { programs: self.probe.programs.clone(), ..Inputs::default() };
        let owns =
            |facts: &FileFacts| self.request.toolchain.owns(facts.signature.device, facts.signature.inode);
        let mut mentions = Mentions::default();
        for met in self.met {
            if !owns(&met.facts) {
                mentions = mentions.union(met.facts.mentions);
                inputs.files.push(Input {
                    path: met.path,
                    digest: met.facts.digest,
                    executable: met.facts.executable,
                    role: match met.opened {
                        Some(content) => Role::Included(content.fingerprint(&self.contents.names)),
                        None => Role::Other,
                    },
                });
            }
        }
        inputs.mentions = mentions;
        inputs.files.extend(self.probe.files.iter().cloned());
        let by = |input: &Input| input.role == Role::Other;
        inputs.files.sort_unstable_by(|a, b| {
            a.path.as_os_str().cmp(b.path.as_os_str()).then_with(|| by(a).cmp(&by(b)))
        });
        inputs.files.dedup_by(|a, b| a.path == b.path);

        let names = &self.names;
        let name_of = |&(_, start, end): &(u32, u32, u32)| &names[start as usize..end as usize];
        let mut missed = self.absent;
        missed.sort_unstable_by(|a, b| (a.0, name_of(a)).cmp(&(b.0, name_of(b))));
        missed.dedup_by(|a, b| a.0 == b.0 && name_of(a) == name_of(b));
        let mut absent: BTreeMap<OsString, Vec<OsString>> = BTreeMap::new();
        for known in &self.probe.absent {
            absent.insert(known.directory.clone().into_os_string(), known.names.clone());
        }
        for group in missed.chunk_by(|a, b| a.0 == b.0) {
            let directory = self.places[group[0].0 as usize].path.as_os_str();
            let names = group.iter().map(|name| OsStr::from_bytes(name_of(name)).to_os_string());
            match absent.get_mut(directory) {
                Some(known) => {
                    known.extend(names);
                    known.sort_unstable();
                    known.dedup();
                }
                None => {
                    absent.insert(directory.to_os_string(), names.collect());
                }
            }
        }
        let absent =
            absent.into_iter().map(|(directory, names)| Absent { directory: directory.into(), names });
        inputs.absent = absent.collect();

        inputs.directories.extend(self.probe.directories.iter().cloned());
        inputs.directories.extend(self.odd_directories);
        inputs.directories.push(self.request.cwd.to_path_buf());
        if self.clang {
            // It looks at the directory of every candidate first.
            let there = self.places.iter().filter(|place| matches!(place.is, Is::There(_)));
            inputs.directories.extend(there.map(|place| place.path.clone()));
        } else {
            let searched = self.announced.iter().take(self.probe.quote.len() + self.probe.angled.len());
            let there = searched
                .filter_map(|(at, _)| self.places.get(*at))
                .filter(|place| matches!(place.is, Is::There(_)));
            inputs.directories.extend(there.map(|place| place.path.clone()));
        }
        inputs.directories.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
        inputs.directories.dedup();
        inputs
    }

    /// The place that `path` names. It is looked at once.
    fn place(&mut self, path: &Path) -> Result<usize, Unsure> {
        if let Some(&known) = self.by_path.get(path.as_os_str()) {
            return Ok(known);
        }
        let is = match self.directories.names(path) {
            Ok(names) => Is::There(names),
            Err(error) if gone(&error) => self.missing(path)?,
            Err(_) => return Err(Unsure::Disk),
        };
        let number = self.put(Place::new(path.to_path_buf(), is));
        self.by_path.insert(path.as_os_str().to_os_string(), number);
        Ok(number)
    }

    fn missing(&mut self, path: &Path) -> Result<Is, Unsure> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            // Ends in `..` below something that is not there.
            return match path.parent() {
                Some(parent) => {
                    let parent = self.place(parent)?;
                    match &self.places[parent].is {
                        Is::There(_) => Err(Unsure::Disk),
                        is => Ok(is.clone()),
                    }
                }
                None => Err(Unsure::Disk),
            };
        };
        let parent = self.place(parent)?;
        match &self.places[parent].is {
            Is::There(_) => match std::fs::metadata(path) {
                Ok(meta) if meta.is_file() => {
                    self.meet(path, Vec::new)?;
                    Ok(Is::Blocked)
                }
                Ok(meta) if meta.is_dir() => Err(Unsure::Disk),
                Ok(_) => Err(Unsure::SpecialFile),
                Err(error) if gone(&error) => Ok(Is::Missing(parent, name.to_os_string())),
                Err(_) => Err(Unsure::Disk),
            },
            is => Ok(is.clone()),
        }
    }

    /// Takes the facts of a file; `None` if it is no regular file or leads nowhere.
    fn meet(&mut self, path: &Path, spelled: impl FnOnce() -> Vec<u8>) -> Result<Option<FileId>, Unsure> {
        match self.files.facts(path) {
            Ok(facts) => {
                let number = self.met.len() as FileId;
                let spelled = spelled();
                self.met.push(Met { path: path.to_path_buf(), spelled, facts, opened: None, identity: None });
                Ok(Some(number))
            }
            Err(error) if gone(&error) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                if !std::fs::metadata(path).is_ok_and(|meta| meta.is_dir()) {
                    return Err(Unsure::SpecialFile);
                }
                self.odd_directories.push(path.to_path_buf());
                Ok(None)
            }
            Err(_) => Err(Unsure::Disk),
        }
    }

    /// The place where the last part of `name` is looked for, and that part.
    fn below<'n>(&mut self, directory: DirectoryId, name: &'n [u8]) -> Result<(usize, &'n OsStr), Unsure> {
        let at = self.announced[directory as usize].0;
        let Some(slash) = name.iter().rposition(|&byte| byte == b'/') else {
            return Ok((at, OsStr::from_bytes(name)));
        };
        let (head, last) = (&name[..slash], OsStr::from_bytes(&name[slash + 1..]));
        if let Some(&known) = self.places[at].below.get(head) {
            return Ok((known, last));
        }
        let place = self.steps(at, head)?;
        self.places[at].below.insert(head.into(), place);
        Ok((place, last))
    }

    /// The place that `head` leads to from `at`. What a listing on the way does not have is not looked for: most
    /// search directories have nothing by the first part of a header's name.
    fn steps(&mut self, mut at: usize, head: &[u8]) -> Result<usize, Unsure> {
        let parts = || head.split(|&byte| byte == b'/');
        if parts().any(|part| matches!(part, b"" | b"." | b"..")) {
            let path = absolute(&self.places[at].path, head);
            return self.place(&path);
        }
        for part in parts() {
            let name = OsStr::from_bytes(part);
            if let Some(&known) = self.places[at].below.get(part) {
                at = known;
                continue;
            }
            let next = match &self.places[at].is {
                Is::Missing(..) | Is::Blocked => return Ok(at),
                Is::There(Some(names)) if !names.contains(name) => {
                    let is = Is::Missing(at, name.to_os_string());
                    self.put(Place::new(PathBuf::new(), is))
                }
                Is::There(_) => {
                    let path = self.places[at].path.join(name);
                    self.place(&path)?
                }
            };
            self.places[at].below.insert(part.into(), next);
            at = next;
        }
        Ok(at)
    }

    fn put(&mut self, place: Place) -> usize {
        self.places.push(place);
        self.places.len() - 1
    }

    /// The place itself is missing.
    fn miss_all_below(&mut self, place: usize) {
        let missing = &mut self.places[place];
        if let Is::Missing(at, name) = &missing.is
            && !std::mem::replace(&mut missing.told, true)
        {
            let (at, name) = (*at, name.clone());
            self.miss(at, &name);
        }
    }

    fn miss(&mut self, place: usize, name: &OsStr) {
        let start = self.names.len() as u32;
        self.names.extend_from_slice(name.as_bytes());
        self.absent.push((place as u32, start, self.names.len() as u32));
    }
}

impl Host for Disk<'_> {
    fn directory(&mut self, _: DirectoryId, path: &[u8]) {
        let whole = absolute(self.request.cwd, path);
        // A directory that cannot be looked at is said when something is looked for in it.
        let place = self.place(&whole).unwrap_or(usize::MAX);
        self.announced.push((place, path.to_vec()));
    }

    fn look(&mut self, directory: DirectoryId, name: &[u8]) -> Result<Look, Unsure> {
        if self.announced[directory as usize].0 == usize::MAX {
            return Err(Unsure::Disk);
        }
        let (place, last) = self.below(directory, name)?;
        if last.is_empty() || last == "." || last == ".." || name.contains(&0) {
            return Err(Unsure::IncludeOperand);
        }
        match &self.places[place].is {
            Is::Blocked => return Ok(Look::Absent),
            Is::Missing(..) => {
                self.miss_all_below(place);
                return Ok(Look::Absent);
            }
            Is::There(Some(names)) if !names.contains(last) => {
                self.miss(place, last);
                return Ok(Look::Absent);
            }
            Is::There(_) => {}
        }
        if let Some(&known) = self.places[place].met.get(last) {
            return Ok(known.map_or(Look::Absent, Look::File));
        }
        let path = self.places[place].path.join(last);
        let odd = self.odd_directories.len();
        let spelled = self.announced[directory as usize].1.clone();
        let spell = || {
            let mut spelled = spelled;
            if !spelled.is_empty() && spelled.last() != Some(&b'/') {
                spelled.push(b'/');
            }
            spelled.extend_from_slice(name);
            spelled
        };
        let met = self.meet(&path, spell)?;
        self.places[place].met.insert(last.to_os_string(), met);
        // A directory of that name is there; a link that leads nowhere is not.
        if met.is_none() && self.odd_directories.len() == odd {
            self.miss(place, last);
        }
        Ok(met.map_or(Look::Absent, Look::File))
    }

    fn exists(&mut self, directory: DirectoryId, name: &[u8]) -> Result<bool, Unsure> {
        if self.announced[directory as usize].0 == usize::MAX {
            return Err(Unsure::Disk);
        }
        let (place, last) = self.below(directory, name)?;
        match &self.places[place].is {
            Is::Blocked => return Ok(false),
            Is::Missing(..) => {
                self.miss_all_below(place);
                return Ok(false);
            }
            Is::There(Some(names)) if names.contains(last) => return Ok(true),
            Is::There(Some(_)) => {}
            Is::There(None) => {
                if std::fs::metadata(self.places[place].path.join(last)).is_ok() {
                    return Ok(true);
                }
            }
        }
        self.miss(place, last);
        Ok(false)
    }

    fn open(&mut self, file: FileId, directory: DirectoryId) -> Result<Arc<Content>, Unsure> {
        let met = &self.met[file as usize];
        if self.clang {
            // clang takes a file that it has seen for the one that it saw, with that one's directory.
            let inode = (met.facts.signature.device, met.facts.signature.inode);
            let home = self.announced[directory as usize].0;
            let known = *self.homes.entry(inode).or_insert(home);
            if known != home && !self.same_directory(known, home) {
                return Err(Unsure::TwoNames);
            }
        }
        let met = &mut self.met[file as usize];
        let digest = met.facts.digest;
        let read = || read_as(&met.path, digest, self.files);
        let content = self.contents.get(digest, self.probe.mode, read)?;
        met.opened = Some(content.clone());
        Ok(content)
    }

    fn name(&self, file: FileId) -> Vec<u8> {
        self.met[file as usize].spelled.clone()
    }

    fn identity(&mut self, file: FileId) -> u64 {
        let met = &mut self.met[file as usize];
        if let Some(known) = met.identity {
            return known;
        }
        let facts = &met.facts;
        let identity = match self.clang {
            true => Identity::Inode(facts.signature.device, facts.signature.inode),
            false => Identity::Like(facts.signature.mtime.div_euclid(1_000_000_000), facts.digest),
        };
        let next = self.identities.len() as u64;
        *met.identity.insert(*self.identities.entry(identity).or_insert(next))
    }

    fn ask(&mut self, question: Question, operand: &[u8], near: &Content) -> Result<i64, Unsure> {
        match self.probe.answer(question, operand) {
            Some(known) => known.ok_or(Unsure::Question),
            None => {
                // A guess: the unit is scanned again when the compiler has answered.
                for likely in near.likely_questions() {
                    self.likely.insert((question, likely.to_vec()));
                }
                self.open.insert((question, operand.to_vec()));
                Ok(0)
            }
        }
    }
}

impl Disk<'_> {
    fn same_directory(&self, a: usize, b: usize) -> bool {
        let inode = |at: usize| {
            let meta = std::fs::metadata(&self.places.get(at)?.path).ok()?;
            Some((meta.dev(), meta.ino()))
        };
        inode(a).is_some_and(|a| inode(b) == Some(a))
    }
}
