//! Sending an image to a machine: nothing when it has it, else only the layers that it lacks.
//!
//! A trimmed stream holds the image's description and the layers beyond the longest chain that the machine has already.
//! What arrived is verified by its layers, and a full stream follows when a trimmed one was refused.

use std::collections::BTreeSet;
use std::io::{Read, Write};

use bollard::models::ImageInspect;
use bollard::query_parameters as ask;
use futures_util::future::join_all;
use futures_util::stream;
use futures_util::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;

use super::chunks::{Chunk, ChunkReader, Chunks, QUEUE, produced, stream_of};
use super::docker::{self, Docker};
use super::{Engine, Host, Hosts};
use crate::bundled::BundledImage;
use crate::failure::{Failure, Kind};
use crate::report::{Event, Reporter};
use crate::system::{Bundled, Image, ProcessName, System};

/// For a load: the slowest uplink that anyone waits for.
const LOAD_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3600);
/// A progress event for so many bytes.
const PROGRESS_STEP: u64 = 1 << 20;
/// Images of a machine whose layers are looked at; a machine with more still works, with a shorter common chain.
const LOOKED_AT: usize = 200;

/// Brings `image` to the machine under `reference`.
pub(crate) async fn ship(
    hosts: &Hosts,
    host: &Host,
    system: &System,
    image: &Image,
    reference: &str,
    reporter: &Reporter,
) -> Result<(), Failure> {
    let Engine::Docker(target) = &host.engine else { return Ok(()) };
    let shipment = Shipment { target, who: host.name.to_string(), reference, reporter };
    if shipment.target_layers().await?.is_some() {
        return Ok(());
    }
    match image {
        Image::Bundled { program, digest } => shipment.bundled(hosts, *program, digest).await,
        Image::Built { process, .. } => shipment.built(hosts, system, process).await,
        Image::Registry { .. } | Image::None => {
            Err(Failure::error(format!("{reference} comes from its registry; it is pulled, not sent")))
        }
    }
}

/// Sends an image of ours that is assembled already.
#[cfg(all(test, feature = "lab"))]
pub(super) async fn ship_assembled(
    host: &Host,
    image: BundledImage,
    reporter: &Reporter,
) -> Result<(), Failure> {
    let Engine::Docker(target) = &host.engine else { unreachable!("the lab's machines have Docker") };
    let reference = image.reference.clone();
    Shipment { target, who: host.name.to_string(), reference: &reference, reporter }.assembled(image).await
}

struct Shipment<'s> {
    target: &'s Docker,
    who: String,
    reference: &'s str,
    reporter: &'s Reporter,
}

