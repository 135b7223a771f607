//! What can be known before the first step: all problems in one list, nothing touched yet.

use std::collections::BTreeSet;

use crate::bundled;
use crate::failure::Failure;
use crate::plan::{Action, Plan};
use crate::system::Image;

/// Everything that is sure to fail later.
pub(super) fn problems(plan: &Plan) -> Vec<Failure> {
    let steps = plan.stages.iter().flat_map(|stage| &stage.lanes).flat_map(|lane| &lane.steps);
    let shipped: BTreeSet<&Image> = steps
        .filter_map(|step| match &step.action {
            Action::Ship { image, .. } => Some(image),
            _ => None,
        })
        .collect();
    shipped.into_iter().filter_map(|image| unavailable(image).err()).collect()
}

/// A bundled program must still be the one that the revision was compiled with.
fn unavailable(image: &Image) -> Result<(), Failure> {
    let Image::Bundled { program, digest } = image else { return Ok(()) };
    let found = bundled::digest(*program)?;
    if found == *digest {
        return Ok(());
    }
    Err(Failure::error(format!("{} changed since this revision was compiled", program.program()))
        .cause(format!("the revision wants {digest}, here is {found}"))
        .hint("compile again: `nsd sys compile`, or put the earlier program back (NSD_BUNDLED_DIR)"))
}
