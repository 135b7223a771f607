//! The devices that the bundled brokers let in: records in the Redis that the brokers share. A record is the hash
//! `{prefix}device:{id}`; the set `{prefix}devices` holds all ids. Only the salted hash of a secret is kept.

use std::time::Duration;

use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::failure::{Failure, Kind};
use crate::host::Stream;
use crate::keeper::random;
use crate::secret::Secret;

/// 256 bits: no word list reaches them, so a fast hash is enough for the broker's sake.
const SECRET_BYTES: usize = 32;
const SALT_BYTES: usize = 16;
const MAX_ID: usize = 64;

/// For one answer of a Redis.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ids fetched at once by [`Registry::list`].
const BATCH: usize = 500;

/// Name of a device: its user name, and by the usual topic rule the second level of its topics.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct DeviceId(String);

impl DeviceId {
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let fits = (1..=MAX_ID).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if fits {
            return Ok(Self(text.to_owned()));
        }
        Err(Failure::new(Kind::Usage, format!("{text:?} cannot be a device's name"))
            .hint(format!("it has 1 to {MAX_ID} characters of A-Z, a-z, 0-9, `.`, `_` and `-`")))
    }
}

impl std::fmt::Display for DeviceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// One device as the list shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Device {
    pub id: String,
    /// RFC 3339; empty where the record does not tell.
    pub created: String,
    pub disabled: bool,
}

/// Where the records of one system stand.
pub struct Registry {
    redis: MultiplexedConnection,
    prefix: String,
}

impl Registry {
    /// Over a stream that somebody made, such as one through SSH.
    pub async fn over(stream: Stream, password: Option<&Secret>, prefix: &str) -> Result<Self, Failure> {
        let mut info = redis::RedisConnectionInfo::default();
        if let Some(password) = password {
            info = info.set_password(password.reveal());
        }
        let (sender, made) = tokio::sync::oneshot::channel();
        // The driver borrows the login, so both live in one task; it ends with the last handle of the connection.
        tokio::spawn(async move {
            match MultiplexedConnection::new(&info, stream).await {
                Ok((redis, driver)) => {
                    let _ = sender.send(Ok(redis));
                    driver.await;
                }
                Err(error) => drop(sender.send(Err(error))),
            }
        });
        let silent = |why: &str| Failure::error("cannot log in to Redis").cause(why);
        let made = tokio::time::timeout(PATIENCE, made)
            .await
            .map_err(|_| silent("it does not answer"))?
            .map_err(|_| silent("the connection ended"))?;
        let mut redis = made.map_err(|error| failed("log in to Redis", &error))?;
        redis.set_response_timeout(PATIENCE);
        Ok(Self { redis, prefix: prefix.to_owned() })
    }

    /// By a URL that the user gave; a password in it stays out of every error.
    pub async fn at(url: &str, prefix: &str) -> Result<Self, Failure> {
        let bad = |_| Failure::new(Kind::Usage, "`--redis` takes a URL such as redis://127.0.0.1:6379/0");
        let client = redis::Client::open(url).map_err(bad)?;
        let redis =
            client.get_multiplexed_async_connection().await.map_err(|error| failed("reach Redis", &error))?;
        Ok(Self { redis, prefix: prefix.to_owned() })
    }

    /// Makes a device and its secret, which nobody can read again. One that exists keeps its secret, unless `replace`.
    pub async fn add(&mut self, id: &DeviceId, replace: bool) -> Result<Secret, Failure> {
        let secret = random(SECRET_BYTES)?;
        let kept = hashed(&secret)?;
        let created = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let key = self.key(id);
        // HSETNX decides between two that add the same device at once; the loser changes nothing.
        let mine: bool = if replace {
            redis::cmd("HSET")
                .arg(&key)
                .arg("secret")
                .arg(&kept)
                .exec_async(&mut self.redis)
                .await
                .map(|()| true)
        } else {
            self.redis.hset_nx(&key, "secret", &kept).await
        }
        .map_err(|error| failed("write the device", &error))?;
        if !mine {
            return Err(Failure::error(format!(
                "device {id} exists; its secret was shown when it was added"
            ))
            .hint(format!("give it a new one: `nsd device add {id} --replace`")));
        }
        redis::pipe()
            .atomic()
            .hset(&key, "created", created)
            .sadd(format!("{}devices", self.prefix), &id.0)
            .exec_async(&mut self.redis)
            .await
            .map_err(|error| failed("write the device", &error))?;
        Ok(secret)
    }

