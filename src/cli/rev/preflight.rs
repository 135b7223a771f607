//! What can be known before the first step: all problems in one list, nothing touched yet.

use std::collections::BTreeSet;

use crate::failure::Failure;
use crate::host::Hosts;
use crate::plan::{Action, Plan};
use crate::system::{Bundled, Image, ProcessName, System};
use crate::{builder, bundled};

/// Everything that is sure to fail later.
pub(super) async fn problems(plan: &Plan, system: &System, hosts: &Hosts) -> Vec<Failure> {
    let mut problems = Vec::new();
    for image in shipped(plan) {
        let available = match image {
            Image::Bundled { program, digest } => same_program(*program, digest),
            Image::Built { process, tag } => is_built(system, hosts, process, tag).await,
            Image::Registry { .. } | Image::None => Ok(()),
        };
        problems.extend(available.err());
    }
    problems
}

/// Images that machines lack and that we must have.
fn shipped(plan: &Plan) -> BTreeSet<&Image> {
    let steps = plan.stages.iter().flat_map(|stage| &stage.lanes).flat_map(|lane| &lane.steps);
    steps
        .filter_map(|step| match &step.action {
            Action::Ship { image, .. } => Some(image),
            _ => None,
        })
        .collect()
}

/// A bundled program must still be the one that the revision was compiled with.
fn same_program(program: Bundled, digest: &str) -> Result<(), Failure> {
    let found = bundled::digest(program)?;
    if found == digest {
        return Ok(());
    }
    Err(Failure::error(format!("{} changed since this revision was compiled", program.program()))
        .cause(format!("the revision wants {digest}, here is {found}"))
        .hint("compile again: `nsd sys compile`, or put the earlier program back (NSD_BUNDLED_DIR)"))
}

async fn is_built(system: &System, hosts: &Hosts, process: &ProcessName, tag: &str) -> Result<(), Failure> {
    let builder = builder::engine(hosts, system, process).await?;
    let there = builder.has_image(tag).await.map_err(|error| {
        Failure::error(format!("cannot ask the builder of {process}")).cause(crate::host::words(&error))
    })?;
    if there {
        return Ok(());
    }
    Err(Failure::error(format!("{process} is not built yet: {tag} is on no builder"))
        .hint("build it: `nsd cont buildall`"))
}
