//! A TCP proxy with faults: it goes quiet, breaks connections, closes idle ones, or is slow. It stands for networks that
//! a test without root cannot make.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a quiet direction looks whether something has changed.
const LOOK: Duration = Duration::from_millis(50);

/// What the line is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Line {
    /// A connection over which nothing went for so long is closed.
    pub idle: Option<Duration>,
    /// Each piece of data comes so much later.
    pub delay: Duration,
    /// Bytes a second in each direction of each connection; 0: as many as there are.
    pub rate: u64,
}

/// Listens on loopback and passes on to one address until dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    line: Mutex<Line>,
    /// Nothing is passed on and nothing is closed: both sides are half open.
    cut: AtomicBool,
    ended: AtomicBool,
    connections: Mutex<Vec<[TcpStream; 2]>>,
    /// How many it closed for being idle.
    closed: Mutex<u32>,
}

impl Proxy {
    pub fn start(target: &str, line: Line) -> Proxy {
        let target: SocketAddr = target.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { line: Mutex::new(line), ..Shared::default() });
        let accepting = std::thread::spawn({
            let shared = shared.clone();
            move || shared.accept(&listener, target)
        });
        Proxy { address, shared, accepting: Some(accepting) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set(&self, line: Line) {
        *self.shared.line.lock().unwrap() = line;
    }

    /// From now on nothing is passed on; connections stay open, and new ones are taken.
    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::SeqCst);
    }

    /// Passes on again, what came meanwhile first.
    pub fn mend(&self) {
        self.shared.cut.store(false, Ordering::SeqCst);
    }

    /// Breaks every connection that is open now.
    pub fn break_all(&self) {
        for pair in self.shared.connections.lock().unwrap().drain(..) {
            close(&pair);
        }
    }

    /// How many connections it has closed for being idle.
    pub fn closed_idle(&self) -> u32 {
        *self.shared.closed.lock().unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.break_all();
        // Wakes the one that accepts.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn close(pair: &[TcpStream; 2]) {
    for stream in pair {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

impl Shared {
    fn ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    fn accept(self: &Arc<Shared>, listener: &TcpListener, target: SocketAddr) {
        for stream in listener.incoming() {
            if self.ended() {
                return;
            }
            // A target that is not there: the client's connection is closed.
            let (Ok(near), Ok(far)) = (stream, TcpStream::connect(target)) else { continue };
            let pair = || [near.try_clone().unwrap(), far.try_clone().unwrap()];
            self.connections.lock().unwrap().push(pair());
            let last = Arc::new(Mutex::new(Instant::now()));
            for [from, to] in [pair(), [far.try_clone().unwrap(), near.try_clone().unwrap()]] {
                let (shared, last) = (self.clone(), last.clone());
                std::thread::spawn(move || shared.pass(from, to, &last));
            }
        }
    }

    /// One direction of one connection, to its end.
    fn pass(&self, mut from: TcpStream, mut to: TcpStream, last: &Mutex<Instant>) {
        from.set_read_timeout(Some(LOOK)).unwrap();
        let mut bytes = vec![0; 16 << 10];
        while !self.ended() {
            let line = *self.line.lock().unwrap();
            let came = match from.read(&mut bytes) {
                Ok(0) => break,
                Ok(came) => came,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if line.idle.is_some_and(|idle| last.lock().unwrap().elapsed() > idle) {
                        *self.closed.lock().unwrap() += 1;
                        break;
                    }
                    continue;
                }
                Err(_) => break,
            };
            while self.cut.load(Ordering::SeqCst) && !self.ended() {
                std::thread::sleep(LOOK);
            }
            *last.lock().unwrap() = Instant::now();
            let takes = (came as u64 * 1_000_000)
                .checked_div(line.rate)
                .map_or(Duration::ZERO, Duration::from_micros);
            std::thread::sleep(line.delay + takes);
            if to.write_all(&bytes[..came]).is_err() {
                break;
            }
        }
        close(&[from, to]);
    }
}
