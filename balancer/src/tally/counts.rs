//! PURE. What is counted of the clients of one frontend. All of it only ever grows.

use std::collections::BTreeMap;
use std::time::Duration;

use nsd_edge::metrics::Histogram;

/// Seconds: from a client that does not get along to one that stays for a week.
const AGES: [u64; 8] = [1, 10, 60, 600, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600];
/// Seconds: none at all, what libraries and devices come with, and the longest that networks bear.
const KEEP_ALIVES: [u64; 9] = [0, 10, 30, 60, 120, 300, 600, 1200, 3600];

/// How many times what happened; only what has happened at all is in it.
pub(crate) type Times<K> = BTreeMap<K, u64>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Connections that came.
    pub(crate) accepted: u64,
    /// That another process had begun, and those that another one goes on with.
    pub(crate) adopted: u64,
    pub(crate) given: u64,
    /// Handshakes by version, and whether a session was resumed.
    pub(crate) handshakes: Times<(&'static str, bool)>,
    pub(crate) handshakes_failed: Times<&'static str>,
    /// CONNECTs that the gate let pass, by version.
    pub(crate) connects: Times<&'static str>,
    /// CONNACKs to clients by their code on the wire.
    pub(crate) connacks: Times<u8>,
    /// Connections that ended, by the reason that the access log has.
    pub(crate) ends: Times<&'static str>,
    /// Of sessions that have ended, in seconds.
    pub(crate) ages: Histogram<8>,
    /// Of the CONNECTs that passed, in seconds.
    pub(crate) keep_alives: Histogram<9>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            accepted: 0,
            adopted: 0,
            given: 0,
            handshakes: Times::new(),
            handshakes_failed: Times::new(),
            connects: Times::new(),
            connacks: Times::new(),
            ends: Times::new(),
            ages: Histogram::new(&AGES),
            keep_alives: Histogram::new(&KEEP_ALIVES),
        }
    }
}

impl Counts {
    pub(crate) fn handshake(&mut self, version: &'static str, resumed: bool) {
        *self.handshakes.entry((version, resumed)).or_default() += 1;
    }

    pub(crate) fn handshake_failed(&mut self, cause: &'static str) {
        *self.handshakes_failed.entry(cause).or_default() += 1;
    }

    pub(crate) fn connect(&mut self, version: &'static str, keep_alive: u16) {
        *self.connects.entry(version).or_default() += 1;
        self.keep_alives.observe(keep_alive.into());
    }

    /// An answer to a client, if it is a CONNACK.
    pub(crate) fn connack(&mut self, answer: &[u8]) {
        if let Some(code) = crate::gate::connack_code(answer) {
            *self.connacks.entry(code).or_default() += 1;
        }
    }

    /// `age`: of a session, if it came to be one.
    pub(crate) fn ended(&mut self, reason: &'static str, age: Option<Duration>) {
        *self.ends.entry(reason).or_default() += 1;
        age.into_iter().for_each(|age| self.ages.observe(age.as_secs()));
    }

    /// Connections that are there now.
    pub(crate) fn open(&self) -> u64 {
        let gone = self.ends.values().sum::<u64>() + self.given;
        (self.accepted + self.adopted).saturating_sub(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_come_and_not_ended_is_there() {
        let mut counts = Counts { accepted: 5, ..Counts::default() };
        counts.ended("client", Some(Duration::from_secs(61)));
        counts.ended("client", None);
        counts.ended("not-mqtt", None);
        assert_eq!((counts.open(), counts.ends["client"], counts.ages.count()), (2, 2, 1));
    }

    #[test]
    fn who_goes_from_one_process_to_another_is_there_once() {
        let mut before = Counts { accepted: 3, given: 2, ..Counts::default() };
        let mut after = Counts { adopted: 2, ..Counts::default() };
        assert_eq!((before.open(), after.open()), (1, 2));
        before.ended("client", None);
        after.ended("client", None);
        assert_eq!((before.open(), after.open()), (0, 1));
    }

    #[test]
    fn only_a_connack_has_a_code() {
        let mut counts = Counts::default();
        for answer in
            [&[0x20, 2, 0, 5][..], &[0x20, 2, 0, 5], &[0x20, 3, 0, 0x87, 0], &[0x20, 2], &[0xd0, 0], &[]]
        {
            counts.connack(answer);
        }
        assert_eq!(counts.connacks, Times::from([(5, 2), (0x87, 1)]));
    }
}
