//! QoS 1 and 2 toward one client: which identifiers are out, and what each of them waits for. Pure.
//!
//! Identifiers are given in sequence, so an acknowledgement finds its message by distance from the oldest one.

use std::collections::VecDeque;

use nsd_wire::{PacketId, Qos, ReasonCode};

#[derive(Debug)]
pub struct Outbound {
    next: PacketId,
    oldest: PacketId,
    inflight: VecDeque<Awaiting>,
    /// How many of them are not done.
    open: u16,
    window: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaiting {
    Acknowledged,
    Received,
    Completed,
    /// Done, behind one that is not.
    Nothing,
}

/// What an acknowledgement leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The message is done: the window has room for another.
    Done,
    /// Send PUBREL with this reason.
    Release(ReasonCode),
    /// An identifier that nothing waits for under; harmless.
    Unknown,
}

impl Outbound {
    pub fn new(window: u16) -> Self {
        let (next, inflight) = (PacketId::MIN, VecDeque::new());
        Self { next, oldest: next, inflight, open: 0, window: window.max(1) }
    }

    /// An identifier for a message of this QoS (above 0), if the client takes one more now.
    pub fn admit(&mut self, qos: Qos) -> Option<PacketId> {
        if !self.has_room() {
            return None;
        }
        let id = self.next;
        self.next = id.next();
        self.open += 1;
        let twice = qos == Qos::ExactlyOnce;
        self.inflight.push_back(if twice { Awaiting::Received } else { Awaiting::Acknowledged });
        Some(id)
    }

    /// A head that is never acknowledged must not let the span of identifiers grow to their number.
    pub fn has_room(&self) -> bool {
        self.open < self.window && self.inflight.len() < usize::from(u16::MAX / 2)
    }

    /// How many messages are not done.
    pub fn in_flight(&self) -> usize {
        self.open.into()
    }

    /// The newest identifier was not used after all.
    pub fn forget(&mut self, id: PacketId) {
        if id.next() == self.next && self.inflight.pop_back().is_some() {
            self.next = id;
            self.open -= 1;
        }
    }

    pub fn on_puback(&mut self, id: PacketId) -> Settled {
        self.finish(id, Awaiting::Acknowledged)
    }

    /// A refusal ends the exchange; else PUBREL follows, also the second time.
    pub fn on_pubrec(&mut self, id: PacketId, reason: ReasonCode) -> Settled {
        if reason.is_failure() {
            return self.finish(id, Awaiting::Received);
        }
        match self.find(id) {
            Some(state @ (Awaiting::Received | Awaiting::Completed)) => {
                *state = Awaiting::Completed;
                Settled::Release(ReasonCode::Success)
            }
            _ => Settled::Release(ReasonCode::PacketIdentifierNotFound),
        }
    }

    pub fn on_pubcomp(&mut self, id: PacketId) -> Settled {
        self.finish(id, Awaiting::Completed)
    }

    fn finish(&mut self, id: PacketId, expected: Awaiting) -> Settled {
        match self.find(id) {
            Some(state) if *state == expected => *state = Awaiting::Nothing,
            _ => return Settled::Unknown,
        }
        self.open -= 1;
        while self.inflight.front() == Some(&Awaiting::Nothing) {
            self.inflight.pop_front();
            self.oldest = self.oldest.next();
        }
        Settled::Done
    }

    fn find(&mut self, id: PacketId) -> Option<&mut Awaiting> {
        let (id, oldest) = (i32::from(id.get()), i32::from(self.oldest.get()));
        let distance = (id - oldest).rem_euclid(i32::from(u16::MAX));
        self.inflight.get_mut(usize::try_from(distance).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: u16) -> PacketId {
        PacketId::new(id).unwrap()
    }

    #[test]
    fn every_state_and_every_acknowledgement() {
        use Settled::{Done, Release, Unknown};
        let (ok, bad) = (ReasonCode::Success, ReasonCode::UnspecifiedError);
        let not_found = Release(ReasonCode::PacketIdentifierNotFound);
        let at = |state: u8| {
            let mut outbound = Outbound::new(5);
            match state {
                0 => {}
                1 => drop(outbound.admit(Qos::AtLeastOnce)),
                _ => drop(outbound.admit(Qos::ExactlyOnce)),
            }
            if state == 3 {
                outbound.on_pubrec(id(1), ReasonCode::Success);
            }
            outbound
        };
        for (state, puback, pubrec, refused, pubcomp) in [
            (0, Unknown, not_found, Unknown, Unknown),
            (1, Done, not_found, Unknown, Unknown),
            (2, Unknown, Release(ok), Done, Unknown),
            (3, Unknown, Release(ok), Unknown, Done),
        ] {
            assert_eq!(at(state).on_puback(id(1)), puback, "PUBACK in {state}");
            assert_eq!(at(state).on_pubrec(id(1), ok), pubrec, "PUBREC in {state}");
            assert_eq!(at(state).on_pubrec(id(1), bad), refused, "refusing PUBREC in {state}");
            assert_eq!(at(state).on_pubcomp(id(1)), pubcomp, "PUBCOMP in {state}");
            assert_eq!(at(state).on_puback(id(9)), Unknown);
        }
    }

    #[test]
    fn the_window_is_the_clients_and_identifiers_wrap() {
        let mut outbound = Outbound::new(2);
        let mut previous = outbound.admit(Qos::AtLeastOnce).unwrap();
        for _ in 0..70_000 {
            let next = outbound.admit(Qos::ExactlyOnce).unwrap();
            assert_eq!(outbound.admit(Qos::AtLeastOnce), None);
            assert_eq!(outbound.on_puback(next), Settled::Unknown);
            outbound.on_puback(previous);
            outbound.on_pubrec(previous, ReasonCode::Success);
            outbound.on_pubcomp(previous);
            previous = next;
        }
        assert_eq!(outbound.inflight.len(), 1);
    }

    #[test]
    fn acknowledged_out_of_order() {
        let mut outbound = Outbound::new(10);
        let ids: Vec<_> = (0..3).filter_map(|_| outbound.admit(Qos::AtLeastOnce)).collect();
        assert_eq!(outbound.on_puback(ids[1]), Settled::Done);
        assert_eq!(outbound.on_puback(ids[1]), Settled::Unknown);
        assert_eq!(outbound.on_puback(ids[0]), Settled::Done);
        assert_eq!(outbound.inflight.len(), 1);
        assert_eq!(outbound.on_puback(ids[2]), Settled::Done);
    }
}
