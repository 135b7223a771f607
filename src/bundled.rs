//! Images of our own servers, assembled here: one static program, CA certificates, a user that is not root.
//!
//! No Dockerfile, no registry, no build, and the same bytes every time: [`digest`] over all that goes in is the tag.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use bytes::Bytes;
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use crate::failure::Failure;
use crate::system::{Bundled, Image};

/// User and group that the programs run as.
const USER: u64 = 10001;
/// For their admin sockets.
const RUN_FOLDER: &str = "run/nsd";
const CERTIFICATES: &str = "etc/ssl/certs/ca-certificates.crt";
/// A base64 line of a PEM file.
const PEM_LINE: usize = 64;

/// An image as `docker load` takes it. Clones share their bytes.
#[derive(Clone)]
pub struct BundledImage {
    /// `nsd/broker:DIGEST`.
    pub reference: String,
    /// Docker's id of its one layer, `sha256:…`.
    pub layer_id: String,
    /// The stream, in pieces.
    pub pieces: Vec<Bytes>,
}

/// Where the program is: in `NSD_BUNDLED_DIR`, else beside our own executable.
pub fn find(program: Bundled) -> Result<PathBuf, Failure> {
    let folder = match std::env::var_os("NSD_BUNDLED_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let own = std::env::current_exe()
                .map_err(|error| Failure::error("cannot find our own executable").because(&error))?;
            own.parent().map(Path::to_owned).unwrap_or_default()
        }
    };
    let path = folder.join(program.program());
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure::error(format!("the program {} is not in {}", program.program(), folder.display()))
        .hint("it is built and installed together with nsd: `cargo build --release` in the workspace")
        .hint("or say where it is: NSD_BUNDLED_DIR=FOLDER"))
}

/// 16 hex digits over everything that goes into the image.
pub fn digest(program: Bundled) -> Result<String, Failure> {
    let path = find(program)?;
    let cannot =
        |error: &std::io::Error| Failure::error(format!("cannot read {}", path.display())).because(error);
    let mut file = std::fs::File::open(&path).map_err(|error| cannot(&error))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(|error| cannot(&error))? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    Ok(digest_of(program, &hash.finalize()))
}

/// Assembles the image for machines of `architecture` (in Docker's words).
pub fn image(program: Bundled, architecture: &str) -> Result<BundledImage, Failure> {
    let path = find(program)?;
    let bytes = std::fs::read(&path)
        .map_err(|error| Failure::error(format!("cannot read {}", path.display())).because(&error))?;
    let is = elf_architecture(&bytes).map_err(|why| {
        Failure::error(format!("{} cannot go into an image: {why}", path.display()))
            .hint("build it as one static file; the workspace's .cargo/config.toml does so on Linux")
    })?;
    if is != architecture {
        return Err(Failure::error(format!(
            "{} is for {is} machines, this one is {architecture}",
            path.display()
        ))
        .hint(format!("build it for {architecture} and say where it is: NSD_BUNDLED_DIR=FOLDER")));
    }
    assemble(program, architecture, &bytes)
        .map_err(|error| Failure::error("cannot assemble the image").because(&error))
}

fn digest_of(program: Bundled, program_hash: &[u8]) -> String {
    let mut hash = Sha256::new();
    // The contents of everything but the program, its place in the image, and how the image is run.
    hash.update(config(program, "", "").to_string());
    hash.update(certificates());
    hash.update(passwd());
    hash.update(group());
    hash.update(program_hash);
    hex::encode(hash.finalize())[..16].to_owned()
}

