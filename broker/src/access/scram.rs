//! The server's side of SCRAM-SHA-256 (RFC 5802, RFC 7677): messages in, messages out. The caller brings the record of
//! the user, or an imitation where there is none, and random nonces.
//!
//! Channel binding is not offered: a client that says so (`n`), or that could do it and believes us that we cannot
//! (`y`), is fine; one that insists (`p=`) is refused.

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// The Authentication Method of MQTT 5.
pub const METHOD: &str = "SCRAM-SHA-256";
/// RFC 7677 asks for no fewer.
pub const LEAST_ITERATIONS: u32 = 4096;
/// More would be an attack on the clients that have to compute them.
pub const MOST_ITERATIONS: u32 = 10_000_000;

/// More than RFC 7677 asks for, and little enough for a device that has to compute it.
pub const USUAL_ITERATIONS: NonZeroU32 = NonZeroU32::new(15_000).unwrap();

const KEY: usize = 32;
/// Nonces and names longer than this are no sane client's.
const LONGEST_PART: usize = 512;

/// What is kept of a password: enough to check a client, not enough to be one.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    iterations: NonZeroU32,
    salt: Vec<u8>,
    stored_key: [u8; KEY],
    server_key: [u8; KEY],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    #[error("not a SCRAM message: {0}")]
    Malformed(&'static str),
    #[error("channel binding is not supported")]
    ChannelBinding,
    #[error("acting for somebody else is not supported")]
    OtherIdentity,
    #[error("the proof is wrong")]
    WrongProof,
}

impl Record {
    /// What `password` gives, prepared as RFC 4013 asks where it can be.
    pub fn derive(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Self {
        let prepared = prepared(password);
        let mut salted = Zeroizing::new([0; KEY]);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, &prepared, &mut *salted);
        let client_key = Zeroizing::new(mac(&*salted, b"Client Key"));
        let server_key = mac(&*salted, b"Server Key");
        Self { iterations, salt: salt.to_vec(), stored_key: sha256(&*client_key), server_key }
    }

