//! Clients whose subscriptions match nothing of the run: they make the server's tree large.

use nsd_wire::Qos;

use crate::frames::{self, Keeping};
use crate::link::LinkError;
use crate::mqtt::{self, Identity};
use crate::run::{Desk, Phase};
use crate::target::Target;

/// One of them.
#[derive(Debug)]
pub struct Bystander {
    pub number: u32,
    pub filters: Vec<String>,
}

/// Pure: so many that they have `subscriptions` in all, each `filters` of them. Their filters stand beside the run's topics, so that a search
/// for those has to choose at every level.
#[must_use]
pub fn bystanders(subscriptions: u32, filters: u32, base: &str) -> Vec<Bystander> {
    let filter = |number: u32| match number % 4 {
        0 => format!("{base}/by-{number}/state"),
        1 => format!("{base}/+/by-{number}"),
        2 => format!("{base}/by-{number}/+/state"),
        _ => format!("{base}/by-{number}/#"),
    };
    let numbers: Vec<u32> = (0..subscriptions).collect();
    let bystander = |(number, share): (usize, &[u32])| Bystander {
        number: number as u32,
        filters: share.iter().copied().map(filter).collect(),
    };
    numbers.chunks(filters as usize).enumerate().map(bystander).collect()
}

impl Bystander {
    /// Subscribes and waits for the end.
    pub async fn stay(self, target: &Target, identity: &Identity, desk: &Desk) -> Result<(), LinkError> {
        let permit = desk.connecting.acquire().await;
        let name = format!("b{}", self.number);
        let mut link = mqtt::open(target, identity, &name, Keeping::Clean, desk).await?.link;
        mqtt::subscribe(&mut link, identity.version, &self.filters, Qos::AtMostOnce, desk).await?;
        drop(permit);
        let mut phase = desk.ready();
        let _ = phase.wait_for(|phase| *phase == Phase::Ending).await;
        frames::disconnect(identity.version, link.out())?;
        link.finish().await
    }
}
