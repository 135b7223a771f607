//! One message being handed to any number of receivers: copied as it came where that is right, encoded once otherwise.

use std::cell::OnceCell;

use nsd_wire::{Delivery, Publish, Qos, Template, Version};

use super::backlog::patch_id;

#[derive(Debug)]
pub struct Parcel<'p> {
    pub publish: &'p Publish<'p>,
    /// The packet as its sender wrote it, and in which version.
    wire: Option<(&'p [u8], Version)>,
    /// Retained messages say so to new subscribers, live ones only on request (MQTT-3.3.1-8, 3.3.1-9).
    retained: bool,
    /// Seconds since the message was received (MQTT-3.3.2-6).
    waited: u32,
    template: OnceCell<Option<Template>>,
}

impl<'p> Parcel<'p> {
    pub fn live(publish: &'p Publish<'p>, wire: Option<(&'p [u8], Version)>) -> Self {
        let same = publish.properties.topic_alias.is_none() && publish.properties.subscription_ids.is_empty();
        Self { publish, wire: wire.filter(|_| same), retained: false, waited: 0, template: OnceCell::new() }
    }

    /// From the queue of a persistent session: `wire` is the packet in v5.
    pub fn queued(publish: &'p Publish<'p>, wire: &'p [u8], waited: u32) -> Self {
        let fresh = waited == 0 || publish.properties.message_expiry.is_none();
        let wire = fresh.then_some((wire, Version::V5));
        Self { publish, wire, retained: false, waited, template: OnceCell::new() }
    }

    pub fn retained(publish: &'p Publish<'p>, waited: u32) -> Self {
        Self { publish, wire: None, retained: true, waited, template: OnceCell::new() }
    }

    pub(super) fn qos(&self) -> Qos {
        self.publish.qos
    }

    /// Bytes of the payload.
    pub(super) fn payload(&self) -> usize {
        self.publish.payload.len()
    }

    pub(super) fn retain(&self, as_published: bool) -> bool {
        self.retained || (as_published && self.publish.retain)
    }

    pub(super) fn waited(&self) -> u32 {
        self.waited
    }

    /// Seconds that the message may still live; `None`: it does not expire.
    pub(super) fn left(&self) -> Option<u32> {
        self.publish.properties.message_expiry.map(|seconds| seconds.saturating_sub(self.waited))
    }

    /// Appends the packet; `false`: it is larger than the receiver takes, or cannot be written.
    pub(super) fn write(&self, to: Version, delivery: Delivery<'_>, most: usize, out: &mut Vec<u8>) -> bool {
        if let Some((wire, from)) = self.wire
            && from.same_family(to)
            && delivery.subscription_ids.is_empty()
            && delivery.alias.is_none()
            && (delivery.qos == Qos::AtMostOnce) == (self.publish.qos == Qos::AtMostOnce)
        {
            if wire.len() > most {
                return false;
            }
            let at = out.len();
            out.extend_from_slice(wire);
            out[at] =
                0x30 | u8::from(delivery.dup) << 3 | (delivery.qos as u8) << 1 | u8::from(delivery.retain);
            if let Some(id) = delivery.packet_id {
                patch_id(&mut out[at..], id);
            }
            return true;
        }
        let Some(template) = self.template.get_or_init(|| Template::new(self.publish).ok()) else {
            return false;
        };
        template.packet_len(to, &delivery).is_ok_and(|length| length <= most)
            && template.write(to, &delivery, out).is_ok()
    }
}
