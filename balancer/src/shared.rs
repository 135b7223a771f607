//! What all sessions share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::Semaphore;

use crate::handover::succession::Succession;
use crate::moving::Moving;
use crate::registry::Registry;
use crate::workers::Workers;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) workers: Workers,
    /// See [`crate::limits::sessions`].
    pub(crate) sessions: Arc<Semaphore>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) moving: Arc<Moving>,
    pub(crate) succession: Arc<Succession>,
    pub(crate) access_log: AtomicBool,
    pub(crate) log_user_names: AtomicBool,
}
