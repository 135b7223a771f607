use std::path::{Path, PathBuf};

use crate::cli::Context;
use crate::failure::{Failure, Kind};
use crate::history;
use crate::project::{Linked, Register};
use crate::system::SystemName;

/// Start a new system: a folder with a commented system.toml, in git
///
///   nsd sys create lelylan-mqtt
///   nsd sys create lelylan-mqtt --namespace lelylan
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(in crate::cli) struct Args {
    /// Name of the system and of its folder
    name: String,
    /// Whose it is; by default the name
    #[arg(long)]
    namespace: Option<String>,
}

pub(super) fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let name: SystemName = args
        .name
        .parse()
        .map_err(|error| Failure::new(Kind::Usage, "a system needs another name").because(&error))?;
    let namespace = args.namespace.unwrap_or_else(|| name.to_string());
    let start = context.global.directory.clone().unwrap_or_else(|| PathBuf::from("."));
    let dir = std::path::absolute(start.join(name.as_str()))
        .map_err(|error| Failure::error("cannot find this folder").because(&error))?;
    let id = uuid::Uuid::new_v4();
    write_new(&dir, &crate::render::new_system(name.as_str(), &namespace, &id.to_string()))?;
    history::put_in_git(&dir)?;
    Register::change(|register| register.0.insert(id, Linked { name: name.clone(), dir: dir.clone() }))?;
    context.screen.show(
        &serde_json::json!({ "name": name, "namespace": namespace, "id": id, "dir": dir }),
        || {
            format!(
                "created {name} in {}\n\nnext:\n  cd {name}\n  $EDITOR system.toml\n  nsd up",
                dir.display()
            )
        },
    );
    Ok(())
}

/// All files into a folder that is new or empty; a folder in use is left as it is.
fn write_new(dir: &Path, files: &[(&str, String)]) -> Result<(), Failure> {
    let cannot =
        |error: std::io::Error| Failure::error(format!("cannot make {}", dir.display())).because(&error);
    std::fs::create_dir_all(dir).map_err(cannot)?;
    if std::fs::read_dir(dir).map_err(cannot)?.next().is_some() {
        return Err(Failure::new(
            Kind::Usage,
            format!("{} exists and is not empty; nothing was changed", dir.display()),
        )
        .hint("choose another name, or link what stands there: `nsd sys link DIR`"));
    }
    for (path, text) in files {
        let path = dir.join(path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(cannot)?;
        }
        std::fs::write(&path, text).map_err(cannot)?;
    }
    Ok(())
}
