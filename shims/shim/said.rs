//! What was printed before the end of a call, so that nothing is printed twice: cargo ends when it hears of the same metadata
//! again.

/// Lines that were printed on stderr already.
#[derive(Clone, Debug, Default)]
pub struct Said {
    text: Vec<u8>,
    /// Those of `text` that have not come again.
    left: Vec<Vec<u8>>,
    /// The beginning of a line.
    begun: Vec<u8>,
}

impl Said {
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// `text` was printed.
    pub fn add(&mut self, text: &[u8]) {
        self.text.extend_from_slice(text);
        self.left.extend(lines(text).map(<[u8]>::to_vec));
    }

    /// That part of the next bytes of the stream which was not printed. Holds back what is not a whole line.
    pub fn beyond(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.is_empty() {
            return bytes.to_vec();
        }
        self.begun.extend_from_slice(bytes);
        let whole = self.begun.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let rest = self.begun.split_off(whole);
        let come = std::mem::replace(&mut self.begun, rest);
        lines(&come).filter(|line| self.is_new(line)).flatten().copied().collect()
    }

    /// What was held back, at the stream's end.
    pub fn last(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.begun)
    }

    fn is_new(&mut self, line: &[u8]) -> bool {
        if let Some(at) = self.left.iter().position(|said| said == line) {
            self.left.swap_remove(at);
            return false;
        }
        // Of a crate that has another text now: the build heard of the first.
        !(is_metadata(line) && lines(&self.text).any(is_metadata))
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n')
}

/// rustc's word that metadata is in place (rustc book, "JSON Output", "Artifact notifications").
fn is_metadata(line: &[u8]) -> bool {
    let line = line.trim_ascii_end();
    line.starts_with(b"{\"$message_type\":\"artifact\",") && line.ends_with(b",\"emit\":\"metadata\"}")
}
