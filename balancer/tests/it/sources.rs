//! Who may come to a frontend: by source, how many and how often, and through which proxies.

use std::net::SocketAddr;

use nsd_edge::proxy_header::{ClientTls, Extras, ProxyHeader, write_v1, write_v2};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{Balancer, Broker, CHECK, Client, PATIENCE, free_address, listen, servers, until};
use crate::tls;

async fn before(broker: &Broker, options: &str) -> Balancer {
    let address = free_address();
    let options = format!("{options}\n{CHECK}");
    Balancer::start(address, &listen(address, &options, &servers(&["b1"], &[broker]))).await
}

async fn from(source: &str, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    socket.connect(address).await.unwrap()
}

/// Everything until the other side ends the connection, which it has to.
async fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    let _ = read.expect("the connection is ended");
    rest
}

/// A connection that begins with this header, as behind a proxy.
async fn behind_proxy(address: SocketAddr, header: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(header).await.unwrap();
    stream
}

fn v1(source: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let header = ProxyHeader::proxied(source.parse().unwrap(), "198.51.100.1:8883".parse().unwrap());
    write_v1(&header, &mut bytes);
    bytes
}

#[tokio::test]
async fn sources_are_let_in_or_not_before_anything_else() {
    let b1 = Broker::start("b1").await;
    let balancer = before(&b1, "allow = [\"127.0.0.0/30\"]\ndeny = [\"127.0.0.2\"]").await;
    for source in ["127.0.0.1", "127.0.0.3"] {
        Client::over(from(source, balancer.address).await).await.expect(source);
    }
    for source in ["127.0.0.2", "127.0.0.4"] {
        assert_eq!(rest(from(source, balancer.address).await).await, b"", "{source}");
        balancer.wait_for_log(&format!("client={source}:")).await;
    }
    balancer.wait_for_log("end=\"source-denied\"").await;
    assert_eq!(b1.total(), 2);

    let (balancer, tls) = tls::balancer_with(&b1, &format!("deny = [\"127.0.0.0/8\"]\n{CHECK}")).await;
    // Without a byte of a handshake, in either direction.
    assert_eq!(rest(TcpStream::connect(tls).await.unwrap()).await, b"");
    balancer.wait_for_log("up=0 down=0 end=\"source-denied\"").await;
}

#[tokio::test]
async fn one_source_has_so_many_connections_also_after_a_reload() {
    let b1 = Broker::start("b1").await;
    let options = "connections = 4\nconnections_per_address = 2";
    let balancer = before(&b1, options).await;
    let mut two = Client::many(balancer.address, 2).await;
    assert_eq!(rest(TcpStream::connect(balancer.address).await.unwrap()).await, b"");
    balancer.wait_for_log("end=\"source-full\"").await;
    let _third = Client::over(from("127.0.0.2", balancer.address).await).await.unwrap();
    let fourth = Client::over(from("127.0.0.3", balancer.address).await).await.unwrap();
    assert_eq!(rest(from("127.0.0.4", balancer.address).await).await, b"");
    balancer.wait_for_log("end=\"listener-full\"").await;
    drop(fourth);

    let path = balancer.path("balancer.toml");
    let settings = std::fs::read_to_string(&path).unwrap();
    let more = settings.replace("per_address = 2", "per_address = 3").replace("= 4", "= 40");
    std::fs::write(&path, more).unwrap();
    balancer.wait_for_log("reloaded: ~mqtt entry").await;
    two.extend(Client::many(balancer.address, 1).await);
    assert_eq!(rest(TcpStream::connect(balancer.address).await.unwrap()).await, b"");
    let refused = async || balancer.log().matches("end=\"source-full\"").count() == 2;
    until("who was there before the reload counts", refused).await;
    for client in &mut two {
        client.echo(b"who is inside stays").await.unwrap();
    }
    drop(two);
    until("places are given back", async || Client::connect(balancer.address).await.is_ok()).await;
}

#[tokio::test]
async fn one_source_comes_so_often() {
    let b1 = Broker::start("b1").await;
    let options = "mode = \"tcp\"\nconnect_rate_per_address = { per_minute = 1, burst = 3 }";
    let balancer = before(&b1, options).await;
    Client::many(balancer.address, 3).await;
    assert_eq!(rest(TcpStream::connect(balancer.address).await.unwrap()).await, b"");
    balancer.wait_for_log("end=\"source-rate\"").await;
    Client::over(from("127.0.0.2", balancer.address).await).await.expect("another source is not concerned");
}

/// A crowd that connects and says nothing takes places from nobody, and none for ever.
#[tokio::test]
async fn silent_connections_of_one_source_are_few() {
    let b1 = Broker::start("b1").await;
    let options = "pending_per_address = 5\ngate = { deadline = \"12s\" }";
    let balancer = before(&b1, options).await;
    let _served = Client::many(balancer.address, 20).await;
    let mut crowd = Vec::new();
    for _ in 0..500 {
        crowd.push(from("127.0.0.2", balancer.address).await);
    }
    let refused = async || balancer.log().matches("end=\"source-pending\"").count() == 495;
    until("all but five are sent away at once", refused).await;
    Client::connect(balancer.address).await.expect("other sources come in");
    let timed_out = async || balancer.log().matches("end=\"connect-timeout\"").count() == 5;
    until("the five are sent away in time", timed_out).await;
    Client::over(from("127.0.0.2", balancer.address).await).await.expect("the source may come again");
}

