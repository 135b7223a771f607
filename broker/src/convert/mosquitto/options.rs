//! Options for the whole broker.

use super::listener::{number, truth};
use super::{Draft, Line};

/// What stands for the whole broker wherever it stands in the file.
const GENERAL: [&str; 44] = [
    "auto_id_prefix",
    "bind_address",
    "clientid_prefixes",
    "port",
    "websockets_headers_size",
    "websockets_log_level",
    "allow_anonymous",
    "password_file",
    "acl_file",
    "persistence",
    "persistence_location",
    "persistence_file",
    "persistent_client_expiration",
    "autosave_interval",
    "autosave_on_changes",
    "max_inflight_messages",
    "max_queued_messages",
    "max_queued_bytes",
    "max_packet_size",
    "message_size_limit",
    "max_keepalive",
    "max_qos",
    "max_inflight_bytes",
    "memory_limit",
    "retain_available",
    "queue_qos0_messages",
    "upgrade_outgoing_qos",
    "allow_zero_length_clientid",
    "check_retain_source",
    "set_tcp_nodelay",
    "sys_interval",
    "per_listener_settings",
    "log_type",
    "log_dest",
    "log_timestamp",
    "log_timestamp_format",
    "log_facility",
    "connection_messages",
    "pid_file",
    "user",
    "include_dir",
    "plugin",
    "auth_plugin",
    "psk_file",
];

pub(super) fn is_general(key: &str) -> bool {
    GENERAL.contains(&key)
}

/// Why a line that was not understood has no counterpart.
pub(super) fn why_not(key: &str) -> &'static str {
    match key {
        "pid_file" => "the service manager knows the process",
        "user" => "the service manager says as whom the broker runs",
        "plugin" | "auth_plugin" => "plugins are not loaded; see `[access]` for what there is",
        "psk_file" | "psk_hint" => "pre-shared keys are not spoken; use certificates",
        "ciphers"
        | "ciphers_tls1.3"
        | "dhparamfile"
        | "tls_engine"
        | "tls_engine_kpass_sha1"
        | "tls_keyform" => "the ciphers are those that are safe today",
        "mount_point" | "clientid_prefixes" => "topics and client ids are taken as they are",
        "http_dir" => "no web pages are served",
        "bind_interface" => "name the interface's address instead",
        "log_facility" | "log_timestamp_format" | "websockets_log_level" => {
            "logs go to stderr; the service manager keeps them"
        }
        "websockets_headers_size" => "the limit for headers is fixed",
        "auto_id_prefix" => "ids that the broker makes up begin with `nsd-`",
        "memory_limit" | "max_inflight_bytes" => {
            "memory is bounded by the limits for each client, see `[limits]`"
        }
        "autosave_interval" | "autosave_on_changes" | "persistence_file" => {
            "the disk store writes before it acknowledges"
        }
        _ if key.starts_with("bridge_") => "bridges are not known here",
        _ if key.starts_with("auth_opt_") || key.starts_with("plugin_opt_") => "plugins are not loaded",
        _ => "not known to this converter",
    }
}

pub(super) fn may_be_secret(key: &str) -> bool {
    key.contains("password") && key != "password_file"
        || key.contains("psk")
        || key.contains("_opt_")
        || key.contains("kpass")
}

impl Draft {
    /// An option of the whole broker. `None`: there is no such option here.
    pub(super) fn of_all(&mut self, line: &Line) -> Option<Result<(), String>> {
        let value = line.value.as_str();
        Some(match line.key.as_str() {
            "allow_anonymous" => truth(value).map(|allow| self.allow_anonymous.push(allow)),
            "password_file" => only_one(&mut self.password_file, value),
            "acl_file" => only_one(&mut self.acl_file, value),
            "per_listener_settings" => truth(value).and_then(|each| {
                self.per_listener = each;
                as_here(value, "false", "access is one for all listeners here: who may come in without a name must be allowed to everywhere")
            }),
            "persistence" => truth(value).map(|kept| self.persistence = kept),
            "persistence_location" => {
                self.persistence_location = Some(value.to_owned());
                Ok(())
            }
            "log_type" => self.log_type(value),
            "log_dest" => self.log_dest(value),
            "sys_interval" => match number(value) {
                Some(seconds) if seconds <= 86_400 => {
                    self.sys_interval = Some(format!("\"{seconds}s\""));
                    Ok(())
                }
                _ => Err("is no number of seconds up to a day".to_owned()),
            },
            "queue_qos0_messages" | "upgrade_outgoing_qos" => as_here(value, "false", "QoS 0 is never queued and QoS never raised here"),
            "allow_zero_length_clientid" => as_here(value, "true", "clients may leave their id to the broker here"),
            "check_retain_source" => as_here(value, "true", "retained messages of a client that lost its right stay here"),
            "set_tcp_nodelay" => as_here(value, "true", "nothing is held back here"),
            "log_timestamp" => as_here(value, "true", "every line of the log has its time"),
            "connection_messages" => as_here(value, "true", "the log's level decides"),
            "max_qos" => as_here(value, "2", "all levels of QoS are offered here"),
            _ => return self.limit(line),
        })
    }

