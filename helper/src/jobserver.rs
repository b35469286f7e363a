//! How many threads an action may use: a compiler that uses many (rustc, while it makes code) takes a token for each but the
//! first from its jobserver (GNU make's manual, "POSIX Jobserver Interaction"). Without one rustc takes it that the whole
//! machine is its own.
//!
//! Each action has a pipe of its own, so that none can take or spoil another's tokens. The processors are shared out anew
//! whenever an action begins or ends; a token that is in use then is taken back at a later change.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::num::NonZero;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use dbuild_proto::JOBSERVER_FDS;
use rustix::fs::{Gid, Mode, OFlags, Uid};

/// What a token looks like: nobody reads it.
const TOKEN: [u8; 1] = *b"+";

/// What the variable says that tells of a jobserver; both names, since older clients know the first only.
pub fn flags() -> String {
    let [read, write] = JOBSERVER_FDS;
    format!("-j --jobserver-fds={read},{write} --jobserver-auth={read},{write}")
}

/// The jobservers of the actions that run.
#[derive(Debug)]
pub struct Jobservers {
    processors: usize,
    seats: Mutex<Seats>,
}

#[derive(Debug, Default)]
struct Seats {
    last: u64,
    /// By age. An action without a jobserver has its one thread.
    taken: BTreeMap<u64, Option<Pot>>,
}

/// The tokens of one action, as the helper reaches them: its ends of the pipe do not block.
#[derive(Debug)]
struct Pot {
    reader: File,
    writer: File,
    /// Tokens that were put in and not taken back.
    given: usize,
}

/// An action's part in the processors; held while it runs.
#[derive(Debug)]
pub struct Seat {
    jobservers: Arc<Jobservers>,
    id: u64,
}

impl Jobservers {
    /// For a helper of so many slots: it uses no more processors than there are.
    pub fn new(slots: u32) -> Arc<Jobservers> {
        let there = std::thread::available_parallelism().map_or(1, NonZero::get);
        Arc::new(Jobservers { processors: there.min(slots.max(1) as usize), seats: Mutex::default() })
    }

    /// An action begins that uses one thread.
    pub fn seat(self: &Arc<Self>) -> Seat {
        self.sit_down(None)
    }

    /// An action begins that wants a jobserver: also the ends of its pipe, in the order of [`JOBSERVER_FDS`]. `owner` is the
    /// user (and group) that the action runs under, where that is another.
    pub fn seat_with_pot(self: &Arc<Self>, owner: Option<u32>) -> io::Result<(Seat, [OwnedFd; 2])> {
        let (pot, ends) = Pot::new(owner)?;
        Ok((self.sit_down(Some(pot)), ends))
    }

    fn sit_down(self: &Arc<Self>, pot: Option<Pot>) -> Seat {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.last += 1;
        let id = seats.last;
        seats.taken.insert(id, pot);
        seats.share(self.processors);
        Seat { jobservers: Arc::clone(self), id }
    }
}

impl Seats {
    /// Shares the processors out; what is over goes to the oldest.
    fn share(&mut self, processors: usize) {
        let (each, mut over) = (processors / self.taken.len().max(1), processors % self.taken.len().max(1));
        for pot in self.taken.values_mut() {
            let share = each + usize::from(over > 0);
            over = over.saturating_sub(1);
            if let Some(pot) = pot {
                // The first thread needs no token.
                pot.fill(share.saturating_sub(1));
            }
        }
    }
}

impl Pot {
    fn new(owner: Option<u32>) -> io::Result<(Pot, [OwnedFd; 2])> {
        let (reader, writer) = io::pipe()?;
        let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
        if let Some(id) = owner {
            // Clients open the ends anew, by /dev/fd.
            rustix::fs::fchown(&reader, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))?;
        }
        let again = |end: &OwnedFd, access| -> io::Result<File> {
            let path = format!("/proc/self/fd/{}", end.as_raw_fd());
            Ok(rustix::fs::open(path, access | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?.into())
        };
        let pot = Pot {
            reader: again(&reader, OFlags::RDONLY)?,
            writer: again(&writer, OFlags::WRONLY)?,
            given: 0,
        };
        Ok((pot, [reader, writer]))
    }

    /// Puts tokens in, or takes out what is not in use. The action may do with its pipe what it likes: nothing rests on it.
    fn fill(&mut self, tokens: usize) {
        while self.given < tokens && self.writer.write(&TOKEN).is_ok_and(|bytes| bytes == 1) {
            self.given += 1;
        }
        while self.given > tokens && self.reader.read(&mut [0]).is_ok_and(|bytes| bytes == 1) {
            self.given -= 1;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.jobservers.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.taken.remove(&self.id);
        seats.share(self.jobservers.processors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(ends: &[OwnedFd; 2]) -> usize {
        let mut reader = File::from(ends[0].try_clone().unwrap());
        let waiting = || rustix::io::ioctl_fionread(&ends[0]).unwrap();
        let mut taken = 0;
        while waiting() > 0 {
            taken += reader.read(&mut [0]).unwrap();
        }
        taken
    }

    fn give(ends: &[OwnedFd; 2], tokens: usize) {
        let mut writer = File::from(ends[1].try_clone().unwrap());
        writer.write_all(&vec![TOKEN[0]; tokens]).unwrap();
    }

    fn waiting(ends: &[OwnedFd; 2]) -> u64 {
        rustix::io::ioctl_fionread(&ends[0]).unwrap()
    }

    #[test]
    fn processors_are_shared_by_those_that_run() {
        let all = Arc::new(Jobservers { processors: 8, seats: Mutex::default() });
        let (first, ends) = all.seat_with_pot(None).unwrap();
        assert_eq!(waiting(&ends), 7);
        let plain = all.seat();
        assert_eq!(waiting(&ends), 3);
        let (third, others) = all.seat_with_pot(None).unwrap();
        assert_eq!((waiting(&ends), waiting(&others)), (2, 1));
        drop(plain);
        assert_eq!((waiting(&ends), waiting(&others)), (3, 3));
        drop(first);
        assert_eq!(waiting(&others), 7);
        drop(third);
    }

    #[test]
    fn tokens_in_use_are_taken_back_later() {
        let all = Arc::new(Jobservers { processors: 4, seats: Mutex::default() });
        let (_first, ends) = all.seat_with_pot(None).unwrap();
        assert_eq!(take(&ends), 3);
        let second = all.seat();
        give(&ends, 2);
        let third = all.seat();
        assert_eq!(waiting(&ends), 0);
        give(&ends, 1);
        drop((second, third));
        assert_eq!(waiting(&ends), 3);
    }

    #[test]
    fn an_action_that_spoils_its_pipe_spoils_nothing_else() {
        let all = Arc::new(Jobservers { processors: 4, seats: Mutex::default() });
        let (_first, ends) = all.seat_with_pot(None).unwrap();
        let (_second, others) = all.seat_with_pot(None).unwrap();
        give(&ends, 60_000);
        drop(all.seat());
        take(&ends);
        drop(all.seat());
        assert_eq!(waiting(&others), 1);
    }
}
