//! Depfiles, which the compiler under test wrote.

use dbuild_compilers::Depfile;

pub fn depfile(text: &[u8]) -> bool {
    let Ok(depfile) = Depfile::parse(text) else { return false };
    let targets = depfile.rules.iter().flat_map(|rule| &rule.targets).map(|target| target.as_os_str());
    let words = targets.chain(depfile.inputs().map(|path| path.as_os_str()));
    let mut length = 0;
    for word in words {
        let word = word.as_encoded_bytes();
        length += word.len();
        assert!(!word.is_empty() && !word.contains(&0) && !word.contains(&b'\n'), "{word:?}");
    }
    assert!(length <= text.len(), "reading only takes away");
    assert!(depfile.rules.iter().all(|rule| !rule.targets.is_empty()));
    true
}

pub fn seeds() -> Vec<Vec<u8>> {
    let texts: [&[u8]; 4] = [
        b"a.o: a.c h.h \\\n /usr/include/stdio.h\n\nh.h:\n/usr/include/stdio.h:\n",
        b"a\\ b.o: x\\ y.h d$$r.h s\\#t.h back\\slash.h two\\\\\\ sp.h\n",
        b"# nothing\n\na.o b.d : x\\\r\n  y\r\n",
        b"C\\:x.o: c:d.h \xff\xfe\n",
    ];
    texts.map(<[u8]>::to_vec).into()
}
