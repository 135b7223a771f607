//! One action on one machine. Secrets are bound here and nowhere else.

use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;

use super::Runner;
use crate::failure::{Failure, Kind};
use crate::host::{Host, Order, PutFile, await_healthy, label, ship};
use crate::plan::{Action, ContainerName, Spec, Step};
use crate::secret::Secret;
use crate::system::{Container, File, Instance, InstanceName, Text};

/// What was kept aside so that the step can be taken back.
pub(super) enum Kept {
    Nothing,
    /// Live files as they were before.
    Files(Vec<PutFile>),
}

impl Runner<'_> {
    /// Performs a step. It is noted before it can have an effect, so that half a step is taken back as well; a
    /// container is noted once it is made, for making one cleans up after itself and must not remove a stranger.
    pub(super) async fn perform(
        &self,
        step: &Step,
        halt: &CancellationToken,
        note: impl Fn(Kept) + Send + Sync,
    ) -> Result<(), Failure> {
        let host = self.hosts.get(&step.machine)?;
        match &step.action {
            Action::Pull { reference } => {
                until_halt(halt, host.engine.pull(reference, host.name.as_str(), &self.reporter)).await
            }
            Action::Ship { image, reference } => {
                until_halt(halt, ship(self.hosts, host, &self.system, image, reference, &self.reporter)).await
            }
            Action::AwaitHealthy { container, .. } => until_halt(halt, await_healthy(host, container)).await,
            Action::Create { container, instance, spec } => {
                self.create(host, container, instance, spec).await?;
                note(Kept::Nothing);
                Ok(())
            }
            Action::Start { container, .. } => {
                note(Kept::Nothing);
                host.engine.start(container).await
            }
            Action::Stop { container, grace, .. } => {
                note(Kept::Nothing);
                host.engine.stop(container, *grace).await
            }
            Action::Remove { container, .. } => {
                note(Kept::Nothing);
                host.engine.remove(container).await
            }
            Action::PutFiles { container, instance, files } => {
                let wanted = self.live_files(host, container, instance, files)?;
                let before = host.engine.read_files(container, files).await?;
                note(Kept::Files(before));
                host.engine.put_files(container, &wanted).await
            }
        }
    }

    async fn create(
        &self,
        host: &Host,
        name: &ContainerName,
        instance: &InstanceName,
        spec: &Spec,
    ) -> Result<(), Failure> {
        let instance = self.instance(instance)?;
        let container = &instance.container;
        let bind = |text: &Text| self.bind(host, name, text);
        let bind_all = |texts: &Vec<Text>| texts.iter().map(bind).collect::<Result<Vec<_>, _>>();
        let order = Order {
            name,
            instance: &instance.name,
            container,
            labels: self.labels(instance, spec)?,
            env: container
                .env
                .iter()
                .map(|(key, text)| Ok((key.clone(), bind(text)?)))
                .collect::<Result<_, Failure>>()?,
            command: container.command.as_ref().map(bind_all).transpose()?,
            entrypoint: container.entrypoint.as_ref().map(bind_all).transpose()?,
            files: container
                .files
                .iter()
                .map(|file| self.put_file(host, name, file))
                .collect::<Result<_, Failure>>()?,
            stop_grace: instance.stop_grace,
        };
        host.engine.create(&order).await
    }

    fn live_files(
        &self,
        host: &Host,
        name: &ContainerName,
        instance: &InstanceName,
        paths: &[String],
    ) -> Result<Vec<PutFile>, Failure> {
        let files = &self.instance(instance)?.container.files;
        let wanted = files.iter().filter(|file| paths.contains(&file.to));
        wanted.map(|file| self.put_file(host, name, file)).collect()
    }

    fn put_file(&self, host: &Host, name: &ContainerName, file: &File) -> Result<PutFile, Failure> {
        Ok(PutFile { to: file.to.clone(), content: self.bind(host, name, &file.content)?, mode: file.mode })
    }

    fn bind(&self, host: &Host, name: &ContainerName, text: &Text) -> Result<Secret, Failure> {
        text.bind(&host.engine.state_of(name), |secret| self.secrets.0.get(secret)).map_err(|missing| {
            Failure::new(Kind::System, format!("the secret `{missing}` has no value here"))
                .hint(format!("give `{missing}` a source under [secrets] in system.toml"))
        })
    }

    fn labels(&self, instance: &Instance, spec: &Spec) -> Result<BTreeMap<String, String>, Failure> {
        let mut labels = instance.container.labels.clone();
        let mut put = |key: &str, value: String| labels.insert(key.to_owned(), value);
        put(label::SYSTEM, self.system.name.to_string());
        put(label::ID, self.system.id.to_string());
        put(label::PROCESS, instance.name.process.to_string());
        put(label::INSTANCE, instance.name.to_string());
        put(label::REVISION, self.revision.clone());
        put(label::SPEC, spec.0.clone());
        put(label::CONTAINER, json(&without_live_contents(&instance.container))?);
        if let Some(health) = &instance.health {
            put(label::HEALTH, json(health)?);
        }
        Ok(labels)
    }

    fn instance(&self, name: &InstanceName) -> Result<&Instance, Failure> {
        self.system.instances.iter().find(|instance| &instance.name == name).ok_or_else(|| {
            Failure::new(Kind::Stale, format!("the plan names {name}, which the system does not have"))
        })
    }
}

/// Steps without lasting effect need not be waited for when the run is over.
async fn until_halt(
    halt: &CancellationToken,
    work: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    tokio::select! {
        result = work => result,
        () = halt.cancelled() => Err(Failure::new(Kind::Interrupted, "not finished: the run is being taken back")),
    }
}

fn without_live_contents(container: &Container) -> Container {
    let mut container = container.clone();
    for file in container.files.iter_mut().filter(|file| file.live) {
        file.content = Text::default();
    }
    container
}

fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(value)
        .map_err(|error| Failure::error("cannot write a label as JSON").because(&error))
}