    fn limit(&mut self, line: &Line) -> Option<Result<(), String>> {
        let (key, range, unlimited) = match line.key.as_str() {
            "max_inflight_messages" => ("send_window", 1..=65_535_u64, Some(65_535)),
            "max_queued_messages" => ("queue_messages", 1..=10_000_000, Some(10_000_000)),
            "max_queued_bytes" => ("queue_bytes", 1024..=1 << 40, Some(1_u64 << 40)),
            "max_packet_size" => ("packet_bytes", 1024..=268_435_455, Some(268_435_455)),
            // Mosquitto's counts the payload alone; ours the whole packet.
            "message_size_limit" => ("packet_bytes", 1024..=268_435_455, Some(268_435_455)),
            "max_keepalive" => ("keep_alive", 0..=65_535, None),
            "persistent_client_expiration" => return Some(self.expiration(&line.value)),
            "retain_available" => return Some(self.retain_available(&line.value)),
            _ => return None,
        };
        Some(match (number(&line.value), unlimited) {
            (Some(0), Some(most)) => {
                self.set_limit(key, most.to_string());
                Ok(())
            }
            (Some(number), _) if range.contains(&number) => {
                self.set_limit(key, number.to_string());
                Ok(())
            }
            _ => Err(format!("`{key}` must be between {} and {}", range.start(), range.end())),
        })
    }

    fn retain_available(&mut self, value: &str) -> Result<(), String> {
        if !truth(value)? {
            self.set_limit("retained", "0".to_owned());
        }
        Ok(())
    }

    /// `2h`, `14d`, `3w`, `2m` (months), `1y`.
    fn expiration(&mut self, value: &str) -> Result<(), String> {
        let split = value.len() - value.chars().next_back().map_or(0, char::len_utf8);
        let hours = match &value[split..] {
            "h" => Some(1),
            "d" => Some(24),
            "w" => Some(7 * 24),
            "m" => Some(30 * 24),
            "y" => Some(365 * 24),
            _ => None,
        };
        let hours = hours
            .and_then(|hours| number(&value[..split])?.checked_mul(hours))
            .filter(|hours| (1..=1_193_000).contains(hours));
        let hours = hours.ok_or("is no time like `14d`")?;
        self.set_limit("session_expiry", format!("\"{hours}h\""));
        Ok(())
    }

    /// The last one counts, as in Mosquitto.
    fn set_limit(&mut self, key: &'static str, value: String) {
        self.limits.retain(|(known, _)| *known != key);
        self.limits.push((key, value));
    }

    /// The most talkative of the kinds that are asked for.
    fn log_type(&mut self, value: &str) -> Result<(), String> {
        let level = match value {
            "all" | "debug" => "debug",
            "information" | "notice" => "info",
            "warning" => "warn",
            "error" => "error",
            "none" => "off",
            "subscribe" | "unsubscribe" | "websockets" | "internal" => {
                return Err("is part of level `debug` here".to_owned());
            }
            _ => return Err("is no kind of message that is known here".to_owned()),
        };
        let order = ["off", "error", "warn", "info", "debug"];
        let place = |level: &str| order.iter().position(|known| *known == level);
        if self.log_level.is_none_or(|known| place(level) > place(known)) {
            self.log_level = Some(level);
        }
        Ok(())
    }

    fn log_dest(&mut self, value: &str) -> Result<(), String> {
        match value {
            "stderr" => Ok(()),
            "none" => {
                self.log_level = Some("off");
                Ok(())
            }
            _ => Err("logs go to stderr; the service manager keeps them".to_owned()),
        }
    }
}

fn as_here(value: &str, here: &str, why: &str) -> Result<(), String> {
    if value == here { Ok(()) } else { Err(why.to_owned()) }
}

/// Access is one for all listeners here: a second file would be for some of them only.
fn only_one(known: &mut Option<String>, value: &str) -> Result<(), String> {
    match known {
        Some(known) if known != value => {
            Err(format!("one file is for all listeners here; `{known}` is taken"))
        }
        _ => {
            *known = Some(value.to_owned());
            Ok(())
        }
    }
}
