//! A connection to one server.

use std::io;

use nsd_edge::listen;
use nsd_edge::proxy_header::ProxyHeader;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::{debug, info};

use crate::backend::Backend;
use crate::member::Member;
use crate::origin;
use crate::relay::End;
use crate::settings::Policy;
use crate::upstream::Upstream;

/// Connects to a server, and tells it whom for where it is to know. `None`: another one may do better; an error: none
/// would.
pub(super) async fn reach(
    backend: &Backend,
    member: &Member,
    policy: &Policy,
    header: impl Fn() -> ProxyHeader,
) -> Result<Option<Upstream>, End> {
    let mut connected = false;
    let connect = async {
        let mut server = listen::connect(member.place.reachable_at()?, policy.user_timeout).await?;
        connected = true;
        if let Some(version) = policy.send_proxy {
            origin::tell(&mut server, version, header()).await?;
        }
        secure(server, member, policy, backend).await
    };
    let error = match timeout(policy.connect_timeout, connect).await {
        Ok(Ok(server)) => return Ok(Some(server)),
        Ok(Err(error)) => error,
        Err(_elapsed) => io::ErrorKind::TimedOut.into(),
    };
    if listen::is_out_of_ports(&error) {
        info!(server = member.name, "no port is left to connect to it, trying another server");
        return Ok(None);
    }
    if listen::is_our_limit(&error) {
        info!(server = member.name, %error, "cannot connect to any server");
        return Err(End::OurLimit);
    }
    debug!(server = member.name, %error, "cannot connect, trying another server");
    if connected {
        // What a client makes us tell the server may be why: its check decides.
        member.suspected();
    } else {
        member.connect_failed(policy);
    }
    Ok(None)
}

/// The server's side of the connection as its backend wants it. Boxed where it is TLS: a handshake is large.
async fn secure(
    socket: TcpStream,
    member: &Member,
    policy: &Policy,
    backend: &Backend,
) -> io::Result<Upstream> {
    let Some(tls) = &policy.server_tls else { return Ok(Upstream::Plain(socket)) };
    let stream = Box::pin(backend.credentials.load().shake_hands(socket, tls, &member.place.address)).await?;
    Ok(Upstream::Tls(Box::new(stream)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustix::net::sockopt;

    use super::*;
    use crate::member::{Context, rules};
    use crate::settings::{BackendSettings, parse};

    #[tokio::test]
    async fn the_connection_to_a_server_is_watched_as_the_settings_say() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let text = format!(
            "[[listen]]\nname = \"mqtt\"\nbind = [\"127.0.0.1:1883\"]\n\
             tcp_user_timeout = \"30s\"\n[[listen.server]]\nname = \"b1\"\naddress = \"{}\"\n",
            listener.local_addr().unwrap()
        );
        let BackendSettings { name, policy, servers } = parse(&text).unwrap().backends.remove(0);
        let context = Context { backend: "mqtt".into(), queue: Arc::default() };
        let member = Member::new(&servers[0], rules(&policy), false, context);
        let backend = Backend::new(&name, policy.clone());
        let reached = reach(&backend, &member, &policy, || ProxyHeader::Local).await;
        let Ok(Some(Upstream::Plain(server))) = reached else { panic!("it listens") };
        assert!(sockopt::socket_keepalive(&server).unwrap() && sockopt::tcp_nodelay(&server).unwrap());
        let patience = sockopt::tcp_user_timeout(&server).unwrap();
        assert_eq!(patience, 30_000);
    }
}
