use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use dbuild_cache::StoreConfig;

use super::*;

const FUNCTION: DigestFunction = DigestFunction::Blake3;

struct Bench {
    home: tempfile::TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Bench {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(StoreConfig { dir: home.path().join("store"), max_bytes: 1 << 30 }).unwrap();
        std::fs::create_dir(home.path().join("run")).unwrap();
        Bench { home, store }
    }

    fn skeletons(&self) -> Skeletons {
        Skeletons::new(self.home.path().join("run"), 1)
    }

    fn file(&self, path: &str, content: &str) -> Step {
        let digest = self.store.put(FUNCTION, content.as_bytes()).unwrap();
        Step::File { path: path.into(), digest, executable: false, how: How::Copy }
    }

    /// Fits a skeleton to the steps and returns what was made.
    fn fit(&self, skeleton: &mut Skeleton, steps: &[Step]) -> Vec<PathBuf> {
        let change = skeleton.change(steps, Path::new("work"));
        let made = change.make.iter().map(|at| steps[*at].path().to_owned()).collect();
        skeleton.apply(&self.store, FUNCTION, steps, change, None).unwrap();
        made
    }
}

fn dir(path: &str) -> Step {
    Step::Dir { path: path.into(), access: Access::Closed }
}

fn open(path: &str) -> Step {
    Step::Dir { path: path.into(), access: Access::Open }
}

fn link(path: &str, target: &str) -> Step {
    Step::Link { path: path.into(), target: target.into() }
}

/// Everything below a directory: kind or content by path.
fn seen(root: &Path) -> BTreeMap<PathBuf, String> {
    let entries = walkdir::WalkDir::new(root).min_depth(1).into_iter().map(std::result::Result::unwrap);
    let seen = entries.map(|entry| {
        let what = match entry.file_type() {
            kind if kind.is_dir() => "dir".to_owned(),
            kind if kind.is_file() => std::fs::read_to_string(entry.path()).unwrap(),
            _ => format!("-> {}", std::fs::read_link(entry.path()).unwrap().display()),
        };
        (entry.path().strip_prefix(root).unwrap().to_owned(), what)
    });
    seen.collect()
}

#[test]
fn only_the_differences_are_made() {
    let bench = Bench::new();
    let skeletons = bench.skeletons();
    let steps = |content: &str, more: Vec<Step>| {
        let mut steps = vec![dir(""), dir("include"), bench.file("include/a.h", "a")];
        steps.push(bench.file("include/b.h", content));
        steps.extend(more);
        steps.extend([open("work"), bench.file("work/source.c", content)]);
        steps
    };
    let mut skeleton = skeletons.take(Path::new("work"), 0);
    bench.fit(&mut skeleton, &steps("one", vec![dir("old"), link("old/l", "x")]));
    std::fs::write(skeleton.path().join("work/left"), "by the action").unwrap();
    let first = skeleton.path().to_owned();
    skeletons.give_back(skeleton);
    let mut skeleton = skeletons.take(Path::new("work"), 0);
    assert_eq!(skeleton.path(), first);
    let made = bench.fit(&mut skeleton, &steps("two", Vec::new()));
    assert_eq!(made, ["include/b.h", "work/source.c"].map(PathBuf::from));
    let expected = [
        ("include", "dir"),
        ("include/a.h", "a"),
        ("include/b.h", "two"),
        ("work", "dir"),
        ("work/source.c", "two"),
    ];
    let expected = expected.map(|(path, what)| (PathBuf::from(path), what.to_owned()));
    assert_eq!(seen(skeleton.path()), BTreeMap::from(expected));
    assert_eq!(std::fs::read_dir(first.parent().unwrap()).unwrap().count(), 1, "old directories are removed");
    drop(skeleton);
    skeletons.clear();
    assert_eq!(std::fs::read_dir(bench.home.path().join("run")).unwrap().count(), 0);
}

