//! OCSP stapling: the authority's word that a certificate is not revoked, from a file beside it (`x.pem.ocsp` beside
//! `x.pem`, DER), where an operator's job puts it. What clients would not believe is not shown to them.

use std::io;
use std::path::{Path, PathBuf};

use der::Decode as _;
use der::oid::AssociatedOid as _;
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use x509_ocsp::{BasicOcspResponse, CertStatus, OcspResponse, OcspResponseStatus};

/// Responses are a few KiB with the responder's certificates in them, and go out with each full handshake.
const LARGEST: u64 = 64 * 1024;
/// How much later than ours the authority's clock may be, in seconds.
const SKEW: i64 = 300;

/// A response that may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Staple {
    pub(super) response: Vec<u8>,
    /// Seconds since 1970; later nobody believes it. An authority that does not say has newer ones at any time.
    pub(super) until: i64,
}

#[derive(Debug, Error)]
pub(super) enum StapleProblem {
    #[error("cannot read: {0}")]
    Read(#[from] io::Error),
    #[error("larger than {LARGEST} bytes")]
    TooLarge,
    #[error("not an OCSP response in DER: {0}")]
    Format(der::Error),
    #[error("the responder gave no answer ({0:?})")]
    Status(OcspResponseStatus),
    #[error("not a basic OCSP response")]
    Kind,
    #[error("about another certificate")]
    Other,
    #[error("says that the certificate is revoked")]
    Revoked,
    #[error("the responder does not know the certificate")]
    Unknown,
    #[error("from the future")]
    Early,
    #[error("no longer valid: fetch a new one")]
    Late,
}

/// Where the response to a certificate's file would be.
pub(super) fn path_of(pem: &Path) -> PathBuf {
    let mut path = pem.as_os_str().to_owned();
    path.push(".ocsp");
    path.into()
}

/// `None`: there is no file.
pub(super) fn read(
    path: &Path,
    leaf: &CertificateDer<'_>,
    now: i64,
) -> Result<Option<Staple>, StapleProblem> {
    let length = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if length > LARGEST {
        return Err(StapleProblem::TooLarge);
    }
    judge(std::fs::read(path)?, leaf, now).map(Some)
}

/// Whether clients would take it. Its signature is theirs to check: they know whom they trust.
fn judge(response: Vec<u8>, leaf: &CertificateDer<'_>, now: i64) -> Result<Staple, StapleProblem> {
    let outer = OcspResponse::from_der(&response).map_err(StapleProblem::Format)?;
    if outer.response_status != OcspResponseStatus::Successful {
        return Err(StapleProblem::Status(outer.response_status));
    }
    let bytes = outer.response_bytes.ok_or(StapleProblem::Kind)?;
    if bytes.response_type != BasicOcspResponse::OID {
        return Err(StapleProblem::Kind);
    }
    let basic = BasicOcspResponse::from_der(bytes.response.as_bytes()).map_err(StapleProblem::Format)?;
    let serial = serial_of(leaf).ok_or(StapleProblem::Other)?;
    let mut answers = basic.tbs_response_data.responses.iter();
    let answer = answers
        .find(|answer| without_zeros(answer.cert_id.serial_number.as_bytes()) == serial)
        .ok_or(StapleProblem::Other)?;
    match answer.cert_status {
        CertStatus::Good(_) => {}
        CertStatus::Revoked(_) => return Err(StapleProblem::Revoked),
        CertStatus::Unknown(_) => return Err(StapleProblem::Unknown),
    }
    let seconds = |time: &x509_ocsp::OcspGeneralizedTime| {
        i64::try_from(time.0.to_unix_duration().as_secs()).unwrap_or(i64::MAX)
    };
    let until = answer.next_update.as_ref().map_or(i64::MAX, seconds);
    if seconds(&answer.this_update) > now.saturating_add(SKEW) {
        return Err(StapleProblem::Early);
    }
    if until <= now {
        return Err(StapleProblem::Late);
    }
    Ok(Staple { response, until })
}

fn serial_of(leaf: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok()?;
    Some(without_zeros(parsed.raw_serial()).to_vec())
}

/// A number's bytes may begin with a zero that only says that it is positive.
fn without_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}
