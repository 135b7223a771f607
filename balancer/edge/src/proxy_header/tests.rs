use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;

fn from(source: &str, destination: &str) -> ProxyHeader {
    ProxyHeader::Proxied { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
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
            write(header, &mut bytes);
            let length = bytes.len();
            for cut in 0..length {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "{header:?} cut at {cut}");
            }
            bytes.extend_from_slice(b"\x10\x0e\0\x04MQTT");
            assert_eq!(parse(&bytes), Ok(Some((header, length))));
        }
    }
}

#[test]
fn mixed_families_are_written_as_ipv6() {
    let mut bytes = Vec::new();
    write_v1(from("192.0.2.1:1", "[::1]:2"), &mut bytes);
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
    write_v2(header, &mut bytes);
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
        let header = headers()[random(3)];
        if round % 2 == 0 {
            write_v1(header, &mut bytes);
        } else {
            write_v2(header, &mut bytes);
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
            write(header, &mut bytes);
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
