//! `docker build` by the classic builder's API, which engines from 20.10 to 28 have in common.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bollard::query_parameters as ask;
use futures_util::StreamExt;

use super::Work;
use super::script::remember;
use crate::failure::Failure;
use crate::host::{Chunks, Docker, words};

/// A build may wait for the network for long; what hangs for longer is ended by a person.
const BUILD_TIMEOUT: Duration = Duration::from_secs(2 * 3600);

impl Work<'_> {
    /// Builds the context and tags the result; every line of output is told.
    pub(super) async fn build_image(&self, docker: &Docker, context: Chunks) -> Result<(), Failure> {
        let build = self.build;
        let arguments: HashMap<String, String> = build.args.clone().into_iter().collect();
        let options = ask::BuildImageOptionsBuilder::default()
            .dockerfile(&build.dockerfile)
            .t(&build.tag)
            .buildargs(&arguments)
            .rm(true)
            .forcerm(true)
            .build();
        let client = docker.client.clone().with_timeout(BUILD_TIMEOUT);
        let mut output = client.build_image(options, None, Some(bollard::body_try_stream(context)));
        let mut last = VecDeque::new();
        let mut partial = String::new();
        while let Some(info) = output.next().await {
            let info = match info {
                Ok(info) => info,
                Err(error) => return Err(self.failed(docker, &words(&error), last)),
            };
            if let Some(why) = info.error_detail.and_then(|detail| detail.message) {
                return Err(self.failed(docker, &why, last));
            }
            partial.push_str(info.stream.as_deref().unwrap_or_default());
            while let Some(end) = partial.find('\n') {
                let line: String = partial.drain(..=end).collect();
                let line = line.trim_end();
                if !line.is_empty() {
                    self.line(line);
                    remember(&mut last, line.to_owned());
                }
            }
        }
        let there = docker
            .has_image(&build.tag)
            .await
            .map_err(|error| self.failed(docker, &words(&error), VecDeque::new()))?;
        if there { Ok(()) } else { Err(self.failed(docker, "the engine made no image", last)) }
    }

    fn failed(&self, docker: &Docker, why: &str, last: VecDeque<String>) -> Failure {
        let mut failure =
            Failure::error(format!("{}: the build on {} failed: {why}", self.who, docker.place));
        if !last.is_empty() {
            failure.causes.push(format!("its last lines:\n{}", Vec::from(last).join("\n")));
        }
        if why.contains("no space left") {
            return failure
                .hint("the builder's disk is full; make room there, such as by `docker system prune`");
        }
        failure.hint(format!("it is built from {} at {}", self.build.repository, self.build.commit))
    }
}
