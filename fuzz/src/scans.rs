//! Sources, which anybody writes: parsed into directives and evaluated, each file of the input able to include the
//! others.

use std::sync::Arc;

use dbuild_scanner::{
    Content, Dialect, DirectoryId, FileId, Host, Look, Mode, Names, Question, Scratch, Special, Unit, Unsure,
    command_line, parse, scan,
};

/// The files of one input by their place: `main.c`, `h1.h`, `h2.h`, …
struct Files<'a> {
    texts: Vec<&'a [u8]>,
    mode: Mode,
    names: &'a Names,
    contents: Vec<Option<Arc<Content>>>,
}

impl Host for Files<'_> {
    fn directory(&mut self, _: DirectoryId, _: &[u8]) {}

    fn look(&mut self, _: DirectoryId, name: &[u8]) -> Result<Look, Unsure> {
        let number = match name {
            b"main.c" => Some(0),
            [b'h', digit @ b'0'..=b'9', b'.', b'h'] => Some(usize::from(digit - b'0')),
            _ => None,
        };
        let there = number.filter(|&number| number < self.texts.len());
        Ok(there.map_or(Look::Absent, |number| Look::File(number as FileId)))
    }

    fn exists(&mut self, _: DirectoryId, _: &[u8]) -> Result<bool, Unsure> {
        Ok(false)
    }

    fn open(&mut self, file: FileId, _: DirectoryId) -> Result<Arc<Content>, Unsure> {
        let at = file as usize;
        let parsed = || Arc::new(parse(self.texts[at], self.mode, self.names));
        Ok(self.contents[at].get_or_insert_with(parsed).clone())
    }

    fn name(&self, file: FileId) -> Vec<u8> {
        format!("h{file}.h").into_bytes()
    }

    fn identity(&mut self, file: FileId) -> u64 {
        file.into()
    }

    fn ask(&mut self, _: Question, operand: &[u8], _: &Content) -> Result<i64, Unsure> {
        Ok(operand.len() as i64 % 2)
    }
}

/// The first byte chooses the mode; files are cut at bytes of value 1.
pub fn scan_unit(bytes: &[u8]) -> bool {
    let Some((choice, text)) = bytes.split_first() else { return false };
    let cxx = choice & 1 != 0;
    let dialect = Dialect {
        clang: choice & 2 != 0,
        major: 14,
        asm: choice & 4 != 0,
        cplusplus: if cxx { 202_002 } else { 0 },
        stdc_version: if cxx { 0 } else { 201_710 },
        strict: choice & 8 != 0,
        ..Dialect::default()
    };
    let mode = dialect.mode();
    let names = Names::new(64 << 20);
    let texts: Vec<&[u8]> = text.split(|&byte| byte == 1).take(10).collect();
    let contents = vec![None; texts.len()];
    let mut host = Files { texts, mode, names: &names, contents };
    let predefined = Arc::new(parse(b"#define __GNUC__ 12\n", mode, &names));
    let Ok(line) = command_line([], mode, &names) else { return false };
    let specials: Vec<_> =
        Special::ALL.iter().map(|(name, special)| (names.intern(name.as_bytes()), *special)).collect();
    let unit = Unit {
        mode,
        predefined: &predefined,
        specials: &specials,
        command_line: &Arc::new(line),
        quote: &[],
        angled: &[b"inc".to_vec()],
        own: &[],
        preinclude: None,
        imacros: &[],
        includes: &[],
        main: b"main.c",
    };
    scan(&unit, &names, &mut host, &mut Scratch::new()).is_ok()
}

pub fn seeds() -> Vec<Vec<u8>> {
    let texts: [&[u8]; 5] = [
        b"\x00#include \"h1.h\"\n#if F(2) == 3 && defined(A)\n#include <h2.h>\n#endif\n\x01#ifndef G\n#define G\n\
          #define A\n#define F(x) (x + 1)\n#endif\n\x01#pragma once\n/* x */ int a = '\"'; // y \\\n z\n",
        b"\x01#define CAT(a, b) a##b\n#define STR(x) #x\n#define X(x) STR(x)\n#if CAT(1, 2) > 0x0bu ? 1 : 0\n\
          #include X(h1.h)\n#elif __has_include(<h2.h>)\n#else\n#endif\nauto r = R\"d(\n#error\n)d\";\n\x01#undef X\n\x01",
        b"\x08??=define V(a, ...) a __VA_ARGS__\n%:if V(1, + 2) || __has_builtin(x)\n#include_next <h1.h>\n#endif\n\x01#import \"h2.h\"\n\x01",
        b"\x06# comment don't\n#ifdef __ASSEMBLER__\n#include \"h1.h\"\n#endif\n#pragma push_macro(\"A\")\n#pragma pop_macro(\"A\")\n\x01",
        b"\x00#define F(x) K\n#define K 1\n#include \"h1.h\"\n#define K (2)\n#include \"h1.h\"\n#include \"h1.h\"\n\x01\
          #if K + 1 == -2 << 3 || !defined K\n#include \"h2.h\"\n#elif F(K) > 1 && ~K / 1u\n#endif\n#undef K\n\x01#undef F\n",
    ];
    texts.map(<[u8]>::to_vec).into()
}
