use proptest::option::of;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;

fn from(source: &str, destination: &str) -> ProxyHeader {
    ProxyHeader::proxied(source.parse().unwrap(), destination.parse().unwrap())
}

fn headers() -> [ProxyHeader; 3] {
    [
        ProxyHeader::Local,
        from("192.0.2.1:5000", "198.51.100.7:1883"),
        from("[2001:db8::1]:5000", "[2001:db8::2]:8883"),
    ]
}

#[test]
fn what_is_written_is_read_back_and_the_rest_is_left() {
    for header in headers() {
        for write in [write_v1, write_v2] {
            let mut bytes = Vec::new();
            write(&header, &mut bytes);
            let length = bytes.len();
            for cut in 0..length {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "{header:?} cut at {cut}");
            }
            bytes.extend_from_slice(b"\x10\x0e\0\x04MQTT");
            assert_eq!(parse(&bytes), Ok(Some((header.clone(), length))));
        }
    }
}

#[test]
fn mixed_families_are_written_as_ipv6() {
    let mut bytes = Vec::new();
    write_v1(&from("192.0.2.1:1", "[::1]:2"), &mut bytes);
    assert_eq!(bytes, b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n");
}

#[test]
fn v1_as_the_specification_writes_it() {
    let taken = |line: &str| parse(line.as_bytes()).map(|found| found.map(|(header, _)| header));
    assert_eq!(
        taken("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"),
        Ok(Some(from("255.255.255.255:65535", "255.255.255.255:65535")))
    );
    assert_eq!(taken("PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n"), Ok(Some(ProxyHeader::Local)));
    for bad in [
        "PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 +1 1\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
    ] {
        assert!(matches!(taken(bad), Err(ProxyHeaderError::Malformed(_))), "{bad}");
    }
    assert!(parse(&[b"PROXY ".as_slice(), &[b'x'; 200]].concat()).is_err(), "no line end within 107 bytes");
}

#[test]
fn v2_extensions_are_skipped_and_impossible_heads_refused() {
    let mut bytes = Vec::new();
    let header = from("192.0.2.1:5000", "198.51.100.7:1883");
    write_v2(&header, &mut bytes);
    bytes[15] += 5;
    bytes.extend_from_slice(&[0x04, 0, 2, 0, 0]);
    assert_eq!(parse(&bytes), Ok(Some((header, bytes.len()))));
    for (at, value) in [(12, 0x11), (12, 0x22), (13, 0x41), (15, 4), (14, 0xff)] {
        let mut bad = bytes.clone();
        bad[at] = value;
        assert!(matches!(parse(&bad), Err(ProxyHeaderError::Malformed(_))), "byte {at} = {value}");
    }
    assert_eq!(parse(b"\x10\x0e\0\x04MQTT"), Err(ProxyHeaderError::Missing));
}

/// Headers changed at random: no panic, and never a length beyond the bytes given.
#[test]
fn mutated_headers_are_refused_or_read_never_worse() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % u64::try_from(below).unwrap()).unwrap()
    };
    for round in 0..60_000 {
        let mut bytes = Vec::new();
        let header = headers()[random(3)].clone();
        if round % 2 == 0 {
            write_v1(&header, &mut bytes);
        } else {
            write_v2(&header, &mut bytes);
        }
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            match random(3) {
                0 => bytes[at] = u8::try_from(random(256)).unwrap(),
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, bytes[at]),
            }
        }
        if let Ok(Some((_, length))) = parse(&bytes) {
            assert!(length <= bytes.len());
        }
    }
}

#[tokio::test]
async fn reading_takes_the_header_and_not_one_byte_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for header in headers() {
        for write in [write_v1, write_v2] {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut accepted, _) = listener.accept().await.unwrap();
            let mut bytes = Vec::new();
            write(&header, &mut bytes);
            bytes.extend_from_slice(b"rest");
            let send = async {
                let (front, back) = bytes.split_at(9);
                client.write_all(front).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
                client.write_all(back).await.unwrap();
            };
            let (read, ()) = tokio::join!(read(&mut accepted), send);
            assert_eq!(read.unwrap(), header);
            let mut rest = [0; 4];
            accepted.read_exact(&mut rest).await.unwrap();
            assert_eq!(&rest, b"rest");
        }
    }
}

#[tokio::test]
async fn a_connection_without_a_header_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut accepted, _) = listener.accept().await.unwrap();
    client.write_all(b"\x10\x0e\0\x04MQTT").await.unwrap();
    assert!(matches!(read(&mut accepted).await, Err(ReadError::Header(ProxyHeaderError::Missing))));
}

fn certified(name: &str) -> Extras {
    let tls = ClientTls {
        over_tls: true,
        certificate_now: true,
        verified: true,
        version: Some("TLSv1.3".to_owned()),
        common_name: Some(name.to_owned()),
        ..ClientTls::default()
    };
    Extras { tls: Some(tls), ..Extras::default() }
}

