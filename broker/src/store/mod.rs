//! What is kept outside of a connection: device records and who owns which client id. One seam, two stores; the same
//! tests run on both.

pub mod change;
pub mod disk;
pub mod keys;
mod memory;
pub mod redis;
pub(crate) mod scripts;

use change::{Change, SessionId, StoredSession};
use nsd_wire::ReasonCode;
use thiserror::Error;

use crate::access::DeviceRecord;
use crate::message::Will;

pub use self::redis::{LEASE, Link, Owed, RedisStore, StartError};
pub use disk::{CommitError, DiskStore, OpenError};
pub use memory::MemoryStore;

#[derive(Debug, Clone, Error)]
pub enum StoreError {
    #[error("the store cannot be reached: {0}")]
    Away(String),
    #[error("the store refused: {0}")]
    Refused(String),
}

impl CommitError {
    /// What those are told who wait for it.
    pub fn reason(&self) -> ReasonCode {
        match self {
            Self::Full { .. } => ReasonCode::QuotaExceeded,
            Self::Broken { .. } => ReasonCode::UnspecifiedError,
        }
    }
}

/// A client that wants to be the one of its id.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'c> {
    pub client_id: &'c str,
    pub will: Option<&'c Will>,
    /// Seconds that its session shall outlive the connection; 0: not at all.
    pub expiry: u32,
    pub clean_start: bool,
    /// An epoch that was given for this very CONNECT: this claim is made in its place.
    pub instead_of: Option<u64>,
}

/// What the owner of a client id has. A node's own store knows nothing but the epoch: its sessions are in the hub.
#[derive(Debug, Default)]
pub struct Claimed {
    /// Of everything that the owner writes from now on.
    pub epoch: u64,
    /// The session that outlives the connection.
    pub session: Option<SessionId>,
    /// What is stored of it, if it was there before.
    pub stored: Option<StoredSession>,
    /// The will of the connection before is due, and this node owes it: [`crate::bus::Bus::collect`].
    pub owes: bool,
}

/// Where changes are kept.
pub trait Keep: Send {
    /// All of them are safe when this returns, or none is.
    fn commit(&mut self, changes: &[Change]) -> Result<(), CommitError>;

    /// Nothing more comes: what would make the next start quick is done.
    fn close(self: Box<Self>) -> Result<(), CommitError>;
}

impl Keep for DiskStore {
    fn commit(&mut self, changes: &[Change]) -> Result<(), CommitError> {
        Self::commit(self, changes)
    }

    fn close(self: Box<Self>) -> Result<(), CommitError> {
        Self::close(*self)
    }
}

#[derive(Debug)]
pub enum Store {
    /// Of one node; what must outlive it is the journal's business.
    Memory(MemoryStore),
    Redis(RedisStore),
}

impl Store {
    pub async fn device(&self, id: &str) -> Result<Option<DeviceRecord>, StoreError> {
        match self {
            Self::Memory(store) => Ok(store.device(id)),
            Self::Redis(store) => store.device(id).await,
        }
    }

    /// A device of this node's own store.
    pub fn own_device(&self, id: &str) -> Option<DeviceRecord> {
        match self {
            Self::Memory(store) => store.device(id),
            Self::Redis(_) => None,
        }
    }

    /// A device that this node's own store holds.
    pub fn restore_device(&self, id: &str, record: DeviceRecord) {
        if let Self::Memory(store) = self {
            store.add_device(id, record);
        }
    }

    /// Makes this node the owner of a client id; the epoch is higher than any before. The node that owned it is told.
    pub async fn claim(&self, claim: &Claim<'_>) -> Result<Claimed, StoreError> {
        match self {
            Self::Memory(store) => Ok(Claimed { epoch: store.claim(), ..Claimed::default() }),
            Self::Redis(store) => store.claim(claim).await,
        }
    }

    /// Whether it answers now.
    pub fn is_there(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Redis(store) => store.is_there(),
        }
    }
}
