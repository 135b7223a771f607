//! Where secrets come from and where generated ones are kept: `.nsd/secrets/NAME` and `.nsd/certs/NAME.pem`, files of mode
//! 0600 in folders of mode 0700, written whole or not at all. A value leaves this module only as a [`Secret`].

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::failure::{Failure, Kind};
use crate::manifest::SecretSource;
use crate::project::{Project, make_private, write_atomically};
use crate::secret::{Secret, Secrets};
use crate::system::{SecretName, System};

/// A larger secret is a mistake, such as the wrong file.
const MAX_SECRET: u64 = 64 << 10;

/// Years that a certificate of our own is valid: devices in the field outlive shorter ones.
const CERTIFICATE_YEARS: i16 = 10;

/// The secrets of one checkout.
pub struct Keeper {
    dir: PathBuf,
    secrets: PathBuf,
    certificates: PathBuf,
}

impl Keeper {
    pub fn new(project: &Project) -> Self {
        Self {
            dir: project.dir.clone(),
            secrets: project.state.join("secrets"),
            certificates: project.state.join("certs"),
        }
    }

    /// Every secret that the system needs. A name that `sources` does not declare (an old revision) may still be kept
    /// from before.
    pub fn fetch(
        &self,
        system: &System,
        sources: &BTreeMap<SecretName, SecretSource>,
    ) -> Result<Secrets, Failure> {
        let mut secrets = BTreeMap::new();
        for name in system.secrets() {
            let value = match sources.get(&name) {
                Some(source) => self.one(&name, source)?,
                None => self.kept(&name)?.ok_or_else(|| undeclared(&name))?,
            };
            secrets.insert(name, value);
        }
        Ok(Secrets(secrets))
    }

    /// The value of one secret; generated now if it never was.
    pub fn one(&self, name: &SecretName, source: &SecretSource) -> Result<Secret, Failure> {
        match source {
            SecretSource::Generate { bytes } => self.generated(name, *bytes),
            SecretSource::File(path) => read_file(name, &self.dir.join(path)),
            SecretSource::Env(variable) => read_variable(name, variable),
            SecretSource::Command(command) => run(name, command, &self.dir),
            SecretSource::SelfSigned { names } => self.certificate(name, names),
        }
    }

    /// Where the public half of a certificate of our own stands, for clients that should trust it.
    pub fn public_certificate(&self, name: &SecretName) -> PathBuf {
        self.certificates.join(format!("{name}.crt"))
    }

