//! The threads that shims meet first. One thread reads a call, plans it and asks the near cache, so that a hit is
//! answered without any hand-over; what needs more goes on in the runtime.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dbuild_shims::frame::{FromShim, ToShim};
use dbuild_shims::view;
use tokio::runtime::Handle;

use super::connection::First;
use super::context::Context;
use super::invocation::{self, Attempt, Rest};
use super::{Busy, Initiator};
use crate::config::processors;

/// There are never more threads than this. One that waits for a disk, or for a compiler that is met for the first time,
/// must not keep others from being served: when all are busy, one more is started.
const MAX_THREADS: usize = 64;

/// Serves shims from now on, until the process ends.
pub fn open(initiator: &Arc<Initiator>, listener: UnixListener) -> io::Result<()> {
    let front = Arc::new(Front {
        initiator: initiator.clone(),
        listener,
        runtime: Handle::current(),
        threads: AtomicUsize::new(0),
        waiting: AtomicUsize::new(0),
    });
    (0..processors()).try_for_each(|_| start(&front))
}

struct Front {
    initiator: Arc<Initiator>,
    listener: UnixListener,
    runtime: Handle,
    threads: AtomicUsize,
    /// Those of them that wait for a shim.
    waiting: AtomicUsize,
}

fn start(front: &Arc<Front>) -> io::Result<()> {
    let front = front.clone();
    front.threads.fetch_add(1, Ordering::Relaxed);
    front.waiting.fetch_add(1, Ordering::Relaxed);
    let serve = move || {
        loop {
            serve_next(&front);
            front.waiting.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::Builder::new().name("front".to_owned()).spawn(serve).map(drop)
}

fn serve_next(front: &Arc<Front>) {
    let accepted = front.listener.accept();
    let others = front.waiting.fetch_sub(1, Ordering::Relaxed) - 1;
    if others == 0
        && front.threads.load(Ordering::Relaxed) < MAX_THREADS
        && let Err(error) = start(front)
    {
        front.threads.fetch_sub(1, Ordering::Relaxed);
        front.waiting.fetch_sub(1, Ordering::Relaxed);
        tracing::debug!(%error, "no more threads");
    }
    let Front { initiator, runtime, .. } = &**front;
    let stream = match accepted {
        Ok((stream, _)) => stream,
        Err(error) => {
            // Out of descriptors, most likely: the shims wait in the backlog, or fall back.
            tracing::warn!(%error, "failed to accept a connection");
            std::thread::sleep(Duration::from_millis(50));
            return;
        }
    };
    let busy = Busy::begin(initiator);
    // A bug of ours must not cost the build; the shim goes on alone when the connection breaks.
    match catch_unwind(AssertUnwindSafe(|| serve(initiator, stream, runtime, busy))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection ended early"),
        Err(_) => tracing::error!("a call ended in a panic"),
    }
}

fn serve(initiator: &Arc<Initiator>, stream: UnixStream, runtime: &Handle, busy: Busy) -> io::Result<()> {
    let mut connection = First::new(stream)?;
    let FromShim::Invoke(invoke) = connection.receive()? else { return Ok(()) };
    let context = Arc::new(Context::new(initiator.clone(), invoke));
    // What we would hash by the shim's paths must be what its compiler would read.
    let attempt = match view::same(context.invoke.view, initiator.view) {
        true => invocation::attempt(&context)?,
        false => Attempt::GoesOn(Rest::Local("another view of the file system".to_owned(), true)),
    };
    match attempt {
        Attempt::Done(done) => connection.send(&ToShim::Done(done)),
        Attempt::GoesOn(rest) => {
            let _runtime = runtime.enter();
            let connection = connection.go_on()?;
            tokio::spawn(async move {
                if let Err(error) = invocation::go_on(context, connection, rest).await {
                    tracing::debug!(%error, "a connection ended early");
                }
                drop(busy);
            });
            Ok(())
        }
    }
}
