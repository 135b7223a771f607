//! The store that many nodes share. Everything that must be atomic is a script beside this file.

pub mod codec;
mod read;
mod steps;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Pipeline, RedisError, Script};
use thiserror::Error;
use tracing::warn;

use super::change::{Entry, Seq, SessionId, StoredSession};
use super::keys::{Keys, node_name, shard};
use super::{Claim, Claimed, StoreError, scripts};
use crate::access::DeviceRecord;
use crate::settings::RedisSettings;

pub use steps::{Messages, Outcome, Owed, Sender, Steps, Taken};

/// How long Redis may take to accept a connection, and to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);
/// A node is dead when it has not renewed its lease for this long.
pub const LEASE: Duration = Duration::from_secs(8);

/// The connection to Redis that everything of this node shares; replaced when it breaks.
#[derive(Debug)]
pub struct Link {
    client: Client,
    current: Mutex<Option<MultiplexedConnection>>,
    there: AtomicBool,
    pub keys: Keys,
    place: String,
}

/// Why a node does not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("cannot reach {place}: {source}")]
    Unreachable { place: String, source: RedisError },
    #[error(
        "{place} may throw keys away (maxmemory-policy {policy}), and with them sessions, queues and retained messages: \
         set `maxmemory-policy noeviction` there"
    )]
    Evicts { place: String, policy: String },
}

impl Link {
    pub fn new(settings: &RedisSettings) -> Result<Self, StartError> {
        let place = settings.place();
        let client = Client::open(settings.info.clone());
        let client = client.map_err(|source| StartError::Unreachable { place: place.clone(), source })?;
        let keys = Keys::new(&settings.prefix);
        Ok(Self { client, current: Mutex::new(None), there: AtomicBool::new(false), keys, place })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn place(&self) -> &str {
        &self.place
    }

    pub fn is_there(&self) -> bool {
        self.there.load(Ordering::Acquire)
    }

    /// The connection, if there is one. It breaks by itself; who notices calls [`Self::lose`].
    pub fn get(&self) -> Result<MultiplexedConnection, StoreError> {
        let current = self.current.lock().clone();
        current.filter(|_| self.is_there()).ok_or_else(|| StoreError::Away("reconnecting".to_owned()))
    }

    pub fn lose(&self) {
        self.there.store(false, Ordering::Release);
        *self.current.lock() = None;
    }

    /// Connects and loads the scripts, without letting others use the connection yet.
    pub async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let connecting = self.client.get_multiplexed_async_connection_with_config(&config);
        // The timeout of the library covers the socket, not its first questions.
        let connected = tokio::time::timeout(CONNECT_TIMEOUT + RESPONSE_TIMEOUT, connecting).await;
        let mut connection = connected
            .map_err(|_elapsed| RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut)))??;
        let mut load = redis::pipe();
        for code in scripts::ALL {
            load.cmd("SCRIPT").arg("LOAD").arg(code).ignore();
        }
        load.query_async::<()>(&mut connection).await?;
        Ok(connection)
    }

    /// From now on the connection is everybody's.
    pub fn use_now(&self, connection: MultiplexedConnection) {
        *self.current.lock() = Some(connection);
        self.there.store(true, Ordering::Release);
    }

    /// What must hold of a Redis that keeps state for us.
    pub async fn check(&self, connection: &mut MultiplexedConnection) -> Result<(), StartError> {
        let asked: Result<Vec<String>, RedisError> =
            redis::cmd("CONFIG").arg("GET").arg("maxmemory-policy").query_async(connection).await;
        match asked {
            Ok(answer) => match answer.get(1) {
                Some(policy) if policy != "noeviction" => {
                    Err(StartError::Evicts { place: self.place.clone(), policy: policy.clone() })
                }
                _ => Ok(()),
            },
            Err(error) if error.is_io_error() || error.is_timeout() => {
                Err(StartError::Unreachable { place: self.place.clone(), source: error })
            }
            Err(error) => {
                warn!(
                    redis = self.place, %error,
                    "cannot ask for maxmemory-policy: make sure it is `noeviction`, or sessions, queues and retained messages may vanish"
                );
                Ok(())
            }
        }
    }
}