    /// `$scram-sha-256$ITERATIONS$SALT$STORED$SERVER`, the last three in base64.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("$scram-sha-256$")?.split('$');
        let mut next = || parts.next();
        let iterations: NonZeroU32 = next()?.parse().ok()?;
        let salt = BASE64.decode(next()?).ok()?;
        let mut key = || -> Option<[u8; KEY]> { BASE64.decode(next()?).ok()?.try_into().ok() };
        let (stored_key, server_key) = (key()?, key()?);
        let in_range = (LEAST_ITERATIONS..=MOST_ITERATIONS).contains(&iterations.get());
        let whole = parts.next().is_none() && !salt.is_empty() && in_range;
        whole.then_some(Self { iterations, salt, stored_key, server_key })
    }

    /// A record for a name that has none: always the same one, as a real record would be, and matched by nobody.
    pub fn imitation(secret: &[u8], user: &str, iterations: NonZeroU32) -> Self {
        let part = |what: &str| mac(secret, format!("{what}\0{user}").as_bytes());
        let (salt, stored_key, server_key) = (part("salt")[..16].to_vec(), part("stored"), part("server"));
        Self { iterations, salt, stored_key, server_key }
    }

    /// Whether this is the password, sent as such.
    pub fn is_of(&self, password: &[u8]) -> bool {
        let given = Self::derive(password, &self.salt, self.iterations);
        given.stored_key.ct_eq(&self.stored_key).into()
    }

    pub fn iterations(&self) -> NonZeroU32 {
        self.iterations
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.stored_key.zeroize();
        self.server_key.zeroize();
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// The form that [`Record::parse`] reads, for the file that keeps it.
pub fn written(record: &Record) -> Zeroizing<String> {
    let [salt, stored, server] =
        [&record.salt[..], &record.stored_key, &record.server_key].map(|bytes| BASE64.encode(bytes));
    Zeroizing::new(format!("$scram-sha-256${}${salt}${stored}${server}", record.iterations))
}

/// The first message of a client: who it wants to be.
#[derive(Debug)]
pub struct ClientFirst {
    user: Box<str>,
    nonce: Box<str>,
    header: Box<str>,
    bare: Box<str>,
}

impl ClientFirst {
    pub fn parse(message: &[u8]) -> Result<Self, ScramError> {
        use ScramError::{ChannelBinding, Malformed, OtherIdentity};
        let text = std::str::from_utf8(message).map_err(|_| Malformed("no UTF-8"))?;
        let (binding, rest) = text.split_once(',').ok_or(Malformed("no header"))?;
        match binding {
            "n" | "y" => {}
            _ if binding.starts_with("p=") => return Err(ChannelBinding),
            _ => return Err(Malformed("no channel binding flag")),
        }
        let (identity, bare) = rest.split_once(',').ok_or(Malformed("no header"))?;
        let header = &text[..text.len() - bare.len()];
        let mut parts = bare.split(',');
        // What begins with `m=` must be understood by a server, and this one does not.
        let user = parts.next().and_then(|part| part.strip_prefix("n=")).ok_or(Malformed("no user"))?;
        let user = unescaped(user).ok_or(Malformed("the user's name"))?;
        let nonce = parts.next().and_then(|part| part.strip_prefix("r=")).ok_or(Malformed("no nonce"))?;
        if nonce.is_empty()
            || nonce.len() > LONGEST_PART
            || !nonce.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(Malformed("the nonce"));
        }
        match identity.strip_prefix("a=").map(unescaped) {
            None if identity.is_empty() => {}
            Some(Some(other)) if other == user => {}
            Some(_) => return Err(OtherIdentity),
            None => return Err(Malformed("the header")),
        }
        Ok(Self { user: user.into(), nonce: nonce.into(), header: header.into(), bare: bare.into() })
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    /// Asks the client to prove itself. `nonce` is ours: random, printable, without a comma.
    pub fn challenge(self, record: Record, nonce: &str) -> Exchange {
        let nonce = format!("{}{nonce}", self.nonce);
        let salt = BASE64.encode(&record.salt);
        let server_first = format!("r={nonce},s={salt},i={}", record.iterations);
        Exchange { first: self, record, nonce, server_first }
    }
}

/// An exchange that waits for the client's proof.
#[derive(Debug)]
pub struct Exchange {
    first: ClientFirst,
    record: Record,
    nonce: String,
    server_first: String,
}

impl Exchange {
    /// What the client is to be sent.
    pub fn message(&self) -> &str {
        &self.server_first
    }

    pub fn user(&self) -> &str {
        &self.first.user
    }

    /// Checks the client's proof; what comes back proves us to the client.
    pub fn finish(&self, message: &[u8]) -> Result<String, ScramError> {
        use ScramError::{ChannelBinding, Malformed, WrongProof};
        let text = std::str::from_utf8(message).map_err(|_| Malformed("no UTF-8"))?;
        let (unproven, proof) = text.rsplit_once(",p=").ok_or(Malformed("no proof"))?;
        let mut parts = unproven.split(',');
        let binding = parts.next().and_then(|part| part.strip_prefix("c=")).ok_or(Malformed("no binding"))?;
        // The header again: nobody between us has changed what the client said about channel binding.
        if BASE64.decode(binding).ok().as_deref() != Some(self.first.header.as_bytes()) {
            return Err(ChannelBinding);
        }
        let nonce = parts.next().and_then(|part| part.strip_prefix("r=")).ok_or(Malformed("no nonce"))?;
        if nonce != self.nonce {
            return Err(WrongProof);
        }
        let proof = BASE64.decode(proof).map_err(|_| Malformed("the proof"))?;
        let proof: [u8; KEY] = proof.try_into().map_err(|_| Malformed("the proof"))?;
        let said = format!("{},{},{unproven}", self.first.bare, self.server_first);
        let signature = mac(&self.record.stored_key, said.as_bytes());
        let mut client_key = Zeroizing::new(proof);
        client_key.iter_mut().zip(signature).for_each(|(byte, sign)| *byte ^= sign);
        if !bool::from(sha256(&*client_key).ct_eq(&self.record.stored_key)) {
            return Err(WrongProof);
        }
        Ok(format!("v={}", BASE64.encode(mac(&self.record.server_key, said.as_bytes()))))
    }
}

fn mac(key: &[u8], data: &[u8]) -> [u8; KEY] {
    sized(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref())
}

fn sha256(data: &[u8]) -> [u8; KEY] {
    sized(digest::digest(&digest::SHA256, data).as_ref())
}

fn sized(bytes: &[u8]) -> [u8; KEY] {
    let mut array = [0; KEY];
    array.copy_from_slice(bytes);
    array
}

/// A password that is no text, or holds what SASLprep forbids, counts byte by byte.
fn prepared(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let text = std::str::from_utf8(password).ok().and_then(|text| stringprep::saslprep(text).ok());
    Zeroizing::new(text.map_or_else(|| password.to_vec(), |text| text.into_owned().into_bytes()))
}

/// A name, whose commas and equal signs are written as `=2C` and `=3D`.
fn unescaped(name: &str) -> Option<String> {
    let mut parts = name.split('=');
    let mut whole = parts.next()?.to_owned();
    for part in parts {
        let (sign, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return None,
        };
        whole.push(sign);
        whole.push_str(rest);
    }
    (!whole.is_empty() && whole.len() <= LONGEST_PART).then_some(whole)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ITERATIONS: NonZeroU32 = NonZeroU32::new(LEAST_ITERATIONS).unwrap();
    const PROOF: &[u8] = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                           p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    /// The exchange of RFC 7677, section 3.
    fn exchange(first: &[u8]) -> Exchange {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let record = Record::derive(b"pencil", &salt, ITERATIONS);
        let record = Record::parse(&written(&record)).unwrap();
        ClientFirst::parse(first).unwrap().challenge(record, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    }

    #[test]
    fn the_example_of_rfc_7677() {
        let exchange = exchange(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        assert_eq!(exchange.user(), "user");
        assert_eq!(
            exchange.message(),
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        assert_eq!(exchange.finish(PROOF).unwrap(), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn whatever_is_changed_the_proof_is_refused() {
        let fine = std::str::from_utf8(PROOF).unwrap();
        for (from, to, expected) in [
            ("dHzb", "dHzc", ScramError::WrongProof),
            ("r=rOpr", "r=rOpR", ScramError::WrongProof),
            ("k0,", "k0,x=y,", ScramError::WrongProof),
            ("c=biws", "c=eSws", ScramError::ChannelBinding),
            ("c=biws", "c=!", ScramError::ChannelBinding),
            ("c=biws,", "", ScramError::Malformed("no binding")),
            (",p=dHz", ",p=", ScramError::Malformed("the proof")),
            (",p=", ",q=", ScramError::Malformed("no proof")),
        ] {
            let message = fine.replacen(from, to, 1);
            let exchange = exchange(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
            assert_eq!(exchange.finish(message.as_bytes()), Err(expected), "{message}");
        }
        // A client that could bind, and was told that it had said it could not.
        assert_eq!(
            exchange(b"y,,n=user,r=rOprNGfwEbeRWgbNEkqO").finish(PROOF),
            Err(ScramError::ChannelBinding)
        );
    }

    #[test]
    fn first_messages() {
        use ScramError::{ChannelBinding, Malformed, OtherIdentity};
        for (message, user) in
            [("n,,n=a,r=x", "a"), ("y,,n=a=2Cb=3D,r=x,ext=1", "a,b="), ("n,a=a,n=a,r=x", "a")]
        {
            assert_eq!(ClientFirst::parse(message.as_bytes()).unwrap().user(), user);
        }
        for (message, expected) in [
            ("p=tls-exporter,,n=a,r=x", ChannelBinding),
            ("n,a=b,n=a,r=x", OtherIdentity),
            ("n,b,n=a,r=x", Malformed("the header")),
            ("q,,n=a,r=x", Malformed("no channel binding flag")),
            ("n,,m=1,n=a,r=x", Malformed("no user")),
            ("n,,n=,r=x", Malformed("the user's name")),
            ("n,,n=a=2cb,r=x", Malformed("the user's name")),
            ("n,,n=a,r=", Malformed("the nonce")),
            ("n,,n=a,r=\u{7}", Malformed("the nonce")),
            ("n,,n=a", Malformed("no nonce")),
            ("n", Malformed("no header")),
            ("", Malformed("no header")),
        ] {
            assert_eq!(ClientFirst::parse(message.as_bytes()).unwrap_err(), expected, "{message}");
        }
        assert_eq!(ClientFirst::parse(b"n,,n=\xff,r=x").unwrap_err(), Malformed("no UTF-8"));
    }

    #[test]
    fn records() {
        let record = Record::derive(b"pencil", b"salt", ITERATIONS);
        assert!(record.is_of(b"pencil") && !record.is_of(b"pencils"));
        let text = written(&record);
        assert_eq!(Record::parse(&text).unwrap(), record);
        assert!(!format!("{record:?}").contains(&text[30..]));
        for odd in [
            text.replace("$4096$", "$4095$"),
            text.replace("$4096$", "$99999999$"),
            text.replace("$4096$", "$x$"),
            text.replace("$c2FsdA==$", "$$"),
            format!("{}$x", &*text),
            text[..text.len() - 4].to_owned(),
            "$scram-sha-256$".to_owned(),
        ] {
            assert!(Record::parse(&odd).is_none(), "{odd}");
        }
    }

    #[test]
    fn passwords_are_prepared() {
        // RFC 4013: a soft hyphen is mapped to nothing, a no-break space to a space.
        let record = Record::derive("I\u{ad}X\u{a0}".as_bytes(), b"salt", ITERATIONS);
        assert!(record.is_of(b"IX "));
        assert!(Record::derive(b"\xff\xfe", b"salt", ITERATIONS).is_of(b"\xff\xfe"));
    }

    #[test]
    fn an_imitation_is_steady_and_nobodys() {
        let imitate = |secret, user| Record::imitation(secret, user, ITERATIONS);
        assert_eq!(imitate(b"k", "u"), imitate(b"k", "u"));
        assert_ne!(imitate(b"k", "u").salt, imitate(b"k", "v").salt);
        assert_ne!(imitate(b"k", "u").salt, imitate(b"l", "u").salt);
        assert!(!imitate(b"k", "u").is_of(b""));
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(first in prop::collection::vec(any::<u8>(), 0..80), text in "[nyp=,ra0a2C3D]{0,30}") {
            let _ = ClientFirst::parse(&first);
            let _ = ClientFirst::parse(text.as_bytes());
            let exchange = ClientFirst::parse(b"n,,n=u,r=x").unwrap()
                .challenge(Record::imitation(b"k", "u", ITERATIONS), "y");
            prop_assert!(exchange.finish(&first).is_err());
            prop_assert!(exchange.finish(text.as_bytes()).is_err());
        }
    }
}
