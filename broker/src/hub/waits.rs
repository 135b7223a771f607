//! Who waits for whom. Clients that publish to one another, or to themselves, come to wait for one another; and who waits is
//! not read from, so what it acknowledges, which would end the others' wait, is not heard. Whoever closes such a circle
//! does not wait for those in it.

use std::sync::{Arc, Weak};

use super::Outbox;

/// So many clients are looked at; larger circles are left to patience.
const MOST: usize = 64;

impl Outbox {
    /// Its client is about to wait for these, or for nobody any more: who waits, however indirectly, for it, it does not
    /// wait for.
    pub fn wait_for(&self, full: &mut Vec<Arc<Self>>) {
        // Said before it is looked: of two who close a circle at once, one at least sees it.
        self.say_waits_for(full);
        full.retain(|outbox| !outbox.waits_for(self.id));
        self.say_waits_for(full);
    }

    fn say_waits_for(&self, others: &[Arc<Self>]) {
        self.set_awaited(others.iter().map(Arc::downgrade).collect());
    }

    fn waits_for(&self, id: u64) -> bool {
        let mut ahead = self.awaited();
        let mut looked_at = 0;
        if self.id == id {
            return true;
        }
        while looked_at < ahead.len().min(MOST) {
            let next = ahead[looked_at].upgrade();
            looked_at += 1;
            let Some(next) = next else { continue };
            if next.id == id {
                return true;
            }
            let further =
                next.awaited().into_iter().filter(|new| !ahead.iter().any(|known| known.ptr_eq(new)));
            let further: Vec<Weak<Self>> = further.collect();
            ahead.extend(further);
        }
        false
    }
}
