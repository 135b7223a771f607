//! A session that can be found by its client and its server, and told to end, until this is dropped.

use std::sync::Arc;

use crate::member::Seat;
use crate::registry::Live;
use crate::settings::Duplicates;
use crate::shared::Shared;

pub(super) struct Registered {
    pub(super) live: Arc<Live>,
    pub(super) shared: Arc<Shared>,
}

impl Registered {
    /// With the older sessions of its client, where they are to be closed.
    pub(super) fn new(
        live: Live,
        seat: &Seat,
        shared: Arc<Shared>,
        duplicates: Duplicates,
    ) -> (Self, Vec<Arc<Live>>) {
        let live = Arc::new(live);
        let older = shared.registry.insert(&live, duplicates);
        // Told to all while this one was on its way: it is not found later.
        if let Some(order) = seat.is_closed() {
            live.handle.tell(order);
        }
        (Self { live, shared }, older)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let Live { frontend, member, handle, .. } = &*self.live;
        // First, for others may hold it when it is not found any more.
        handle.ended();
        // In this order, for what has moved must never be counted twice.
        self.shared.registry.remove(&self.live);
        frontend.tally.traffic.add(handle.moved());
        member.traffic.add(handle.moved());
    }
}
