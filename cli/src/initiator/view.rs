//! Whether a caller sees the file system that we see. A build may run compilers in a mount namespace or a chroot of its
//! own: what we would hash by their paths is then something else.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Mount namespace and root directory of a process, as (device, inode) each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View([(u64, u64); 2]);

impl View {
    /// This process's.
    pub fn own() -> io::Result<View> {
        View::under(Path::new("/proc/self"))
    }

    /// That of the process at the other end of a socket.
    pub fn of_peer(socket: impl AsFd) -> io::Result<View> {
        let peer = rustix::net::sockopt::socket_peercred(socket)?;
        View::under(&Path::new("/proc").join(peer.pid.as_raw_nonzero().to_string()))
    }

    fn under(process: &Path) -> io::Result<View> {
        let at = |name: &str| {
            let meta = std::fs::metadata(process.join(name))?;
            Ok::<_, io::Error>((meta.dev(), meta.ino()))
        };
        Ok(View([at("ns/mnt")?, at("root")?]))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn we_see_what_we_see() {
        let (here, _there) = UnixStream::pair().unwrap();
        assert_eq!(View::of_peer(&here).unwrap(), View::own().unwrap());
        assert!(View::under(Path::new("/proc/self/none")).is_err());
    }
}
