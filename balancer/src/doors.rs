//! Where a running process can be asked: its admin socket, and beside that the one for a process that takes over.

use std::io;
use std::path::Path;
use std::sync::Arc;

use nsd_edge::admin::{AdminBindError, AdminSocket};
use tracing::warn;

use crate::admin;
use crate::balancer::Balancer;
use crate::handover::channel::Door;
use crate::handover::{door_beside, give};

#[derive(Debug)]
pub(crate) struct Doors {
    admin: AdminSocket,
    /// Without it nobody can take over, and everything else goes on.
    take_over: Option<Door>,
}

impl Doors {
    /// In their place, unless somebody answers there.
    pub(crate) fn bind(admin_socket: &Path) -> Result<Self, AdminBindError> {
        let admin = AdminSocket::bind(admin_socket)?;
        let doors = Self::with(admin, admin_socket);
        doors.put_second();
        Ok(doors)
    }

    /// Made, while another process still answers in their place.
    pub(crate) fn aside(admin_socket: &Path) -> Result<Self, AdminBindError> {
        Ok(Self::with(AdminSocket::aside(admin_socket)?, admin_socket))
    }

    fn with(admin: AdminSocket, admin_socket: &Path) -> Self {
        let take_over = Door::aside(&door_beside(admin_socket)).map_err(|error| complain(&error));
        Self { admin, take_over: take_over.ok() }
    }

    /// From now on this process is asked.
    pub(crate) fn put(&self) -> Result<(), AdminBindError> {
        self.put_second();
        self.admin.put()
    }

    fn put_second(&self) {
        if let Some(Err(error)) = self.take_over.as_ref().map(Door::put) {
            complain(&error);
        }
    }

    /// Answers for as long as there is something to be asked about, also while draining.
    pub(crate) fn open(self, balancer: &Arc<Balancer>) {
        let router = Arc::new(admin::router(Arc::clone(balancer)));
        tokio::spawn(self.admin.serve(router, balancer.admin_end.watch()));
        if let Some(door) = self.take_over {
            tokio::spawn(give::answer(door, Arc::clone(balancer)));
        }
    }
}

fn complain(error: &io::Error) {
    warn!(%error, "no other process can take over from this one");
}
