//! Names of servers → addresses: looked up at the start, every now and then, and when a server cannot be reached. `/etc/hosts`
//! and `/etc/resolv.conf` count, as they are at each look-up. The last address stays in use while a name cannot be
//! looked up: a server whose DNS is out is not out itself, and its check knows better.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::backend::Backend;
use crate::health::State;
use crate::limits;
use crate::member::Member;
use crate::settings::{Address, NameServer};

/// Follows the name of a server until the server is gone. Returns at once where it has none.
pub(crate) async fn follow(member: Arc<Member>, backend: Arc<Backend>) {
    let Address::Named { host, port } = &member.place.address else { return };
    while member.state() != State::Gone {
        let names = backend.policy.load().names.clone();
        let begun = Instant::now();
        let found = bounded(host.clone(), names.resolvers).await;
        let unreachable = member.place.is_unreachable();
        member.looked_up(found.map(|all| choose(&all, *port, member.place.now(), unreachable)));
        tokio::select! {
            () = sleep(names.interval) => {}
            () = member.place.look_up.notified() => sleep_until(begun + limits::LOOKUP_PAUSE).await,
        }
    }
}

/// In a task of its own: whatever happens in there, the name is looked up again.
async fn bounded(host: String, resolvers: Vec<NameServer>) -> Result<Vec<IpAddr>, String> {
    let look_up = async move { timeout(limits::LOOKUP, look_up(&host, &resolvers)).await };
    match tokio::spawn(look_up).await {
        Ok(Ok(found)) => found,
        Ok(Err(_elapsed)) => Err("no answer in time".to_owned()),
        Err(error) => Err(format!("the look-up failed: {error}")),
    }
}

/// All addresses of a name, one at least.
async fn look_up(host: &str, resolvers: &[NameServer]) -> Result<Vec<IpAddr>, String> {
    let runtime = TokioRuntimeProvider::default();
    let asking = |config| TokioResolver::builder_with_config(config, runtime.clone());
    let servers: Vec<NameServerConfig> = resolvers.iter().map(server).collect();
    let (mut builder, nobody) = match (servers.is_empty(), TokioResolver::builder_tokio()) {
        (true, Ok(system)) => (system, ""),
        // There is still `/etc/hosts`.
        (true, Err(_)) => (asking(config_of(servers)), " (and `/etc/resolv.conf` names no server to ask)"),
        (false, _) => (asking(config_of(servers)), ""),
    };
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // Nothing is kept: each look-up asks anew.
    options.cache_size = 0;
    let resolver = builder.build().map_err(|error| error.to_string())?;
    let found = resolver.lookup_ip(host).await.map_err(|error| format!("{error}{nobody}"))?;
    let found: Vec<IpAddr> = found.iter().collect();
    if found.is_empty() { Err("the name has no address".to_owned()) } else { Ok(found) }
}

fn config_of(servers: Vec<NameServerConfig>) -> ResolverConfig {
    ResolverConfig::from_parts(None, Vec::new(), servers)
}

fn server(NameServer(address): &NameServer) -> NameServerConfig {
    let [mut udp, mut tcp] = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    (udp.port, tcp.port) = (address.port(), address.port());
    NameServerConfig::new(address.ip(), true, vec![udp, tcp])
}

/// PURE. The address to use of those that a name has. The one in use stays as long as it is among them: answers come in
/// any order, and sessions should not be spread by that. If it cannot be reached it is the next one's turn. IPv4 first.
fn choose(all: &[IpAddr], port: u16, current: Option<SocketAddr>, unreachable: bool) -> Option<SocketAddr> {
    let mut all: Vec<IpAddr> = all.to_vec();
    all.sort_unstable();
    all.dedup();
    let known = current.and_then(|current| all.iter().position(|address| *address == current.ip()));
    let at = match known {
        Some(at) if unreachable => (at + 1) % all.len(),
        Some(at) => at,
        None => 0,
    };
    all.get(at).map(|address| SocketAddr::new(*address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<IpAddr> {
        text.split(' ').map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn an_address_stays_as_long_as_the_name_has_it() {
        let first = choose(&all("fd00::1 10.0.0.2 10.0.0.1"), 1883, None, false);
        assert_eq!(first.unwrap().to_string(), "10.0.0.1:1883");
        assert_eq!(choose(&all("10.0.0.2 10.0.0.1"), 1883, first, false), first);
        let moved = choose(&all("10.0.0.2 10.0.0.3"), 1883, first, false);
        assert_eq!(moved.unwrap().to_string(), "10.0.0.2:1883");
    }

    #[test]
    fn who_cannot_be_reached_makes_room_for_the_next() {
        let answers = all("fd00::1 10.0.0.1 10.0.0.2");
        let mut at = choose(&answers, 1, None, false);
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(at.unwrap().ip().to_string());
            at = choose(&answers, 1, at, true);
        }
        assert_eq!(seen, ["10.0.0.1", "10.0.0.2", "fd00::1", "10.0.0.1"]);
        let only = all("10.0.0.1");
        assert_eq!(choose(&only, 1, at, true).unwrap().ip(), only[0]);
    }

    proptest::proptest! {
        #[test]
        fn the_chosen_is_one_of_them(octets in proptest::collection::vec(0..5_u8, 0..6), now in 0..6_u8, unreachable: bool) {
            let all: Vec<IpAddr> = octets.iter().map(|last| IpAddr::from([10, 0, 0, *last])).collect();
            let chosen = choose(&all, 9, Some(SocketAddr::from(([10, 0, 0, now], 9))), unreachable);
            proptest::prop_assert_eq!(chosen.is_none(), all.is_empty());
            proptest::prop_assert!(chosen.is_none_or(|chosen| all.contains(&chosen.ip())));
        }
    }

    #[tokio::test]
    async fn the_hosts_file_counts_and_a_resolver_that_is_not_there_is_an_error() {
        let found = look_up("localhost", &[]).await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
        let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let found = timeout(limits::LOOKUP, look_up("mqtt-1.internal", &[NameServer(nobody)])).await;
        assert!(!matches!(found, Ok(Ok(_))), "{found:?}");
    }
}
