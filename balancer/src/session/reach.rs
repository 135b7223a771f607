//! A connection to one server.

use std::io;

use nsd_edge::listen;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::{debug, info};

use super::Client;
use crate::member::Member;
use crate::origin::{self, Origin};
use crate::relay::End;
use crate::settings::Policy;

/// Connects to a server, and tells it whom for where it is to know. `None`: another one may do better; an error: none
/// would.
pub(super) async fn reach(
    member: &Member,
    policy: &Policy,
    stream: &impl Origin,
    client: &Client,
) -> Result<Option<TcpStream>, End> {
    let connect = async {
        let mut server = listen::connect(member.address).await?;
        if let Some(version) = policy.send_proxy {
            origin::tell(&mut server, version, &stream.header(client.peer)).await?;
        }
        io::Result::Ok(server)
    };
    let error = match timeout(policy.connect_timeout, connect).await {
        Ok(Ok(server)) => return Ok(Some(server)),
        Ok(Err(error)) => error,
        Err(_elapsed) => io::ErrorKind::TimedOut.into(),
    };
    if listen::is_our_limit(&error) {
        info!(server = member.name, %error, "cannot connect to any server");
        return Err(End::OurLimit);
    }
    debug!(server = member.name, %error, "cannot connect, trying another server");
    member.connect_failed(policy);
    Ok(None)
}
