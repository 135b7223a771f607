//! The side of the new process, which takes over from a running one.

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nsd_edge::listen::USER_TIMEOUT;
use thiserror::Error;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::channel::Channel;
use super::message::{Count, FromNew, FromOld, Session, VERSION};
use super::servers::{self, Inherited};
use crate::balancer::Balancer;
use crate::frontend::Frontend;
use crate::limits;
use crate::member::Member;
use crate::rules::{Rules, Then};
use crate::session::Adopted;
use crate::settings::TakeOver;

#[derive(Debug, Error)]
pub enum TakeOverError {
    #[error("cannot take over through {}: {source}", path.display())]
    Unreachable { path: PathBuf, source: io::Error },
    #[error("cannot take over: {0}")]
    Refused(String),
    #[error("cannot take over: the running process does not answer as it should: {0}")]
    Broken(String),
}

fn broken(error: impl ToString) -> TakeOverError {
    TakeOverError::Broken(error.to_string())
}

/// A process that takes over.
#[derive(Debug)]
pub(crate) struct Taking {
    channel: Arc<Channel>,
    pub(crate) pid: u32,
}

/// Asks the running process what there is. `None`: none runs.
pub(crate) async fn ask(path: &Path) -> Result<Option<(Taking, Inherited)>, TakeOverError> {
    let channel = match Channel::connect(path) {
        Ok(channel) => channel,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(source) => return Err(TakeOverError::Unreachable { path: path.to_owned(), source }),
    };
    channel.say(&FromNew::Hello { version: VERSION }, &[]).await.map_err(broken)?;
    let pid = match answer(&channel).await?.0 {
        FromOld::Welcome { pid, sessions } => {
            info!(pid, sessions, "taking over from a running process");
            pid
        }
        FromOld::Refused { why } => return Err(TakeOverError::Refused(why)),
        _ => return Err(broken("it does not answer the greeting")),
    };
    let mut inherited = Inherited::default();
    loop {
        match answer(&channel).await? {
            (FromOld::Listeners { addresses }, files) => {
                if addresses.len() != files.len() {
                    return Err(broken("there are too few open files here"));
                }
                inherited.sockets.extend(addresses.into_iter().zip(files.into_iter().map(TcpListener::from)));
            }
            (FromOld::Servers { servers }, _) => inherited.servers.extend(servers),
            (FromOld::Complete, _) => {
                return Ok(Some((Taking { channel: Arc::new(channel), pid }, inherited)));
            }
            _ => return Err(broken("it says what belongs elsewhere")),
        }
    }
}

async fn answer(channel: &Channel) -> Result<(FromOld, Vec<OwnedFd>), TakeOverError> {
    let answer = timeout(limits::ANSWER_OF_A_PROCESS, channel.hear()).await;
    answer.map_err(|_elapsed| broken("in time"))?.map_err(broken)?.ok_or_else(|| broken("it has ended"))
}

impl Taking {
    /// Returns once the other process accepts no more, and hears of each client that is let in from now on. If it ends
    /// meanwhile, all is ours in any case.
    pub(crate) async fn take(&self, balancer: &Balancer, terms: TakeOver) -> Result<(), TakeOverError> {
        let ready = FromNew::Ready {
            pid: std::process::id(),
            listens: balancer.running.lock().bound.keys().copied().collect(),
            rate: terms.rate.to_string(),
            deadline_ms: u64::try_from(terms.deadline.as_millis()).unwrap_or(u64::MAX),
        };
        if self.channel.say(&ready, &[]).await.is_err() {
            warn!("the running process ended before it could be taken over from");
            return Ok(());
        }
        match timeout(limits::ANSWER_OF_A_PROCESS, self.channel.hear()).await {
            Ok(Ok(Some((FromOld::Yours, _)))) => {
                balancer.shared.succession.follow(Some(Arc::clone(&self.channel)));
                Ok(())
            }
            Ok(Ok(Some((FromOld::Withdrawn { why }, _)))) => Err(TakeOverError::Refused(why)),
            Ok(Ok(None) | Err(_)) => {
                warn!("the running process ended while it was taken over from");
                Ok(())
            }
            Ok(Ok(Some(_))) => Err(broken("it says what belongs elsewhere")),
            Err(_elapsed) => Err(broken("in time")),
        }
    }

