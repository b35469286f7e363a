//! What an action says of itself before its end. A build with many crates goes on when a crate's metadata is there, long
//! before its code is; so what is ready then is passed on.

use tokio::sync::mpsc::UnboundedSender;

/// Listens to stderr for rustc's word that a crate's metadata is in place (`--json=artifacts`; rustc book, "JSON Output",
/// "Artifact notifications").
#[derive(Debug)]
pub struct Listener {
    /// Gets what was printed so far, up to the word.
    heard: UnboundedSender<Vec<u8>>,
    /// Bytes that were looked at: whole lines.
    looked: usize,
    spoken: bool,
}

impl Listener {
    pub fn new(heard: UnboundedSender<Vec<u8>>) -> Listener {
        Listener { heard, looked: 0, spoken: false }
    }

    /// Takes all that was printed so far.
    pub fn hear(&mut self, stderr: &[u8]) {
        while !self.spoken
            && let Some(rest) = stderr.get(self.looked..)
            && let Some(end) = rest.iter().position(|byte| *byte == b'\n')
        {
            self.looked += end + 1;
            if is_metadata(&rest[..end]) {
                self.spoken = true;
                // Nobody listens any more: then nobody waits.
                let _ = self.heard.send(stderr[..self.looked].to_vec());
            }
        }
    }
}

fn is_metadata(line: &[u8]) -> bool {
    line.starts_with(b"{\"$message_type\":\"artifact\",") && line.ends_with(b",\"emit\":\"metadata\"}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_heard_once_and_whole() {
        let (heard, mut words) = tokio::sync::mpsc::unbounded_channel();
        let mut listener = Listener::new(heard);
        let first =
            b"{\"$message_type\":\"artifact\",\"artifact\":\"/t/x.d\",\"emit\":\"dep-info\"}\n".to_vec();
        let word = b"{\"$message_type\":\"artifact\",\"artifact\":\"/t/libx.rmeta\",\"emit\":\"metadata\"}\n";
        let said = [&first[..], word].concat();
        for end in 0..said.len() {
            listener.hear(&said[..end]);
        }
        assert!(words.try_recv().is_err());
        listener.hear(&[&said[..], b"{}"].concat());
        assert_eq!(words.try_recv().unwrap(), said);
        listener.hear(&[&said[..], word].concat());
        assert!(words.try_recv().is_err());
    }
}
