//! `nsd-broker convert …`: reads another broker's files, writes ours beside each other. Nothing that exists is
//! overwritten, and what may hold secrets is for its owner alone.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use nsd_broker::convert::{self, Line, Note};
use zeroize::Zeroizing;

use crate::{complain, print};

/// Something has no counterpart.
const NOT_ALL: u8 = 2;
/// `include_dir` in an included file, and so on.
const DEEPEST: usize = 8;
/// A file of settings or credentials; a larger one is something else.
const LARGEST: u64 = 64 * 1024 * 1024;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    from: From,
}

#[derive(Subcommand)]
enum From {
    /// Mosca's credentials JSON → `passwords` and `acl`
    Mosca(Paths),
    /// A mosquitto.conf with what it includes → `broker.toml`, and a combined PEM file for each TLS listener
    Mosquitto(Paths),
}

#[derive(Args)]
struct Paths {
    file: PathBuf,
    /// The folder for what is made; it must exist
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let notes = match &arguments.from {
        From::Mosca(paths) => mosca(paths)?,
        From::Mosquitto(paths) => mosquitto(paths)?,
    };
    for note in &notes {
        complain(&note.to_string());
    }
    Ok(if notes.is_empty() { ExitCode::SUCCESS } else { NOT_ALL.into() })
}

fn mosca(paths: &Paths) -> anyhow::Result<Vec<Note>> {
    let json = Zeroizing::new(read(&paths.file)?);
    let made = convert::mosca(&json).map_err(|what| anyhow::anyhow!("{}: {what}", paths.file.display()))?;
    write(&paths.out.join("passwords"), &made.passwords)?;
    write(&paths.out.join("acl"), &made.acl)?;
    Ok(made.notes)
}

fn mosquitto(paths: &Paths) -> anyhow::Result<Vec<Note>> {
    let mut lines = Vec::new();
    let mut notes = Vec::new();
    collect(&paths.file, 0, &mut lines, &mut notes)?;
    let folder = paths.out.canonicalize().with_context(|| format!("cannot use {}", paths.out.display()))?;
    let folder = folder.to_str().context("the folder's name is no text")?;
    let mut made = convert::mosquitto(&lines, folder);
    for combined in &made.certificates {
        let both = read(Path::new(&combined.chain))
            .and_then(|chain| Ok((chain, Zeroizing::new(read(Path::new(&combined.key))?))));
        match both {
            Ok((chain, key)) => {
                let combined_text = Zeroizing::new(format!("{}\n{}", chain.trim_end(), &*key));
                write(Path::new(&combined.name), &combined_text)?;
            }
            Err(error) => {
                let what = format!("{error:#}; make it with `cat {} {}`", combined.chain, combined.key);
                notes.push(Note { at: combined.name.clone(), what });
            }
        }
    }
    write(&paths.out.join("broker.toml"), &made.toml)?;
    made.notes.append(&mut notes);
    Ok(made.notes)
}

/// The lines of a file, with those of what it includes in their place.
fn collect(file: &Path, depth: usize, lines: &mut Vec<Line>, notes: &mut Vec<Note>) -> anyhow::Result<()> {
    if depth > DEEPEST {
        bail!("{}: files include each other more than {DEEPEST} deep", file.display());
    }
    let text = read(file)?;
    for line in convert::lines(&file.display().to_string(), &text) {
        if line.key != "include_dir" {
            lines.push(line);
            continue;
        }
        match included(Path::new(&line.value)) {
            Ok(files) => files.iter().try_for_each(|file| collect(file, depth + 1, lines, notes))?,
            Err(error) => notes.push(Note {
                at: line.at,
                what: format!("`include_dir {}`: {error}", line.value.escape_debug()),
            }),
        }
    }
    Ok(())
}

/// `*.conf`, in the order in which Mosquitto takes them.
fn included(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let files = std::fs::read_dir(folder)?.filter_map(Result::ok).map(|entry| entry.path());
    let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|end| end == "conf")).collect();
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> anyhow::Result<String> {
    let cannot = || format!("cannot read {}", file.display());
    let size = std::fs::metadata(file).with_context(cannot)?.len();
    if size > LARGEST {
        bail!("{}: larger than any such file", file.display());
    }
    std::fs::read_to_string(file).with_context(cannot)
}

/// Makes a file that only its owner may read.
fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let written = made.and_then(|mut made| made.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot make {}", file.display()))?;
    print(&file.display().to_string())?;
    Ok(())
}
