//! How a compiler reads characters: the switches of its language mode, as far as directives depend on them.
//!
//! Sources: gcc's `libcpp/init.cc` (`lang_defaults`), clang's `LangStandards.def` and `CompilerInvocation.cpp`.

/// Whether a feature is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Has {
    #[default]
    No,
    Yes,
    /// Versions differ: where it would matter, the scan is unsure.
    Perhaps,
}

/// What decides how bytes become directives. Part of the key of a parsed content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mode {
    pub clang: bool,
    pub cxx: bool,
    pub asm: bool,
    /// `//`
    pub line_comments: bool,
    pub trigraphs: bool,
    pub digraphs: bool,
    pub raw_strings: Has,
    /// `1'000`
    pub digit_separators: Has,
    pub elifdef: Has,
    /// `true` and `false` in conditions.
    pub booleans: Has,
    /// `wchar_t` is signed.
    pub signed_wide: bool,
    /// Lines that begin with `import` or `module` may read files.
    pub modules: bool,
    /// Flags map file names, so that `__FILE__` is not the path.
    pub mapped_names: bool,
}

/// What a compiler says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dialect {
    pub clang: bool,
    pub major: u32,
    pub asm: bool,
    /// `__cplusplus`; 0 for C.
    pub cplusplus: u64,
    /// `__STDC_VERSION__`; 0 for C89.
    pub stdc_version: u64,
    /// `__STRICT_ANSI__` is defined.
    pub strict: bool,
    /// `__WCHAR_TYPE__` is a signed type.
    pub signed_wide: bool,
    /// `-trigraphs`, `-fno-trigraphs`.
    pub trigraphs: Option<bool>,
    pub mapped_names: bool,
}

impl Dialect {
    pub fn mode(&self) -> Mode {
        let cxx = self.cplusplus > 0;
        let (c99, c23) = (self.stdc_version >= 199_901, self.stdc_version > 201_710);
        let since = |yes: bool| if yes { Has::Yes } else { Has::No };
        let trigraphs = self.strict && !self.asm && if cxx { self.cplusplus < 201_500 } else { !c23 };
        let raw_in_c = match (self.clang, self.strict || self.asm) {
            (_, true) => Has::No,
            (false, false) => since(c99),
            // Later ones know -fraw-string-literals, on by default in GNU modes.
            (true, false) => {
                if self.major < 19 {
                    Has::No
                } else {
                    Has::Perhaps
                }
            }
        };
        let new = if self.clang { self.major >= 13 } else { self.major >= 12 };
        let modern = if cxx { self.cplusplus > 202_002 } else { c23 };
        Mode {
            clang: self.clang,
            cxx,
            asm: self.asm,
            line_comments: cxx || c99 || !self.strict || self.asm,
            trigraphs: self.trigraphs.unwrap_or(trigraphs),
            digraphs: !self.asm && (cxx || !self.strict || self.stdc_version >= 199_409),
            raw_strings: if cxx { since(self.cplusplus >= 201_103) } else { raw_in_c },
            digit_separators: match cxx {
                true => since(self.cplusplus > 201_103),
                false if c23 => Has::Perhaps,
                false => Has::No,
            },
            elifdef: match (modern && !self.asm, new) {
                (true, true) => Has::Yes,
                _ => Has::Perhaps,
            },
            booleans: match cxx {
                true => Has::Yes,
                false if c23 => Has::Perhaps,
                false => Has::No,
            },
            signed_wide: self.signed_wide,
            modules: cxx && self.cplusplus > 201_703,
            mapped_names: self.mapped_names,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_follow_the_standard() {
        let c =
            |stdc_version, strict| Dialect { major: 12, stdc_version, strict, ..Dialect::default() }.mode();
        let cxx = |cplusplus, strict| Dialect { major: 12, cplusplus, strict, ..Dialect::default() }.mode();
        assert!(c(199_901, true).trigraphs && !c(201_710, false).trigraphs);
        assert!(!c(0, true).line_comments && !c(0, true).digraphs && c(0, false).line_comments);
        assert_eq!(c(201_710, false).raw_strings, Has::Yes);
        assert_eq!(c(201_710, true).raw_strings, Has::No);
        assert!(cxx(201_402, true).trigraphs && !cxx(201_703, true).trigraphs);
        assert_eq!(cxx(201_703, true).raw_strings, Has::Yes);
        assert_eq!(cxx(199_711, false).raw_strings, Has::No);
    }
}
