//! Session tickets under keys from a file, so that a twin, and this server after a restart, resume the sessions of each
//! other. A ticket is the session itself, sealed, with the time when it was; nothing of it is kept here.

use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::server::ProducesTickets;
use rustls_pki_types::UnixTime;
use zeroize::Zeroizing;

use super::TlsProblem;
use crate::secret_file::{self, Readers};

/// How long a ticket is good for, in seconds: as long as those under keys of the library's own.
const LIFETIME: u32 = 12 * 60 * 60;
/// Bytes of one key in the file: enough to be a secret; up to what HAProxy's and nginx' key files have.
const SECRETS: std::ops::RangeInclusive<usize> = 32..=80;
/// Keys in the file: more than are rotated through by hand are something else.
const MOST_KEYS: usize = 64;
/// A larger file is something else: so many keys, with as much to say about them.
const MOST_BYTES: u64 = 64 * 1024;
/// In front of each ticket, in the clear: which key it is sealed under.
const NAME: usize = 16;
const NONCE: usize = 12;
const TIME: usize = 8;

/// The first key seals, all open.
#[derive(Debug)]
pub(super) struct SharedTickets(Vec<TicketKey>);

#[derive(Debug)]
struct TicketKey {
    name: [u8; NAME],
    /// Twins draw nonces without knowing of each other: with this cipher even a nonce used twice gives no key away.
    key: RandomizedNonceKey,
}

impl SharedTickets {
    /// One key a line, in base64; empty lines and those that begin with `#` are nothing.
    pub(super) fn load(path: &Path) -> Result<Self, TlsProblem> {
        let bytes = secret_file::read(path, MOST_BYTES, Readers::Group)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| TlsProblem::NoTicketKeys)?;
        let mut keys = Vec::new();
        for (number, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            keys.push(TicketKey::read(line).ok_or(TlsProblem::TicketKey(number + 1))?);
        }
        match keys.len() {
            0 => Err(TlsProblem::NoTicketKeys),
            1..=MOST_KEYS => Ok(Self(keys)),
            many => Err(TlsProblem::ManyTicketKeys(many, MOST_KEYS)),
        }
    }

    fn seal(&self, session: &[u8], now: u64) -> Option<Vec<u8>> {
        let TicketKey { name, key } = self.0.first()?;
        let mut sealed = Vec::with_capacity(TIME + session.len() + AES_256_GCM_SIV.tag_len());
        sealed.extend_from_slice(&now.to_be_bytes());
        sealed.extend_from_slice(session);
        let nonce = key.seal_in_place_append_tag(Aad::from(name), &mut sealed).ok()?;
        Some([&name[..], nonce.as_ref(), &sealed].concat())
    }

    fn open(&self, ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>()?;
        // Names are no secrets: they stand in each ticket.
        let TicketKey { key, .. } = self.0.iter().find(|key| key.name == *name)?;
        let mut opened = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = key.open_in_place(nonce, Aad::from(name), &mut opened).ok()?;
        let (sealed_at, session) = plain.split_first_chunk::<TIME>()?;
        // A twin's clock may be a little ahead: then the ticket is new.
        let age = now.saturating_sub(u64::from_be_bytes(*sealed_at));
        (age <= u64::from(LIFETIME)).then(|| session.to_vec())
    }
}

impl TicketKey {
    fn read(line: &str) -> Option<Self> {
        let secret = Zeroizing::new(STANDARD.decode(line).ok()?);
        if !SECRETS.contains(&secret.len()) {
            return None;
        }
        let mut derived = Zeroizing::new([0; NAME + 32]);
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]);
        let pseudorandom = salt.extract(&secret);
        let info: [&[u8]; 1] = [b"nsd session tickets"];
        pseudorandom.expand(&info, Length(derived.len())).ok()?.fill(&mut *derived).ok()?;
        let (name, key) = derived.split_first_chunk::<NAME>()?;
        Some(Self { name: *name, key: RandomizedNonceKey::new(&AES_256_GCM_SIV, key).ok()? })
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl ProducesTickets for SharedTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, UnixTime::now().as_secs())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, UnixTime::now().as_secs())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    fn line(of: u8, length: usize) -> String {
        STANDARD.encode(vec![of; length])
    }

    fn file(directory: &TempDir, text: &str, mode: u32) -> PathBuf {
        let path = directory.path().join("tickets.keys");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn keys(text: &str) -> SharedTickets {
        SharedTickets::load(&file(&TempDir::new().unwrap(), text, 0o600)).unwrap()
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let old = keys(&line(1, 32));
        let ticket = old.seal(b"session", 1000).unwrap();
        assert_eq!(keys(&line(1, 32)).open(&ticket, 1000).as_deref(), Some(&b"session"[..]), "a twin");
        let rotated = keys(&format!("# new one first\n{}\n\n{}\n", line(2, 80), line(1, 32)));
        assert_eq!(rotated.open(&ticket, 1000).as_deref(), Some(&b"session"[..]));
        let new = rotated.seal(b"session", 1000).unwrap();
        assert_eq!(old.open(&new, 1000), None);
        assert_eq!(keys(&line(2, 80)).open(&ticket, 1000), None, "its key is gone");
        assert_ne!(rotated.seal(b"session", 1000).unwrap(), new, "never the same ticket twice");
    }

    #[test]
    fn a_ticket_has_its_time() {
        let keys = keys(&line(1, 48));
        let ticket = keys.seal(b"s", 100_000).unwrap();
        let last = 100_000 + u64::from(LIFETIME);
        assert!(keys.open(&ticket, last).is_some() && keys.open(&ticket, 99_000).is_some());
        assert_eq!(keys.open(&ticket, last + 1), None);
    }

    #[test]
    fn a_bad_file_is_told_without_its_secrets() {
        let directory = TempDir::new().unwrap();
        let told =
            |text: &str, mode| SharedTickets::load(&file(&directory, text, mode)).unwrap_err().to_string();
        let good = line(7, 32);
        assert!(told(&good, 0o644).contains("644"), "{}", told(&good, 0o644));
        assert!(told("", 0o600).contains("no key") && told("# none", 0o600).contains("no key"));
        for bad in [line(7, 31), line(7, 81), "not base64!".to_owned()] {
            let text = told(&format!("{good}\n\n{bad}\n"), 0o640);
            assert!(text.contains("line 3") && !text.contains(&bad) && !text.contains(&good), "{text}");
        }
        assert!(told(&format!("{good}\n").repeat(65), 0o600).contains("65"));
        assert!(SharedTickets::load(&directory.path().join("absent")).is_err());
        let shown = format!("{:?}", keys(&good));
        assert!(!shown.contains(&good), "{shown}");
    }

    proptest! {
        #[test]
        fn what_is_no_ticket_of_ours_opens_nothing(bytes in prop::collection::vec(any::<u8>(), 0..300), flip: prop::sample::Index, bit in 0..8) {
            let keys = keys(&line(1, 32));
            prop_assert_eq!(keys.open(&bytes, 5), None);
            let mut ticket = keys.seal(&bytes, 5).unwrap();
            prop_assert_eq!(keys.open(&ticket, 5), Some(bytes));
            let at = flip.index(ticket.len());
            ticket[at] ^= 1_u8 << bit;
            prop_assert_eq!(keys.open(&ticket, 5), None);
            ticket.truncate(at);
            prop_assert_eq!(keys.open(&ticket, 5), None);
        }
    }
}
