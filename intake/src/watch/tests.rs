//! Facts over a real file system: what fells them, and that nothing else does.

use std::os::unix::fs::symlink;
use std::process::Command;

use fs_err as fs;

use super::*;

struct World {
    place: tempfile::TempDir,
    watch: Watch<u32>,
}

impl World {
    /// `a/b/x.h` and `a/b/y.h`, and `link` that leads to `a`.
    fn new() -> World {
        let place = tempfile::tempdir().unwrap();
        let at = place.path();
        fs::create_dir_all(at.join("a/b")).unwrap();
        fs::write(at.join("a/b/x.h"), "x").unwrap();
        fs::write(at.join("a/b/y.h"), "y").unwrap();
        symlink("a", at.join("link")).unwrap();
        World { place, watch: Watch::start(100) }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn keep(&self, name: &str, fact: u32) {
        let ticket = self.watch.ticket(&self.at(name)).expect("it can be watched");
        self.watch.keep(ticket, fact);
    }

    fn fact(&self, name: &str) -> Option<u32> {
        self.watch.settle();
        self.watch.fact(&self.at(name))
    }

    fn lists(&self, directory: &str, name: &str) -> Option<bool> {
        self.watch.settle();
        self.watch.may_list(&self.at(directory), OsStr::new(name), 1000)
    }
}

#[test]
fn every_change_on_the_way_fells_the_fact_and_no_other() {
    type Act = fn(&World);
    let acts: [(&str, Act); 12] = [
        ("written", |w| fs::write(w.at("a/b/x.h"), "2").unwrap()),
        ("removed", |w| fs::remove_file(w.at("a/b/x.h")).unwrap()),
        ("replaced", |w| {
            fs::write(w.at("new"), "2").unwrap();
            fs::rename(w.at("new"), w.at("a/b/x.h")).unwrap();
        }),
        ("moved away", |w| fs::rename(w.at("a/b/x.h"), w.at("away")).unwrap()),
        ("touched", |w| assert!(Command::new("touch").arg(w.at("a/b/x.h")).status().unwrap().success())),
        ("mode", |w| {
            assert!(Command::new("chmod").arg("600").arg(w.at("a/b/x.h")).status().unwrap().success())
        }),
        ("directory moved", |w| fs::rename(w.at("a/b"), w.at("a/c")).unwrap()),
        ("upper directory moved", |w| fs::rename(w.at("a"), w.at("c")).unwrap()),
        ("directory closed", |w| {
            assert!(Command::new("chmod").arg("700").arg(w.at("a/b")).status().unwrap().success())
        }),
        ("all removed", |w| fs::remove_dir_all(w.at("a")).unwrap()),
        ("through another name", |w| {
            fs::hard_link(w.at("a/b/x.h"), w.at("other")).unwrap();
            w.keep("a/b/x.h", 7);
            assert_eq!(w.fact("a/b/x.h"), Some(7));
            fs::write(w.at("other"), "3").unwrap();
        }),
        ("swapped", |w| {
            fs::create_dir_all(w.at("z/b")).unwrap();
            fs::rename(w.at("a"), w.at("old")).unwrap();
            fs::rename(w.at("z"), w.at("a")).unwrap();
            fs::write(w.at("a/b/x.h"), "other").unwrap();
        }),
    ];
    for (what, act) in acts {
        let world = World::new();
        world.keep("a/b/x.h", 1);
        assert_eq!(world.fact("a/b/x.h"), Some(1), "{what}");
        fs::write(world.at("a/b/unrelated.h"), "2").unwrap();
        fs::create_dir(world.at("a/unrelated")).unwrap();
        assert_eq!(world.fact("a/b/x.h"), Some(1), "{what}: the unrelated");
        act(&world);
        assert_eq!(world.fact("a/b/x.h"), None, "{what}");
    }
}

#[test]
fn links_are_part_of_the_way() {
    let world = World::new();
    fs::create_dir_all(world.at("other/b")).unwrap();
    symlink("a/b/x.h", world.at("x-link.h")).unwrap();
    for name in ["link/b/x.h", "link/../a/b/x.h", "x-link.h"] {
        assert!(!world.watch.is_plain(&world.at(name)));
        world.keep(name, 1);
        assert_eq!(world.fact(name), Some(1));
        assert_eq!(world.watch.is_plain(&world.at(name)), name != "x-link.h");
    }
    fs::remove_file(world.at("link")).unwrap();
    symlink("other", world.at("link")).unwrap();
    assert_eq!(world.fact("link/b/x.h"), None);
    assert_eq!(world.fact("link/../a/b/x.h"), None);
    assert_eq!(world.fact("x-link.h"), Some(1));
    fs::remove_file(world.at("x-link.h")).unwrap();
    symlink("a/b/y.h", world.at("x-link.h")).unwrap();
    assert_eq!(world.fact("x-link.h"), None);
}

/// What a backup before saving does: the old file lives on under another name.
#[test]
fn a_path_is_not_what_its_old_file_became() {
    let world = World::new();
    let at = |name: &str| world.at(name);
    let acts: [fn(&World); 3] = [
        |w| {
            fs::rename(w.at("a/b/x.h"), w.at("a/b/x.h~")).unwrap();
            fs::write(w.at("a/b/x.h"), "2").unwrap();
        },
        |w| {
            fs::rename(w.at("a/b/y.h"), w.at("a/b/x.h")).unwrap();
            fs::write(w.at("a/b/y.h"), "2").unwrap();
        },
        |w| exchange(&w.at("a/b/x.h"), &w.at("a/b/y.h")),
    ];
    for act in acts {
        world.keep("a/b/x.h", 1);
        world.keep("a/b/y.h", 1);
        act(&world);
        world.watch.settle();
        assert_eq!(world.fact("a/b/x.h"), None);
        world.keep("a/b/x.h", 2);
        world.keep("a/b/y.h", 2);
        fs::write(at("a/b/x.h"), "3").unwrap();
        assert_eq!((world.fact("a/b/x.h"), world.fact("a/b/y.h")), (None, Some(2)));
        world.keep("a/b/x.h", 3);
        fs::write(at("a/b/y.h"), "3").unwrap();
        assert_eq!((world.fact("a/b/x.h"), world.fact("a/b/y.h")), (Some(3), None));
    }
}

fn exchange(one: &Path, other: &Path) {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
}

#[test]
fn a_directory_is_not_what_was_deleted_while_somebody_was_in_it() {
    let world = World::new();
    fs::create_dir(world.at("first")).unwrap();
    assert_eq!(world.lists("first", "x.h"), Some(false));
    let held = std::fs::File::open(world.at("first")).unwrap();
    fs::remove_dir(world.at("first")).unwrap();
    fs::create_dir(world.at("first")).unwrap();
    assert_eq!(world.lists("first", "x.h"), Some(false));
    fs::write(world.at("first/x.h"), "").unwrap();
    assert_eq!(world.lists("first", "x.h"), Some(true));
    world.keep("first/x.h", 1);
    drop(held);
    assert_eq!(world.lists("first", "x.h"), Some(true));
}

#[test]
fn files_and_directories_are_told_apart() {
    let world = World::new();
    world.keep("a/b/x.h", 1);
    assert!(!world.watch.is_directory(&world.at("a/b/x.h")));
    fs::remove_file(world.at("a/b/x.h")).unwrap();
    fs::create_dir(world.at("a/b/x.h")).unwrap();
    assert_eq!(world.fact("a/b/x.h"), None);
    assert!(world.watch.is_directory(&world.at("a/b/x.h")));
    assert_eq!(world.lists("a/b/x.h", "n"), Some(false));
    fs::write(world.at("a/b/x.h/n"), "").unwrap();
    assert_eq!(world.lists("a/b/x.h", "n"), Some(true));
    fs::remove_dir_all(world.at("a/b/x.h")).unwrap();
    fs::write(world.at("a/b/x.h"), "").unwrap();
    world.watch.settle();
    assert!(!world.watch.is_directory(&world.at("a/b/x.h")));
    world.keep("a/b/x.h", 2);
    assert_eq!(world.fact("a/b/x.h"), Some(2));
}

#[test]
fn names_that_are_exchanged_stay() {
    let world = World::new();
    fs::create_dir(world.at("other")).unwrap();
    fs::write(world.at("other/x.h"), "").unwrap();
    assert_eq!(world.lists("a/b", "x.h"), Some(true));
    exchange(&world.at("other/x.h"), &world.at("a/b/x.h"));
    assert_eq!(world.lists("a/b", "x.h"), Some(true));
    fs::rename(world.at("a/b/x.h"), world.at("other/x.h")).unwrap();
    assert_eq!(world.lists("a/b", "x.h"), Some(false));
}

#[test]
fn what_happens_between_ticket_and_keep_counts() {
    let world = World::new();
    let ticket = world.watch.ticket(&world.at("a/b/x.h")).unwrap();
    fs::write(world.at("a/b/x.h"), "2").unwrap();
    world.watch.keep(ticket, 1);
    assert_eq!(world.fact("a/b/x.h"), None);
    // Looked at again, it is known again.
    world.keep("a/b/x.h", 2);
    assert_eq!(world.fact("a/b/x.h"), Some(2));
}

#[test]
fn listings_follow_the_directory() {
    let world = World::new();
    assert_eq!(world.lists("link/b", "x.h"), Some(true));
    assert_eq!(world.lists("link/b", "new.h"), Some(false));
    fs::write(world.at("a/b/new.h"), "").unwrap();
    fs::remove_file(world.at("a/b/x.h")).unwrap();
    assert_eq!(world.lists("link/b", "new.h"), Some(true));
    assert_eq!(world.lists("link/b", "x.h"), Some(false));
    fs::rename(world.at("a/b"), world.at("a/c")).unwrap();
    assert_eq!(world.lists("link/b", "new.h"), None);
    assert_eq!(world.lists("a/c", "new.h"), Some(true));
    fs::create_dir(world.at("a/b")).unwrap();
    assert_eq!(world.lists("link/b", "new.h"), Some(false));
}

#[test]
fn large_directories_are_not_kept() {
    let world = World::new();
    let may = |name: &str| world.watch.may_list(&world.at("a/b"), OsStr::new(name), 1);
    assert_eq!((may("x.h"), may("none.h")), (Some(true), Some(true)));
}

#[test]
fn directories_come_and_go() {
    let world = World::new();
    let is = |name: &str| {
        world.watch.settle();
        world.watch.is_directory(&world.at(name))
    };
    assert!(is("link/b") && is("a"));
    assert!(!is("a/none") && !is("a/b/x.h/none"));
    fs::remove_dir_all(world.at("a/b")).unwrap();
    assert!(!is("link/b") && is("a"));
    fs::create_dir(world.at("a/b")).unwrap();
    assert!(is("link/b"));
}

#[test]
fn what_nobody_tells_of_is_not_known() {
    let world = World::new();
    assert!(world.watch.ticket(Path::new("/proc/self/status")).is_none());
    assert!(world.watch.ticket(Path::new("relative")).is_none());
    assert!(world.watch.ticket(&world.at("a/b/none.h")).is_none());
    assert!(world.watch.ticket(&world.at("a/b")).is_none());
    assert_eq!(Watch::<u32>::none().may_list(&world.at("a"), OsStr::new("b"), 10), None);
    assert_eq!(world.lists("a/b/x.h", "y"), None);
}

#[test]
fn bounds_forget_and_do_not_break() {
    let world = World::new();
    for i in 0..250 {
        fs::write(world.at(&format!("a/{i}.h")), "").unwrap();
        world.keep(&format!("a/{i}.h"), i);
    }
    let counts = world.watch.counts();
    assert!(counts.facts <= 100 && counts.cleared >= 1, "{counts:?}");
    world.keep("a/b/x.h", 5);
    assert_eq!(world.fact("a/b/x.h"), Some(5));
}

#[test]
fn lost_events_cost_what_was_known() {
    let limit: usize =
        fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    if limit > 100_000 {
        eprintln!("skipped: the kernel's queue holds {limit} events, too many to overflow here");
        return;
    }
    let world = World::new();
    world.keep("a/b/x.h", 1);
    // Two names in turn, because an event that equals the last one is merged with it.
    for i in 0..limit / 4 + 100 {
        for name in ["p", "q"] {
            let path = world.at("a/b").join(name);
            fs::write(&path, format!("{i}")).unwrap();
            fs::remove_file(&path).unwrap();
        }
    }
    assert_eq!(world.fact("a/b/x.h"), None);
    assert_eq!(world.watch.counts().cleared, 1);
    world.keep("a/b/x.h", 2);
    assert_eq!(world.fact("a/b/x.h"), Some(2));
}
