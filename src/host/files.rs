//! Files as tar streams, in and out of containers.

use sha2::{Digest, Sha256};

/// In hex.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
