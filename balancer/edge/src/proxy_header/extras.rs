//! What a version 2 header may carry besides addresses: values with a type and a length, after the address block.

use crc::{CRC_32_ISCSI, Crc};

use super::ProxyHeaderError::{self, Malformed};

const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const UNIQUE_ID: u8 = 0x05;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_CN: u8 = 0x22;
const SSL_CLIENT_CERT: u8 = 0x28;

/// Flags in the first byte of `SSL`.
const OVER_TLS: u8 = 0x01;
const CERTIFICATE_NOW: u8 = 0x02;
const CERTIFICATE_BEFORE: u8 = 0x04;

/// The longest value that is written; a longer one is left out. Names and identities are shorter everywhere.
pub const LONGEST_VALUE: usize = 255;
/// The longest certificate that is written; a longer one is left out. All else that a header can say fits beside it into
/// what we read. One with an RSA key of 4096 bits and many names has less.
pub const LONGEST_CERTIFICATE: usize = 2800;
/// The specification's own limit.
pub const LONGEST_UNIQUE_ID: usize = 128;

const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// What the proxy knows of the client besides its address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extras {
    /// The protocol agreed on in the TLS handshake, `mqtt` for instance.
    pub alpn: Option<Vec<u8>>,
    /// The host name that the client asked for: its SNI.
    pub authority: Option<String>,
    /// Names this connection in the logs of both sides.
    pub unique_id: Option<Vec<u8>>,
    /// Whether and how the client speaks TLS with the proxy; `None`: the proxy does not say.
    pub tls: Option<ClientTls>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientTls {
    pub over_tls: bool,
    /// The client showed a certificate in this connection.
    pub certificate_now: bool,
    /// It showed one when the session began that this connection resumes.
    pub certificate_before: bool,
    /// The proxy has checked the certificate, and it is good.
    pub verified: bool,
    /// `TLSv1.3` for instance.
    pub version: Option<String>,
    /// The certificate's subject.
    pub common_name: Option<String>,
    /// The certificate itself, DER.
    pub certificate: Option<Vec<u8>>,
}

impl Extras {
    /// Whom the proxy has verified by a certificate. A name without a certificate that was checked is nobody's.
    pub fn identity(&self) -> Option<&str> {
        let tls = self.tls.as_ref()?;
        let shown = tls.over_tls && (tls.certificate_now || tls.certificate_before);
        tls.common_name.as_deref().filter(|name| shown && tls.verified && !name.is_empty())
    }

    /// Reads the values that follow the addresses. `header` is the whole header, for its checksum; `at` is where they begin.
    pub(super) fn parse(header: &[u8], at: usize) -> Result<Self, ProxyHeaderError> {
        let mut extras = Self::default();
        let mut checked = false;
        let mut rest = &header[at..];
        while let Some((kind, value, after)) = next_value(rest)? {
            match kind {
                ALPN => once(&mut extras.alpn, value.to_vec())?,
                AUTHORITY => once(&mut extras.authority, text(value)?)?,
                UNIQUE_ID if value.len() > LONGEST_UNIQUE_ID => return Err(Malformed("unique id too long")),
                UNIQUE_ID => once(&mut extras.unique_id, value.to_vec())?,
                SSL => once(&mut extras.tls, ClientTls::parse(value)?)?,
                CRC32C if checked => return Err(Malformed("two checksums")),
                CRC32C => {
                    check(header, header.len() - after.len() - value.len(), value)?;
                    checked = true;
                }
                _ => {}
            }
            rest = after;
        }
        Ok(extras)
    }

    /// Appends the values and a checksum to `header`, which holds everything before them, and corrects its length. Where
    /// there is nothing to say, it says nothing.
    pub(super) fn write(&self, header: &mut [u8], values: &mut Vec<u8>) {
        if *self == Self::default() {
            return;
        }
        put(values, ALPN, self.alpn.as_deref());
        put(values, AUTHORITY, self.authority.as_deref().map(str::as_bytes));
        put(values, UNIQUE_ID, self.unique_id.as_deref().filter(|id| id.len() <= LONGEST_UNIQUE_ID));
        if let Some(tls) = &self.tls {
            put(values, SSL, Some(&tls.written()));
        }
        put(values, CRC32C, Some(&[0; 4]));
        let body = header.len() - 16 + values.len();
        // Five values of at most 255 bytes, and one of 5 + 2 × 258 and a certificate: far below 64 KiB.
        header[14..16].copy_from_slice(&u16::try_from(body).unwrap_or(u16::MAX).to_be_bytes());
        let mut digest = CHECKSUM.digest();
        digest.update(header);
        digest.update(values);
        let at = values.len() - 4;
        values[at..].copy_from_slice(&digest.finalize().to_be_bytes());
    }
}