/// The shared store, as connections use it.
#[derive(Debug)]
pub struct RedisStore {
    link: Arc<Link>,
    node: u64,
}

impl RedisStore {
    pub fn new(link: Arc<Link>, node: u64) -> Self {
        Self { link, node }
    }

    pub(super) fn is_there(&self) -> bool {
        self.link.is_there()
    }

    pub(super) async fn device(&self, id: &str) -> Result<Option<DeviceRecord>, StoreError> {
        let mut connection = self.link.get()?;
        let mut ask = redis::cmd("HMGET");
        ask.arg(self.link.keys.device(id)).arg("secret").arg("disabled");
        let (secret, disabled): (Option<String>, Option<String>) =
            ask.query_async(&mut connection).await.map_err(told)?;
        let disabled = disabled.is_some_and(|flag| flag == "1");
        Ok(secret.map(|secret| DeviceRecord { secret, disabled }))
    }

    /// Makes this node the owner of a client id and of its session. What is stored of a session that goes on is read after
    /// that: whatever comes to its queue from now on, this node is told of.
    pub(super) async fn claim(&self, claim: &Claim<'_>) -> Result<Claimed, StoreError> {
        let mut connection = self.link.get()?;
        let claimed = match self.ask(claim, &scripts::CLAIM, false, &mut connection).await {
            Err(error) if error.code() == Some("OOM") => {
                self.ask(claim, &scripts::RECLAIM, true, &mut connection).await
            }
            claimed => claimed,
        };
        let (epoch, session, resumed, owes, sent) = claimed.map_err(told)?;
        let session: Option<SessionId> = session.parse().ok();
        let mut stored = match session.filter(|_| resumed) {
            Some(session) => self.stored(session).await?,
            None => None,
        };
        if let Some(stored) = &mut stored {
            stored.sent = sent.parse().ok();
        }
        Ok(Claimed { epoch, session, stored, owes })
    }

    async fn ask(
        &self,
        claim: &Claim<'_>,
        script: &Script,
        is_full: bool,
        connection: &mut MultiplexedConnection,
    ) -> Result<(u64, String, bool, bool, String), RedisError> {
        let keys = &self.link.keys;
        script
            .arg(keys.prefix())
            .arg(node_name(self.node))
            .arg(keys.client(claim.client_id))
            .arg(claim.client_id)
            .arg(shard(claim.client_id))
            .arg(codec::write_will(claim.will))
            .arg(claim.expiry)
            .arg(u8::from(claim.clean_start))
            .arg(claim.instead_of.map(|epoch| epoch.to_string()).unwrap_or_default())
            .arg(u8::from(is_full))
            .invoke_async(connection)
            .await
    }

    /// All that is stored of a session; `None`: there is none with this number.
    pub async fn stored(&self, session: SessionId) -> Result<Option<StoredSession>, StoreError> {
        let mut connection = self.link.get()?;
        read::session(&mut connection, &self.link.keys, session).await.map_err(told)
    }
}

/// Adds to a pipeline that this is what is retained for a topic now, as [`codec::write_retained`] writes it; empty: nothing.
pub fn retain(pipeline: &mut Pipeline, keys: &Keys, topic: &str, stored: &[u8]) {
    let names = [keys.retained(), keys.retained_log(), keys.retained_version()];
    scripts::add(pipeline, &scripts::RETAIN, &names, &[topic.as_bytes(), stored]);
}

/// What comes to queues while their clients are here and that nobody told of: of each session, what has a place from the
/// given one on, in order, and the place that is given next.
pub async fn read_on(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    wanted: &[(SessionId, Seq)],
) -> Result<Vec<Option<(Vec<Entry>, Seq)>>, RedisError> {
    read::queues(connection, keys, wanted).await
}

fn told(error: RedisError) -> StoreError {
    if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() {
        StoreError::Away(error.to_string())
    } else {
        StoreError::Refused(error.to_string())
    }
}
