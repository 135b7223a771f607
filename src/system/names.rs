//! Names that cannot be mixed up: each is its own type, built only by a checked parse.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name of any kind; with the dots between them four names still fit a container name.
pub const MAX_NAME: usize = 40;

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a {0} name must not be empty")]
    Empty(&'static str),
    #[error("a {kind} name has at most {MAX_NAME} characters, this one has {length}")]
    Long { kind: &'static str, length: usize },
    #[error(
        "a {kind} name consists of a-z, A-Z, 0-9, `-` and `_` and starts with a letter or digit; {found:?} does not fit"
    )]
    Character { kind: &'static str, found: char },
}

fn check(kind: &'static str, text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty(kind));
    }
    if text.len() > MAX_NAME {
        return Err(NameError::Long { kind, length: text.chars().count() });
    }
    let fits = |(at, c): (usize, char)| c.is_ascii_alphanumeric() || (at > 0 && (c == '-' || c == '_'));
    match text.chars().enumerate().find(|&item| !fits(item)) {
        Some((_, found)) => Err(NameError::Character { kind, found }),
        None => Ok(()),
    }
}

macro_rules! name {
    ($type:ident, $kind:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                check($kind, text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                check($kind, &text)?;
                Ok(Self(text))
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(SystemName, "system", "Name of a system, such as `lelylan-mqtt`.");
name!(TopologyName, "topology", "Name of a topology, such as `direct`.");
name!(MachineName, "machine", "Name of a machine, such as `mqtt-1`.");
name!(ProcessName, "process", "Name of a process, such as `mqtt`.");
name!(SecretName, "secret", "Name of a secret, such as `redis`.");

/// One running copy of a process on one machine: `mqtt-1.mqtt.1`; numbers start at 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceName {
    pub machine: MachineName,
    pub process: ProcessName,
    pub number: u16,
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.machine, self.process, self.number)
    }
}

impl From<InstanceName> for String {
    fn from(name: InstanceName) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for InstanceName {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not an instance name such as `mqtt-1.mqtt.1`");
        let [machine, process, number] = *text.split('.').collect::<Vec<_>>() else { return Err(wrong()) };
        Ok(Self {
            machine: machine.parse().map_err(|_| wrong())?,
            process: process.parse().map_err(|_| wrong())?,
            number: number.parse().map_err(|_| wrong())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!("lelylan-mqtt".parse::<SystemName>().is_ok());
        assert_eq!("".parse::<SystemName>(), Err(NameError::Empty("system")));
        assert_eq!("a.b".parse::<MachineName>(), Err(NameError::Character { kind: "machine", found: '.' }));
        assert!("-a".parse::<ProcessName>().is_err());
        assert!("x".repeat(MAX_NAME + 1).parse::<ProcessName>().is_err());
    }

    #[test]
    fn an_instance_name_round_trips() {
        let name = InstanceName::try_from("mqtt-1.mqtt.2".to_owned()).unwrap();
        assert_eq!((name.machine.as_str(), name.process.as_str(), name.number), ("mqtt-1", "mqtt", 2));
        assert_eq!(name.to_string(), "mqtt-1.mqtt.2");
        assert!(InstanceName::try_from("mqtt-1.mqtt".to_owned()).is_err());
    }
}