#[tokio::test]
async fn a_known_proxy_names_the_client() {
    let b1 = Broker::start("b1").await;
    b1.expect_proxy();
    let options = "proxy_protocol = true\nproxy_from = [\"127.0.0.1\"]\ndeny = [\"203.0.113.0/24\"]\nsend_proxy = \"v2\"";
    let balancer = before(&b1, options).await;
    let stream = behind_proxy(balancer.address, &v1("192.0.2.7:40000")).await;
    Client::over(stream).await.unwrap();
    let header = b1.headers().into_iter().find(|header| *header != ProxyHeader::Local).unwrap();
    let ProxyHeader::Proxied { source, destination, .. } = header else { unreachable!() };
    assert_eq!(
        (source.to_string(), destination.to_string()),
        ("192.0.2.7:40000".into(), "198.51.100.1:8883".into())
    );
    balancer.wait_for_log("client=192.0.2.7:40000").await;

    assert_eq!(rest(behind_proxy(balancer.address, &v1("203.0.113.9:1")).await).await, b"");
    balancer.wait_for_log("client=203.0.113.9:1 server=\"-\"").await;
    let mut local = Vec::new();
    write_v2(&ProxyHeader::Local, &mut local);
    Client::over(behind_proxy(balancer.address, &local).await).await.expect("the proxy's own connection");
}

#[tokio::test]
async fn headers_that_are_missing_false_or_slow_let_nobody_in() {
    let b1 = Broker::start("b1").await;
    let balancer = before(&b1, "proxy_protocol = true\nproxy_from = [\"127.0.0.1\"]").await;
    let mut stranger = from("127.0.0.2", balancer.address).await;
    let _ = stranger.write_all(&v1("192.0.2.7:40000")).await;
    assert_eq!(rest(stranger).await, b"");
    balancer.wait_for_log("client=127.0.0.2:").await;
    balancer.wait_for_log("end=\"unknown-proxy\"").await;

    let slow = behind_proxy(balancer.address, b"PROXY TCP4 192.0.2.7").await;
    let silent = behind_proxy(balancer.address, b"").await;
    assert!(Client::connect(balancer.address).await.is_err(), "a client without a header");
    for wrong in
        [&b"PROXY TCP4 1.2.3.4 5.6.7.8 99999 1\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0", &[b'P'; 200]]
    {
        assert_eq!(rest(behind_proxy(balancer.address, wrong).await).await, b"");
    }
    assert_eq!((rest(slow).await, rest(silent).await), (Vec::new(), Vec::new()));
    let refused = async || balancer.log().matches("end=\"no-proxy-header\"").count() == 6;
    until("the log has all of them", refused).await;
    assert_eq!(b1.total(), 0);
}

/// What the first proxy knows of the client's TLS is what rules go by, and what the server is told.
#[tokio::test]
async fn the_clients_tls_is_known_behind_a_proxy() {
    let (b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    b2.expect_proxy();
    let address = free_address();
    let server =
        |name: &str, address| format!("[[backend.server]]\nname = \"{name}\"\naddress = \"{address}\"\n");
    let settings = format!(
        "[[frontend]]\nname = \"door\"\nbind = [\"{address}\"]\nbackend = \"b1\"\nproxy_protocol = true\n\
         proxy_from = [\"127.0.0.0/8\"]\n\
         [[frontend.rule]]\nsni = [\"*.example\"]\ncertificate = [\"gateway-*\"]\ntls = true\nbackend = \"b2\"\n\
         [[backend]]\nname = \"b1\"\n{CHECK}\n{}[[backend]]\nname = \"b2\"\nsend_proxy = \"v2\"\n{CHECK}\n{}",
        server("b1", b1.address),
        server("b2", b2.address),
    );
    let _balancer = Balancer::start(address, &settings).await;
    let tls = |verified| ClientTls {
        over_tls: true,
        certificate_now: true,
        verified,
        common_name: Some("gateway-7".into()),
        ..ClientTls::default()
    };
    for (verified, expected) in [(true, "b2"), (false, "b1")] {
        let extras =
            Extras { authority: Some("mqtt.example".into()), tls: Some(tls(verified)), ..Extras::default() };
        let (source, destination) = ("192.0.2.7:4".parse().unwrap(), "198.51.100.1:8883".parse().unwrap());
        let header = ProxyHeader::Proxied { source, destination, extras: Box::new(extras) };
        let mut bytes = Vec::new();
        write_v2(&header, &mut bytes);
        let client = Client::over(behind_proxy(address, &bytes).await).await.unwrap();
        assert_eq!(client.broker, expected, "verified: {verified}");
        assert_eq!(b2.headers().contains(&header), verified, "the header is passed on as it came");
    }
}