    /// Whether there was such a device.
    pub async fn remove(&mut self, id: &DeviceId) -> Result<bool, Failure> {
        let (removed, _): (u64, u64) = redis::pipe()
            .atomic()
            .del(self.key(id))
            .srem(format!("{}devices", self.prefix), &id.0)
            .query_async(&mut self.redis)
            .await
            .map_err(|error| failed("remove the device", &error))?;
        Ok(removed > 0)
    }

    /// By name.
    pub async fn list(&mut self) -> Result<Vec<Device>, Failure> {
        let mut ids: Vec<String> = self
            .redis
            .smembers(format!("{}devices", self.prefix))
            .await
            .map_err(|error| failed("list the devices", &error))?;
        ids.sort();
        let mut devices = Vec::with_capacity(ids.len());
        for batch in ids.chunks(BATCH) {
            let mut pipe = redis::pipe();
            for id in batch {
                pipe.hmget(format!("{}device:{id}", self.prefix), &["created", "disabled"]);
            }
            let fields: Vec<(Option<String>, Option<String>)> = pipe
                .query_async(&mut self.redis)
                .await
                .map_err(|error| failed("list the devices", &error))?;
            devices.extend(batch.iter().zip(fields).map(|(id, (created, disabled))| Device {
                id: id.clone(),
                created: created.unwrap_or_default(),
                disabled: disabled.as_deref() == Some("1"),
            }));
        }
        Ok(devices)
    }

    fn key(&self, id: &DeviceId) -> String {
        format!("{}device:{id}", self.prefix)
    }
}

/// `$sha256$<salt hex>$<hex of sha256(salt || secret)>`, as the broker checks it.
fn hashed(secret: &Secret) -> Result<String, Failure> {
    let salt = random(SALT_BYTES)?;
    let mut hash = Sha256::new();
    hash.update(salt.reveal());
    hash.update(secret.reveal());
    Ok(format!("$sha256${}${}", hex::encode(salt.reveal()), hex::encode(hash.finalize())))
}

/// Redis' own words hold no secret of ours, but a URL might: only the kind and the server's code are told.
fn failed(what: &str, error: &redis::RedisError) -> Failure {
    let failure = Failure::error(format!("cannot {what}"));
    let failure = match error.detail() {
        Some(detail) => failure.cause(detail.to_owned()),
        None => failure.cause(error.category().to_owned()),
    };
    if error.kind() == redis::ErrorKind::AuthenticationFailed {
        return failure.hint("the password kept in `.nsd/secrets/` is not the one that this Redis runs with");
    }
    failure.hint("is it up? See `nsd status`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_topics_and_keys() {
        for good in ["lamp", "a", "A.b_c-9", &"x".repeat(64)] {
            assert!(DeviceId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a/b", "a+", "#", "ü", &"x".repeat(65)] {
            assert_eq!(DeviceId::parse(bad).unwrap_err().kind, Kind::Usage, "{bad}");
        }
    }

    #[test]
    fn a_secret_is_kept_only_as_its_salted_hash() {
        let secret = Secret::new("s3cret");
        let kept = hashed(&secret).unwrap();
        let [empty, kind, salt, hash] = *kept.split('$').collect::<Vec<_>>() else { panic!("{kept}") };
        assert_eq!((empty, kind), ("", "sha256"));
        let salt = hex::decode(salt).unwrap();
        assert_eq!(hex::encode(Sha256::digest([&salt, secret.reveal().as_bytes()].concat())), hash);
        assert_ne!(hashed(&secret).unwrap(), kept, "every record has a salt of its own");
    }
}
