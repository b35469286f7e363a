//! Why a lease could not be answered with a result: the helper's side of the pool protocol's `Fault`.

use dbuild_proto::{Digest, pool};

/// What went wrong, by who could do better.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Neither here nor at the coordinator: the client must upload.
    #[error("find {} input blobs", .0.len())]
    Missing(Vec<Digest>),
    /// No helper can run it.
    #[error("{0}")]
    Bad(String),
    /// Another helper might.
    #[error("{0}")]
    Infrastructure(String),
    #[error("end within {0} ms")]
    Timeout(u64),
    #[error("finish: the lease was cancelled")]
    Cancelled,
}

impl Trouble {
    /// For errors of this machine, with what was attempted.
    pub fn here(attempt: &str, error: impl std::fmt::Display) -> Trouble {
        Trouble::Infrastructure(format!("{attempt}: {error}"))
    }

    /// As it is told to the coordinator.
    pub fn to_fault(&self) -> pool::Fault {
        use pool::fault::Kind;
        let (kind, missing) = match self {
            Trouble::Missing(digests) => {
                (Kind::MissingInputs, digests.iter().map(|digest| digest.to_string()).collect())
            }
            Trouble::Bad(_) => (Kind::BadAction, Vec::new()),
            Trouble::Infrastructure(what) => {
                tracing::warn!("an action was given back: failed to {what}");
                (Kind::Infrastructure, Vec::new())
            }
            Trouble::Timeout(_) => (Kind::Timeout, Vec::new()),
            Trouble::Cancelled => (Kind::Cancelled, Vec::new()),
        };
        pool::Fault { kind: kind.into(), message: format!("failed to {self}"), missing }
    }
}

impl From<dbuild_cache::CacheError> for Trouble {
    fn from(error: dbuild_cache::CacheError) -> Self {
        Trouble::Infrastructure(error.to_string())
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Trouble::Infrastructure(error.to_string())
    }
}

/// Runs blocking work on the runtime's threads for it.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Trouble> + Send + 'static,
) -> Result<T, Trouble> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Trouble::here("do blocking work", error)),
    }
}
