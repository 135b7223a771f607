//! A build script: run by `sh` in the exported sources, before the image is built.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{LAST_LINES, Work};
use crate::failure::Failure;

impl Work<'_> {
    /// Exports the sources, runs the script in them and returns the folder. The script is shell text, or the name of a
    /// script in the build's folder.
    pub(super) async fn run_script(&self, clone: &Path, script: &str) -> Result<TempDir, Failure> {
        let failed = |error: &std::io::Error| {
            Failure::error(format!("{}: cannot run the build script", self.who)).because(error)
        };
        let folder =
            tempfile::Builder::new().prefix("nsd-build-").tempdir().map_err(|error| failed(&error))?;
        self.check_out(clone, folder.path())?;
        let place = folder.path().join(&self.build.folder);
        let mut shell = tokio::process::Command::new("sh");
        if place.join(script).is_file() {
            shell.arg(script);
        } else {
            shell.arg("-c").arg(script);
        }
        // One stream, so that lines keep their order.
        let (output, input) = std::io::pipe().map_err(|error| failed(&error))?;
        let second = input.try_clone().map_err(|error| failed(&error))?;
        let mut child = shell
            .current_dir(&place)
            .stdin(Stdio::null())
            .stdout(input)
            .stderr(second)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(&error))?;
        // Its ends of the pipe must be the last ones.
        drop(shell);
        let output = tokio::fs::File::from_std(std::os::fd::OwnedFd::from(output).into());
        let mut lines = BufReader::new(output).split(b'\n');
        let mut last = VecDeque::new();
        while let Some(line) = lines.next_segment().await.map_err(|error| failed(&error))? {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            self.line(&line);
            remember(&mut last, line);
        }
        let status = child.wait().await.map_err(|error| failed(&error))?;
        if !status.success() {
            let mut failure = Failure::error(format!("{}: the build script failed ({status})", self.who));
            failure.causes.push(format!("its last lines:\n{}", Vec::from(last).join("\n")));
            return Err(failure);
        }
        if !place.join(&self.build.dockerfile).is_file() {
            return Err(self.no_dockerfile(std::iter::empty()));
        }
        Ok(folder)
    }
}

/// Keeps the last [`LAST_LINES`].
pub(super) fn remember(last: &mut VecDeque<String>, line: String) {
    if last.len() == LAST_LINES {
        last.pop_front();
    }
    last.push_back(line);
}
