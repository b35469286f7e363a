//! Real projects, byte for byte: each is built plain, with dbuild alone (cold, warm) and with a pool whose helpers have
//! no compiler, always at the same path; every object, depfile, note and binary must be equal, and what was printed.
//!
//! To keep a run within minutes: of jemalloc the shared library is built, at `-O1` (its own `-g3` stays); of protobuf
//! its UTF-8 library with the part of abseil below it, and a few of protobuf's own heaviest objects.

use std::path::Path;

use dbuild_tests::{
    Counters, Ran, Sandbox, Skips, Snapshot, TestCluster, is_stand_in, namespaces_work, project::unpack,
};

/// How a project is fetched and built. Scripts are run by `sh` in the copy's directory.
struct Recipe {
    name: &'static str,
    /// Crate, part of it, and where in the copy that part goes.
    parts: &'static [(&'static str, &'static str, &'static str)],
    /// Makes the tree ready to build: with dbuild when alone, without it before the build with a pool, so that there
    /// an already configured tree is built.
    configure: &'static str,
    build: &'static str,
    /// Files that hold times, process numbers or random names, even without dbuild.
    exclude: &'static [&'static str],
    /// The build runs one thing at a time, so that what it prints has an order.
    ordered: bool,
    /// Compiles that leave no object: tests of the compiler that compile and link in one call. Whether they are tasks
    /// depends on their flags.
    probes: u64,
}

const LZ4: [(&str, &str, &str); 1] = [("lz4-sys", "liblz4", ".")];

#[test]
fn lz4_by_its_makefile() {
    build(&Recipe {
        name: "lz4",
        parts: &LZ4,
        configure: "true",
        build: "make -j1 -C programs lz4 V=1",
        exclude: &[],
        ordered: true,
        // Is there a thread library?
        probes: 1,
    });
}

/// With everything that a compile can leave beside an object, and with warnings. Not optimised: gcc 12 gives a `.dwo`
/// another id in every run as soon as it optimises.
#[test]
fn lz4_with_debug_information_coverage_and_warnings() {
    build(&Recipe {
        name: "lz4 -g",
        parts: &LZ4,
        configure: "true",
        build: "make -j1 -C programs lz4 V=1 CFLAGS='-O0 -g -gsplit-dwarf --coverage -frandom-seed=7 -MMD -Wconversion'",
        exclude: &[],
        ordered: true,
        // Is there a thread library?
        probes: 1,
    });
}

#[test]
fn jemalloc_by_autoconf_and_make() {
    build(&Recipe {
        name: "jemalloc",
        parts: &[("tikv-jemalloc-sys", "jemalloc", "."), ("tikv-jemalloc-sys", "configure", ".")],
        configure: "./configure EXTRA_CFLAGS=-O1",
        build: "make -j2 lib/libjemalloc.so.2",
        // Its log has times and the names of its processes.
        exclude: &["config.log"],
        ordered: false,
        probes: 0,
    });
}

#[test]
fn protobuf_by_cmake_and_ninja() {
    let heavy = ["arena", "arenastring", "extension_set", "generated_message_tctable_lite", "message_lite"];
    let objects =
        heavy.map(|name| format!("CMakeFiles/libprotobuf-lite.dir/src/google/protobuf/{name}.cc.o"));
    let build_script = format!(
        "NINJA_STATUS= ninja -C build -j2 third_party/utf8_range/libutf8_validity.a {}",
        objects.join(" ")
    );
    build(&Recipe {
        name: "protobuf",
        parts: &[("protobuf-src", "protobuf", "source")],
        configure: "cmake -S source -B build -G Ninja -DCMAKE_BUILD_TYPE=Debug -Dprotobuf_BUILD_TESTS=OFF",
        build: Box::leak(build_script.into_boxed_str()),
        // ninja's logs have times; cmake's logs have random names.
        exclude: &[
            ".ninja_log",
            ".ninja_deps",
            "CMakeOutput.log",
            "CMakeError.log",
            "CMakeConfigureLog.yaml",
        ],
        ordered: false,
        probes: 0,
    });
}

impl Recipe {
    /// Whether `count` is that of all compiles.
    fn all(&self, objects: u64, count: u64) -> bool {
        (objects..=objects + self.probes).contains(&count)
    }
}

