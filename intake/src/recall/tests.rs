//! Manifests over real files and a real store: when an answer stands, and what is said when it does not.

use std::cell::Cell;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use dbuild_cache::{ActionKey, StoreConfig};
use dbuild_proto::DigestFunction;
use dbuild_proto::record::OutputFile;
use fs_err as fs;

use super::*;
use crate::error::Doubt;
use crate::observe::{Absent, Observed};
use crate::start::Start;

fn late() -> SystemTime {
    SystemTime::now() + Duration::from_secs(60)
}

const KEY: RecallKey = RecallKey(ActionKey([7; 32]));

struct Bench {
    place: tempfile::TempDir,
    store: Store,
    files: FileTable,
    directories: DirTable,
}

impl Bench {
    /// `a.c`, `a.h`, and a directory `early` that is looked into before; nothing in it.
    fn new() -> Bench {
        let place = tempfile::tempdir().unwrap();
        let at = place.path();
        fs::create_dir(at.join("early")).unwrap();
        fs::write(at.join("a.c"), "#include <a.h>").unwrap();
        fs::write(at.join("a.h"), "1").unwrap();
        let store = Store::open(StoreConfig { dir: at.join("store"), max_bytes: 1 << 30 }).unwrap();
        Bench { store, files: FileTable::new(100, late), directories: DirTable::new(100, late), place }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn inputs(&self) -> Inputs {
        let observed = Observed {
            files: vec![self.at("a.c"), self.at("a.h")],
            absent: vec![Absent { directory: self.at("early"), names: vec![OsString::from("a.h")] }],
            directories: vec![self.at("early")],
            ..Observed::default()
        };
        Inputs::gather(&observed, &self.files, late()).unwrap()
    }

    fn world(&self) -> World<'_> {
        World {
            files: &self.files,
            directories: &self.directories,
            variables: &|_| None,
            preprocessed: true,
            roots: Roots::none(),
        }
    }

    fn remember(&self, run_ms: u64) {
        remember(&self.store, &KEY, &self.world(), &self.inputs(), outcome(run_ms)).unwrap();
    }

    fn recall(&self) -> Recalled {
        recall(&self.store, &KEY, &self.world(), &|_| true).unwrap().0
    }
}

fn outcome(run_ms: u64) -> TaskOutcome {
    let blob = Some(DigestFunction::Blake3.digest(b"object").into());
    let object = OutputFile { path: b"/b/a.o".to_vec(), blob, executable: false, masked: false };
    TaskOutcome { outputs: vec![object], run_ms, ..TaskOutcome::default() }
}

#[test]
fn an_answer_stands_while_everything_holds() {
    let world = Bench::new();
    assert_eq!(world.recall(), Recalled::Unknown);
    world.remember(1);
    assert_eq!(world.recall(), Recalled::Hit(outcome(1)));
    // Not by its times: the same content is the same answer.
    fs::write(world.at("a.h"), "1").unwrap();
    assert_eq!(world.recall(), Recalled::Hit(outcome(1)));
}

