//! What is kept outside of a connection: device records and who owns which client id. One seam, two stores; the same
//! tests run on both.

pub mod change;
pub mod disk;
pub mod keys;
mod memory;
mod redis;
pub(crate) mod scripts;

use change::Change;
use nsd_wire::ReasonCode;
use thiserror::Error;

use crate::access::DeviceRecord;
use crate::message::Will;

pub use self::redis::{LEASE, Link, RedisStore, StartError};
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
    pub async fn claim(&self, client_id: &str, will: Option<&Will>) -> Result<u64, StoreError> {
        match self {
            Self::Memory(store) => Ok(store.claim(client_id)),
            Self::Redis(store) => store.claim(client_id, will).await,
        }
    }

    /// Gives a client id back, with its will, unless somebody else has claimed it since.
    pub async fn release(&self, client_id: &str, epoch: u64) -> Result<bool, StoreError> {
        match self {
            Self::Memory(store) => Ok(store.release(client_id, epoch)),
            Self::Redis(store) => store.release(client_id, epoch).await,
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
