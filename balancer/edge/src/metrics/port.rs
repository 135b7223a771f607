//! The port where Prometheus asks, if there is one. It may change while the server runs.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use super::CONTENT_TYPE;
use crate::admin::{Method, Reply, Router, StatusCode, port, serve_port};
use crate::listen::{BindError, Listener, bind, ended};

/// However often it is asked, and by whomever: making a page costs a look at everything there is.
const FRESH: Duration = Duration::from_secs(1);

/// No address: no port.
#[derive(Debug, Default)]
pub struct MetricsPort {
    address: Option<SocketAddr>,
    /// For another process.
    socket: Option<TcpListener>,
    waiting: Option<Listener>,
    acceptor: Option<AbortOnDropHandle<()>>,
}

impl MetricsPort {
    /// Bound, but answering only after [`Self::serve`].
    pub fn bind(address: Option<SocketAddr>) -> Result<Self, BindError> {
        let Some(address) = address else { return Ok(Self::default()) };
        Self::on(address, bind(address)?)
    }

    /// The same on a socket that is bound.
    pub fn on(address: SocketAddr, socket: TcpListener) -> Result<Self, BindError> {
        let copy = socket.try_clone().ok();
        let waiting = Some(port(address, socket)?);
        Ok(Self { address: Some(address), socket: copy, waiting, acceptor: None })
    }

    /// The same socket, for another process. `None`: there is none, or no file for it.
    pub fn copy(&self) -> Option<(SocketAddr, TcpListener)> {
        Some((self.address?, self.socket.as_ref()?.try_clone().ok()?))
    }

    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Answers with what `page` makes, once a second at most.
    pub fn serve(&mut self, page: impl Fn() -> String + Send + Sync + 'static) {
        let Some(listener) = self.waiting.take() else { return };
        info!(address = %listener.address(), "metrics are served");
        let recent = Recent::default();
        let reply = move |_: &_| Reply::new(StatusCode::OK, CONTENT_TYPE, recent.page(Instant::now(), &page));
        let router = Router::new().at_once(Method::GET, "/metrics", reply);
        let acceptor = tokio::spawn(serve_port(listener, Arc::new(router)));
        self.acceptor = Some(AbortOnDropHandle::new(acceptor));
    }

    /// Who accepts here. Nothing listens any more once that has ended, unless another process has the socket.
    pub fn into_acceptor(self) -> Option<AbortOnDropHandle<()>> {
        self.acceptor
    }

    /// Another address from now on, and nothing at the old one; where the new one cannot be bound, all stays as it is.
    pub async fn change(
        &mut self,
        address: Option<SocketAddr>,
        page: impl Fn() -> String + Send + Sync + 'static,
    ) -> Result<(), BindError> {
        if address != self.address {
            let mut next = Self::bind(address)?;
            next.serve(page);
            if let Some(acceptor) = std::mem::replace(self, next).into_acceptor() {
                ended(acceptor).await;
            }
        }
        Ok(())
    }
}

/// The page that was made last, for whoever asks soon after.
#[derive(Debug, Default)]
struct Recent(Mutex<Option<(Instant, Bytes)>>);

impl Recent {
    fn page(&self, now: Instant, make: impl FnOnce() -> String) -> Bytes {
        let mut last = self.0.lock();
        if let Some((made, page)) = &*last
            && now.saturating_duration_since(*made) < FRESH
        {
            return page.clone();
        }
        let page = Bytes::from(make());
        *last = Some((now, page.clone()));
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_often_gets_the_same_page_for_a_second() {
        let (recent, start) = (Recent::default(), Instant::now());
        let asked = [0, 1, 999, 1000, 1999, 2000].map(|at| {
            let page = recent.page(start + Duration::from_millis(at), || at.to_string());
            String::from_utf8(page.to_vec()).unwrap()
        });
        assert_eq!(asked, ["0", "0", "0", "1000", "1000", "2000"]);
    }
}
