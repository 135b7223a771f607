//! The atomic steps, as Redis runs them. They are loaded at every connect, so that pipelines may name them by hash.

use std::sync::LazyLock;

use redis::{Pipeline, Script, Value};

/// Those about sessions have what they share in front of them; those that make room are taken by a full Redis, too.
macro_rules! scripts {
    ($($name:ident = $($part:expr),+;)*) => {
        $(pub(crate) static $name: LazyLock<Script> = LazyLock::new(|| Script::new(concat!($($part),+)));)*
        pub(super) const ALL: &[&str] = &[$(concat!($($part),+)),*];
    };
}

scripts! {
    RENEW = "#!lua flags=allow-oom\n", include_str!("scripts/lease.lua");
    REGISTER = "#!lua flags=allow-oom\n", include_str!("scripts/routes.lua");
    ROUTES = include_str!("scripts/routes.lua");
    RETAIN = include_str!("scripts/retain.lua");
    CLAIM = include_str!("scripts/session.lua"), include_str!("scripts/claim.lua");
    RECLAIM = "#!lua flags=allow-oom\n", include_str!("scripts/session.lua"), include_str!("scripts/claim.lua");
    ASSERT = "#!lua flags=allow-oom\n", include_str!("scripts/session.lua"), include_str!("scripts/assert.lua");
    MESSAGES = include_str!("scripts/session.lua"), include_str!("scripts/messages.lua");
    READ = include_str!("scripts/session.lua"), include_str!("scripts/session_read.lua");
    STEPS = "#!lua flags=allow-oom\n", include_str!("scripts/session.lua"), include_str!("scripts/steps.lua");
    DUE = "#!lua flags=allow-oom\n", include_str!("scripts/session.lua"), include_str!("scripts/due.lua");
    REAP = "#!lua flags=allow-oom\n", include_str!("scripts/session.lua"), include_str!("scripts/reap.lua");
}

/// Adds a loaded script to a pipeline: one round trip for many.
pub(crate) fn add(pipeline: &mut Pipeline, script: &Script, keys: &[String], args: &[&[u8]]) {
    let command = pipeline.cmd("EVALSHA").arg(script.get_hash()).arg(keys.len());
    keys.iter().for_each(|key| {
        command.arg(key);
    });
    args.iter().for_each(|arg| {
        command.arg(*arg);
    });
}

/// A version counter's value; none counts as 0.
pub(crate) fn version(value: &Value) -> u64 {
    redis::from_redis_value_ref::<Option<u64>>(value).ok().flatten().unwrap_or(0)
}