impl ClientTls {
    fn parse(value: &[u8]) -> Result<Self, ProxyHeaderError> {
        let ([flags, verify @ ..], mut rest) =
            value.split_first_chunk::<5>().ok_or(Malformed("too short for what it says of TLS"))?;
        let mut tls = Self {
            over_tls: flags & OVER_TLS != 0,
            certificate_now: flags & CERTIFICATE_NOW != 0,
            certificate_before: flags & CERTIFICATE_BEFORE != 0,
            verified: *verify == [0; 4],
            ..Self::default()
        };
        while let Some((kind, value, after)) = next_value(rest)? {
            match kind {
                SSL_VERSION => once(&mut tls.version, text(value)?)?,
                SSL_CN => once(&mut tls.common_name, text(value)?)?,
                SSL_CLIENT_CERT => once(&mut tls.certificate, value.to_vec())?,
                _ => {}
            }
            rest = after;
        }
        Ok(tls)
    }

    fn written(&self) -> Vec<u8> {
        let flag = |holds: bool, flag: u8| if holds { flag } else { 0 };
        let flags = flag(self.over_tls, OVER_TLS)
            | flag(self.certificate_now, CERTIFICATE_NOW)
            | flag(self.certificate_before, CERTIFICATE_BEFORE);
        let mut value = vec![flags, 0, 0, 0, u8::from(!self.verified)];
        put(&mut value, SSL_VERSION, self.version.as_deref().map(str::as_bytes));
        put(&mut value, SSL_CN, self.common_name.as_deref().map(str::as_bytes));
        put(&mut value, SSL_CLIENT_CERT, self.certificate.as_deref());
        value
    }
}

/// Type, value, and what follows.
type Value<'b> = (u8, &'b [u8], &'b [u8]);

fn next_value(bytes: &[u8]) -> Result<Option<Value<'_>>, ProxyHeaderError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let cut = Malformed("an extension is cut off");
    let ([kind, length @ ..], rest) = bytes.split_first_chunk::<3>().ok_or(cut.clone())?;
    let (value, after) = rest.split_at_checked(u16::from_be_bytes(*length).into()).ok_or(cut)?;
    Ok(Some((*kind, value, after)))
}

/// Two of what can be one only: a receiver that takes the first and one that takes the last would see two clients.
fn once<T>(place: &mut Option<T>, value: T) -> Result<(), ProxyHeaderError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Malformed("an extension comes twice")),
    }
}

fn text(value: &[u8]) -> Result<String, ProxyHeaderError> {
    String::from_utf8(value.to_vec()).map_err(|_| Malformed("an extension that is not UTF-8"))
}

fn check(header: &[u8], at: usize, value: &[u8]) -> Result<(), ProxyHeaderError> {
    let mut digest = CHECKSUM.digest();
    digest.update(&header[..at]);
    digest.update(&[0; 4]);
    digest.update(&header[at + value.len()..]);
    if value == digest.finalize().to_be_bytes() { Ok(()) } else { Err(Malformed("the checksum is wrong")) }
}

fn put(out: &mut Vec<u8>, kind: u8, value: Option<&[u8]>) {
    let most = match kind {
        SSL_CLIENT_CERT => LONGEST_CERTIFICATE,
        // What TLS says in all is made of the others.
        SSL => 5 + 2 * (3 + LONGEST_VALUE) + 3 + LONGEST_CERTIFICATE,
        _ => LONGEST_VALUE,
    };
    let Some(value) = value.filter(|value| value.len() <= most) else { return };
    let Ok(length) = u16::try_from(value.len()) else { return };
    out.push(kind);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
}