impl Shipment<'_> {
    fn failed(&self, what: &str, error: &bollard::errors::Error) -> Failure {
        Failure::error(format!("{}: cannot {what} {}: {}", self.who, self.reference, docker::words(error)))
    }

    async fn bundled(&self, hosts: &Hosts, program: Bundled, digest: &str) -> Result<(), Failure> {
        let version = self.target.client.version().await.map_err(|error| self.failed("ship", &error))?;
        let image = hosts.bundled(program, &version.arch.unwrap_or_default()).await?;
        if image.reference != self.reference {
            return Err(Failure::new(
                Kind::Stale,
                format!("{} here is no longer the one that was compiled ({digest})", program.program()),
            )
            .hint("compile the system again: `nsd sys compile TOPOLOGY`"));
        }
        self.assembled(image).await
    }

    async fn assembled(&self, image: BundledImage) -> Result<(), Failure> {
        let total = image.pieces.iter().map(|piece| piece.len() as u64).sum();
        // In slices, so that progress is seen.
        let step = usize::try_from(PROGRESS_STEP).unwrap_or(1 << 20);
        let slices = image.pieces.into_iter().flat_map(move |piece| {
            (0..piece.len())
                .step_by(step)
                .map(move |from| piece.slice(from..piece.len().min(from + step)))
                .collect::<Vec<_>>()
        });
        self.load(stream::iter(slices.map(Ok)).boxed(), total).await?;
        self.verify(&[image.layer_id]).await
    }

    async fn built(&self, hosts: &Hosts, system: &System, process: &ProcessName) -> Result<(), Failure> {
        let source = crate::builder::engine(hosts, system, process).await?;
        let inspected = source.client.inspect_image(self.reference).await.map_err(|error| {
            if docker::is_status(&error, 404) {
                Failure::error(format!("{process} is not built yet: {} is on no builder", self.reference))
                    .hint(format!("build it: `nsd cont build {process}` or `nsd cont buildall`"))
            } else {
                self.failed("find", &error)
            }
        })?;
        let wanted = layers(&inspected);
        let known = self.common_chain(&wanted).await?;
        if known > 0 {
            let trimmed = self.trimmed(&source, &wanted[..known]).await?;
            if self.load(trimmed, 0).await.is_ok() && self.verify(&wanted).await.is_ok() {
                return Ok(());
            }
            let what =
                format!("{}: the machine did not take a trimmed image; sending all of it", self.reference);
            self.reporter.send(Event::Note { who: self.who.clone(), what });
        }
        let total = inspected.size.and_then(|size| size.try_into().ok()).unwrap_or(0);
        self.load(stream_of(save(&source, self.reference)), total).await?;
        self.verify(&wanted).await
    }

    /// How many of the layers the machine has, as a chain from the first.
    async fn common_chain(&self, wanted: &[String]) -> Result<usize, Failure> {
        let client = &self.target.client;
        let options = ask::ListImagesOptionsBuilder::default().all(true).build();
        let images = client.list_images(Some(options)).await.map_err(|error| self.failed("ship", &error))?;
        let asked = images
            .into_iter()
            .take(LOOKED_AT)
            .map(|image| async move { client.inspect_image(&image.id).await.ok() });
        let there = join_all(asked).await;
        let common = |image: &ImageInspect| {
            layers(image).iter().zip(wanted).take_while(|(have, want)| have == want).count()
        };
        Ok(there.iter().flatten().map(common).max().unwrap_or(0))
    }

    /// The image's stream without the contents of `known` layers.
    async fn trimmed(&self, source: &Docker, known: &[String]) -> Result<Chunks, Failure> {
        let known: BTreeSet<String> = known.iter().cloned().collect();
        // Engines before 25 name layers by something else and tell which is which at the end, so they are asked twice.
        let skip = match skip_in_stream(save(source, self.reference), known).await {
            Ok(skip) => skip,
            Err(error) => {
                return Err(Failure::error(format!(
                    "{}: cannot read the image of the builder",
                    self.reference
                ))
                .because(&error));
            }
        };
        let input = ChunkReader::new(save(source, self.reference));
        Ok(produced(move |output| trim(input, output, &skip)))
    }

    async fn load(&self, chunks: Chunks, total: u64) -> Result<(), Failure> {
        let (reporter, who, what) =
            (self.reporter.clone(), self.who.clone(), format!("ship {}", self.reference));
        let mut sent = 0;
        let counted = chunks.inspect_ok(move |chunk| {
            let before = sent;
            sent += chunk.len() as u64;
            if before / PROGRESS_STEP != sent / PROGRESS_STEP {
                reporter.send(Event::Progress { who: who.clone(), what: what.clone(), done: sent, total });
            }
        });
        let client = self.target.client.clone().with_timeout(LOAD_TIMEOUT);
        let options = ask::ImportImageOptionsBuilder::default().quiet(true).build();
        let answers = client.import_image_stream(options, counted, None);
        answers.try_for_each(|_| async { Ok(()) }).await.map_err(|error| {
            let failure = self.failed("load", &error);
            if docker::words(&error).contains("no space left") {
                return failure.hint(format!(
                    "the disk of {} is full; make room there, such as by `docker system prune`",
                    self.who
                ));
            }
            failure
        })
    }

    /// A newer engine may report success and yet have stored nothing.
    async fn verify(&self, wanted: &[String]) -> Result<(), Failure> {
        match self.target_layers().await? {
            Some(there) if there == wanted => Ok(()),
            Some(_) => Err(Failure::error(format!(
                "{}: {} arrived with other layers than it was sent with",
                self.who, self.reference
            ))),
            None => Err(Failure::error(format!("{}: {} did not arrive", self.who, self.reference))),
        }
    }

    async fn target_layers(&self) -> Result<Option<Vec<String>>, Failure> {
        match self.target.client.inspect_image(self.reference).await {
            Ok(image) => Ok(Some(layers(&image))),
            Err(error) if docker::is_status(&error, 404) => Ok(None),
            Err(error) => Err(self.failed("ask about", &error)),
        }
    }
}

