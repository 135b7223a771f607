//! What other proxies send before a client's first byte: a PROXY header is found by its own bytes alone, at its last byte
//! and not later, however the bytes are cut, and survives being written.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nsd_edge::proxy_header::{ProxyHeader, parse, write_v1, write_v2};

fuzz_target!(|bytes: &[u8]| {
    let mut judged = Ok(None);
    for end in 0..=bytes.len() {
        let now = parse(&bytes[..end]);
        if judged != Ok(None) {
            assert_eq!(now, judged, "at {end}: judged once, and not otherwise when more comes");
        } else if let Ok(Some((_, used))) = &now {
            assert_eq!(*used, end, "found at its last byte");
        }
        judged = now;
    }
    if let Ok(Some((header, _))) = judged {
        again(&header);
    }
});

fn again(header: &ProxyHeader) {
    let ProxyHeader::Proxied { source, destination, .. } = header else { return };
    let mut written = Vec::new();
    write_v1(header, &mut written);
    assert!(written.len() <= 107, "as long as the specification allows");
    assert!(matches!(parse(&written), Ok(Some((_, used))) if used == written.len()));
    // Where one is of IPv4 and the other of IPv6, both are written as IPv6.
    if source.is_ipv4() == destination.is_ipv4() {
        written.clear();
        write_v2(header, &mut written);
        assert_eq!(parse(&written), Ok(Some((header.clone(), written.len()))));
    }
}
