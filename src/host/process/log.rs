//! Reading the log that a supervisor writes: `TIME O|E TEXT` a line, rotated to `log.1`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;

use super::super::engine::{LogLine, LogOptions};
use crate::supervise::name;

const POLL: Duration = Duration::from_millis(200);

/// Sends the lines that the options ask for; with `follow` it ends when the receiver is gone.
pub(super) async fn send(
    dir: &Path,
    options: &LogOptions,
    lines: mpsc::Sender<LogLine>,
) -> std::io::Result<()> {
    let path = dir.join(name::LOG);
    let mut wanted = VecDeque::new();
    let mut keep = |text: &str| {
        wanted.push_back(parse(text));
        if options.tail.is_some_and(|tail| wanted.len() > tail) {
            wanted.pop_front();
        }
    };
    if let Ok(old) = File::open(dir.join(name::OLD_LOG)) {
        BufReader::new(old).lines().map_while(Result::ok).for_each(|line| keep(&line));
    }
    let mut reader = match File::open(&path) {
        Ok(file) => BufReader::new(file),
        // Never started: nothing was said.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !options.follow => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut partial = String::new();
    while reader.read_line(&mut partial)? > 0 && partial.ends_with('\n') {
        keep(&partial);
        partial.clear();
    }
    let since = options.since.and_then(|since| jiff::Timestamp::from_second(since).ok());
    for line in wanted {
        let early = since.is_some_and(|since| line.at.parse::<jiff::Timestamp>().is_ok_and(|at| at < since));
        if !early && lines.send(line).await.is_err() {
            return Ok(());
        }
    }
    while options.follow && !lines.is_closed() {
        while reader.read_line(&mut partial)? > 0 {
            if !partial.ends_with('\n') {
                break;
            }
            if lines.send(parse(&partial)).await.is_err() {
                return Ok(());
            }
            partial.clear();
        }
        tokio::time::sleep(POLL).await;
        if partial.is_empty() && rotated(&path, reader.get_ref()) {
            reader = BufReader::new(File::open(&path)?);
        }
    }
    Ok(())
}

/// For an error text.
pub(super) fn last_lines(dir: &Path, count: usize) -> Vec<String> {
    let text = std::fs::read(dir.join(name::LOG)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|line| parse(line).text).collect()
}

fn parse(line: &str) -> LogLine {
    let line = line.trim_end_matches('\n');
    let mut parts = line.splitn(3, ' ');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(at), Some(stream @ ("O" | "E")), text) => {
            LogLine { at: at.to_owned(), stderr: stream == "E", text: text.unwrap_or_default().to_owned() }
        }
        _ => LogLine { at: String::new(), stderr: true, text: line.to_owned() },
    }
}

fn rotated(path: &Path, open: &File) -> bool {
    let now = std::fs::metadata(path).map(|meta| meta.ino());
    let then = open.metadata().map(|meta| meta.ino());
    matches!((now, then), (Ok(now), Ok(then)) if now != then)
}