    /// Takes what the other process gives, until that ends.
    pub(crate) async fn follow(self, balancer: Arc<Balancer>) {
        let succession = &balancer.shared.succession;
        let mut taker =
            Taker { balancer: &balancer, frontends: HashMap::new(), members: HashMap::new(), taken: 0 };
        let withdrawn = taker.hear_all(&self.channel).await;
        let taken = taker.taken;
        succession.follow(None);
        balancer.members().iter().for_each(|entry| entry.member.has_elsewhere(0));
        info!(pid = self.pid, taken, "the process before has ended");
        if let Some(why) = withdrawn {
            error!(why, "the process before goes on, this one ends");
            succession.end();
        }
    }
}

/// What it takes sessions with: also frontends and servers that are in no settings here.
struct Taker<'b> {
    balancer: &'b Arc<Balancer>,
    frontends: HashMap<String, Arc<Frontend>>,
    members: HashMap<super::message::Which, Arc<Member>>,
    taken: usize,
}

impl Taker<'_> {
    /// Until the other process ends, or says that it does not.
    async fn hear_all(&mut self, channel: &Channel) -> Option<String> {
        loop {
            match channel.hear().await {
                Ok(Some((FromOld::Sessions { batch, sessions }, files))) => {
                    self.take(channel, batch, sessions, files).await;
                }
                Ok(Some((FromOld::Counts { counts }, _))) => self.count(&counts),
                Ok(Some((FromOld::Withdrawn { why }, _))) => return Some(why),
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => {
                    warn!(%error, "the process before is not understood");
                    return None;
                }
            }
        }
    }

    /// Says that they are ours before the first byte of them is read.
    async fn take(&mut self, channel: &Channel, batch: u64, sessions: Vec<Session>, files: Vec<OwnedFd>) {
        let mut adopted = Vec::with_capacity(sessions.len());
        // Where files are missing, it is not known whose they are.
        if files.len() == 2 * sessions.len() {
            let mut files = files.into_iter();
            for session in sessions {
                let (Some(client), Some(server)) = (files.next(), files.next()) else { break };
                let Some(one) = self.adopt(session, client, server) else { break };
                adopted.push(one);
            }
        }
        let have = FromNew::Have { batch, sessions: adopted.len() };
        if channel.say(&have, &[]).await.is_err() {
            // Perhaps the other process goes on with them.
            return;
        }
        self.taken += adopted.len();
        adopted.into_iter().for_each(Adopted::begin);
    }

    fn adopt(&mut self, session: Session, client: OwnedFd, server: OwnedFd) -> Option<Adopted> {
        let frontend = self.frontend(&session.frontend);
        let member = self.member(&session)?;
        let shared = &self.balancer.shared;
        Adopted::new(shared, frontend, &member, session, [client.into(), server.into()])
    }

    fn frontend(&mut self, name: &str) -> Arc<Frontend> {
        let running = self.balancer.running.lock();
        if let Some(found) = running.frontends.iter().find(|frontend| frontend.name == name) {
            return Arc::clone(found);
        }
        let forgotten = || {
            let rules = Rules { in_order: Vec::new(), otherwise: Then::Refuse };
            let name = name.to_owned();
            let (tally, backends) = (Arc::default(), Vec::new());
            Arc::new(Frontend {
                name,
                user_timeout: USER_TIMEOUT,
                entry: None,
                guard: None,
                http: None,
                rules,
                backends,
                tally,
            })
        };
        Arc::clone(self.frontends.entry(name.to_owned()).or_insert_with(forgotten))
    }

    fn member(&mut self, session: &Session) -> Option<Arc<Member>> {
        let which = &session.server;
        if let Some(found) = servers::member(&self.balancer.running.lock(), which) {
            return Some(found);
        }
        if let Some(found) = self.members.get(which) {
            return Some(Arc::clone(found));
        }
        let member = servers::gone(which, None)?.member;
        self.members.insert(which.clone(), Arc::clone(&member));
        Some(member)
    }

    fn count(&self, counts: &[Count]) {
        let running = self.balancer.running.lock();
        for Count { which, sessions } in counts {
            if let Some(member) = servers::member(&running, which) {
                member.has_elsewhere(*sessions);
            }
        }
    }
}
