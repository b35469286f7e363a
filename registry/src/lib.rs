//! State by database: helpers' supervisors write what they have to offer into Redis or Valkey, coordinators read it there, and
//! of several coordinators one leads, whom helpers and clients find there, too.
//!
//! Keys, each of which expires by itself; a database number (`redis://HOST:PORT/NUMBER`) holds one pool:
//!
//! | key | value |
//! |---|---|
//! | `dbuild:helper:NAME` | a `HelperRecord` (`pool.proto`) |
//! | `dbuild:helpers` | the set of names; those without a record are taken out when it is read |
//! | `dbuild:leader` | the URL of the coordinator that leads |
//!
//! Nothing is stored that could not be said again a second later, so a database that was emptied does no harm.

mod follow;

use std::time::Duration;

use dbuild_proto::pool::HelperRecord;
use prost::Message;
use redis::aio::MultiplexedConnection;
use redis::{Client, FromRedisValue, IntoConnectionInfo, cmd};
use tokio::sync::Mutex;

pub use follow::Leader;

/// How long a record or a lead is good without being said again.
pub const TTL: Duration = Duration::from_secs(5);
/// How long the database may take for one answer, connecting included.
const PATIENCE: Duration = Duration::from_secs(2);
/// Names that are read, records at a time, and bytes of a record or of a URL.
const MAX_HELPERS: usize = 4096;
const MAX_PART: usize = 64;
const MAX_RECORD: usize = 64 * 1024;
const MAX_URL: usize = 1024;

const LEADER: &str = "dbuild:leader";
const HELPERS: &str = "dbuild:helpers";

/// Keep the lead, and give it back, in one step each: only who has it may.
const KEEP: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0";
const GIVE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

/// Why the database could not be used; fits "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("use {url:?} as the state's database: {reason}")]
    Url { url: String, reason: String },
    #[error("reach the state's database: {0}")]
    Redis(#[from] redis::RedisError),
    #[error("reach the state's database: it does not answer within {} s", PATIENCE.as_secs())]
    Silent,
    #[error("read the state's database: {0}")]
    Odd(&'static str),
}

pub type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// Whether a coordinator's address says that a database knows who it is.
pub fn is_registry(url: &str) -> bool {
    ["redis://", "valkey://"].iter().any(|scheme| url.starts_with(scheme))
}

fn is_coordinator(url: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme))
}

/// One pool's database. Connects when it is first asked, and again after an error.
pub struct Registry {
    client: Client,
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not its URL, which may hold a password.
        f.write_str("Registry")
    }
}

impl Registry {
    /// Reads `redis://[USER:PASSWORD@]HOST[:PORT][/NUMBER]`; connects to nothing yet.
    ///
    /// # Errors
    /// [`RegistryError::Url`].
    pub fn open(url: &str) -> Result<Registry> {
        let bad = |reason: &dyn std::fmt::Display| RegistryError::Url {
            url: without_password(url),
            reason: reason.to_string(),
        };
        let redis =
            url.strip_prefix("valkey://").map_or_else(|| url.to_owned(), |rest| format!("redis://{rest}"));
        let info = redis.into_connection_info().map_err(|error| bad(&error))?;
        let client = Client::open(info).map_err(|error| bad(&error))?;
        Ok(Registry { client, connection: Mutex::new(None) })
    }

    /// Writes down what a helper is and how it is, for [`TTL`].
    pub async fn publish(&self, name: &str, record: &HelperRecord) -> Result<()> {
        let (key, value) = (helper_key(name), record.encode_to_vec());
        let mut set = cmd("SET");
        set.arg(&key).arg(value).arg("PX").arg(TTL.as_millis() as u64);
        self.ask::<()>(&set).await?;
        let mut add = cmd("SADD");
        add.arg(HELPERS).arg(name);
        self.ask::<()>(&add).await
    }

    /// Takes a helper's record away.
    pub async fn forget(&self, name: &str) -> Result<()> {
        let mut delete = cmd("DEL");
        delete.arg(helper_key(name));
        self.ask::<()>(&delete).await
    }