pub(crate) fn assemble(program: Bundled, architecture: &str, bytes: &[u8]) -> std::io::Result<BundledImage> {
    let digest = digest_of(program, &Sha256::digest(bytes));
    let image = Image::Bundled { program, digest };
    let reference = image.reference().unwrap_or_default();
    let layer = layer(program, bytes)?;
    let layer_hash = hex::encode(Sha256::digest(&layer));
    let layer_id = format!("sha256:{layer_hash}");
    let config = config(program, architecture, &layer_id).to_string().into_bytes();
    let config_name = format!("{}.json", hex::encode(Sha256::digest(&config)));
    let layer_name = format!("{layer_hash}/layer.tar");
    let manifest =
        json!([{ "Config": config_name, "RepoTags": [reference], "Layers": [layer_name] }]).to_string();
    let mut head = tar::Builder::new(Vec::new());
    add(&mut head, &config_name, EntryType::Regular, (0o644, 0), &config)?;
    add(&mut head, "manifest.json", EntryType::Regular, (0o644, 0), manifest.as_bytes())?;
    let mut last = header(EntryType::Regular, (0o644, 0), layer.len() as u64);
    last.set_path(&layer_name)?;
    last.set_cksum();
    head.get_mut().write_all(last.as_bytes())?;
    let mut head = head.into_inner()?;
    // The layer follows, so this is not the end yet.
    head.truncate(head.len() - 2 * BLOCK);
    // What follows the layer: filling up its last block, and the two empty blocks that end an archive.
    let tail = vec![0; layer.len().next_multiple_of(BLOCK) - layer.len() + 2 * BLOCK];
    Ok(BundledImage { reference, layer_id, pieces: vec![head.into(), layer.into(), tail.into()] })
}

const BLOCK: usize = 512;

/// The image's only layer.
fn layer(program: Bundled, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::with_capacity(bytes.len() + (1 << 20)));
    let root = (0o755, 0);
    for folder in ["etc", "etc/nsd", "etc/ssl", "etc/ssl/certs", "run"] {
        add(&mut layer, &format!("{folder}/"), EntryType::Directory, root, &[])?;
    }
    add(&mut layer, &format!("{RUN_FOLDER}/"), EntryType::Directory, (0o700, USER), &[])?;
    add(&mut layer, "tmp/", EntryType::Directory, (0o1777, 0), &[])?;
    add(&mut layer, "etc/passwd", EntryType::Regular, (0o644, 0), passwd().as_bytes())?;
    add(&mut layer, "etc/group", EntryType::Regular, (0o644, 0), group().as_bytes())?;
    add(&mut layer, CERTIFICATES, EntryType::Regular, (0o644, 0), certificates().as_bytes())?;
    add(&mut layer, program.program(), EntryType::Regular, (0o755, 0), bytes)?;
    layer.into_inner()
}

fn add(
    archive: &mut tar::Builder<Vec<u8>>,
    path: &str,
    kind: EntryType,
    (mode, owner): (u32, u64),
    content: &[u8],
) -> std::io::Result<()> {
    let mut header = header(kind, (mode, owner), content.len() as u64);
    archive.append_data(&mut header, path, content)
}

/// No time, no names: nothing that differs from one assembling to the next.
fn header(kind: EntryType, (mode, owner): (u32, u64), size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_mtime(0);
    header.set_size(size);
    header
}

/// What Docker keeps as the image's configuration; its hash is the image's id.
fn config(program: Bundled, architecture: &str, layer_id: &str) -> serde_json::Value {
    let epoch = "1970-01-01T00:00:00Z";
    json!({
        "architecture": architecture,
        "os": "linux",
        "created": epoch,
        "config": {
            "User": format!("{USER}:{USER}"),
            "Env": [format!("SSL_CERT_FILE=/{CERTIFICATES}")],
            "Entrypoint": [format!("/{}", program.program())],
            "Cmd": ["--config", program.config()],
            "WorkingDir": "/",
        },
        "rootfs": { "type": "layers", "diff_ids": [layer_id] },
        "history": [{ "created": epoch, "created_by": "nsd" }],
    })
}

fn passwd() -> String {
    format!("root:x:0:0:root:/:/sbin/nologin\nnsd:x:{USER}:{USER}:nsd:/:/sbin/nologin\n")
}

fn group() -> String {
    format!("root:x:0:\nnsd:x:{USER}:\n")
}

