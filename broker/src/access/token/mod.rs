//! Tokens (JWT) instead of passwords: signature, time, issuer and audience are checked, and one claim is the user.
//!
//! The key decides which algorithm a token may use, never the token: `none` and a public key used as an HMAC secret have
//! no way in.

use std::fmt;
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};
use zeroize::Zeroize;

use super::{Credentials, Lists};

/// RFC 7518, section 3.2: a key of the hash's size or larger.
pub const SHORTEST_SECRET: usize = 32;
/// Longest token that is looked at.
const LONGEST_TOKEN: usize = 16 * 1024;
/// Longest name of a user.
const LONGEST_NAME: usize = 256;

/// Which field of a CONNECT carries the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenField {
    Password,
    UserName,
}

/// What a token must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRules {
    pub field: TokenField,
    /// The claim that names the user.
    pub user_claim: String,
    pub issuer: Option<String>,
    /// One of these must be named; without any, a token made for a named audience is refused.
    pub audience: Vec<String>,
    /// How far the clocks may differ.
    pub leeway: Duration,
    /// The claims that list what may be published and subscribed to.
    pub lists: Option<ListClaims>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListClaims {
    pub publish: String,
    pub subscribe: String,
}

/// The keys that may have signed a token, each for one algorithm.
#[derive(Clone, Default)]
pub struct TokenKeys {
    keys: Vec<(Algorithm, DecodingKey)>,
}

/// Whom a good token names, until when.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    /// After this many seconds since 1970, leeway included.
    pub ends: u64,
    pub lists: Option<Lists>,
}

/// Why a token is no good, in words for a log: they hold nothing of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("it is too long")]
    TooLong,
    #[error("none of the keys has signed it: {0}")]
    Signature(String),
    #[error("its time has not come, or is over")]
    Time,
    #[error("it has a critical header that is not understood")]
    Critical,
    #[error("its claim `{0}` is not as it should be")]
    Claim(String),
}

impl TokenField {
    /// What looks like a token in its field; everything else is an ordinary name or password.
    pub fn token_of<'c>(self, shown: &Credentials<'c>) -> Option<&'c str> {
        let text = match self {
            Self::Password => std::str::from_utf8(shown.password?).ok()?,
            Self::UserName => shown.user?,
        };
        // The beginning of `{"` in base64.
        (text.starts_with("eyJ") && text.split('.').count() == 3).then_some(text)
    }
}

impl TokenKeys {
    /// A shared secret, for HS256.
    pub fn of_secret(secret: &[u8]) -> Result<Self, String> {
        if secret.starts_with(b"-----BEGIN") {
            return Err(
                "holds a PEM, not a secret: a public key is known to everybody, name it in `keys`".into()
            );
        }
        if secret.len() < SHORTEST_SECRET {
            return Err(format!("the secret is shorter than {SHORTEST_SECRET} bytes"));
        }
        Ok(Self { keys: vec![(Algorithm::HS256, DecodingKey::from_secret(secret))] })
    }

    /// Adds a public key, for RS256, ES256 or EdDSA, whichever it is made for.
    pub fn add_public(&mut self, pem: &[u8]) -> Result<(), String> {
        let text = String::from_utf8_lossy(pem);
        if text.contains("PRIVATE KEY-----") {
            return Err("holds a private key: only the public one belongs here".into());
        }
        if text.matches("-----BEGIN").count() != 1 || !text.contains("PUBLIC KEY-----") {
            return Err("must hold one public key in PEM (`-----BEGIN PUBLIC KEY-----`)".into());
        }
        let key = DecodingKey::from_rsa_pem(pem).map(|key| (Algorithm::RS256, key));
        let key = key.or_else(|_| DecodingKey::from_ec_pem(pem).map(|key| (Algorithm::ES256, key)));
        let key = key.or_else(|_| DecodingKey::from_ed_pem(pem).map(|key| (Algorithm::EdDSA, key)));
        let (algorithm, key) = key.map_err(|_| "is no public key for RS256, ES256 or EdDSA".to_owned())?;
        let uncompressed_p256 = key.try_get_as_bytes().is_ok_and(|bytes| bytes.len() == 65);
        if algorithm == Algorithm::ES256 && !uncompressed_p256 {
            return Err("is an elliptic curve key, but not of P-256 (ES256)".into());
        }
        self.keys.push((algorithm, key));
        Ok(())
    }