    /// The records that are good, by name. What does not parse is passed over.
    pub async fn helpers(&self) -> Result<Vec<(String, HelperRecord)>> {
        let mut members = cmd("SRANDMEMBER");
        // At most so many, whoever wrote how many.
        members.arg(HELPERS).arg(MAX_HELPERS);
        let names: Vec<Vec<u8>> = self.ask(&members).await?;
        let names: Vec<String> = names.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect();
        let mut found = Vec::new();
        // In parts: nobody knows how large the records are.
        for part in names.chunks(MAX_PART) {
            self.read(part, &mut found).await?;
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    /// Adds the good ones of these helpers' records, and takes the names of those out that have none.
    async fn read(&self, names: &[String], found: &mut Vec<(String, HelperRecord)>) -> Result<()> {
        let mut get = cmd("MGET");
        names.iter().for_each(|name| {
            get.arg(helper_key(name));
        });
        let values: Vec<Option<Vec<u8>>> = self.ask(&get).await?;
        let mut gone = cmd("SREM");
        gone.arg(HELPERS);
        let mut any_gone = false;
        for (name, value) in names.iter().zip(values) {
            match value {
                None => {
                    gone.arg(name);
                    any_gone = true;
                }
                Some(bytes) if bytes.len() <= MAX_RECORD => {
                    let record = HelperRecord::decode(bytes.as_slice()).ok();
                    found.extend(record.map(|record| (name.clone(), record)));
                }
                Some(_) => {}
            }
        }
        if any_gone { self.ask::<()>(&gone).await } else { Ok(()) }
    }

    /// Takes the lead for [`TTL`] if nobody has it, or keeps it. Gives who leads now.
    pub async fn lead(&self, own: &str) -> Result<String> {
        let ttl = TTL.as_millis() as u64;
        let mut set = cmd("SET");
        set.arg(LEADER).arg(own).arg("NX").arg("PX").arg(ttl);
        let taken: Option<String> = self.ask(&set).await?;
        if taken.is_some() {
            return Ok(own.to_owned());
        }
        let mut keep = cmd("EVAL");
        keep.arg(KEEP).arg(1).arg(LEADER).arg(own).arg(ttl);
        self.ask::<()>(&keep).await?;
        // It may have expired meanwhile: then the next call takes it.
        Ok(self.leader().await?.unwrap_or_default())
    }

    /// Gives the lead back, so that nobody has to wait for its end.
    pub async fn resign(&self, own: &str) -> Result<()> {
        let mut give = cmd("EVAL");
        give.arg(GIVE).arg(1).arg(LEADER).arg(own);
        self.ask::<()>(&give).await
    }

    /// The URL of the coordinator that leads, if one does.
    pub async fn leader(&self) -> Result<Option<String>> {
        let mut get = cmd("GET");
        get.arg(LEADER);
        let leader: Option<String> = self.ask(&get).await?;
        match leader {
            Some(url) if url.len() > MAX_URL || url.contains(char::is_control) || !is_coordinator(&url) => {
                Err(RegistryError::Odd("what stands there as the leader is not a URL"))
            }
            leader => Ok(leader),
        }
    }

    async fn ask<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T> {
        let answer = tokio::time::timeout(PATIENCE, async {
            // One question at a time: they are few.
            let mut held = self.connection.lock().await;
            let mut connection = match held.take() {
                Some(connection) => connection,
                None => self.client.get_multiplexed_async_connection().await?,
            };
            let answer = command.query_async(&mut connection).await?;
            // After an error it is not put back.
            *held = Some(connection);
            Ok(answer)
        });
        answer.await.unwrap_or(Err(RegistryError::Silent))
    }
}

fn helper_key(name: &str) -> String {
    format!("dbuild:helper:{name}")
}

/// The address as it may be shown.
pub fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["redis://127.0.0.1", "redis://h:1/2", "valkey://h:6379", "redis://u:p@h:1/0"] {
            assert!(is_registry(good) && Registry::open(good).is_ok(), "{good}");
        }
        for bad in ["redis://", "redis://h:port", "redis://h/x"] {
            assert!(Registry::open(bad).is_err(), "{bad}");
        }
        assert!(!is_registry("http://h:1"));
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(without_password("redis://u:secret@h:1/0"), "redis://h:1/0");
        assert_eq!(without_password("redis://h:1"), "redis://h:1");
        let error = Registry::open("redis://u:secret@h:port").expect_err("a bad port");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