/// The roots that Mozilla trusts, as PEM.
fn certificates() -> String {
    let mut pem = String::new();
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        let text = base64::engine::general_purpose::STANDARD.encode(certificate);
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        for from in (0..text.len()).step_by(PEM_LINE) {
            pem.push_str(&text[from..text.len().min(from + PEM_LINE)]);
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem
}

/// The architecture of a static 64-bit Linux program in Docker's words, or why it is none.
fn elf_architecture(bytes: &[u8]) -> Result<&'static str, &'static str> {
    const INTERPRETER: u32 = 3;
    let short = |at: usize| bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_le_bytes);
    let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    let long = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        return Err("it is no 64-bit Linux program");
    }
    let broken = "its header is broken";
    let machine = short(18).ok_or(broken)?;
    let table = usize::try_from(long(32).ok_or(broken)?).map_err(|_| broken)?;
    let (size, count) = (usize::from(short(54).ok_or(broken)?), usize::from(short(56).ok_or(broken)?));
    for entry in 0..count {
        let at = entry.checked_mul(size).and_then(|offset| offset.checked_add(table)).ok_or(broken)?;
        if word(at).ok_or(broken)? == INTERPRETER {
            return Err("it is linked dynamically, and an image of ours holds no libraries");
        }
    }
    match machine {
        62 => Ok("amd64"),
        183 => Ok("arm64"),
        _ => Err("it is for a kind of processor that we make no images for"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn whole(image: &BundledImage) -> Vec<u8> {
        image.pieces.concat()
    }

    #[test]
    fn the_same_program_gives_the_same_bytes() {
        let image = |bytes: &[u8]| assemble(Bundled::Broker, "amd64", bytes).unwrap();
        assert_eq!(whole(&image(b"program")), whole(&image(b"program")));
        assert_eq!(image(b"program").reference, image(b"program").reference);
        assert_ne!(image(b"program").reference, image(b"programs").reference);
        assert_ne!(
            image(b"program").reference,
            assemble(Bundled::Balancer, "amd64", b"program").unwrap().reference
        );
    }

    #[test]
    fn the_stream_is_what_docker_loads() {
        let image = assemble(Bundled::Balancer, "arm64", &[7; 5000]).unwrap();
        let bytes = whole(&image);
        let mut files = std::collections::BTreeMap::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), content);
        }
        let manifest: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], image.reference.as_str());
        let config: serde_json::Value =
            serde_json::from_slice(&files[manifest[0]["Config"].as_str().unwrap()]).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], image.layer_id.as_str());
        let layer = &files[manifest[0]["Layers"][0].as_str().unwrap()];
        assert_eq!(image.layer_id, format!("sha256:{}", hex::encode(Sha256::digest(layer))));
        let mut paths = Vec::new();
        for entry in tar::Archive::new(layer.as_slice()).entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            paths.push((
                entry.path().unwrap().display().to_string(),
                header.mode().unwrap(),
                header.uid().unwrap(),
            ));
        }
        assert!(paths.contains(&("nsd-balancer".to_owned(), 0o755, 0)));
        assert!(paths.contains(&("run/nsd/".to_owned(), 0o700, 10001)));
        assert!(paths.contains(&("tmp/".to_owned(), 0o1777, 0)));
    }

    #[test]
    fn only_static_programs_are_taken() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let expected = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        assert_eq!(elf_architecture(&own), Ok(expected));
        let dynamic = std::fs::read("/bin/sh").unwrap();
        assert!(elf_architecture(&dynamic).unwrap_err().contains("dynamically"));
        assert!(elf_architecture(b"#!/bin/sh\n").is_err());
        assert!(elf_architecture(&own[..40]).is_err());
    }

    #[test]
    fn the_certificates_are_pem() {
        let pem = certificates();
        assert!(pem.matches("BEGIN CERTIFICATE").count() > 100);
        assert!(pem.lines().all(|line| line.len() <= PEM_LINE));
    }
}