/// Who builds, and with what.
enum How<'a> {
    Plain,
    Wrapped(&'a Sandbox),
    /// Only the build, not the configuration.
    BuildWrapped(&'a Sandbox),
}

struct Built {
    configure: Ran,
    build: Ran,
    files: Snapshot,
    /// Of the build alone.
    counters: Counters,
}

fn build(recipe: &Recipe) {
    let skips = Skips::new(recipe.name);
    let tools = ["make", "cmake", "ninja", "gcc", "g++"];
    if !tools.iter().all(|tool| skips.need(tool, "the whole project")) {
        return;
    }
    let alone = Sandbox::new();
    let dir = alone.root().join("project");
    let plain = run(recipe, &alone, &dir, How::Plain);
    let objects = plain.files.files("*.o").len() as u64;
    assert!(objects >= 10, "the plain build made {objects} objects: {}", plain.build);
    let mut wrong = Vec::new();

    let cold = run(recipe, &alone, &dir, How::Wrapped(&alone));
    compare(recipe, "cold", &plain, &cold, &mut wrong);
    demand(&mut wrong, "cold: no hit but all local", cold.counters.hits() == 0, &cold.counters);
    demand(&mut wrong, "cold: every object is a task here", cold.counters.local >= objects, &cold.counters);

    let warm = run(recipe, &alone, &dir, How::Wrapped(&alone));
    compare(recipe, "warm", &plain, &warm, &mut wrong);
    demand(
        &mut wrong,
        "warm: every object is a hit",
        recipe.all(objects, warm.counters.hits()),
        &warm.counters,
    );
    let first = dir.join(plain.files.files("*.o")[0]);
    demand(&mut wrong, "why says hit", alone.why(&first).contains("hit"), &warm.counters);
    skips.done();

    if namespaces_work() {
        with_pool(recipe, &alone, &dir, &plain, objects, &mut wrong);
        skips.done();
    } else {
        skips.skip("the build with a pool", "the kernel refuses user namespaces");
    }
    if is_stand_in() {
        assert!(wrong.iter().all(|text| text.starts_with("counters")), "{}", wrong.join("\n\n"));
        return;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn with_pool(
    recipe: &Recipe,
    alone: &Sandbox,
    dir: &Path,
    plain: &Built,
    objects: u64,
    wrong: &mut Vec<String>,
) {
    let cluster = TestCluster::start(2);
    let user = Sandbox::of(&cluster);
    let remote = run(recipe, alone, dir, How::BuildWrapped(&user));
    compare(recipe, "remote", plain, &remote, wrong);
    demand(wrong, "remote: no hits", remote.counters.hits() == 0, &remote.counters);
    let everywhere = recipe.all(objects, remote.counters.remote) && remote.counters.fallbacks == 0;
    demand(wrong, &format!("remote: all {objects} compiles remote"), everywhere, &remote.counters);
    for object in plain.files.files("*.o") {
        let why = user.why(&dir.join(object));
        if !why.contains("remote on helper-") && !is_stand_in() {
            wrong.push(format!("counters: {} was not remote: {why}", object.display()));
        }
    }
    // Another machine's user of the same pool has nothing of its own, and gets all from the pool.
    let other = Sandbox::of(&cluster);
    let shared = run(recipe, alone, dir, How::BuildWrapped(&other));
    compare(recipe, "shared", plain, &shared, wrong);
    demand(
        wrong,
        "shared: every object from the pool's cache",
        recipe.all(objects, shared.counters.hits_shared),
        &shared.counters,
    );
}

fn run(recipe: &Recipe, alone: &Sandbox, dir: &Path, how: How) -> Built {
    let _ = std::fs::remove_dir_all(dir);
    for (package, part, place) in recipe.parts {
        let to = if *place == "." { dir.to_owned() } else { dir.join(place) };
        unpack(package, part, &to);
    }
    let configure = match how {
        How::Wrapped(user) => user.dbuild_sh(dir, recipe.configure),
        How::Plain | How::BuildWrapped(_) => alone.plain_sh(dir, recipe.configure),
    };
    assert!(configure.code == 0, "{}: {}: {configure}", recipe.name, recipe.configure);
    let (user, wrapped) = match how {
        How::Plain => (alone, false),
        How::Wrapped(user) | How::BuildWrapped(user) => (user, true),
    };
    let before = user.counters();
    let build = if wrapped { user.dbuild_sh(dir, recipe.build) } else { user.plain_sh(dir, recipe.build) };
    assert!(build.code == 0, "{}: {}: {build}", recipe.name, recipe.build);
    let counters = user.counters().since(&before);
    Built { configure, build, files: Snapshot::take(dir, recipe.exclude), counters }
}

fn compare(recipe: &Recipe, pass: &str, plain: &Built, here: &Built, wrong: &mut Vec<String>) {
    let mut check = |what: &str, difference: Option<String>| {
        wrong.extend(difference.map(|text| format!("equality: {}, {pass}: {what}: {text}", recipe.name)));
    };
    check("configure", plain.configure.difference_unordered(&here.configure));
    let ordered = if recipe.ordered { Ran::difference } else { Ran::difference_unordered };
    check("build", ordered(&plain.build, &here.build));
    check("files", plain.files.difference(&here.files, &[]));
}

fn demand(wrong: &mut Vec<String>, what: &str, holds: bool, seen: &Counters) {
    if !holds {
        wrong.push(format!("counters: {what}; seen: {seen}"));
    }
}
