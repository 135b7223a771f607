//! The atomic steps, as Redis runs them. They are loaded at every connect, so that pipelines may name them by hash.

use std::sync::LazyLock;

use redis::{Pipeline, Script, Value};

macro_rules! scripts {
    ($($name:ident = $file:literal),* $(,)?) => {
        $(pub(crate) static $name: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!($file)));)*
        pub(super) const ALL: &[&str] = &[$(include_str!($file)),*];
    };
}

scripts! {
    CLAIM = "scripts/claim.lua",
    RELEASE = "scripts/release.lua",
    RENEW = "scripts/lease.lua",
    REGISTER = "scripts/register.lua",
    ROUTES = "scripts/routes.lua",
    RETAIN = "scripts/retain.lua",
    REAP = "scripts/reap.lua",
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