#[test]
fn a_name_counts_only_with_a_certificate_that_was_verified() {
    assert_eq!(certified("pump").identity(), Some("pump"));
    let without = |take: fn(&mut ClientTls)| {
        let mut extras = certified("pump");
        take(extras.tls.as_mut().unwrap());
        extras
    };
    assert_eq!(without(|tls| tls.verified = false).identity(), None);
    assert_eq!(without(|tls| tls.certificate_now = false).identity(), None);
    assert_eq!(without(|tls| tls.over_tls = false).identity(), None);
    assert_eq!(certified("").identity(), None);
    assert_eq!(Extras::default().identity(), None);
}

#[test]
fn the_longest_of_all_is_read_and_a_longer_certificate_left_out() {
    let with = |certificate: usize| {
        let value = || Some("v".repeat(LONGEST_VALUE));
        let tls = ClientTls {
            version: value(),
            common_name: value(),
            certificate: Some(vec![7; certificate]),
            ..ClientTls::default()
        };
        let extras = Extras {
            alpn: value().map(String::into_bytes),
            authority: value(),
            unique_id: Some(vec![7; LONGEST_UNIQUE_ID]),
            tls: Some(tls),
        };
        let [source, destination] =
            ["[2001:db8::1]:5000", "[2001:db8::2]:8883"].map(|at| at.parse().unwrap());
        let header = ProxyHeader::Proxied { source, destination, extras: Box::new(extras) };
        let mut bytes = Vec::new();
        write_v2(&header, &mut bytes);
        (parse(&bytes).unwrap().unwrap().0, header)
    };
    let (read, written) = with(LONGEST_CERTIFICATE);
    assert_eq!(read, written);
    let (ProxyHeader::Proxied { extras, .. }, _) = with(LONGEST_CERTIFICATE + 1) else { panic!("proxied") };
    let tls = extras.tls.unwrap();
    assert_eq!((tls.certificate, tls.common_name.map(|name| name.len())), (None, Some(LONGEST_VALUE)));
}

/// As HAProxy 3.0 sends it for `send-proxy-v2-ssl-cn`, and a checksum of RFC 3720's polynomial.
#[test]
fn the_checksum_is_checked_and_nothing_may_come_twice() {
    let addresses = from("192.0.2.1:5000", "198.51.100.7:1883");
    let ProxyHeader::Proxied { source, destination, .. } = addresses else { unreachable!() };
    let header = ProxyHeader::Proxied { source, destination, extras: Box::new(certified("pump")) };
    let mut bytes = Vec::new();
    write_v2(&header, &mut bytes);
    assert_eq!(parse(&bytes), Ok(Some((header.clone(), bytes.len()))));
    for at in 16..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        let parsed = parse(&bad);
        assert!(!matches!(&parsed, Ok(Some((same, _))) if *same == header), "byte {at}: {parsed:?}");
    }
    let mut twice = Vec::new();
    write_v2(&from("192.0.2.1:5000", "198.51.100.7:1883"), &mut twice);
    twice[15] += 10;
    twice.extend_from_slice(b"\x02\0\x02ab\x02\0\x02cd");
    assert_eq!(parse(&twice), Err(ProxyHeaderError::Malformed("an extension comes twice")));
}

fn text() -> impl Strategy<Value = Option<String>> {
    of("\\PC{0,60}")
}

prop_compose! {
    fn client_tls()(
        flags in any::<[bool; 4]>(), version in text(), common_name in text(),
        certificate in of(prop::collection::vec(any::<u8>(), 0..=LONGEST_CERTIFICATE)),
    ) -> ClientTls {
        let [over_tls, certificate_now, certificate_before, verified] = flags;
        ClientTls { over_tls, certificate_now, certificate_before, verified, version, common_name, certificate }
    }
}

prop_compose! {
    fn any_header()(
        source in any::<SocketAddr>(), port in any::<u16>(), alpn in of(prop::collection::vec(any::<u8>(), 0..=LONGEST_VALUE)),
        authority in text(), unique_id in of(prop::collection::vec(any::<u8>(), 0..=LONGEST_UNIQUE_ID)), tls in of(client_tls()),
    ) -> ProxyHeader {
        // Flow labels and scopes are not part of a header.
        let source = SocketAddr::new(source.ip(), source.port());
        let destination = SocketAddr::new(source.ip(), port);
        ProxyHeader::Proxied { source, destination, extras: Box::new(Extras { alpn, authority, unique_id, tls }) }
    }
}

proptest! {
    #[test]
    fn any_header_is_read_back_as_it_was_written(header in any_header(), rest in prop::collection::vec(any::<u8>(), 0..8)) {
        let mut bytes = Vec::new();
        write_v2(&header, &mut bytes);
        let length = bytes.len();
        prop_assert_eq!(parse(&bytes[..length - 1]), Ok(None));
        bytes.extend(rest);
        prop_assert_eq!(parse(&bytes), Ok(Some((header, length))));
    }

    #[test]
    fn random_bytes_never_panic(kind in 0..4_u8, bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let front: &[u8] = match kind {
            0 => b"",
            1 => b"PROXY TCP4 ",
            2 => b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0",
            _ => b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x40\x01\x02\x03\x04\x01\x02\x03\x04\0\0\0\0\x20\0",
        };
        let all = [front, &bytes].concat();
        if let Ok(Some((_, length))) = parse(&all) {
            prop_assert!(length <= all.len());
        }
    }
}
