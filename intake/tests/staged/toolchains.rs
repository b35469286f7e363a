//! What is found of the installed compilers.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use dbuild_compilers::Family;
use dbuild_intake::IntakeError;

use crate::world::{World, installed};

fn has(files: &[PathBuf], name: &str) -> bool {
    files.iter().any(|path| path.to_string_lossy().contains(name))
}

#[test]
fn gcc_has_its_parts() {
    let Some(compiler) = installed("gcc") else { return };
    let world = World::new();
    let toolchain = world.toolchain(&compiler).unwrap();
    assert_eq!(toolchain.info.family, Family::Gcc);
    assert!(toolchain.traceable && toolchain.info.version.0 > 0);
    for part in ["/cc1", "/as", "/ld-linux", "/libc.so", "/collect2"] {
        assert!(has(&toolchain.files, part), "{part}: {:?}", toolchain.files);
    }
    assert!(!has(&toolchain.files, "ld.so.cache"), "{:?}", toolchain.files);
    assert_eq!(toolchain.search_path[0], Path::new("/usr/bin"));
}

#[test]
fn clang_has_its_parts() {
    let Some(compiler) = installed("clang") else { return };
    let world = World::new();
    let toolchain = world.toolchain(&compiler).unwrap();
    assert_eq!(toolchain.info.family, Family::Clang);
    for part in ["libLLVM", "crtbegin.o", "/ld-linux"] {
        assert!(has(&toolchain.files, part), "{part}: {:?}", toolchain.files);
    }
}

#[test]
fn one_driver_by_two_names_is_one_toolchain() {
    let (Some(a), Some(b)) = (installed("gcc"), installed("gcc-12")) else { return };
    let world = World::new();
    let (a_chain, b_chain) = (world.toolchain(&a).unwrap(), world.toolchain(&b).unwrap());
    if a.canonicalize().unwrap() == b.canonicalize().unwrap() {
        assert_eq!(a_chain.id, b_chain.id);
    }
}

#[test]
fn what_is_known_is_not_hashed_again() {
    let Some(compiler) = installed("gcc") else { return };
    let world = World::new();
    let first = world.toolchain(&compiler).unwrap();
    let second = world.toolchain(&compiler).unwrap();
    assert!(std::sync::Arc::ptr_eq(&first, &second));
}

#[test]
fn a_compiler_that_changes_is_another() {
    let Some(compiler) = installed("gcc") else { return };
    let mut world = World::new();
    // A driver moved to where its parts are not, and told where they are.
    world.env.push(("GCC_EXEC_PREFIX".into(), "/usr/lib/gcc/".into()));
    let bin = world.cwd().join("bin");
    fs_err::create_dir(&bin).unwrap();
    let mine = bin.join("gcc");
    let copy = |extra: &[u8]| {
        let mut bytes = fs_err::read(&compiler).unwrap();
        bytes.extend_from_slice(extra);
        fs_err::write(&mine, bytes).unwrap();
        fs_err::set_permissions(&mine, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    copy(b"");
    let before = world.toolchain(&mine).unwrap();
    copy(b"more");
    let after = world.toolchain(&mine).unwrap();
    assert_ne!(before.id, after.id);
    copy(b"");
    assert_eq!(world.toolchain(&mine).unwrap().id, before.id);
}

#[test]
fn an_assembler_earlier_on_the_path_is_another_toolchain() {
    let (Some(compiler), Some(assembler)) = (installed("gcc"), installed("as")) else { return };
    let mut world = World::new();
    let before = world.toolchain(&compiler).unwrap().id;
    let bin = world.cwd().join("bin");
    fs_err::create_dir(&bin).unwrap();
    let mut bytes = fs_err::read(assembler).unwrap();
    bytes.push(0);
    fs_err::write(bin.join("as"), bytes).unwrap();
    fs_err::set_permissions(bin.join("as"), std::fs::Permissions::from_mode(0o755)).unwrap();
    world.env[0].1 = format!("{}:/usr/bin:/bin", bin.display()).into();
    let after = world.toolchain(&compiler).unwrap();
    assert_ne!(after.id, before);
    assert_eq!(after.search_path[..2], [PathBuf::from("/usr/bin"), bin]);
}

#[test]
fn scripts_and_strangers_are_refused_with_a_reason() {
    let world = World::new();
    world.write("script", "#!/bin/sh\nexec gcc \"$@\"\n");
    let script = world.cwd().join("script");
    fs_err::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    for path in [script.as_path(), Path::new("/bin/true")] {
        for _ in 0..2 {
            assert!(matches!(world.toolchain(path), Err(IntakeError::Compiler { .. })), "{}", path.display());
        }
    }
    assert!(matches!(world.toolchain(Path::new("/none/gcc")), Err(IntakeError::Io(_))));
}

#[test]
fn a_static_driver_cannot_be_traced() {
    let Some(gcc) = installed("gcc") else { return };
    let world = World::new();
    // Speaks like a clang with its resources in the working directory, and needs nothing.
    world.write(
        "fake.c",
        "#include <stdio.h>\n#include <string.h>\nint main(int n, char **v) {\n\
         if (n > 1 && !strcmp(v[1], \"-print-resource-dir\")) puts(RESOURCES);\n\
         else if (n > 1 && !strcmp(v[1], \"-print-prog-name=as\")) puts(\"as\");\n\
         else fputs(\"clang version 9.8.7\\nTarget: x86_64-unknown-none\\n\", stderr);\nreturn 0; }\n",
    );
    let resources = format!("-DRESOURCES=\"{}\"", world.cwd().display());
    let built = Command::new(gcc)
        .args(["-static", &resources, "fake.c", "-o", "clang"])
        .current_dir(world.cwd())
        .status()
        .unwrap();
    if !built.success() {
        eprintln!("SKIPPED: no static C library");
        return;
    }
    let toolchain = world.toolchain(&world.cwd().join("clang")).unwrap();
    assert!(!toolchain.traceable);
    assert_eq!((toolchain.info.family, toolchain.info.version), (Family::Clang, (9, 8, 7)));
}
