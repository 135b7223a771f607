//! `nsd device …`: who may speak to the brokers.

use serde_json::json;

use super::Context;
use super::context::{Work, local_time};
use crate::device::{DeviceId, Registry};
use crate::failure::{Failure, Kind};
use crate::host::Hosts;
use crate::report::Table;
use crate::system::{Bundled, Image, System};

/// Prefix of the keys in a Redis that `--redis` names.
const PREFIX: &str = "nsd:";

/// Devices that the brokers let in: add, list, remove
#[derive(clap::Subcommand)]
pub(super) enum Command {
    Add(AddArgs),
    List(ListArgs),
    Remove(RemoveArgs),
}

/// Let a device in; its secret is made and shown this once
///
///   nsd device add lamp-1
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct AddArgs {
    /// Its name: the MQTT user name, and the second level of its topics
    name: String,
    /// Give a device that exists a new secret
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    place: Place,
}

/// List the devices
#[derive(clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    place: Place,
}

/// Let a device in no longer
#[derive(clap::Args)]
pub(super) struct RemoveArgs {
    name: String,
    #[command(flatten)]
    place: Place,
}

#[derive(clap::Args)]
struct Place {
    /// Redis to use instead of the system's own, such as redis://127.0.0.1:6379 (with a password: NSD_REDIS)
    #[arg(long, value_name = "URL", env = "NSD_REDIS", hide_env_values = true)]
    redis: Option<String>,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Add(args) => add(context, args).await,
        Command::List(args) => list(context, args).await,
        Command::Remove(args) => remove(context, args).await,
    }
}

async fn add(context: &Context, args: AddArgs) -> Result<(), Failure> {
    let id = DeviceId::parse(&args.name)?;
    let secret = registry(context, &args.place).await?.add(&id, args.replace).await?;
    let door = door(context);
    let password = secret.reveal();
    context.screen.show(&json!({ "device": id, "password": password, "address": door.address }), || {
        let palette = context.screen.palette;
        let at = format!("--host {} --port {} -u {id}", door.host, door.port);
        format!(
            "user      {}\npassword  {}\n{}\n\n\
             export NSD_MQTT_PASSWORD={password}\n\
             nsd mqtt sub {at} -t 'devices/{id}/#'\n\
             nsd mqtt pub {at} -t devices/{id}/status -m on",
            palette.bold(&id.to_string()),
            palette.bold(password),
            palette.dim("(shown this once; only a hash of it is kept)")
        )
    });
    Ok(())
}

async fn list(context: &Context, args: ListArgs) -> Result<(), Failure> {
    let devices = registry(context, &args.place).await?.list().await?;
    context.screen.show(&devices, || {
        if devices.is_empty() {
            return "no devices yet; let one in: `nsd device add NAME`".to_owned();
        }
        let mut table = Table::new(["DEVICE", "CREATED", "STATE"]);
        for device in &devices {
            let state = if device.disabled { "disabled" } else { "may connect" };
            table.row([device.id.clone(), local_time(&device.created), state.to_owned()]);
        }
        table.text(|header| context.screen.palette.bold(header))
    });
    Ok(())
}

async fn remove(context: &Context, args: RemoveArgs) -> Result<(), Failure> {
    let id = DeviceId::parse(&args.name)?;
    if !registry(context, &args.place).await?.remove(&id).await? {
        return Err(Failure::error(format!("there is no device {id}")).hint("see `nsd device list`"));
    }
    context.screen.show(&json!({ "removed": id }), || format!("removed {id}; it cannot connect again"));
    Ok(())
}

/// The Redis of the running system, reached as `nsd` reaches its machine.
async fn registry(context: &Context, place: &Place) -> Result<Registry, Failure> {
    if let Some(url) = &place.redis {
        return Registry::at(url, PREFIX).await;
    }
    let work = context.work()?;
    let revision = work.revision("deployed").or_else(|_| work.revision("head"))?;
    let system = work.repo.load(&revision.id)?;
    let store = system.store.as_ref().ok_or_else(|| {
        Failure::new(Kind::Usage, format!("the brokers of {} share no Redis that nsd runs", system.name))
            .hint("let a broker name it in system.toml: `store = \"redis\"`, or name one here: `--redis URL`")
    })?;
    let machine = &store.instance.machine;
    let machines = system
        .machines
        .iter()
        .filter(|(name, _)| *name == machine)
        .map(|(name, one)| (name.clone(), one.clone()))
        .collect();
    let hosts = Hosts::connect(&work.project.dir, &machines, &system, &context.for_questions()).await;
    let secret = store.password.as_ref().map(|name| fetch(&work, &system, name)).transpose()?;
    let stream = hosts.get(machine)?.forward(store.port).await?;
    context.reporter.end();
    Registry::over(stream, secret.as_ref(), &store.prefix).await
}

fn fetch(
    work: &Work,
    system: &System,
    name: &crate::system::SecretName,
) -> Result<crate::secret::Secret, Failure> {
    let secrets = work.keeper().fetch(system, &work.manifest.secrets)?;
    secrets
        .0
        .get(name)
        .cloned()
        .ok_or_else(|| Failure::new(Kind::System, format!("the secret `{name}` has no value")))
}

/// Where devices knock: the balancer if there is one, else a broker.
struct Door {
    host: String,
    port: u16,
    address: String,
}

fn door(context: &Context) -> Door {
    let found = context.work().ok().and_then(|work| {
        let revision = work.revision("deployed").or_else(|_| work.revision("head")).ok()?;
        let system = work.repo.load(&revision.id).ok()?;
        entrance(&system)
    });
    let (host, port) = found.unwrap_or_else(|| ("127.0.0.1".to_owned(), 1883));
    Door { address: format!("{host}:{port}"), host, port }
}

fn entrance(system: &System) -> Option<(String, u16)> {
    let find = |wanted: Bundled| {
        let fits = |image: &Image| matches!(image, Image::Bundled { program, .. } if *program == wanted);
        system.instances.iter().find(|one| fits(&one.container.image))
    };
    let instance = find(Bundled::Balancer).or_else(|| find(Bundled::Broker))?;
    let port = instance.container.ports.first().map_or(1883, |port| port.host);
    Some((system.machines.get(&instance.name.machine)?.address.clone(), port))
}
