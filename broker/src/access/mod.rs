//! Who may connect, publish and subscribe: decisions over records that somebody else looked up. Pure.

mod secret;

pub use secret::{Check, StoredSecret};

/// What the operator asked for.
#[derive(Debug, Clone)]
pub struct Policy {
    pub allow_anonymous: bool,
    /// Devices are authenticated against their records in the store.
    pub devices: bool,
    pub topic_rule: TopicRule,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicRule {
    Open,
    /// The second level of a topic or filter must be the device's id (`devices/<id>/…`).
    SecondLevelIsDevice,
}

/// A device's record as the store keeps it.
#[derive(Debug, Clone)]
pub struct DeviceRecord {
    pub secret: String,
    pub disabled: bool,
}

/// What a client claims to be, before anything was looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim<'c> {
    Anonymous,
    Device { id: &'c str, secret: &'c [u8] },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Unknown, disabled or wrong: one answer for all, so that nobody can probe which devices exist.
    BadCredentials,
    /// Fine as such, but not allowed here.
    NotAuthorized,
}

/// What an admitted client may do, for as long as it is connected.
#[derive(Debug, Clone)]
pub struct Grant {
    device: Option<Box<str>>,
    rule: TopicRule,
}

impl Policy {
    /// Decides what must be looked up for these credentials.
    pub fn claim<'c>(&self, user: Option<&'c str>, password: Option<&'c [u8]>) -> Result<Claim<'c>, Refusal> {
        match user {
            None if self.allow_anonymous => Ok(Claim::Anonymous),
            None => Err(Refusal::NotAuthorized),
            // Nobody checks names here: a name means no more than none.
            Some(_) if !self.devices && self.allow_anonymous => Ok(Claim::Anonymous),
            Some(_) if !self.devices => Err(Refusal::NotAuthorized),
            Some(id) if !is_device_id(id) => Err(Refusal::BadCredentials),
            Some(id) => Ok(Claim::Device { id, secret: password.ok_or(Refusal::BadCredentials)? }),
        }
    }

    pub fn grant(&self, device: Option<&str>) -> Grant {
        Grant { device: device.map(Into::into), rule: self.topic_rule }
    }
}

impl Grant {
    pub fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// `$`-topics belong to the server: never writable, whoever asks.
    pub fn may_publish(&self, topic: &str) -> bool {
        !topic.starts_with('$') && self.covers(topic)
    }

    /// A filter with a wildcard at the second level reaches other devices, so it is refused under the rule.
    pub fn may_subscribe(&self, filter: &str) -> bool {
        let filter = nsd_wire::topic::Shared::parse(filter).map_or(filter, |shared| shared.filter);
        self.covers(filter)
    }

    fn covers(&self, topic: &str) -> bool {
        match self.rule {
            TopicRule::Open => true,
            TopicRule::SecondLevelIsDevice => {
                self.device.is_some() && topic.split('/').nth(1) == self.device()
            }
        }
    }
}

/// 1–64 characters of `[A-Za-z0-9._-]`: safe in a key's name, in a topic level and in a log line.
pub fn is_device_id(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow_anonymous: bool, devices: bool) -> Policy {
        Policy { allow_anonymous, devices, topic_rule: TopicRule::SecondLevelIsDevice }
    }

    #[test]
    fn claims() {
        use Refusal::{BadCredentials, NotAuthorized};
        let device = Claim::Device { id: "d1", secret: b"s" };
        for (anonymous, devices, user, password, expected) in [
            (false, true, None, None, Err(NotAuthorized)),
            (true, true, None, None, Ok(Claim::Anonymous)),
            (false, true, Some("d1"), Some(&b"s"[..]), Ok(device)),
            (true, true, Some("d1"), Some(&b"s"[..]), Ok(device)),
            (false, true, Some("d1"), None, Err(BadCredentials)),
            (false, true, Some("d 1"), Some(&b"s"[..]), Err(BadCredentials)),
            (false, false, Some("d1"), Some(&b"s"[..]), Err(NotAuthorized)),
            (true, false, Some("d1"), Some(&b"s"[..]), Ok(Claim::Anonymous)),
        ] {
            assert_eq!(
                policy(anonymous, devices).claim(user, password),
                expected,
                "{anonymous} {devices} {user:?}"
            );
        }
    }

    #[test]
    fn the_second_level_is_the_device() {
        let grant = policy(false, true).grant(Some("d1"));
        for (topic, allowed) in [
            ("devices/d1/x", true),
            ("devices/d1", true),
            ("devices/d2/x", false),
            ("d1", false),
            ("", false),
        ] {
            assert_eq!(grant.may_publish(topic), allowed, "{topic}");
        }
        for (filter, allowed) in [
            ("devices/d1/#", true),
            ("+/d1/x", true),
            ("devices/+/x", false),
            ("#", false),
            ("$share/g/devices/d1/x", true),
            ("$share/d1/devices/d2/x", false),
            ("$SYS/#", false),
        ] {
            assert_eq!(grant.may_subscribe(filter), allowed, "{filter}");
        }
        assert!(!policy(true, true).grant(None).may_publish("devices//x"));
    }

    #[test]
    fn the_servers_topics_are_never_writable() {
        let open = Policy { allow_anonymous: true, devices: false, topic_rule: TopicRule::Open }.grant(None);
        assert!(!open.may_publish("$SYS/d1/x"));
        assert!(open.may_publish("a/$SYS"));
        assert!(open.may_subscribe("$SYS/#"));
    }

    #[test]
    fn device_ids() {
        for (id, fine) in
            [("a", true), ("A.b-c_9", true), ("", false), ("a/b", false), ("a b", false), ("é", false)]
        {
            assert_eq!(is_device_id(id), fine, "{id}");
        }
        assert!(!is_device_id(&"x".repeat(65)));
    }
}
