//! `PATH` and `LD_PRELOAD` as lists: find an entry, leave it out.
//!
//! Pure, `core` only: the interceptor works on the very bytes of an environment, without allocating.

/// What separates the entries of `PATH`. An empty entry stands for the working directory and is kept.
pub const PATH_SEPARATORS: &[u8] = b":";
/// What separates the entries of `LD_PRELOAD`, see ld.so(8).
pub const PRELOAD_SEPARATORS: &[u8] = b": ";

/// The entries of a list.
pub fn entries<'a>(list: &'a [u8], separators: &'static [u8]) -> impl Iterator<Item = &'a [u8]> {
    list.split(move |b| separators.contains(b))
}

/// Whether two spellings name one directory or file, by text alone: slashes at the end do not count.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    trimmed(a) == trimmed(b)
}

/// Whether `list` has `entry`.
pub fn has(list: &[u8], separators: &'static [u8], entry: &[u8]) -> bool {
    entries(list, separators).any(|other| same(other, entry))
}

/// Whether `path` lies in `directory`, by text alone.
pub fn is_inside(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(trimmed(directory)).is_some_and(|rest| rest.starts_with(b"/"))
}

/// Takes every occurrence of `entry` out of a `PATH`-like list, in place; the new length.
pub fn remove(list: &mut [u8], entry: &[u8]) -> usize {
    let (mut from, mut to, mut first) = (0, 0, true);
    while from <= list.len() {
        let rest = list.get(from..).unwrap_or_default();
        let length = rest.iter().position(|b| PATH_SEPARATORS.contains(b)).unwrap_or(rest.len());
        if !same(rest.get(..length).unwrap_or_default(), entry) {
            if !first && let Some(separator) = list.get_mut(to) {
                *separator = b':';
                to += 1;
            }
            list.copy_within(from..from + length, to);
            to += length;
            first = false;
        }
        from += length + 1;
    }
    to
}

fn trimmed(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|&b| b != b'/').map_or(0, |last| last + 1);
    // the root itself keeps its slash
    path.get(..end.max(path.len().min(1))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn removed(list: &str, entry: &str) -> String {
        let mut bytes = list.as_bytes().to_vec();
        let length = remove(&mut bytes, entry.as_bytes());
        bytes.truncate(length);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn one_entry_is_left_out() {
        assert_eq!(removed("/s:/usr/bin:/bin", "/s"), "/usr/bin:/bin");
        assert_eq!(removed("/usr/bin:/s/:/bin:/s", "/s"), "/usr/bin:/bin");
        assert_eq!(removed("/s", "/s"), "");
        assert_eq!(removed(":/s::/bin:", "/s"), "::/bin:");
        assert_eq!(removed("/sx:/", "/s"), "/sx:/");
    }

    #[test]
    fn places() {
        assert!(has(b"a b:/x/y.so", PRELOAD_SEPARATORS, b"/x/y.so"));
        assert!(!has(b"/x/y.so.1", PRELOAD_SEPARATORS, b"/x/y.so"));
        assert!(is_inside(b"/a/b", b"/a") && is_inside(b"/a/b", b"/a/"));
        assert!(!is_inside(b"/ab", b"/a") && !is_inside(b"/a", b"/a"));
        assert!(same(b"/", b"//") && !same(b"", b"/"));
    }

    proptest! {
        #[test]
        fn removal_is_the_same_as_filtering(list in "[ab/:]{0,12}", entry in "[ab/]{0,3}") {
            let kept: Vec<&str> =
                list.split(':').filter(|other| !same(other.as_bytes(), entry.as_bytes())).collect();
            prop_assert_eq!(removed(&list, &entry), kept.join(":"));
        }
    }
}
