//! Every test runs against both brokers, side by side. `NSD_CONFORMANCE=ours` or `mosquitto` leaves the other out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::broker::{Broker, Kind, Settings};
use crate::client::{IN_VAIN, PATIENCE};

/// Against the brokers that most tests share: a test keeps to topics and client ids of its own.
pub(crate) fn both(test: impl Fn(&Broker) + Sync) {
    on_each(Broker::shared, test);
}

/// Against brokers of its own, with settings of its own.
pub(crate) fn both_alone(settings: Settings, test: impl Fn(&Broker) + Sync) {
    on_each(|kind| Arc::new(Broker::start(kind, settings)), test);
}

/// As [`both`], and Mosquitto is known to fail, for this reason.
pub(crate) fn both_but_mosquitto(reason: &str, test: impl Fn(&Broker) + Sync) {
    both(|broker| {
        broker.but_mosquitto(reason, || test(broker));
    });
}

impl Broker {
    /// A part of a test that Mosquitto is known to fail, for this reason. Should it no longer fail, the test does.
    pub(crate) fn but_mosquitto<T>(&self, reason: &str, part: impl FnOnce() -> T) -> Option<T> {
        if self.kind == Kind::Ours {
            return Some(part());
        }
        let patience = PATIENCE.replace(IN_VAIN);
        let done = catch_unwind(AssertUnwindSafe(part));
        PATIENCE.set(patience);
        assert!(done.is_err(), "Mosquitto no longer deviates, as 2.0.11 does: {reason}");
        None
    }
}

/// Why Mosquitto fails many a case: it does what must be done, but does not tell.
pub(crate) const SILENT: &str = "closes without DISCONNECT";

/// How many cases of one test run side by side.
const AT_ONCE: usize = 8;

/// Many cases of one test, each by its name; what fails is told for all of them at once. With the cases that Mosquitto
/// is known to fail, and why; a name may end in `*`.
pub(crate) fn each<C: Send>(
    broker: &Broker,
    deviations: &[(&str, &str)],
    cases: impl IntoIterator<Item = (String, C), IntoIter: Send>,
    check: impl Fn(C) + Sync,
) {
    let (cases, failed) = (Mutex::new(cases.into_iter()), Mutex::new(Vec::new()));
    let known = Mutex::new(deviations.to_vec());
    let fits = |pattern: &str, name: &str| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    };
    let work = || {
        while let Some((name, case)) = { cases.lock().next() } {
            let deviation = deviations.iter().find(|(pattern, _)| fits(pattern, &name));
            let part = || match deviation {
                Some((_, reason)) => drop(broker.but_mosquitto(reason, || check(case))),
                None => check(case),
            };
            if catch_unwind(AssertUnwindSafe(part)).is_err() {
                failed.lock().push(name.clone());
            }
            known.lock().retain(|(pattern, _)| !fits(pattern, &name));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    let (mut failed, known) = (failed.into_inner(), known.into_inner());
    failed.sort();
    assert!(failed.is_empty(), "{} cases: {failed:#?}", failed.len());
    assert!(known.is_empty(), "deviations of cases that are not there: {known:?}");
}

fn on_each(start: impl Fn(Kind) -> Arc<Broker> + Sync, test: impl Fn(&Broker) + Sync) {
    let wanted = std::env::var("NSD_CONFORMANCE").unwrap_or_default().to_lowercase();
    let kinds = [Kind::Ours, Kind::Mosquitto];
    let chosen = kinds.into_iter().filter(|kind| format!("{kind:?}").to_lowercase().starts_with(&wanted));
    let run = |kind: Kind| {
        let broker = start(kind);
        test(&broker);
        broker.assert_alive();
    };
    let failed: Vec<Kind> = std::thread::scope(|scope| {
        let running: Vec<_> = chosen
            .map(|kind| {
                let name = format!("{kind:?}");
                let thread = std::thread::Builder::new().name(name).spawn_scoped(scope, move || run(kind));
                (kind, thread.unwrap())
            })
            .collect();
        running.into_iter().filter_map(|(kind, thread)| thread.join().is_err().then_some(kind)).collect()
    });
    assert!(failed.is_empty(), "not with {failed:?}: its reason stands above");
}
