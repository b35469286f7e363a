//! Compiles that are traced where they run, remembered, and recalled after something changed.

use std::path::PathBuf;
use std::process::Command;

use dbuild_cache::{Store, StoreConfig};
use dbuild_compilers::relevant_env;
use dbuild_intake::recall::{recall, remember};
use dbuild_intake::{Change, Inputs, KeyParts, Recalled, Scope, observe};
use dbuild_proto::record::TaskOutcome;
use dbuild_shims::{trace, vars};

use crate::world::{World, installed, interceptor, late, outputs, words};

struct Case {
    world: World,
    store: Store,
    command: String,
}

impl Case {
    fn new(command: &str) -> Option<Case> {
        installed(command.split(' ').next()?)?;
        let world = World::new();
        let dir = world.cwd().with_file_name("store");
        let store = Store::open(StoreConfig { dir, max_bytes: 1 << 30 }).unwrap();
        Some(Case { world, store, command: command.to_owned() })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.world.cwd().join(name)
    }

    /// Runs the real compile as a local run does, and remembers it.
    fn run(&self) -> Inputs {
        let world = &self.world;
        let command = words(&self.command);
        let compiler = installed(command[0].to_str().unwrap()).unwrap();
        let toolchain = world.toolchain(&compiler).unwrap();
        let task = world.task(&toolchain, &command);
        let file = world.cwd().with_file_name("trace");
        let _ = fs_err::remove_file(&file);
        trace::create(&file, trace::DEFAULT_CAPACITY).unwrap();
        let done = Command::new(&compiler)
            .args(&task.args)
            .current_dir(world.cwd())
            .env_clear()
            .envs(world.env.iter().cloned())
            .env(vars::LD_PRELOAD, interceptor())
            .env(vars::TRACE, &file)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let outputs: Vec<_> = outputs(&task).iter().map(|path| world.cwd().join(path)).collect();
        let scope = Scope { toolchain: Some(&toolchain), outputs: &outputs, ..Scope::default() };
        let observed = observe::read(&file, &scope).unwrap();
        assert_eq!(observed.strays, Vec::<PathBuf>::new());
        assert_eq!(observed.programs, Vec::<PathBuf>::new());
        assert!(outputs.iter().all(|output| observed.written.contains(output)), "{observed:?}");
        let inputs = Inputs::gather(&observed, &world.files, late()).unwrap();
        let key = self.key(&toolchain.id, &task.args);
        remember(&self.store, &key, &world.held(), &inputs, TaskOutcome::default()).unwrap();
        inputs
    }

    fn key(&self, id: &dbuild_proto::Digest, args: &[std::ffi::OsString]) -> dbuild_intake::RecallKey {
        let cwd = self.world.cwd();
        KeyParts {
            toolchain: id,
            argv0: "cc".as_ref(),
            args,
            cwd: &cwd,
            logical_cwd: None,
            env: &relevant_env(dbuild_compilers::Family::Gcc, &self.world.env),
            roots: dbuild_intake::Roots::none(),
            more: &[],
        }
        .key()
    }

    fn recall(&self) -> Recalled {
        let world = &self.world;
        let command = words(&self.command);
        let toolchain = world.toolchain(&installed(command[0].to_str().unwrap()).unwrap()).unwrap();
        let key = self.key(&toolchain.id, &world.task(&toolchain, &command).args);
        recall(&self.store, &key, &world.held(), &|_| true).unwrap().0
    }

    fn holds(&self) {
        assert_eq!(self.recall(), Recalled::Hit(TaskOutcome::default()));
    }

    fn changed(&self, change: Change) {
        assert_eq!(self.recall(), Recalled::Changed(change));
    }
}

#[test]
fn a_header_that_appears_earlier() {
    for compiler in ["gcc", "clang"] {
        let Some(case) = Case::new(&format!("{compiler} -Ifirst -Isecond -c a.c")) else { continue };
        case.world.write("first/keep", "");
        case.world.write("second/x.h", "int second;\n");
        case.world.write("a.c", "#include <x.h>\n");
        case.run();
        case.holds();
        case.world.write("first/unrelated.h", "");
        case.holds();
        case.world.write("first/x.h", "int first;\n");
        case.changed(Change::Appeared(case.at("first/x.h")));
        case.run();
        case.holds();
        fs_err::remove_file(case.at("first/x.h")).unwrap();
        // The state before is remembered, too.
        case.holds();
    }
}

#[test]
fn a_header_that_has_include_missed() {
    for compiler in ["gcc", "clang"] {
        let Some(case) = Case::new(&format!("{compiler} -c a.c")) else { continue };
        case.world.write("a.c", "#if __has_include(\"opt.h\")\nint with;\n#else\nint without;\n#endif\n");
        case.run();
        case.holds();
        case.world.write("opt.h", "");
        case.changed(Change::Appeared(case.at("opt.h")));
        case.run();
        case.holds();
        fs_err::remove_file(case.at("opt.h")).unwrap();
        case.holds();
    }
}

#[test]
fn a_search_directory_that_comes_or_goes() {
    for compiler in ["gcc", "clang"] {
        let Some(case) = Case::new(&format!("{compiler} -Ihere -Ithere/deep -c a.c")) else { continue };
        case.world.write("here/keep", "");
        case.world.write("a.c", "#include <stddef.h>\nsize_t a;\n");
        case.run();
        case.holds();
        fs_err::create_dir_all(case.at("there/deep")).unwrap();
        assert!(matches!(case.recall(), Recalled::Changed(Change::Appeared(_))));
        case.run();
        fs_err::remove_dir_all(case.at("here")).unwrap();
        assert!(matches!(case.recall(), Recalled::Changed(Change::DirectoryGone(_))));
    }
}

#[test]
fn what_the_assembler_reads() {
    let Some(case) = Case::new("gcc -c a.c") else { return };
    case.world.write("blob", "one");
    case.world.write("a.c", "__asm__(\".incbin \\\"blob\\\"\");\n");
    let inputs = case.run();
    assert!(inputs.mentions.incbin);
    case.holds();
    case.world.write("blob", "two");
    case.changed(Change::File(case.at("blob")));
}

#[test]
fn what_stood_in_the_outputs_place_does_not_matter() {
    for compiler in ["gcc", "clang"] {
        let Some(case) = Case::new(&format!("{compiler} -O1 -g -c a.cc -o out/a.o -MD -MF out/a.d")) else {
            continue;
        };
        case.world.write("a.cc", "#include <string>\nstd::string s;\n");
        case.world.write("out/keep", "");
        let first = case.run();
        case.holds();
        let second = case.run();
        assert_eq!(first, second);
        fs_err::remove_file(case.at("out/a.o")).unwrap();
        case.holds();
    }
}

#[test]
fn the_traced_compile_and_the_finder_agree() {
    for compiler in ["gcc", "clang", "g++", "clang++"] {
        let Some(case) = Case::new(&format!("{compiler} -O2 -g -c a.cc")) else { continue };
        case.world.write("a.cc", "#include <vector>\n#include <cstring>\nstd::vector<int> v;\n");
        let ran = case.run();
        let command = words(&case.command);
        let toolchain = case.world.toolchain(&installed(compiler).unwrap()).unwrap();
        let task = case.world.task(&toolchain, &command);
        let found = case.world.find(&toolchain, &command[0], &task).unwrap();
        let paths = |inputs: &Inputs| inputs.files.iter().map(|file| file.path.clone()).collect::<Vec<_>>();
        assert_eq!(paths(&ran), paths(&found), "{compiler}");
    }
}
