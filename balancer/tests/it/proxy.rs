//! The PROXY header that servers get.

use nsd_edge::proxy_header::ProxyHeader;

use crate::support::{Balancer, Broker, CHECK, Client, free_address, listen, servers};
use crate::tls;

/// The header of the only client; the checks' say that they are nobody's.
fn of_the_client(broker: &Broker) -> ProxyHeader {
    let headers = broker.headers();
    assert!(headers.contains(&ProxyHeader::Local), "checks have a header too: {headers:?}");
    let mut clients = headers.into_iter().filter(|header| *header != ProxyHeader::Local);
    let client = clients.next().expect("the client's header");
    assert_eq!(clients.next(), None);
    client
}

#[tokio::test]
async fn servers_and_checks_get_the_header_that_is_asked_for() {
    for (version, mode) in [("v1", "mqtt"), ("v2", "mqtt"), ("v1", "tcp"), ("v2", "tcp")] {
        let b1 = Broker::start("b1").await;
        b1.expect_proxy();
        let address = free_address();
        let options = format!("mode = \"{mode}\"\nsend_proxy = \"{version}\"\n{CHECK}");
        let balancer = Balancer::start(address, &listen(address, &options, &servers(&["b1"], &[&b1]))).await;
        balancer.wait_for_state("b1", "healthy").await;
        let client = Client::connect(address).await.unwrap();
        let ProxyHeader::Proxied { source, destination, extras } = of_the_client(&b1) else {
            panic!("the client's header has no addresses");
        };
        assert_eq!((source, destination), (client.stream.local_addr().unwrap(), address));
        let told = extras.tls.map(|tls| tls.over_tls);
        assert_eq!(told, (version == "v2").then_some(false), "version 1 cannot tell");
    }
}

#[tokio::test]
async fn version_2_tells_of_the_clients_tls() {
    let b1 = Broker::start("b1").await;
    b1.expect_proxy();
    let (balancer, address) = tls::balancer_with(&b1, &format!("send_proxy = \"v2\"\n{CHECK}")).await;
    let client = tls::connect(address, &balancer.path("certs/lelylan.pem")).await.unwrap();
    let ProxyHeader::Proxied { source, destination, extras } = of_the_client(&b1) else {
        panic!("the client's header has no addresses");
    };
    assert_eq!((source, destination), (client.stream.get_ref().0.local_addr().unwrap(), address));
    assert_eq!(extras.authority.as_deref(), Some("mqtt.example"));
    assert_eq!(extras.identity(), None, "it has shown no certificate");
    assert!(extras.tls.unwrap().over_tls);
}

/// Also when the client comes to its second server.
#[tokio::test]
async fn the_next_server_gets_the_header_too() {
    let (mut b1, b2) = (Broker::start("b1").await, Broker::start("b2").await);
    b1.stop().await;
    b2.expect_proxy();
    let address = free_address();
    let options = "mode = \"mqtt\"\nsend_proxy = \"v2\"\ncheck = { kind = \"none\" }";
    let all = servers(&["b1", "b2"], &[&b1, &b2]);
    let _balancer = Balancer::start(address, &listen(address, options, &all)).await;
    Client::connect(address).await.unwrap();
    assert_eq!(b2.headers().len(), 1);
}
