//! Where one server is: what its settings say, and for a name what was found last.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use crate::settings::Address;

#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) address: Address,
    now: watch::Sender<Found>,
    /// Wakes who looks up the name: look now.
    pub(crate) look_up: Notify,
    /// The last attempt to connect failed.
    unreachable: AtomicBool,
}

#[derive(Debug, Clone, Default)]
struct Found {
    address: Option<SocketAddr>,
    /// Why the last look-up found nothing.
    problem: Option<Arc<str>>,
}

impl Place {
    pub(super) fn new(address: &Address) -> Self {
        let known = if let Address::Fixed(address) = address { Some(*address) } else { None };
        Self {
            address: address.clone(),
            now: watch::Sender::new(Found { address: known, problem: None }),
            look_up: Notify::new(),
            unreachable: AtomicBool::new(false),
        }
    }

    /// `None`: its name was not found yet.
    pub(crate) fn now(&self) -> Option<SocketAddr> {
        self.now.borrow().address
    }

    pub(crate) fn reachable_at(&self) -> io::Result<SocketAddr> {
        self.now().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "its name is not found"))
    }

    /// Waits until its name has been looked up once; or why there is no address.
    pub(crate) async fn found_at(&self, deadline: Instant) -> Result<SocketAddr, Arc<str>> {
        let mut now = self.now.subscribe();
        let looked_up = now.wait_for(|found| found.address.is_some() || found.problem.is_some());
        match timeout_at(deadline, looked_up).await {
            Ok(Ok(found)) => found.address.ok_or_else(|| found.problem.clone().unwrap_or_default()),
            Ok(Err(_)) | Err(_) => Err("its name was not looked up in time".into()),
        }
    }

    /// It could not be connected to: perhaps it is elsewhere by now.
    pub(super) fn failed(&self) {
        self.unreachable.store(true, Relaxed);
        self.look_up.notify_one();
    }

    /// Whether it could not be connected to since this was asked last.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.unreachable.swap(false, Relaxed)
    }

    /// What a look-up of its name has found; whether that is news.
    pub(super) fn found(&self, server: &str, found: Result<Option<SocketAddr>, String>) -> bool {
        let before = self.now.borrow().clone();
        let shown = |address: Option<SocketAddr>| address.map(tracing::field::display);
        match found {
            Ok(address) if address == before.address && before.problem.is_none() => false,
            Ok(address) => {
                let (from, to) = (shown(before.address), shown(address));
                info!(server, address = %self.address, from, to, "address found");
                self.now.send_replace(Found { address, problem: None });
                true
            }
            Err(problem) => {
                if before.problem.as_deref() != Some(&problem) {
                    let still = shown(before.address);
                    warn!(server, address = %self.address, problem, still, "name not found");
                }
                self.now.send_replace(Found { address: before.address, problem: Some(problem.into()) });
                false
            }
        }
    }

    /// Where a name is now.
    pub(super) fn resolved(&self) -> Option<SocketAddr> {
        if let Address::Named { .. } = self.address { self.now() } else { None }
    }

    pub(super) fn problem(&self) -> Option<String> {
        self.now.borrow().problem.as_deref().map(str::to_owned)
    }
}
