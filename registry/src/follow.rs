//! Who leads, as it changes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::{Registry, Result};

/// How often the database is asked.
const EVERY: Duration = Duration::from_secs(1);

/// The coordinator that leads a pool, asked for once a second as long as this lives. While the database does not answer, the
/// last one that was known still counts: it leads, or it does not answer either.
#[derive(Debug)]
pub struct Leader {
    url: watch::Receiver<Known>,
    task: JoinHandle<()>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    asked: bool,
    url: Option<String>,
    /// Why the database could not be asked the last time.
    error: Option<String>,
}

impl Leader {
    /// Begins to ask; must be called in a runtime.
    ///
    /// # Errors
    /// [`crate::RegistryError::Url`].
    pub fn follow(url: &str) -> Result<Leader> {
        let registry = Arc::new(Registry::open(url)?);
        let (tell, url) = watch::channel(Known::default());
        let task = tokio::spawn(async move {
            loop {
                let answer = registry.leader().await;
                tell.send_modify(|known| {
                    known.asked = true;
                    match answer {
                        Ok(url) => (known.url, known.error) = (url, None),
                        Err(error) => known.error = Some(error.to_string()),
                    }
                });
                tokio::time::sleep(EVERY).await;
            }
        });
        Ok(Leader { url, task })
    }

    /// Who leads, if that is known without waiting.
    pub fn peek(&self) -> Option<String> {
        self.url.borrow().url.clone()
    }

    /// Who leads, as far as is known; why nobody is known to, as a fragment. Waits for the database's first answer.
    pub async fn get(&self) -> std::result::Result<String, String> {
        let mut url = self.url.clone();
        let known = match url.wait_for(|known| known.asked).await {
            Ok(known) => known.clone(),
            Err(_) => return Err("nobody asks who leads".to_owned()),
        };
        let why = || {
            known
                .error
                .map_or_else(|| "no coordinator leads there".to_owned(), |error| format!("failed to {error}"))
        };
        known.url.ok_or_else(why)
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.task.abort();
    }
}