#[test]
fn of_a_writable_directory_nothing_is_left_and_closed_ones_in_it_stay() {
    let bench = Bench::new();
    let skeletons = bench.skeletons();
    let steps = [
        dir(""),
        open("work"),
        bench.file("work/a.c", "a"),
        dir("work/include"),
        bench.file("work/include/a.h", "h"),
        open("work/out"),
        dir("work/out/deep"),
        open("work/out/deep/obj"),
    ];
    let mut skeleton = skeletons.take(Path::new("work"), 0);
    bench.fit(&mut skeleton, &steps);
    let inode = |skeleton: &Skeleton, path: &str| {
        std::fs::symlink_metadata(skeleton.path().join(path)).unwrap().ino()
    };
    let kept = inode(&skeleton, "work/include/a.h");
    let work = skeleton.path().join("work");
    std::fs::remove_file(work.join("a.c")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", work.join("a.c")).unwrap();
    std::fs::write(work.join("out/deep/obj/a.o"), "o").unwrap();
    std::fs::set_permissions(&work, std::fs::Permissions::from_mode(0o777)).unwrap();
    let before = seen(skeleton.path());
    skeletons.give_back(skeleton);
    let mut skeleton = skeletons.take(Path::new("work"), 0);
    bench.fit(&mut skeleton, &steps);
    assert_eq!(inode(&skeleton, "work/include/a.h"), kept);
    assert_eq!(std::fs::metadata(&work).unwrap().mode() & 0o777, 0o755);
    let after = seen(skeleton.path());
    assert_ne!(after, before);
    let mut fresh = skeletons.empty();
    bench.fit(&mut fresh, &steps);
    assert_eq!(after, seen(fresh.path()));
}

#[test]
fn a_writable_directory_with_marks_is_made_anew() {
    let bench = Bench::new();
    let skeletons = bench.skeletons();
    let steps = [dir(""), open("work"), dir("work/include"), bench.file("work/include/a.h", "h")];
    let mut inodes = Vec::new();
    for round in 0..4 {
        let mut skeleton = skeletons.take(Path::new("work"), 0);
        bench.fit(&mut skeleton, &steps);
        let work = skeleton.path().join("work");
        inodes.push(std::fs::metadata(&work).unwrap().ino());
        std::fs::write(work.join("include/seen"), "").unwrap();
        if round == 1 {
            let marked = rustix::fs::setxattr(&work, "user.mark", b"x", rustix::fs::XattrFlags::empty());
            if marked.is_err() {
                eprintln!("SKIPPED, NOTHING WAS TESTED: no extended attributes here");
                return;
            }
        } else if round == 2 {
            std::fs::set_permissions(&work, std::fs::Permissions::from_mode(0o2777)).unwrap();
        }
        skeletons.give_back(skeleton);
        assert_eq!(std::fs::metadata(&work).unwrap().mode() & 0o7777, 0o755);
        assert!(work.join("include/seen").exists());
        assert_eq!(rustix::fs::listxattr(&work, &mut [0u8; 0]), Ok(0));
    }
    assert_eq!(inodes[0], inodes[1]);
    assert_eq!(inodes[2], inodes[3]);
}

#[test]
fn a_closed_directory_that_was_replaced_ends_the_skeleton() {
    let bench = Bench::new();
    let skeletons = bench.skeletons();
    let steps = [dir(""), open("work"), dir("work/include"), bench.file("work/include/a.h", "h")];
    let mut skeleton = skeletons.take(Path::new("work"), 0);
    bench.fit(&mut skeleton, &steps);
    let work = skeleton.path().join("work");
    std::fs::rename(work.join("include"), work.join("gone")).unwrap();
    std::fs::create_dir(work.join("include")).unwrap();
    skeletons.give_back(skeleton);
    assert!(!work.exists());
    assert!(skeletons.lock().is_empty());
}

/// An emptied directory could be removed and made again; it must not be taken for the old one by its inode's number.
#[test]
fn a_closed_directory_that_was_made_again_ends_the_skeleton() {
    let bench = Bench::new();
    let skeletons = bench.skeletons();
    let steps = [dir(""), open("work"), dir("work/empty")];
    for _ in 0..30 {
        let mut skeleton = skeletons.take(Path::new("work"), 0);
        bench.fit(&mut skeleton, &steps);
        let empty = skeleton.path().join("work/empty");
        std::fs::remove_dir(&empty).unwrap();
        std::fs::create_dir(&empty).unwrap();
        std::fs::write(empty.join("evil.h"), "").unwrap();
        skeletons.give_back(skeleton);
        assert!(skeletons.lock().is_empty());
    }
}

/// What was put aside is removed while the next action runs, which may put something aside, too.
#[test]
fn what_is_put_aside_never_has_the_same_name() {
    let bench = Bench::new();
    let skeletons = bench.skeletons();
    let mut names = std::collections::BTreeSet::new();
    let mut skeleton = skeletons.take(Path::new("work"), 0);
    for _ in 0..3 {
        bench.fit(&mut skeleton, &[dir(""), open("work")]);
        // No flags known: it cannot be as it was before.
        skeleton.tops[0].flags = None;
        let aside = skeleton.close().unwrap();
        assert_eq!(aside.len(), 1);
        for path in aside {
            remove_tree(&path).unwrap();
            assert!(names.insert(path));
        }
    }
}

#[test]
fn what_links_to_a_damaged_file_perhaps_is_not_used_again() {
    let bench = Bench::new();
    let skeletons = bench.skeletons();
    let mut skeleton = skeletons.take(Path::new("work"), 0);
    bench.fit(&mut skeleton, &[dir(""), bench.file("a.h", "a")]);
    let path = skeleton.path().to_owned();
    skeletons.give_back(skeleton);
    assert_ne!(skeletons.take(Path::new("work"), 1).path(), path);
    assert!(!path.exists());
}

#[test]
fn a_link_that_becomes_a_directory_is_not_followed() {
    let bench = Bench::new();
    let skeletons = bench.skeletons();
    let outside = bench.home.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let mut skeleton = skeletons.take(Path::new("work"), 0);
    bench.fit(&mut skeleton, &[dir(""), link("a", outside.to_str().unwrap()), dir("b"), dir("b/c")]);
    skeletons.give_back(skeleton);
    let mut skeleton = skeletons.take(Path::new("work"), 0);
    bench.fit(&mut skeleton, &[dir(""), dir("a"), bench.file("a/f", "x"), bench.file("b", "y")]);
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(seen(skeleton.path()).len(), 3);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Plant {
        Dir(bool, BTreeMap<String, Plant>),
        Link(String),
        File(String),
    }

    fn plant() -> impl Strategy<Value = Plant> {
        let leaf = prop_oneof!["[xy]".prop_map(Plant::File), "[xy]".prop_map(Plant::Link)];
        leaf.prop_recursive(4, 24, 4, |inner| {
            (any::<bool>(), proptest::collection::btree_map("[a-c]", inner, 0..4))
                .prop_map(|(open, below)| Plant::Dir(open, below))
        })
    }

    fn steps(bench: &Bench, path: &str, plant: &Plant, all: &mut Vec<Step>) {
        match plant {
            Plant::File(content) => all.push(bench.file(path, content)),
            Plant::Link(target) => all.push(link(path, target)),
            Plant::Dir(is_open, below) => {
                all.push(if *is_open { open(path) } else { dir(path) });
                for (name, plant) in below {
                    steps(bench, format!("{path}/{name}").trim_start_matches('/'), plant, all);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_was_there_before_a_root_is_as_if_new(
            roots in proptest::collection::vec(proptest::collection::btree_map("[a-c]", plant(), 0..4), 1..5)
        ) {
            let bench = Bench::new();
            let skeletons = bench.skeletons();
            for (n, root) in roots.into_iter().enumerate() {
                let mut all = Vec::new();
                steps(&bench, "", &Plant::Dir(n % 3 == 1, root), &mut all);
                let mut kept = skeletons.take(Path::new("work"), 0);
                bench.fit(&mut kept, &all);
                let mut fresh = skeletons.empty();
                bench.fit(&mut fresh, &all);
                prop_assert_eq!(seen(kept.path()), seen(fresh.path()));
                skeletons.give_back(kept);
            }
        }
    }
}
