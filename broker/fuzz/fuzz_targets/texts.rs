//! What operators, proxies and clients write that is not MQTT: nothing may panic, and what was understood is understood
//! the same once more.

#![no_main]

use std::str;

use libfuzzer_sys::fuzz_target;
use nsd_broker::access::{Acl, Name, Names, StoredSecret, Wish};

use nsd_broker::access::passwords::Passwords;
use nsd_broker::access::scram::{ClientFirst, Record};
use nsd_broker::settings;
use nsd_edge::password::edited;
use nsd_edge::proxy_header::{self, ProxyHeader};

fuzz_target!(|input: &[u8]| {
    let [kind, bytes @ ..] = input else { return };
    match (kind % 6, str::from_utf8(bytes)) {
        (0, _) => proxy_header(bytes),
        (1, Ok(text)) => acl(text),
        (2, Ok(text)) => passwords(text),
        (3, Ok(text)) => {
            let _ = Record::parse(text);
            let _ = StoredSecret::parse(text).map(|secret| secret.is_slow());
        }
        (4, _) => scram(bytes),
        // Settings that name files have them read.
        (5, Ok(text)) if !text.contains("file") => drop(settings::parse(text)),
        _ => {}
    }
});

/// A header is found by its own bytes alone, not later than it ends, and survives being written.
fn proxy_header(bytes: &[u8]) {
    let Ok(Some((header, used))) = proxy_header::parse(bytes) else { return };
    assert!(used <= bytes.len());
    assert_eq!(proxy_header::parse(&bytes[..used]), Ok(Some((header.clone(), used))));
    assert_eq!(proxy_header::parse(&bytes[..used - 1]), Ok(None), "it was not whole before");
    let ProxyHeader::Proxied { source, destination, .. } = &header else { return };
    if source.is_ipv4() != destination.is_ipv4() {
        return;
    }
    let mut written = Vec::new();
    proxy_header::write_v2(&header, &mut written);
    assert_eq!(proxy_header::parse(&written), Ok(Some((header, written.len()))));
}

/// The first two lines ask, the others are the rules. Who may subscribe to a topic by its name may do so, too, where a
/// denial says nothing.
fn acl(text: &str) {
    let mut lines = text.splitn(4, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (user, client, wish, rules) = (line(), line(), line(), line());
    let Ok(acl) = Acl::parse(rules) else { return };
    let names = Names { user: Name::new(Some(user)), client: Name::new(Some(client)) };
    for user in [None, Some(user)] {
        let publish = acl.allows(user, &names, Wish::Publish(wish));
        assert_eq!(acl.allows(user, &names, Wish::Publish(wish)), publish);
        let _ = acl.allows(user, &names, Wish::Subscribe(wish));
    }
}

/// An edited file has the edit, and all others as they were.
fn passwords(text: &str) {
    let (user, rest) = text.split_once('\n').unwrap_or((text, ""));
    let Ok(before) = Passwords::parse(rest) else { return };
    let _ = (before.costliest(), before.scram_iterations(), before.secret(user));
    if let Some(after) = edited(rest, user, None) {
        let after = Passwords::parse(&after).expect("what was fine stays fine");
        assert_eq!((after.secret(user), after.len() + 1), (None, before.len()));
    } else {
        assert_eq!(before.secret(user), None);
    }
}

fn scram(bytes: &[u8]) {
    let Ok(first) = ClientFirst::parse(bytes) else { return };
    assert!(!first.user().is_empty());
}
