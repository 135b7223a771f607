//! Keys of the servers that come with nsd, and slips with other servers that are worth a warning.

use super::process::Reader;
use super::raw::{self, OneOrMany};
use super::{BalancerKeys, BalancerTls, BrokerKeys, Certificates, Source, WantedPort, fields};
use crate::system::{Bundled, Network, ProcessName, SecretName};

const SECOND: &str = "second-level-is-device";

impl Reader<'_> {
    /// Keys that mean nothing for this source are mistakes, not decoration.
    pub(super) fn fitting_keys(&mut self, keys: &raw::Process, source: &Source) {
        let unknown = keys.bundled.is_none() && keys.image.is_none() && keys.repository.is_none();
        if unknown && self.places.has(&self.at("bundled")) {
            // It was told that there is no such server; what goes with it is not known.
            return;
        }
        let broker = [
            ("store", keys.store.is_some()),
            ("allow_anonymous", keys.allow_anonymous.is_some()),
            ("topic_rule", keys.topic_rule.is_some()),
        ];
        let balancer = [
            ("listen", keys.listen.is_some()),
            ("tls", keys.tls.is_some()),
            ("balance", keys.balance.is_some()),
        ];
        let own = [
            ("command", keys.command.is_some()),
            ("entrypoint", keys.entrypoint.is_some()),
            ("user", keys.user.is_some()),
            ("program", keys.program.is_some()),
        ];
        let only = |program: &str| format!("belongs to `bundled = \"{program}\"`");
        let (is_broker, is_balancer) =
            (*source == Source::Bundled(Bundled::Broker), *source == Source::Bundled(Bundled::Balancer));
        let wrong = [
            (&broker[..], !is_broker, only("broker")),
            (&balancer[..], !is_balancer, only("balancer")),
            (&own[..], is_broker || is_balancer, "does not go with `bundled`".to_owned()),
        ];
        for (keys, applies, why) in wrong {
            for (key, _) in keys.iter().filter(|(_, given)| *given && applies) {
                self.problem(key, format!("`{key}` {why}"), None);
            }
        }
        if is_balancer && keys.balances.is_none() {
            self.problem("", "a balancer needs `balances`: the process that it balances", None);
        }
    }

    fn addresses(&mut self, key: &str, list: Option<&Vec<String>>) -> Vec<String> {
        let list = list.cloned().unwrap_or_default();
        for (n, text) in list.iter().enumerate() {
            self.field(&format!("{key}[{n}]"), Some(text.as_str()), fields::listen);
        }
        list
    }

    pub(super) fn balancer(&mut self, keys: &raw::Process) -> BalancerKeys {
        let tls = keys.tls.as_ref().map(|tls| {
            let certificates = match &tls.certificates {
                OneOrMany::One(word) if word == "self-signed" => {
                    Certificates::SelfSigned(self_signed(self.name))
                }
                OneOrMany::One(path) => Certificates::Paths(vec![path.clone()]),
                OneOrMany::Many(paths) => Certificates::Paths(paths.clone()),
            };
            if let Certificates::Paths(paths) = &certificates {
                for path in paths.iter().filter(|path| !path.starts_with('/')) {
                    let what = format!("`{path}` must be `self-signed` or an absolute path in the container");
                    self.problem("tls.certificates", what, None);
                }
            }
            BalancerTls { listen: self.addresses("tls.listen", tls.listen.as_ref()), certificates }
        });
        let balance = keys.balance.map(|balance| match balance {
            raw::BalanceKey::Leastconn => "leastconn".to_owned(),
            raw::BalanceKey::Roundrobin => "roundrobin".to_owned(),
        });
        BalancerKeys { listen: self.addresses("listen", keys.listen.as_ref()), tls, balance }
    }

    pub(super) fn broker(&mut self, keys: &raw::Process) -> BrokerKeys {
        let rule = keys.topic_rule.map_or(SECOND, |rule| match rule {
            raw::TopicRuleKey::SecondLevelIsDevice => SECOND,
            raw::TopicRuleKey::Open => "open",
        });
        BrokerKeys {
            store: keys.store.as_deref().and_then(|store| store.parse().ok()),
            allow_anonymous: keys.allow_anonymous.unwrap_or(false),
            topic_rule: rule.to_owned(),
        }
    }

    /// The article's own slip: a data store published to the world, without a password, its data gone with each deploy.
    pub(super) fn exposed(
        &mut self,
        keys: &raw::Process,
        source: &Source,
        ports: &[WantedPort],
        network: &Network,
    ) {
        let Source::Image(image) = source else { return };
        let name = image.rsplit('/').next().unwrap_or(image).split([':', '@']).next().unwrap_or_default();
        if !["redis", "valkey", "keydb", "mongo", "memcached"].contains(&name) {
            return;
        }
        let public = *network == Network::Host || ports.iter().any(|port| port.ip.is_none());
        let settings = format!("{:?} {:?} {:?}", keys.command, keys.env, keys.files);
        let guarded = !keys.files.is_empty() || settings.contains("pass") || settings.contains("PASS");
        if public && !guarded {
            let what = format!("`{name}` is open to everyone who reaches the machine, without a password");
            self.warning(
                "",
                what,
                "give it a settings file with a password, such as template `redis.conf.tera`",
            );
        }
        if keys.volumes.is_empty() && name != "memcached" {
            let what = format!("`{name}` has no volume: its data is gone when it is replaced");
            self.warning("", what, "add a volume, such as `redis-data:/data`");
        }
    }
}

/// The secret that `tls.certificates = "self-signed"` stands for.
pub(super) fn self_signed(process: &ProcessName) -> SecretName {
    let name = format!("{process}-certificate").parse();
    // A process name near the limit leaves no room for the suffix; the bare name is then a secret's name as well.
    name.unwrap_or_else(|_| process.as_str().parse().expect("process and secret names follow one rule"))
}
