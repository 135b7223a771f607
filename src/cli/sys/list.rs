//! `sys list`, `sys link`, `sys unlink`: the user's register of systems.

use std::path::PathBuf;

use serde::Serialize;

use crate::cli::Context;
use crate::failure::{Failure, Kind};
use crate::manifest;
use crate::project::{Linked, Project, Register};
use crate::report::Table;

/// List the systems that you know, and the one of this folder
#[derive(clap::Args)]
pub(in crate::cli) struct ListArgs {}

/// Add a system to the list, wherever it stands
#[derive(clap::Args)]
pub(in crate::cli) struct LinkArgs {
    /// Folder of its system.toml; by default this one
    dir: Option<PathBuf>,
}

/// Take a system off the list; the system itself stays as it is
#[derive(clap::Args)]
pub(in crate::cli) struct UnlinkArgs {
    /// Its name or id
    name: String,
}

#[derive(Serialize)]
struct Row {
    name: String,
    id: uuid::Uuid,
    dir: PathBuf,
}

pub(super) fn list(context: &Context, _args: ListArgs) -> Result<(), Failure> {
    let mut register = Register::read()?;
    // The system at hand is shown even if its file has mistakes elsewhere or was never linked.
    if let Ok(project) = context.project() {
        match read(&project) {
            Ok((id, linked)) => drop(register.0.insert(id, linked)),
            Err(failure) => context.warn(format!("{}: {failure}", project.shown())),
        }
    }
    let mut rows: Vec<Row> = register
        .0
        .into_iter()
        .map(|(id, linked)| Row { name: linked.name.to_string(), id, dir: linked.dir })
        .collect();
    rows.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
    context.screen.show(&rows, || {
        if rows.is_empty() {
            return "no systems yet; start one: `nsd sys create NAME`".to_owned();
        }
        let mut table = Table::new(["NAME", "ID", "FOLDER"]);
        for row in &rows {
            table.row([row.name.clone(), row.id.to_string(), row.dir.display().to_string()]);
        }
        table.text(|header| context.screen.palette.bold(header))
    });
    Ok(())
}

pub(super) fn link(context: &Context, args: LinkArgs) -> Result<(), Failure> {
    let project = match args.dir {
        Some(dir) => Project::find(&dir, None)?,
        None => context.project()?,
    };
    let (id, linked) = read(&project)?;
    Register::change(|register| register.0.insert(id, linked.clone()))?;
    context.screen.show(&serde_json::json!({ "id": id, "name": linked.name, "dir": linked.dir }), || {
        format!("linked {} in {}", linked.name, linked.dir.display())
    });
    Ok(())
}

pub(super) fn unlink(context: &Context, args: UnlinkArgs) -> Result<(), Failure> {
    let wanted = &args.name;
    let removed = Register::change(|register| {
        let fitting: Vec<_> = register
            .0
            .iter()
            .filter(|(id, linked)| linked.name.as_str() == wanted || id.to_string() == *wanted)
            .map(|(id, _)| *id)
            .collect();
        match fitting[..] {
            [id] => Ok(register.0.remove(&id)),
            [] => Err(Failure::new(Kind::Usage, format!("no linked system is called `{wanted}`"))
                .hint("see `nsd sys list`")),
            _ => Err(Failure::new(Kind::Usage, format!("several systems are called `{wanted}`"))
                .hint("give the id instead")),
        }
    })??;
    context.screen.show(&removed, || format!("unlinked {wanted}; its folder stays as it is"));
    Ok(())
}

fn read(project: &Project) -> Result<(uuid::Uuid, Linked), Failure> {
    let manifest = manifest::read(&project.text()?).map_err(|problems| {
        let count = problems.len();
        Failure::new(Kind::System, format!("{} has {count} problem(s)", project.shown()))
            .hint("see them: `nsd sys show`")
    })?;
    Ok((manifest.id, Linked { name: manifest.name, dir: project.dir.clone() }))
}
