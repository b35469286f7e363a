//! Links on helpers, where the call and the trace do not say everything: each is held against plain rustc in the same place.

// A test that cannot set up its world ends there; the message of the panic is the report.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use dbuild_tests::{Sandbox, Skips, Snapshot, TestCluster, namespaces_work, wait_until};

struct Bench {
    user: Sandbox,
    dir: PathBuf,
    // Dropped after its user.
    cluster: TestCluster,
}

impl Bench {
    /// A user with a pool of one helper; nothing where that is impossible.
    fn new(name: &str) -> Option<Bench> {
        let skips = Skips::new(name);
        if !namespaces_work() {
            skips.skip("with a pool", "user namespaces do not work here");
            return None;
        }
        let cluster = TestCluster::start(1);
        let mut user = Sandbox::of(&cluster);
        let cargo = Path::new(env!("CARGO")).parent().unwrap();
        user.set("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", cargo.display()));
        let dir = user.fresh_dir("project");
        skips.done();
        Some(Bench { user, dir, cluster })
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Runs a script plain and through dbuild: what it leaves in `out` must be the same.
    fn both(&self, script: &str) {
        let run = |through_dbuild: bool| {
            let out = self.user.fresh_dir("project/out");
            match through_dbuild {
                true => self.user.dbuild_sh(&self.dir, script).ok(),
                false => self.user.plain_sh(&self.dir, script).ok(),
            };
            Snapshot::take(&out, &[])
        };
        let plain = run(false);
        assert_eq!(plain.difference(&run(true), &[]), None, "{script}");
    }

    /// Links a small program again and again, until helpers do: what its linker reads is known then.
    fn learn(&self, options: &str) {
        let mut turn = 0;
        wait_until("links go to helpers", || {
            turn += 1;
            self.write("warm.rs", &format!("fn main() {{ print!(\"{turn}\") }}"));
            let before = self.user.counters().remote;
            self.user.dbuild_sh(&self.dir, &rustc(&format!("{options} --crate-type bin warm.rs"))).ok();
            self.user.counters().remote > before
        });
    }

    /// Whether any file of coordinator and helper holds these bytes.
    fn pool_has(&self, text: &str) -> bool {
        let files = walkdir::WalkDir::new(self.cluster.root()).into_iter().flatten();
        let mut contents = files.filter_map(|entry| std::fs::read(entry.path()).ok());
        contents.any(|content| content.windows(text.len()).any(|window| window == text.as_bytes()))
    }
}

fn rustc(words: &str) -> String {
    format!(
        "mkdir -p out && rustc --edition 2021 --emit=dep-info,link --out-dir out -L dependency=out {words}"
    )
}

/// rustc lists the directories of crates; a program may take another kind of a crate than the one that was named.
#[test]
fn a_crate_of_two_kinds_is_linked_as_here() {
    let Some(bench) = Bench::new("crates of two kinds") else { return };
    bench.learn("");
    bench.write("low.rs", "pub fn name() -> String { std::hint::black_box(\"low\".to_string()) }");
    bench.write("mid.rs", "pub fn name() -> String { low::name() }");
    bench.write("top.rs", "fn main() { print!(\"{}\", mid::name()) }");
    let dynamic = "-C prefer-dynamic";
    let steps = |kinds: &str| {
        [
            rustc(&format!("{dynamic} {kinds} low.rs")),
            rustc(&format!("{dynamic} --crate-type rlib --extern low=out/liblow.rlib mid.rs")),
            rustc(&format!("{dynamic} --crate-type bin --extern mid=out/libmid.rlib top.rs")),
        ]
        .join(" && ")
    };
    let before = bench.user.counters().remote;
    bench.both(&steps("--crate-type rlib"));
    bench.both(&steps("--crate-type rlib --crate-type dylib"));
    assert!(bench.user.counters().remote > before + 3, "{:?}", bench.user.counters());
}

/// A linker that finds a library by its own run path: another one comes to lie in front of it.
#[test]
fn another_library_for_the_linker_is_noticed() {
    let Some(bench) = Bench::new("a linker's libraries") else { return };
    bench.write("flavour.c", "const char *flavour(void) { return FLAVOUR; }\n");
    bench.write(
        "cc.c",
        r#"#include <stdio.h>
        #include <string.h>
        #include <unistd.h>
        extern const char *flavour(void);
        int main(int argc, char **argv) {
            char *words[argc + 2], symbol[99];
            memcpy(words, argv, argc * sizeof *words);
            snprintf(symbol, sizeof symbol, "-Wl,--defsym=flavour_%s=0", flavour());
            words[0] = "/usr/bin/cc", words[argc] = symbol, words[argc + 1] = 0;
            return execv(words[0], words);
        }"#,
    );
    let set_up = "mkdir -p first second bin; \
        gcc -shared -fPIC -DFLAVOUR='\"one\"' flavour.c -o second/libflavour.so && \
        gcc -shared -fPIC -DFLAVOUR='\"two\"' flavour.c -o other.so && \
        gcc cc.c -o bin/cc -Lsecond -lflavour -Wl,-rpath,$PWD/first:$PWD/second";
    bench.user.plain_sh(&bench.dir, set_up).ok();
    let linker = format!("-C linker={}", bench.dir.join("bin/cc").display());
    bench.learn(&linker);
    bench.write("a.rs", "fn main() {}");
    let link = rustc(&format!("{linker} --crate-type bin a.rs"));
    bench.both(&link);
    std::fs::rename(bench.dir.join("other.so"), bench.dir.join("first/libflavour.so")).unwrap();
    bench.both(&link);
    bench.write("a.rs", "fn main() { print!(\"another\") }");
    bench.both(&link);
    std::fs::remove_file(bench.dir.join("first/libflavour.so")).unwrap();
    bench.both(&link);
}

/// What one project's link read, and what it asked for, does not travel with another's.
#[test]
fn one_projects_secrets_stay_out_of_anothers_links() {
    let Some(mut bench) = Bench::new("secrets and links") else { return };
    let vault = bench.user.fresh_dir("vault");
    for (name, mode) in [("tool", 0o755), ("key.so.pem", 0o644), ("lib.so", 0o644)] {
        std::fs::write(vault.join(name), format!("the secret of {name}")).unwrap();
        std::fs::set_permissions(vault.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let reads = |name: &str| format!("include_bytes!(\"{}/{name}\")", vault.display());
    let private = [reads("tool"), reads("key.so.pem"), reads("lib.so"), "env!(\"DATABASE\")".into()];
    bench.write("private/main.rs", &format!("fn main() {{ print!(\"{{:?}}\", ({})) }}", private.join(",")));
    bench.user.set("DATABASE", "the password of the database");
    bench.user.set("CARGO_PKG_DESCRIPTION", "what does travel");
    bench.user.dbuild_sh(&bench.dir, &rustc("--crate-type bin private/main.rs")).ok();
    bench.learn("");
    assert!(bench.pool_has("fn main() { print!") && bench.pool_has("what does travel"));
    for secret in ["the secret of", "the password of"] {
        assert!(!bench.pool_has(secret), "{secret}");
    }
}
