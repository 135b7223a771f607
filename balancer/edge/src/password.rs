//! Passwords of people: argon2id records, the files that hold them, and the commands that write those files.

mod command;
mod lines;

use argon2::{Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier};

pub use command::{PasswdError, remove, set};
pub use lines::{check_name, edited, numbered};

/// What one check may cost at most: a record is no way to take the server's memory or a minute of its time.
const MOST_KIB: u32 = 1024 * 1024;
const MOST_PASSES: u32 = 100;

/// A new argon2id record (a PHC string), with a salt of its own.
pub fn argon2id(secret: &[u8]) -> Result<String, argon2::password_hash::Error> {
    Ok(Argon2::default().hash_password(secret)?.to_string())
}

/// Whether the text is a whole argon2id record whose check is affordable.
pub fn is_argon2id(record: &str) -> bool {
    let Ok(hash) = PasswordHash::new(record) else { return false };
    let whole = record.starts_with("$argon2id$") && hash.salt.is_some() && hash.hash.is_some();
    let params = Params::try_from(&hash).ok();
    whole && params.is_some_and(|params| params.m_cost() <= MOST_KIB && params.t_cost() <= MOST_PASSES)
}

/// Whether the secret is that of the argon2id record. Takes its time, and compares in constant time.
pub fn fits(secret: &[u8], record: &str) -> bool {
    PasswordVerifier::<str>::verify_password(&Argon2::default(), secret, record).is_ok()
}

/// Whether two secrets are the same; how long it takes tells at most whether their lengths are.
pub fn same(one: &[u8], other: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one, other).is_ok()
}

/// New bytes that nobody can guess; an error where the machine has none to give.
pub fn random<const N: usize>() -> Result<[u8; N], aws_lc_rs::error::Unspecified> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_fits_its_secret_and_no_other() {
        let record = argon2id(b"secret").unwrap();
        assert!(is_argon2id(&record) && record != argon2id(b"secret").unwrap(), "a salt of its own");
        assert!(fits(b"secret", &record) && !fits(b"secreT", &record) && !fits(b"", &record));
        assert!(
            !is_argon2id("")
                && !is_argon2id("secret")
                && !is_argon2id(&record.replace("argon2id", "argon2i"))
        );
    }
}