    /// Checks a token; `now` is in seconds since 1970.
    pub fn verify(&self, rules: &TokenRules, token: &str, now: u64) -> Result<Identity, TokenError> {
        if token.len() > LONGEST_TOKEN {
            return Err(TokenError::TooLong);
        }
        let unsigned = |error: jsonwebtoken::errors::Error| TokenError::Signature(error.to_string());
        let header = decode_header(token).map_err(unsigned)?;
        if header.crit.is_some() {
            return Err(TokenError::Critical);
        }
        let mut outcome = Err(TokenError::Signature("no key for its algorithm".to_owned()));
        for (algorithm, key) in self.keys.iter().filter(|(algorithm, _)| *algorithm == header.alg) {
            let validation = validation(rules, *algorithm);
            outcome = decode::<Map<String, Value>>(token, key, &validation).map_err(unsigned);
            if outcome.is_ok() {
                break;
            }
        }
        identify(rules, outcome?.claims, now)
    }
}

/// Time is judged here, where `now` is an argument.
fn validation(rules: &TokenRules, algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    (validation.validate_exp, validation.validate_nbf) = (false, false);
    let mut required = vec!["exp"];
    if let Some(issuer) = &rules.issuer {
        validation.set_issuer(&[issuer]);
        required.push("iss");
    }
    if !rules.audience.is_empty() {
        validation.set_audience(&rules.audience);
        required.push("aud");
    }
    validation.set_required_spec_claims(&required);
    validation
}

fn identify(rules: &TokenRules, claims: Map<String, Value>, now: u64) -> Result<Identity, TokenError> {
    let wrong = |name: &str| TokenError::Claim(name.to_owned());
    let leeway = rules.leeway.as_secs();
    let ends = moment(claims.get("exp")).ok_or_else(|| wrong("exp"))?.saturating_add(leeway);
    let begins = match claims.get("nbf") {
        None => 0,
        begins => moment(begins).ok_or_else(|| wrong("nbf"))?,
    };
    if now >= ends || begins > now.saturating_add(leeway) {
        return Err(TokenError::Time);
    }
    let user = claims.get(&rules.user_claim).and_then(Value::as_str);
    let fine =
        |user: &&str| !user.is_empty() && user.len() <= LONGEST_NAME && !user.chars().any(char::is_control);
    let user = user.filter(fine).ok_or_else(|| wrong(&rules.user_claim))?.to_owned();
    let lists = match &rules.lists {
        None => None,
        Some(names) => {
            let list = |name: &str| filters(claims.get(name)).ok_or_else(|| wrong(name));
            let (publish, subscribe) = (list(&names.publish)?, list(&names.subscribe)?);
            Some(Lists::new(publish, subscribe).ok_or_else(|| wrong(&names.publish))?)
        }
    };
    Ok(Identity { user, ends, lists })
}

/// A NumericDate, which may have a fraction.
fn moment(value: Option<&Value>) -> Option<u64> {
    let value = value?;
    let whole = value.as_f64().filter(|seconds| *seconds >= 0.0).map(|seconds| seconds as u64);
    value.as_u64().or(whole)
}

/// A list that is not there allows nothing.
fn filters(value: Option<&Value>) -> Option<Vec<Box<str>>> {
    let Some(value) = value else { return Some(Vec::new()) };
    value.as_array()?.iter().map(|filter| filter.as_str().map(Into::into)).collect()
}

/// How many keys there are.
impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKeys").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Drop for TokenKeys {
    fn drop(&mut self) {
        self.keys.iter_mut().for_each(|(_, key)| key.zeroize());
    }
}

#[cfg(test)]
mod tests;