    fn kept(&self, name: &SecretName) -> Result<Option<Secret>, Failure> {
        for path in [self.secrets.join(name.as_str()), self.certificates.join(format!("{name}.pem"))] {
            if let Some(found) = read_kept(&path)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn generated(&self, name: &SecretName, bytes: usize) -> Result<Secret, Failure> {
        let path = self.secrets.join(name.as_str());
        if let Some(found) = read_kept(&path)? {
            return Ok(found);
        }
        keep_first(&path, random(bytes)?.reveal().as_bytes())?;
        // Another `nsd` may have been first: what stands in the file now is the secret.
        read_kept(&path)?.ok_or_else(|| vanished(&path))
    }

    fn certificate(&self, name: &SecretName, names: &[String]) -> Result<Secret, Failure> {
        let path = self.certificates.join(format!("{name}.pem"));
        if !path.exists() {
            let combined = self_signed(names).map_err(|error| {
                let what = format!("cannot make the certificate `{name}` for {}", names.join(", "));
                Failure::new(Kind::System, what).because(&error)
            })?;
            keep_first(&path, combined.reveal().as_bytes())?;
        }
        let kept = read_kept(&path)?.ok_or_else(|| vanished(&path))?;
        let public = self.public_certificate(name);
        // Whoever made the whole may have been killed before this.
        if !public.exists() {
            let half = kept.reveal().split("-----BEGIN PRIVATE").next().unwrap_or_default();
            write_atomically(&public, half.as_bytes(), 0o644)?;
        }
        Ok(kept)
    }
}

/// 256 bits and more never collide and never need a second try.
pub fn random(bytes: usize) -> Result<Secret, Failure> {
    let mut raw = zeroize::Zeroizing::new(vec![0_u8; bytes]);
    let mut filled = 0;
    while filled < raw.len() {
        filled += rustix::rand::getrandom(&mut raw[filled..], rustix::rand::GetRandomFlags::empty())
            .map_err(|error| {
                Failure::error("the system gives no random bytes").because(&std::io::Error::from(error))
            })?;
    }
    Ok(Secret::new(BASE64_URL_SAFE_NO_PAD.encode(&*raw)))
}

/// Certificate and key in one PEM, as servers want it.
fn self_signed(names: &[String]) -> Result<Secret, rcgen::Error> {
    let mut wanted = rcgen::CertificateParams::new(names.to_vec())?;
    let today = jiff::Zoned::now().date();
    let date = |year: i16| rcgen::date_time_ymd(i32::from(year), today.month().unsigned_abs(), 1);
    wanted.not_before = date(today.year());
    wanted.not_after = date(today.year() + CERTIFICATE_YEARS);
    if let Some(name) = names.first() {
        wanted.distinguished_name.push(rcgen::DnType::CommonName, name.clone());
    }
    let key = rcgen::KeyPair::generate()?;
    let certificate = wanted.self_signed(&key)?;
    Ok(Secret::new(format!("{}{}", certificate.pem(), key.serialize_pem())))
}

/// The first one to come writes; who comes later leaves it as it is.
fn keep_first(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(Path::new("."));
    make_private(folder)?;
    let beside = folder.join(format!(".{}", uuid::Uuid::new_v4().simple()));
    write_atomically(&beside, content, 0o600)?;
    let linked = std::fs::hard_link(&beside, path);
    let _ = std::fs::remove_file(&beside);
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(Failure::error(format!("cannot keep a secret in {}", path.display())).because(&error))
        }
        _ => Ok(()),
    }
}

fn read_kept(path: &Path) -> Result<Option<Secret>, Failure> {
    match read_bounded(path) {
        Ok(text) => Ok(Some(Secret::new(text))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(Failure::error(format!("cannot read the kept secret {}", path.display())).because(&error))
        }
    }
}

fn read_file(name: &SecretName, path: &Path) -> Result<Secret, Failure> {
    let text = read_bounded(path).map_err(|error| {
        missing(name, format!("its file {} cannot be read", path.display()))
            .because(&error)
            .hint("paths count from the folder of system.toml")
    })?;
    filled(name, &text)
}

fn read_variable(name: &SecretName, variable: &str) -> Result<Secret, Failure> {
    let text = std::env::var(variable).map_err(|_| {
        missing(name, format!("the environment variable {variable} is not set"))
            .hint(format!("set it for this command: `{variable}=… nsd …`"))
    })?;
    filled(name, &text)
}

/// The command's own words go to the terminal; only what it prints to stdout is the secret.
fn run(name: &SecretName, command: &[String], dir: &Path) -> Result<Secret, Failure> {
    let program = command.first().map_or("", String::as_str);
    let failed = |why: String| missing(name, format!("its command `{program}` {why}"));
    let mut child = Command::new(program)
        .args(command.iter().skip(1))
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| failed("cannot be run".to_owned()).because(&error))?;
    let mut text = zeroize::Zeroizing::new(String::new());
    let read =
        child.stdout.take().map(|stdout| stdout.take(MAX_SECRET).read_to_string(&mut text)).transpose();
    let status = child.wait().map_err(|error| failed("was lost".to_owned()).because(&error))?;
    read.map_err(|error| failed("printed no text".to_owned()).because(&error))?;
    if !status.success() {
        return Err(failed(format!("ended with {status}")));
    }
    filled(name, &text)
}

/// One line end at the end belongs to the file or the command, not to the secret.
fn filled(name: &SecretName, text: &str) -> Result<Secret, Failure> {
    let value = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    if value.is_empty() { Err(missing(name, "its value is empty")) } else { Ok(Secret::new(value)) }
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_SECRET + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_SECRET {
        return Err(std::io::Error::new(ErrorKind::FileTooLarge, format!("more than {MAX_SECRET} bytes")));
    }
    Ok(text)
}

