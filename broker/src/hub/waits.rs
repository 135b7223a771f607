//! Who waits for whom. Clients that publish to one another, or to themselves, come to wait for one another; and who waits is
//! not read from, so what it acknowledges, which would end the others' wait, is not heard. Whoever closes such a circle
//! does not wait for those in it.

use std::sync::{Arc, Weak};

use foldhash::{HashSet, HashSetExt};

use super::Outbox;

/// So many clients one says that it waits for, and so many are looked at for a circle: larger ones are left to patience. In a
/// crowd where everybody fills everybody, all would otherwise look at all that all wait for.
const MOST: usize = 64;

/// By its id, and where it is.
pub(super) type Awaited = (u64, Weak<Outbox>);

impl Outbox {
    /// Its client is about to wait for these, or for nobody any more: who waits, however indirectly, for it, it does not
    /// wait for.
    pub fn wait_for(&self, full: &mut Vec<Arc<Self>>) {
        // Said before it is looked: of two who close a circle at once, one at least sees it.
        self.say_waits_for(full);
        let mut looks = MOST;
        full.retain(|outbox| outbox.id != self.id && !outbox.waits_for(self.id, &mut looks));
        self.say_waits_for(full);
    }

    fn say_waits_for(&self, others: &[Arc<Self>]) {
        let some = others.iter().take(MOST);
        self.set_awaited(some.map(|other| (other.id, Arc::downgrade(other))).collect());
    }

    fn waits_for(&self, id: u64, looks: &mut usize) -> bool {
        let at_once = self.awaits(id);
        if at_once || *looks == 0 {
            return at_once;
        }
        let (mut ahead, mut known) = (Vec::new(), HashSet::new());
        let mut look_at = |outbox: &Self, ahead: &mut Vec<Awaited>| {
            ahead.extend(outbox.awaited().into_iter().filter(|(id, _)| known.insert(*id)));
        };
        look_at(self, &mut ahead);
        while *looks > 0
            && let Some((_, next)) = ahead.pop()
        {
            *looks -= 1;
            let Some(next) = next.upgrade() else { continue };
            if next.awaits(id) {
                return true;
            }
            look_at(&next, &mut ahead);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outboxes(count: u64) -> Vec<Arc<Outbox>> {
        (1..=count).map(|id| Arc::new(Outbox::new(id, "c".into(), None))).collect()
    }

    /// Whether the first waits where each of the others waits for the next, and the last for it.
    fn waits_in_a_circle_of(count: u64) -> bool {
        let all = outboxes(count);
        for (outbox, next) in all.iter().zip(all.iter().cycle().skip(1)).skip(1) {
            outbox.say_waits_for(&[Arc::clone(next)]);
        }
        let mut full = vec![Arc::clone(&all[1 % all.len()])];
        all[0].wait_for(&mut full);
        assert_eq!(all[0].awaited().len(), full.len());
        !full.is_empty()
    }

    #[test]
    fn who_closes_a_circle_does_not_wait_unless_it_is_large() {
        for count in [1, 2, 3, 60] {
            assert!(!waits_in_a_circle_of(count), "{count}");
        }
        assert!(waits_in_a_circle_of(200));
    }

    /// To look at all that each of all waits for would take minutes.
    #[test]
    fn in_a_crowd_few_are_looked_at() {
        let all = outboxes(1000);
        for outbox in &all {
            outbox.wait_for(&mut all.clone());
            assert!(outbox.awaited().len() <= MOST);
        }
        let mut full = all.clone();
        all[0].wait_for(&mut full);
        assert!(full.iter().all(|outbox| !outbox.awaits(1)));
    }
}
