//! One instance's container: its image, its strings and files rendered.

use std::collections::BTreeMap;

use super::Inputs;
use super::context::{CERTIFICATE_FILE, PASSWORD_FILE, file_path, password};
use super::placed::{Placed, Stand};
use crate::manifest::{Certificates, Content, Manifest, Problem, Source, WantedFile};
use crate::render::{self, RenderError, Templates};
use crate::system::{Build, Bundled, Container, File, Image, Network, ProcessName, SecretName, Text};

/// User of the bundled servers' images.
const BUNDLED_USER: &str = "10001";

pub(super) struct Containers<'c> {
    pub(super) manifest: &'c Manifest,
    pub(super) inputs: &'c Inputs,
    pub(super) builds: &'c BTreeMap<ProcessName, Build>,
    pub(super) templates: &'c Templates,
    pub(super) context: &'c tera::Context,
    pub(super) instance: &'c Placed<'c>,
    /// Where a key of its process stands in the file.
    pub(super) at: &'c dyn Fn(&str) -> String,
    pub(super) problems: &'c mut Vec<Problem>,
}

impl Containers<'_> {
    pub(super) fn container(&mut self) -> Container {
        let process = self.instance.process;
        let (command, entrypoint) = self.command();
        let mut files: Vec<File> =
            process.files.iter().enumerate().filter_map(|(n, file)| self.file(n, file)).collect();
        files.extend(self.own_files());
        let env =
            process.env.iter().map(|(name, value)| (name.clone(), self.text(&format!("env.{name}"), value)));
        let env = env.collect();
        let labels = process.labels.iter();
        let labels = labels.map(|(name, value)| (name.clone(), self.shown(&format!("labels.{name}"), value)));
        let labels = labels.collect();
        let bundled = matches!(process.source, Source::Bundled(_));
        let user = process.user.as_ref().map(|user| self.shown("user", user));
        let as_process = self.instance.stand == Stand::Process;
        Container {
            image: self.image(),
            ports: self.instance.ports.clone(),
            env,
            volumes: process.volumes.clone(),
            files,
            command,
            entrypoint,
            user: if bundled && !as_process { Some(BUNDLED_USER.to_owned()) } else { user },
            network: if as_process { Network::Host } else { process.network.clone() },
            restart: process.restart,
            ulimits: process.ulimits.clone(),
            memory: process.memory,
            millicpus: process.millicpus,
            cap_add: process.cap_add.clone(),
            cap_drop: if bundled && process.cap_drop.is_empty() {
                vec!["ALL".into()]
            } else {
                process.cap_drop.clone()
            },
            labels,
        }
    }

    fn problem(&mut self, key: &str, what: impl Into<String>, hint: Option<String>) {
        let problem = self.manifest.places().problem(&(self.at)(key), what, hint);
        // Instances of one process repeat each other's mistakes.
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    fn image(&mut self) -> Image {
        let process = &self.instance.name.process;
        match &self.instance.process.source {
            Source::Bundled(program) => match self.inputs.bundled.get(program) {
                Some(digest) => Image::Bundled { program: *program, digest: digest.clone() },
                None => {
                    let what = format!("the program `{}` was not found", program.program());
                    self.problem("bundled", what, Some("it belongs beside the executable of nsd".to_owned()));
                    Image::None
                }
            },
            _ if self.instance.stand == Stand::Process => Image::None,
            Source::Image(reference) => Image::Registry { reference: reference.clone() },
            Source::Repository(_) => match self.builds.get(process) {
                Some(build) => Image::Built { process: process.clone(), tag: build.tag.clone() },
                // That it was not looked up has been told.
                None => Image::None,
            },
            Source::Program => {
                let what = format!("`{process}` has only a `program`, which Docker cannot run");
                self.problem(
                    "program",
                    what,
                    Some("give it an `image` too, or `runtime = \"process\"`".to_owned()),
                );
                Image::None
            }
        }
    }

    fn command(&mut self) -> (Option<Vec<Text>>, Option<Vec<Text>>) {
        let process = self.instance.process;
        let stand = self.instance.stand;
        if let Source::Bundled(program) = process.source {
            let config = Text::new(file_path(stand, program.config()));
            let entrypoint =
                (stand != Stand::Process).then(|| vec![Text::new(format!("/{}", program.program()))]);
            return (Some(vec!["--config".into(), config]), entrypoint);
        }
        if stand != Stand::Process {
            let command = process.command.as_ref().map(|words| self.words("command", words));
            let entrypoint = process.entrypoint.as_ref().map(|words| self.words("entrypoint", words));
            return (command, entrypoint);
        }
        let Some(program) = &process.program else {
            let name = &self.instance.name.process;
            let what = format!("`{name}` has no `program`, and this machine runs plain processes");
            let hint = "give it `program = [\"…\"]`, or start Docker and say `runtime = \"docker\"`";
            self.problem("", what, Some(hint.to_owned()));
            return (None, None);
        };
        (Some(self.words("program", program)), None)
    }

    fn words(&mut self, key: &str, words: &[String]) -> Vec<Text> {
        let words = words.iter().enumerate();
        words.map(|(n, word)| Text::new(self.shown(&format!("{key}[{n}]"), word))).collect()
    }

    fn text(&mut self, key: &str, text: &str) -> Text {
        let rendered = self.templates.text(text, self.context);
        Text::new(self.rendered(key, rendered))
    }

    /// A string that everyone on the machine can see, so no secret may stand in it.
    fn shown(&mut self, key: &str, text: &str) -> String {
        let text = self.text(key, text);
        if let Some(secret) = text.secrets().first() {
            let what = format!(
                "the secret `{secret}` must not stand here, where everyone on the machine can read it"
            );
            self.problem(key, what, Some("put it into a file (`files`) or into `env`".to_owned()));
        }
        text.as_str().to_owned()
    }

    fn rendered(&mut self, key: &str, rendered: Result<String, RenderError>) -> String {
        match rendered {
            Ok(text) => text,
            Err(error) => {
                if error.template.is_empty() {
                    self.problem(key, error.what, None);
                } else {
                    let problem = error.problem();
                    if !self.problems.contains(&problem) {
                        self.problems.push(problem);
                    }
                }
                String::new()
            }
        }
    }

    fn file(&mut self, n: usize, file: &WantedFile) -> Option<File> {
        let content = match &file.content {
            Content::Inline(text) => self.text(&format!("files[{n}].content"), text),
            Content::Template(name) => self.template(&format!("files[{n}].template"), name)?,
        };
        Some(File { to: file.to.clone(), content, mode: file.mode, live: file.live })
    }

    fn template(&mut self, key: &str, name: &str) -> Option<Text> {
        if !self.templates.has(name) {
            let known: Vec<&str> = render::embedded_names().collect();
            let hint = format!("put it into the folder `templates`; nsd brings {}", known.join(", "));
            self.problem(key, format!("there is no template `{name}`"), Some(hint));
            return None;
        }
        let rendered = self.templates.file(name, self.context);
        Some(Text::new(self.rendered(key, rendered)))
    }

    /// Files of the bundled servers: settings, password of the store, self-signed certificate.
    fn own_files(&mut self) -> Vec<File> {
        let process = self.instance.process;
        let mut files = Vec::new();
        let secret = |to: &str, name: &SecretName| File {
            to: to.to_owned(),
            content: Text::new(Text::secret_reference(name)),
            mode: 0o600,
            live: false,
        };
        if let Some((bundled, template)) = process.settings_template()
            && let Some(content) = self.template("bundled", template)
        {
            let live = bundled == Bundled::Balancer;
            files.push(File { to: bundled.config().to_owned(), content, mode: 0o600, live });
        }
        let is_broker = process.source == Source::Bundled(Bundled::Broker);
        let store = process.broker.store.as_ref().filter(|_| is_broker);
        files.extend(
            store.and_then(|store| password(self.manifest, store)).map(|name| secret(PASSWORD_FILE, &name)),
        );
        if let Some(Certificates::SelfSigned(name)) =
            process.balancer.tls.as_ref().map(|tls| &tls.certificates)
        {
            files.push(secret(CERTIFICATE_FILE, name));
        }
        files
    }
}
