//! Making a container: from our nouns to the engine's, and its files put in before it starts.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, PortBinding, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum,
};
use bollard::query_parameters as ask;

use super::Docker;
use crate::failure::Failure;
use crate::host::engine::{Order, PutFile};
use crate::host::files::{self, Owner};
use crate::plan::ContainerName;
use crate::secret::Secret;
use crate::system::{Container, Image, Network, Port, Protocol, Restart, Volume};

impl Docker {
    pub(crate) async fn create(&self, order: &Order<'_>) -> Result<(), Failure> {
        let options = ask::CreateContainerOptionsBuilder::default().name(&order.name.0).build();
        let body = body(order, self.log_config().await?);
        self.client
            .create_container(Some(options), body)
            .await
            .map_err(|error| self.failed(&format!("create {}", order.name), &error))?;
        let put = self.put_files(order.name, &order.files).await;
        if put.is_err() {
            // The first failure is the one to tell.
            let _ = self.remove(order.name).await;
        }
        put
    }

    pub(crate) async fn put_files(
        &self,
        container: &ContainerName,
        files: &[PutFile],
    ) -> Result<(), Failure> {
        if files.is_empty() {
            return Ok(());
        }
        let owner = self.owner(container).await?;
        let archive = files::pack(files, owner).map_err(|error| {
            Failure::error(format!("cannot pack the files of {container}")).because(&error)
        })?;
        let options = ask::UploadToContainerOptionsBuilder::default().path("/").build();
        self.client
            .upload_to_container(&container.0, Some(options), bollard::body_full(archive.into()))
            .await
            .map_err(|error| self.failed(&format!("put files into {container}"), &error))
    }

    /// The user that the container runs as, by number.
    async fn owner(&self, container: &ContainerName) -> Result<Owner, Failure> {
        let inspected = self.client.inspect_container(&container.0, None).await;
        let inspected = inspected.map_err(|error| self.failed(&format!("ask about {container}"), &error))?;
        let user = inspected.config.and_then(|config| config.user).unwrap_or_default();
        if let Some(owner) = Owner::from_numbers(&user) {
            return Ok(owner);
        }
        let passwd =
            self.read_file(container, "/etc/passwd").await?.map(|(bytes, _)| bytes).unwrap_or_default();
        Owner::from_passwd(&user, &String::from_utf8_lossy(&passwd)).ok_or_else(|| {
            Failure::error(format!("{container}: its image has no user `{user}`")).hint(
                "name a user that stands in the image's /etc/passwd, or give its number: `user = \"1000\"`",
            )
        })
    }

    /// Engines that keep logs in files keep them for ever unless told otherwise.
    async fn log_config(&self) -> Result<Option<HostConfigLogConfig>, Failure> {
        let ask = || async { self.client.info().await.map(|info| info.logging_driver.unwrap_or_default()) };
        let driver =
            self.log_driver.get_or_try_init(ask).await.map_err(|error| self.failed("ask it", &error))?;
        Ok((driver == "json-file").then(|| HostConfigLogConfig {
            typ: Some(driver.clone()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), "10m".to_owned()),
                ("max-file".to_owned(), "3".to_owned()),
            ])),
        }))
    }
}

fn body(order: &Order<'_>, log_config: Option<HostConfigLogConfig>) -> ContainerCreateBody {
    let container = order.container;
    let words = |words: &Option<Vec<Secret>>| -> Option<Vec<String>> {
        words.as_ref().map(|words| words.iter().map(|word| word.reveal().to_owned()).collect())
    };
    ContainerCreateBody {
        image: container.image.reference(),
        env: Some(order.env.iter().map(|(key, value)| format!("{key}={}", value.reveal())).collect()),
        cmd: words(&order.command),
        entrypoint: words(&order.entrypoint),
        user: container.user.clone(),
        labels: Some(order.labels.clone().into_iter().collect()),
        exposed_ports: Some(container.ports.iter().map(inside).collect()),
        // For whoever stops it by hand; our own stops carry their grace.
        stop_timeout: i64::try_from(order.stop_grace.as_secs()).ok(),
        host_config: Some(host_config(container, log_config)),
        ..ContainerCreateBody::default()
    }
}

fn host_config(container: &Container, log_config: Option<HostConfigLogConfig>) -> HostConfig {
    let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    if container.network != Network::Host {
        for port in &container.ports {
            let binding = PortBinding { host_ip: port.ip.clone(), host_port: Some(port.host.to_string()) };
            bindings.entry(inside(port)).or_default().get_or_insert_default().push(binding);
        }
    }
    let limits = container.ulimits.iter().map(|(name, limit)| ResourcesUlimits {
        name: Some(name.clone()),
        soft: Some(limit.soft),
        hard: Some(limit.hard),
    });
    let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    let ours = matches!(container.image, Image::Bundled { .. });
    HostConfig {
        binds: Some(container.volumes.iter().map(bind).collect()),
        port_bindings: Some(bindings),
        network_mode: Some(match &container.network {
            Network::Bridge => "bridge".to_owned(),
            Network::Host => "host".to_owned(),
            Network::Named(name) => name.clone(),
        }),
        restart_policy: Some(RestartPolicy {
            name: Some(match container.restart {
                Restart::No => RestartPolicyNameEnum::NO,
                Restart::OnFailure => RestartPolicyNameEnum::ON_FAILURE,
                Restart::Always => RestartPolicyNameEnum::ALWAYS,
                Restart::UnlessStopped => RestartPolicyNameEnum::UNLESS_STOPPED,
            }),
            maximum_retry_count: None,
        }),
        ulimits: Some(limits.collect()),
        memory: container.memory.and_then(|bytes| bytes.try_into().ok()),
        nano_cpus: container.millicpus.and_then(|cpus| i64::try_from(cpus.saturating_mul(1_000_000)).ok()),
        cap_add: some(&container.cap_add),
        cap_drop: some(&container.cap_drop),
        // A read-only root would be better still, but no engine puts files into one.
        security_opt: ours.then(|| vec!["no-new-privileges".to_owned()]),
        log_config,
        ..HostConfig::default()
    }
}

fn inside(port: &Port) -> String {
    let protocol = match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    format!("{}/{protocol}", port.container)
}

fn bind(volume: &Volume) -> String {
    let mode = if volume.read_only { ":ro" } else { "" };
    format!("{}:{}{mode}", volume.source, volume.target)
}
