//! The draft as the text of our settings.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};

use nsd_edge::config::{quoted, without_controls};

use super::listener::Listener;
use super::{Combined, Configuration, Draft};
use crate::convert::Note;

impl Draft {
    pub(super) fn finish(mut self, beside: &str) -> Configuration {
        let mut listeners = std::mem::take(&mut self.listeners);
        listeners.splice(0..0, self.default.take());
        let mut made = Configuration::default();
        // Mosquitto without any listener is for this machine only, and lets everybody on it in.
        let is_local = listeners.is_empty();
        let anonymous = match self.allow_anonymous.as_slice() {
            [] => is_local,
            said => said.iter().all(|allow| *allow) && (!self.per_listener || said.len() >= listeners.len()),
        };
        let mut text = format!(
            "# From a mosquitto.conf. Check it with `nsd-broker --config FILE --check`.\nallow_anonymous = {anonymous}\n"
        );
        if is_local {
            listener(&mut text, (Ipv4Addr::LOCALHOST, 1883).into());
        }
        for each in &listeners {
            self.listener(&mut text, each, beside, &mut made.certificates);
        }
        self.store(&mut text);
        self.access(&mut text, &listeners);
        table(&mut text, "limits", &self.limits);
        let sys: Vec<_> =
            self.sys_interval.take().map(|interval| ("interval", interval)).into_iter().collect();
        table(&mut text, "sys", &sys);
        let log: Vec<_> = self.log_level.take().map(|level| ("level", quoted(level))).into_iter().collect();
        table(&mut text, "log", &log);
        // They stand in comments, and go to a terminal.
        self.notes.iter_mut().for_each(|note| note.what = without_controls(&note.what));
        if !self.notes.is_empty() {
            text.push_str("\n# Without a counterpart here:\n");
            for note in &self.notes {
                let _ = writeln!(text, "#   {note}");
            }
        }
        made.toml = text;
        made.notes = self.notes;
        made
    }

    fn listener(
        &mut self,
        text: &mut String,
        given: &Listener,
        beside: &str,
        certificates: &mut Vec<Combined>,
    ) {
        let address = given.address();
        listener(text, address);
        if given.websocket {
            text.push_str("websocket = true\n");
        }
        if let Some(most) = given.max_connections {
            let _ = writeln!(text, "connections = {most}");
        }
        if let Some(most) = given.topic_aliases {
            let _ = writeln!(text, "[listen.limits]\ntopic_aliases = {most}");
        }
        let (Some(chain), Some(key)) = (&given.certfile, &given.keyfile) else {
            if given.is_tls() || given.cafile.is_some() {
                self.say(
                    address,
                    "has no certfile and keyfile together, so it is without TLS here as it was there",
                );
            }
            return;
        };
        let name = format!("{beside}/listener-{}.pem", address.port());
        let _ = writeln!(
            text,
            "[listen.tls]\n# {} and {}, one after the other; write it anew when they change.",
            quoted(chain),
            quoted(key)
        );
        let _ = writeln!(text, "certificates = [{}]", quoted(&name));
        if given.tls13 {
            text.push_str("min_version = \"1.3\"\n");
        }
        if let Some(authorities) = &given.cafile {
            let wanted = if given.require_certificate { "required" } else { "optional" };
            let _ =
                writeln!(text, "client_ca = [{}]\nclient_certificate = \"{wanted}\"", quoted(authorities));
            if let Some(revoked) = &given.crlfile {
                let _ = writeln!(text, "client_crl = [{}]", quoted(revoked));
            }
        } else if given.require_certificate {
            self.say(address, "requires certificates, but names no `cafile`");
        }
        certificates.push(Combined { name, chain: chain.clone(), key: key.clone() });
    }

    fn store(&self, text: &mut String) {
        if !self.persistence {
            text.push_str("\n[store]\nkind = \"memory\"\n");
            return;
        }
        text.push_str("\n[store]\nkind = \"disk\"\n");
        if let Some(path) = &self.persistence_location {
            // Another format than Mosquitto's: a folder of its own.
            let _ = writeln!(text, "directory = {}", quoted(&format!("{}/nsd", path.trim_end_matches('/'))));
        }
    }

    fn access(&mut self, text: &mut String, listeners: &[Listener]) {
        let certified = listeners.iter().filter(|listener| listener.identity_as_username).count();
        if certified > 0 && certified < listeners.len() {
            self.notes.push(Note {
                at: "use_identity_as_username".to_owned(),
                what: "certificates are users at every listener here".to_owned(),
            });
        }
        text.push_str("\n[access]\ndevices = false\ntopic_rule = \"open\"\n");
        if certified > 0 {
            text.push_str("certificate = \"user\"\n");
        }
        for (key, file) in [("password_file", &self.password_file), ("acl_file", &self.acl_file)] {
            if let Some(file) = file {
                let _ = writeln!(text, "{key} = {}", quoted(file));
            }
        }
    }

    fn say(&mut self, address: SocketAddr, what: &str) {
        self.notes.push(Note { at: format!("listener {address}"), what: what.to_owned() });
    }
}

fn listener(text: &mut String, address: SocketAddr) {
    let _ = writeln!(text, "\n[[listen]]\naddress = \"{address}\"");
}

fn table(text: &mut String, name: &str, entries: &[(&str, String)]) {
    if entries.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n[{name}]");
    for (key, value) in entries {
        let _ = writeln!(text, "{key} = {value}");
    }
}