#[test]
fn every_change_is_seen_and_told() {
    type Case = (fn(&Bench), &'static str, fn(PathBuf) -> Change);
    let cases: [Case; 5] = [
        (|world| fs::write(world.at("a.h"), "2").unwrap(), "a.h", Change::File),
        (|world| fs::remove_file(world.at("a.h")).unwrap(), "a.h", Change::FileGone),
        (|world| fs::write(world.at("early/a.h"), "").unwrap(), "early/a.h", Change::Appeared),
        (|world| fs::create_dir(world.at("early/a.h")).unwrap(), "early/a.h", Change::Appeared),
        (|world| fs::remove_dir(world.at("early")).unwrap(), "early", Change::DirectoryGone),
    ];
    for (act, name, change) in cases {
        let world = Bench::new();
        world.remember(1);
        act(&world);
        assert_eq!(world.recall(), Recalled::Changed(change(world.at(name))));
    }
}

/// gcc drops `-I` directories that are one; clang and gcc read once what is one file.
#[test]
fn names_that_become_one_or_two_are_seen() {
    type Act = fn(&Bench);
    let acts: [(&str, Act, Act); 3] = [
        (
            "a link is turned",
            |w| symlink("early", w.at("other")).unwrap(),
            |w| {
                fs::create_dir(w.at("late")).unwrap();
                fs::remove_file(w.at("other")).unwrap();
                symlink("late", w.at("other")).unwrap();
            },
        ),
        (
            "a hard link becomes a copy",
            |w| {
                fs::create_dir(w.at("other")).unwrap();
                fs::remove_file(w.at("b.h")).unwrap();
                fs::hard_link(w.at("a.h"), w.at("b.h")).unwrap();
            },
            |w| {
                fs::remove_file(w.at("b.h")).unwrap();
                fs::write(w.at("b.h"), "1").unwrap();
            },
        ),
        (
            "one of two equal files is touched",
            |w| fs::create_dir(w.at("other")).unwrap(),
            |w| {
                let file = std::fs::File::options().write(true).open(w.at("b.h")).unwrap();
                file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
            },
        ),
    ];
    for (what, prepare, act) in acts {
        let world = Bench::new();
        fs::write(world.at("b.h"), "1").unwrap();
        prepare(&world);
        let observed = Observed {
            files: vec![world.at("a.h"), world.at("b.h")],
            directories: vec![world.at("early"), world.at("other")],
            ..Observed::default()
        };
        let inputs = Inputs::gather(&observed, &world.files, late()).unwrap();
        remember(&world.store, &KEY, &world.world(), &inputs, outcome(1)).unwrap();
        assert_eq!(world.recall(), Recalled::Hit(outcome(1)), "{what}");
        act(&world);
        assert_eq!(world.recall(), Recalled::Changed(Change::Circumstances), "{what}");
    }
}

#[test]
fn earlier_states_are_remembered_too() {
    let world = Bench::new();
    for i in 0..20 {
        fs::write(world.at("a.h"), format!("{i}")).unwrap();
        world.remember(i);
    }
    for i in [19, 10, 4] {
        fs::write(world.at("a.h"), format!("{i}")).unwrap();
        assert_eq!(world.recall(), Recalled::Hit(outcome(i)));
    }
    fs::write(world.at("a.h"), "3").unwrap();
    assert_eq!(world.recall(), Recalled::Changed(Change::File(world.at("a.h"))));
}

#[test]
fn the_same_inputs_have_one_entry() {
    let world = Bench::new();
    world.remember(1);
    world.remember(2);
    let asked = Cell::new(0);
    let unusable = |_: &TaskOutcome| {
        asked.set(asked.get() + 1);
        false
    };
    let (recalled, _) = recall(&world.store, &KEY, &world.world(), &unusable).unwrap();
    assert_eq!(recalled, Recalled::Changed(Change::Unusable));
    assert_eq!(asked.get(), 1);
    assert_eq!(world.recall(), Recalled::Hit(outcome(2)));
    forget(&world.store, &KEY).unwrap();
    assert_eq!(world.recall(), Recalled::Unknown);
}

#[test]
fn damaged_manifests_are_none() {
    let world = Bench::new();
    for bytes in [&b""[..], b"\x0a", b"\x0a\xff\xff\xff\xff\x0f", b"garbage", b"\x0a\x02\x08\x01"] {
        world.store.put_action(&KEY.0, bytes).unwrap();
        assert_eq!(world.recall(), Recalled::Unknown);
    }
    world.remember(1);
    assert_eq!(world.recall(), Recalled::Hit(outcome(1)));
}

#[test]
fn files_as_new_as_the_compile_are_not_remembered() {
    use crate::Doubt;
    let world = Bench::new();
    let observed = Observed { files: vec![world.at("a.c")], ..Observed::default() };
    let started = SystemTime::now() - Duration::from_secs(1);
    let doubt = Inputs::gather(&observed, &world.files, started).unwrap_err();
    assert!(matches!(doubt, Doubt::TooNew(path) if path == world.at("a.c")));
}

#[test]
fn variables_decide_by_value_and_by_being_there() {
    let bench = Bench::new();
    let recalled = |list: &[(&str, &str)]| {
        let variables =
            |name: &OsStr| list.iter().find(|(known, _)| name == *known).map(|(_, value)| OsStr::new(*value));
        let world = World {
            files: &bench.files,
            directories: &bench.directories,
            variables: &variables,
            preprocessed: false,
            roots: Roots::none(),
        };
        if bench.store.action(&KEY.0).unwrap().is_none() {
            let mut inputs = bench.inputs();
            inputs.note_variables(&["SET".into(), "UNSET".into(), "MAKEFLAGS".into()], &variables);
            remember(&bench.store, &KEY, &world, &inputs, outcome(1)).unwrap();
        }
        recall(&bench.store, &KEY, &world, &|_| true).unwrap().0
    };
    assert_eq!(recalled(&[("SET", "1")]), Recalled::Hit(outcome(1)));
    assert_eq!(recalled(&[("SET", "2")]), Recalled::Changed(Change::Variable("SET".into())));
    assert_eq!(recalled(&[]), Recalled::Changed(Change::Variable("SET".into())));
    assert_eq!(recalled(&[("SET", "1"), ("UNSET", "")]), Recalled::Changed(Change::Variable("UNSET".into())));
    // A jobserver is another one in each build.
    assert_eq!(recalled(&[("MAKEFLAGS", "-j"), ("SET", "1")]), Recalled::Hit(outcome(1)));
}

#[test]
fn listings_decide_by_their_names() {
    let bench = Bench::new();
    let listed = bench.at("listed");
    fs::create_dir(&listed).unwrap();
    fs::write(listed.join("a"), "1").unwrap();
    let mut inputs = bench.inputs();
    let start = Start::from(late());
    inputs.note_listings(std::slice::from_ref(&listed), &bench.directories, start).unwrap();
    remember(&bench.store, &KEY, &bench.world(), &inputs, outcome(1)).unwrap();
    assert_eq!(bench.recall(), Recalled::Hit(outcome(1)));
    fs::write(listed.join("a"), "2").unwrap();
    assert_eq!(bench.recall(), Recalled::Hit(outcome(1)));
    fs::write(listed.join("b"), "").unwrap();
    assert_eq!(bench.recall(), Recalled::Changed(Change::Listing(listed.clone())));
    fs::remove_file(listed.join("b")).unwrap();
    assert_eq!(bench.recall(), Recalled::Hit(outcome(1)));
    fs::remove_dir_all(&listed).unwrap();
    assert_eq!(bench.recall(), Recalled::Changed(Change::Listing(listed)));
    let early = Start::from(SystemTime::now() - Duration::from_secs(60));
    let doubt = bench.inputs().note_listings(&[bench.at("early")], &bench.directories, early);
    assert!(matches!(doubt, Err(Doubt::TooNew(_))));
}
