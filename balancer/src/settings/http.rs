//! `[listen.http]`: how requests of a frontend of HTTP are taken.

use std::ops::RangeInclusive;
use std::time::Duration;

use nsd_edge::config::Table;

use crate::limits;

/// Below that browsers' own cookies do not fit; above, no server takes it.
const HEADS: RangeInclusive<u64> = 8 * 1024..=256 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// For the head of a request, from the connection or the end of the answer before.
    pub request_timeout: Duration,
    /// For the head of a server's answer.
    pub answer_timeout: Duration,
    /// For a client to take some more of its answer.
    pub send_timeout: Duration,
    /// The largest head of a request, in bytes.
    pub max_head: usize,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(60),
            max_head: 16 * 1024,
        }
    }
}

pub(super) fn read(table: &mut Table<'_, '_>) -> HttpSettings {
    let default = HttpSettings::default();
    let (least, most) = (*HEADS.start(), *HEADS.end());
    let max_head = table.number("max_head", least, most).and_then(|bytes| usize::try_from(bytes).ok());
    HttpSettings {
        request_timeout: table
            .duration("request_timeout", &limits::DURATIONS)
            .unwrap_or(default.request_timeout),
        answer_timeout: table
            .duration("answer_timeout", &limits::DURATIONS)
            .unwrap_or(default.answer_timeout),
        send_timeout: table.duration("send_timeout", &limits::DURATIONS).unwrap_or(default.send_timeout),
        max_head: max_head.unwrap_or(default.max_head),
    }
}
