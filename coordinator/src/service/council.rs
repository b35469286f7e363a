//! Several coordinators of one pool: what the state's database says of helpers is passed to the desk, and one of them leads. The
//! others stand by: they answer for their store, and send whoever brings work to the one that leads.

use std::sync::Arc;
use std::time::Duration;

use dbuild_proto::pool::{HelperRecord, Mood};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::desk::Desk;
use super::pool::{check_name, fit};
use crate::Membership;
use crate::pool::Event;

/// How often the database is asked, and the lead said again.
const EVERY: Duration = Duration::from_secs(1);

/// What the database said last.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Every helper whose record is good, by name.
    pub helpers: Arc<Vec<(String, HelperRecord)>>,
    /// Who leads.
    pub leader: String,
}

/// The others, as far as there are any.
#[derive(Clone)]
pub struct Council(Option<Seat>);

#[derive(Clone)]
struct Seat {
    own: String,
    known: watch::Receiver<Known>,
}

impl Council {
    /// Takes a seat, until `stop`; without a membership this coordinator is the only one.
    pub fn sit(membership: Option<Membership>, desk: Desk, stop: CancellationToken) -> Council {
        let Some(member) = membership else { return Council(None) };
        let (tell, known) = watch::channel(Known::default());
        let own = member.url.clone();
        tokio::spawn(async move {
            stop.run_until_cancelled(attend(&member, &desk, &tell)).await;
            // Who stops says so; where that fails, the lead ends by itself.
            if let Err(error) = member.registry.resign(&member.url).await {
                tracing::info!("the lead was not given back: {error}");
            }
        });
        Council(Some(Seat { own, known }))
    }

    /// Refuses work while another coordinator leads.
    pub fn admit(&self) -> Result<(), Status> {
        let Some(seat) = &self.0 else { return Ok(()) };
        let leader = seat.known.borrow().leader.clone();
        if leader == seat.own {
            return Ok(());
        }
        let who = if leader.is_empty() {
            "it is not known yet who leads".to_owned()
        } else {
            format!("{leader} leads")
        };
        Err(Status::unavailable(format!("this coordinator stands by: {who}")))
    }

    /// The helpers that the database knows.
    pub fn helpers(&self) -> Arc<Vec<(String, HelperRecord)>> {
        self.0.as_ref().map(|seat| seat.known.borrow().helpers.clone()).unwrap_or_default()
    }
}

/// Asks and tells, for ever. What is known stays when the database does not answer: who led leads, for nobody can take it
/// from him.
async fn attend(member: &Membership, desk: &Desk, tell: &watch::Sender<Known>) {
    let mut silent = false;
    loop {
        let asked = async {
            // Who leads must be known even where nothing else can be read.
            let leader = member.registry.lead(&member.url).await?;
            if tell.borrow().leader != leader {
                tracing::info!(leader, "the pool has another leader");
            }
            tell.send_modify(|known| known.leader = leader);
            member.registry.helpers().await
        };
        match asked.await {
            Ok(mut helpers) => {
                if std::mem::take(&mut silent) {
                    tracing::info!("the state's database answers again");
                }
                helpers.retain(|(name, _)| check_name(name.clone()).is_ok());
                for (name, record) in &helpers {
                    let state = record.state.clone().unwrap_or_default();
                    let up = state.mood() != Mood::Down;
                    let event = Event::Said { name: name.as_str().into(), report: fit(state), up };
                    desk.tell(event).await;
                }
                tell.send_modify(|known| known.helpers = Arc::new(helpers));
            }
            Err(error) if !silent => {
                silent = true;
                tracing::warn!("failed to {error}; trying again");
            }
            Err(_) => {}
        }
        tokio::time::sleep(EVERY).await;
    }
}