fn layers(image: &ImageInspect) -> Vec<String> {
    image.root_fs.as_ref().and_then(|root| root.layers.clone()).unwrap_or_default()
}

/// `docker save`.
fn save(source: &Docker, reference: &str) -> mpsc::Receiver<Chunk> {
    let client = source.client.clone().with_timeout(LOAD_TIMEOUT);
    let reference = reference.to_owned();
    let (sender, receiver) = mpsc::channel(QUEUE);
    // The engine's stream borrows the client, so a task owns both; it ends when nobody reads.
    tokio::spawn(async move {
        let mut chunks = client.export_image(&reference);
        while let Some(chunk) = chunks.next().await {
            if sender.send(chunk.map_err(std::io::Error::other)).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// Reads a saved image to its manifest and returns the names of the entries that hold the layers of `known`.
async fn skip_in_stream(
    chunks: mpsc::Receiver<Chunk>,
    known: BTreeSet<String>,
) -> std::io::Result<BTreeSet<String>> {
    let read = move || Ok(skip(&describe(&mut ChunkReader::new(chunks))?, &known));
    tokio::task::spawn_blocking(read).await.map_err(std::io::Error::other)?
}

/// What a saved image says about itself.
struct Described {
    /// Entries that hold layers, first to last.
    layers: Vec<String>,
    /// Their ids, in the same order.
    ids: Vec<String>,
}

fn skip(described: &Described, known: &BTreeSet<String>) -> BTreeSet<String> {
    let pairs = described.layers.iter().zip(&described.ids);
    pairs.filter(|(_, id)| known.contains(*id)).map(|(name, _)| name.clone()).collect()
}

/// A description is small; a larger entry is a layer and is passed over.
const DESCRIPTION_LIMIT: u64 = 4 << 20;

fn describe(input: &mut impl Read) -> std::io::Result<Described> {
    let mut small = std::collections::BTreeMap::new();
    let mut archive = tar::Archive::new(input);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        let described = name == "manifest.json" || name.ends_with(".json") || name.starts_with("blobs/");
        if described && entry.size() <= DESCRIPTION_LIMIT {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            small.insert(name, bytes);
        }
    }
    let broken = |what: &str| std::io::Error::other(format!("the saved image has no {what}"));
    let json = |name: &str| -> Option<serde_json::Value> { serde_json::from_slice(small.get(name)?).ok() };
    let manifest = json("manifest.json").ok_or_else(|| broken("manifest"))?;
    let config = manifest[0]["Config"].as_str().and_then(json).ok_or_else(|| broken("configuration"))?;
    let texts = |value: &serde_json::Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let (layers, ids) = (texts(&manifest[0]["Layers"]), texts(&config["rootfs"]["diff_ids"]));
    if layers.len() != ids.len() {
        return Err(broken("matching layers"));
    }
    Ok(Described { layers, ids })
}

/// Copies an archive without the entries named in `skip`.
fn trim(
    input: impl Read,
    output: &mut (impl Write + ?Sized),
    skip: &BTreeSet<String>,
) -> std::io::Result<()> {
    let mut archive = tar::Archive::new(input);
    // Extensions (long names, times) stand before the entry that they belong to and share its fate.
    let mut extensions: Vec<u8> = Vec::new();
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        if kind.is_pax_local_extensions() || kind.is_gnu_longname() || kind.is_gnu_longlink() {
            copy_entry(&mut entry, &mut extensions)?;
            continue;
        }
        let name = entry.path()?.display().to_string();
        if !skip.contains(&name) {
            output.write_all(&extensions)?;
            copy_entry(&mut entry, output)?;
        }
        extensions.clear();
    }
    output.write_all(&[0; 2 * BLOCK])?;
    output.flush()
}

const BLOCK: usize = 512;

/// Header, contents, filling up to a whole block.
fn copy_entry(
    entry: &mut tar::Entry<'_, impl Read>,
    output: &mut (impl Write + ?Sized),
) -> std::io::Result<()> {
    output.write_all(entry.header().as_bytes())?;
    let copied = std::io::copy(entry, output)?;
    let filling = (BLOCK - usize::try_from(copied % BLOCK as u64).unwrap_or(0)) % BLOCK;
    output.write_all(&[0; BLOCK][..filling])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A saved image as engines before 25 write it: its own names for layers, the manifest at the end.
    fn old_layout() -> Vec<u8> {
        let config = r#"{"rootfs":{"diff_ids":["sha256:aa","sha256:bb"]}}"#;
        let manifest = r#"[{"Config":"c.json","RepoTags":["x:1"],"Layers":["l1/layer.tar","l2/layer.tar"]}]"#;
        archive(&[
            ("l1/json", "{}"),
            ("l1/layer.tar", &"base ".repeat(400)),
            ("l2/layer.tar", "top"),
            ("c.json", config),
            ("manifest.json", manifest),
        ])
    }

    /// As newer ones write it: everything by its digest.
    fn oci_layout() -> Vec<u8> {
        let config = r#"{"rootfs":{"diff_ids":["sha256:aa","sha256:bb"]}}"#;
        let manifest = r#"[{"Config":"blobs/sha256/cc","RepoTags":["x:1"],"Layers":["blobs/sha256/aa","blobs/sha256/bb"]}]"#;
        archive(&[
            ("blobs/sha256/aa", &"base ".repeat(400)),
            ("blobs/sha256/bb", "top"),
            ("blobs/sha256/cc", config),
            ("index.json", "{}"),
            ("manifest.json", manifest),
            ("oci-layout", "{}"),
        ])
    }

    fn archive(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_pax_extensions([("mtime", b"1.5".as_slice())]).unwrap();
            builder.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn names(bytes: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(bytes);
        archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
    }

    #[test]
    fn a_trimmed_stream_lacks_only_the_known_layers() {
        for (saved, gone) in [(old_layout(), "l1/layer.tar"), (oci_layout(), "blobs/sha256/aa")] {
            let described = describe(&mut saved.as_slice()).unwrap();
            let skip = skip(&described, &BTreeSet::from(["sha256:aa".to_owned()]));
            assert_eq!(skip.iter().collect::<Vec<_>>(), [gone]);
            let mut trimmed = Vec::new();
            trim(saved.as_slice(), &mut trimmed, &skip).unwrap();
            let mut expected = names(&saved);
            expected.retain(|name| name != gone);
            assert_eq!(names(&trimmed), expected);
            assert_eq!(trimmed.len() % BLOCK, 0);
            let mut whole = Vec::new();
            trim(saved.as_slice(), &mut whole, &BTreeSet::new()).unwrap();
            assert_eq!(names(&whole), names(&saved));
        }
    }

    #[test]
    fn what_is_no_image_is_refused() {
        assert!(describe(&mut archive(&[("a", "b")]).as_slice()).is_err());
        let uneven = archive(&[
            ("c.json", r#"{"rootfs":{"diff_ids":[]}}"#),
            ("manifest.json", r#"[{"Config":"c.json","Layers":["l"]}]"#),
        ]);
        assert!(describe(&mut uneven.as_slice()).is_err());
    }
}
