//! What was printed before the end of a call, so that nothing is printed twice: cargo ends when it hears the same word of
//! rustc's again.

/// Text that a stream begins with, and how much of it has come.
#[derive(Clone, Debug, Default)]
pub struct Said {
    text: Vec<u8>,
    come: usize,
}

impl Said {
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// More was printed; what comes begins anew.
    pub fn add(&mut self, text: &[u8]) {
        if let Some(new) = text.get(self.text.len()..) {
            self.text.extend_from_slice(new);
        }
        self.come = 0;
    }

    /// That part of the next bytes of the stream which was not printed.
    pub fn beyond<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let expected = self.text.get(self.come..).unwrap_or_default();
        let same = expected.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        // Where it differs it goes on differing: all else is new.
        self.come = if same < bytes.len() { self.text.len() } else { self.come + same };
        bytes.get(same..).unwrap_or_default()
    }
}
