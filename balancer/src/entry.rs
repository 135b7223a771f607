//! How connections of one frontend begin, before anything is read but a PROXY header: who may come, how many and how
//! often, and whom a proxy names.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use nsd_edge::listen::{Gate, GateRules, Place, Refusal as NoPlace, any_contains, household};
use nsd_edge::proxy_header::{self, Extras, ProxyHeader};
use tokio::net::TcpStream;
use tracing::debug;

use crate::gate::Refusal;
use crate::guard::Meter;
use crate::relay::End;
use crate::settings::EntrySettings;

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) settings: EntrySettings,
    gate: Arc<Gate>,
    /// Of those who have no server yet.
    pending: Arc<Gate>,
    rate: Option<Arc<Meter>>,
}

/// What a connection holds while it lasts.
#[derive(Debug)]
pub(crate) struct Pass {
    place: Place,
    pending: Option<Place>,
    /// By a proxy that may be believed.
    pub(crate) told: Option<Told>,
}

/// What a proxy says of its client, besides its address.
#[derive(Debug)]
pub(crate) struct Told {
    /// Where the client came to.
    pub(crate) destination: SocketAddr,
    pub(crate) extras: Box<Extras>,
}

impl Entry {
    /// Who is inside stays counted where there was an entry before, and so does who came how often, at the same rate.
    pub(crate) fn new(settings: EntrySettings, before: Option<&Self>) -> Self {
        let gates = before.map(|before| (Arc::clone(&before.gate), Arc::clone(&before.pending)));
        let (gate, pending) = gates.unwrap_or_default();
        gate.set_rules(settings.gate.clone());
        pending.set_rules(GateRules {
            connections_per_address: settings.pending_per_address,
            ..GateRules::default()
        });
        let kept = before.filter(|before| before.settings.rate_per_address == settings.rate_per_address);
        let rate = match kept {
            Some(kept) => kept.rate.clone(),
            None => settings.rate_per_address.map(|rate| Arc::new(Meter::new(rate))),
        };
        Self { settings, gate, pending, rate }
    }

    /// Decides by the socket's own address, as far as that is the client's.
    pub(crate) fn admit(&self, address: IpAddr) -> Result<Box<Pass>, End> {
        if self.is_behind_proxy() && !any_contains(&self.settings.proxy_from, address) {
            return Err(End::UnknownProxy);
        }
        let mut pass = Box::new(Pass { place: self.gate.enter().map_err(end)?, pending: None, told: None });
        if !self.is_behind_proxy() {
            self.settle(&mut pass, address)?;
        }
        Ok(pass)
    }

    /// For a session that another process has let in: counted, but not sent away.
    pub(crate) fn adopt(&self, source: IpAddr) -> Option<Box<Pass>> {
        let mut place = self.gate.enter().ok()?;
        // Whoever may not come now was inside already; then it is only not counted for its source.
        let _ = place.settle(source);
        Some(Box::new(Pass { place, pending: None, told: None }))
    }

    pub(crate) fn is_behind_proxy(&self) -> bool {
        !self.settings.proxy_from.is_empty()
    }

    /// Decides by the address that the proxy names, and says which that is.
    pub(crate) async fn read_header(
        &self,
        socket: &mut TcpStream,
        peer: SocketAddr,
        pass: &mut Pass,
    ) -> Result<SocketAddr, (SocketAddr, End)> {
        let header = proxy_header::read(socket).await.map_err(|error| {
            debug!(proxy = %peer, %error, "no PROXY header");
            (peer, End::NoHeader)
        })?;
        let client = match header {
            ProxyHeader::Local => peer,
            ProxyHeader::Proxied { source, destination, extras } => {
                pass.told = Some(Told { destination, extras });
                SocketAddr::new(source.ip().to_canonical(), source.port())
            }
        };
        self.settle(pass, client.ip()).map_err(|end| (client, end))?;
        Ok(client)
    }

    fn settle(&self, pass: &mut Pass, source: IpAddr) -> Result<(), End> {
        pass.place.settle(source).map_err(end)?;
        if self.rate.as_ref().is_some_and(|rate| !rate.admits(household(source))) {
            return Err(End::Refused(Refusal::SourceRate));
        }
        if self.settings.pending_per_address.is_some() {
            let mut place = self.pending.enter().map_err(end)?;
            place.settle(source).map_err(|_| End::SourcePending)?;
            pass.pending = Some(place);
        }
        Ok(())
    }
}

impl Pass {
    /// The connection has its server: what only its beginning needed is given back.
    pub(crate) fn begun(&mut self) {
        (self.pending, self.told) = (None, None);
    }
}

fn end(refusal: NoPlace) -> End {
    match refusal {
        NoPlace::Full => End::ListenerFull,
        NoPlace::SourceFull => End::SourceFull,
        NoPlace::Source => End::SourceDenied,
    }
}