fn missing(name: &SecretName, why: impl Into<String>) -> Failure {
    Failure::new(Kind::System, format!("the secret `{name}` has no value: {}", why.into()))
}

fn undeclared(name: &SecretName) -> Failure {
    missing(name, "system.toml does not declare it")
        .hint(format!("add it to [secrets]: `{name} = {{ generate = 32 }}`"))
}

fn vanished(path: &Path) -> Failure {
    Failure::error(format!("{} was removed while nsd wrote it", path.display())).hint("run the command again")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn keeper(dir: &Path) -> Keeper {
        Keeper {
            dir: dir.to_owned(),
            secrets: dir.join(".nsd/secrets"),
            certificates: dir.join(".nsd/certs"),
        }
    }

    fn name() -> SecretName {
        "redis".parse().unwrap()
    }

    #[test]
    fn a_generated_secret_stays_and_is_private() {
        let dir = tempfile::TempDir::new().unwrap();
        let source = SecretSource::Generate { bytes: 32 };
        let first = keeper(dir.path()).one(&name(), &source).unwrap();
        assert_eq!(first.reveal().len(), 43);
        assert_eq!(keeper(dir.path()).one(&name(), &source).unwrap(), first);
        let mode =
            |path: &str| std::fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(".nsd/secrets"), mode(".nsd/secrets/redis")), (0o700, 0o600));
    }

    #[test]
    fn many_at_once_agree_on_one_secret() {
        let dir = tempfile::TempDir::new().unwrap();
        let values: BTreeSet<String> = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        keeper(dir.path()).one(&name(), &SecretSource::Generate { bytes: 32 }).unwrap()
                    })
                })
                .collect();
            tries.into_iter().map(|one| one.join().unwrap().reveal().to_owned()).collect()
        });
        assert_eq!(values.len(), 1);
        assert_eq!(std::fs::read_dir(dir.path().join(".nsd/secrets")).unwrap().count(), 1);
    }

    #[test]
    fn files_and_commands_lose_one_line_end() {
        let dir = tempfile::TempDir::new().unwrap();
        std::fs::write(dir.path().join("password"), "hunter2\n").unwrap();
        let file = keeper(dir.path()).one(&name(), &SecretSource::File("password".into())).unwrap();
        assert_eq!(file.reveal(), "hunter2");
        let command = SecretSource::Command(vec!["cat".into(), "password".into()]);
        assert_eq!(keeper(dir.path()).one(&name(), &command).unwrap(), file);
    }

    #[test]
    fn a_missing_value_is_the_systems_fault_and_shows_nothing() {
        let dir = tempfile::TempDir::new().unwrap();
        std::fs::write(dir.path().join("empty"), "\n").unwrap();
        for source in [
            SecretSource::File("absent".into()),
            SecretSource::File("empty".into()),
            SecretSource::Env("NSD_TEST_SURELY_UNSET".into()),
            SecretSource::Command(vec!["false".into(), "hunter2".into()]),
        ] {
            let failure = keeper(dir.path()).one(&name(), &source).unwrap_err();
            assert_eq!(failure.kind, Kind::System);
            assert!(!format!("{failure:?}").contains("hunter2"));
        }
    }

    #[test]
    fn a_certificate_is_made_once_with_a_public_half() {
        let dir = tempfile::TempDir::new().unwrap();
        let source = SecretSource::SelfSigned { names: vec!["localhost".into(), "127.0.0.1".into()] };
        let first = keeper(dir.path()).one(&name(), &source).unwrap();
        assert!(first.reveal().contains("BEGIN CERTIFICATE") && first.reveal().contains("PRIVATE KEY"));
        assert_eq!(keeper(dir.path()).one(&name(), &source).unwrap(), first);
        let public = std::fs::read_to_string(keeper(dir.path()).public_certificate(&name())).unwrap();
        assert!(public.contains("BEGIN CERTIFICATE") && !public.contains("PRIVATE"));
        std::fs::remove_file(keeper(dir.path()).public_certificate(&name())).unwrap();
        keeper(dir.path()).one(&name(), &source).unwrap();
        assert!(keeper(dir.path()).public_certificate(&name()).exists(), "it is made again");
    }
}
