//! `[dashboard]`: the status web page. Without the section there is none.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use nsd_edge::config::Table;
use nsd_edge::tls::TlsSettings;

use crate::limits;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DashboardSettings {
    pub bind: SocketAddr,
    /// Lines of `user:record`, written by `nsd-balancer passwd`.
    pub password_file: PathBuf,
    /// `None`: plain HTTP.
    pub tls: Option<TlsSettings>,
    /// A login ends when it was not used for so long.
    pub idle_timeout: Duration,
    /// A login ends so long after it was made, used or not.
    pub login_lifetime: Duration,
}

pub(super) fn read(root: &mut Table<'_, '_>, bound: &mut HashSet<SocketAddr>) -> Option<DashboardSettings> {
    let mut table = root.table("dashboard")?;
    let bind = read_bind(&mut table, bound);
    table.require("password_file");
    let password_file = table.string("password_file").map(PathBuf::from);
    let tls = table.table("tls").map(|mut table| {
        let tls = TlsSettings::read(&mut table);
        table.finish();
        tls
    });
    let allow_plain = table.boolean("allow_plain").unwrap_or(false);
    if let Some(bind) = bind {
        let loopback = bind.ip().to_canonical().is_loopback();
        if !loopback && tls.is_none() && !allow_plain {
            table.problem(
                "bind",
                format!(
                    "`{bind}` is not this machine's own, and passwords would cross the network in the clear: \
                     add `[dashboard.tls]` with `certificates`, or say `allow_plain = true`"
                ),
            );
        }
    }
    if allow_plain && tls.is_some() {
        table.problem("allow_plain", "means nothing beside `tls`");
    }
    let mut time = |key, default| table.duration(key, &limits::LOGIN_TIMES).unwrap_or(default);
    let idle_timeout = time("idle_timeout", limits::LOGIN_IDLE);
    let login_lifetime = time("login_lifetime", limits::LOGIN_LIFETIME);
    table.finish();
    Some(DashboardSettings { bind: bind?, password_file: password_file?, tls, idle_timeout, login_lifetime })
}

fn read_bind(table: &mut Table<'_, '_>, bound: &mut HashSet<SocketAddr>) -> Option<SocketAddr> {
    table.require("bind");
    let bind: SocketAddr = table.parsed("bind", "127.0.0.1:8404")?;
    if bind.port() == 0 {
        table.problem("bind", format!("`{bind}`: port 0 would be another one at each start"));
    } else if !bound.insert(bind) {
        table.problem("bind", format!("`{bind}` is bound twice"));
    }
    Some(bind)
}
