//! The locale data that a compiler's C library opens behind every interceptor's back: chosen by the caller's
//! environment, so part of the toolchain for that caller. (`setlocale(3)`, "Locating Message Catalog Files" in the
//! GNU gettext manual.)

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Compiled locales, and glibc's archive of them.
const LOCALES: &str = "/usr/lib/locale";
/// Message catalogues; the second is Ubuntu's.
const CATALOGUES: [&str; 2] = ["/usr/share/locale", "/usr/share/locale-langpack"];
/// Catalogues of compilers, of what they run, and of the C library.
const DOMAINS: [&str; 7] = ["gcc", "cpplib", "libc", "gas", "bfd", "opcodes", "binutils"];

/// The variables that choose, out of a whole environment.
pub(crate) fn variables(env: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
    let chooses =
        |name: &OsStr| name == "LANG" || name == "LANGUAGE" || name.as_encoded_bytes().starts_with(b"LC_");
    env.iter().filter(|(name, value)| chooses(name) && !value.is_empty()).cloned().collect()
}

/// The files that exist for these `variables`. Variables that say `C` need none.
pub(crate) fn files(variables: &[(OsString, OsString)]) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    let get = |wanted: &str| {
        variables.iter().find(|(name, _)| name == wanted).and_then(|(_, value)| value.to_str())
    };
    let all = get("LC_ALL");
    let names: BTreeSet<&str> = match all {
        Some(name) => BTreeSet::from([name]),
        None => variables
            .iter()
            .filter(|(name, _)| name != "LANGUAGE")
            .filter_map(|(_, value)| value.to_str())
            .collect(),
    };
    for name in names.iter().filter(|name| is_named(name)) {
        found.extend(existing(&Path::new(LOCALES).join("locale-archive")));
        for spelling in [(*name).to_owned(), normalised(name)] {
            collect(&Path::new(LOCALES).join(spelling), &mut found);
        }
    }
    let messages = all.or(get("LC_MESSAGES")).or(get("LANG")).filter(|name| is_named(name));
    if let Some(messages) = messages {
        for root in CATALOGUES.map(Path::new) {
            found.extend(existing(&root.join("locale.alias")));
            let languages = get("LANGUAGE").into_iter().flat_map(|list| list.split(':'));
            for language in languages.chain([messages]).filter(|name| is_named(name)) {
                for variant in variants(language) {
                    collect_catalogues(&root.join(variant).join("LC_MESSAGES"), &mut found);
                }
            }
        }
    }
    found.into_iter().collect()
}

/// Not the built-in locale, and no path.
fn is_named(name: &str) -> bool {
    !name.is_empty() && name != "C" && name != "POSIX" && !name.contains('/') && !name.starts_with('.')
}

/// glibc's own spelling of the code set: lower case, letters and digits only (`C.UTF-8` is `C.utf8` on disk).
fn normalised(name: &str) -> String {
    let Some((language, codeset)) = name.split_once('.') else { return name.to_owned() };
    let (codeset, modifier) = match codeset.split_once('@') {
        Some((codeset, modifier)) => (codeset, format!("@{modifier}")),
        None => (codeset, String::new()),
    };
    let codeset: String = codeset.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("{language}.{}{modifier}", codeset.to_ascii_lowercase())
}

/// `ll_CC.codeset@modifier` with parts left out, as gettext looks for catalogues.
fn variants(name: &str) -> BTreeSet<String> {
    let (plain, modifier) = match name.split_once('@') {
        Some((plain, modifier)) => (plain, format!("@{modifier}")),
        None => (name, String::new()),
    };
    let normal = normalised(plain);
    let mut all = BTreeSet::new();
    for plain in [plain, &normal] {
        let territory = plain.split('.').next().unwrap_or(plain);
        let language = territory.split('_').next().unwrap_or(territory);
        for stem in [plain, territory, language] {
            all.insert(stem.to_owned());
            all.insert(format!("{stem}{modifier}"));
        }
    }
    all
}

fn existing(path: &Path) -> Option<PathBuf> {
    path.is_file().then(|| path.to_path_buf())
}

/// A compiled locale: files, and one directory with one more.
fn collect(dir: &Path, found: &mut BTreeSet<PathBuf>) {
    for path in children(dir) {
        if path.is_dir() {
            found.extend(children(&path).into_iter().filter(|path| path.is_file()));
        } else {
            found.extend(existing(&path));
        }
    }
}

fn collect_catalogues(dir: &Path, found: &mut BTreeSet<PathBuf>) {
    for path in children(dir) {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        // `gcc.mo` and, where versions live side by side, `gcc-12.mo`.
        let domain = name.strip_suffix(".mo").map(|stem| stem.split('-').next().unwrap_or(stem));
        if domain.is_some_and(|domain| DOMAINS.contains(&domain)) {
            found.extend(existing(&path));
        }
    }
}

/// What cannot be listed has nothing to give.
fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_sets_and_variants_are_spelled_as_on_disk() {
        assert_eq!(normalised("C.UTF-8"), "C.utf8");
        assert_eq!(normalised("de_DE.ISO-8859-15@euro"), "de_DE.iso885915@euro");
        let all = variants("de_DE.UTF-8");
        for want in ["de_DE.UTF-8", "de_DE.utf8", "de_DE", "de"] {
            assert!(all.contains(want), "{want}: {all:?}");
        }
    }

    #[test]
    fn built_in_locales_need_nothing_and_paths_are_refused() {
        let env = |value: &str| vec![("LC_ALL".into(), value.into())];
        for value in ["C", "POSIX", "", "../../etc", "/etc"] {
            assert_eq!(files(&env(value)), Vec::<PathBuf>::new(), "{value}");
        }
    }
}
