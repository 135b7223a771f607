//! The tables. Their layout is told in the documentation of the module above; whoever changes it raises [`FORMAT`].

use redb::TableDefinition;

use super::{BodyId, Place};
use crate::store::change::SessionId;

/// The version of the layout. A file with a higher one is refused.
pub(super) const FORMAT: u64 = 1;

pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(super) const SESSIONS: TableDefinition<'_, SessionId, &[u8]> = TableDefinition::new("sessions");
pub(super) const SUBSCRIPTIONS: TableDefinition<'_, (SessionId, &str), &[u8]> =
    TableDefinition::new("subscriptions");
pub(super) const HELD: TableDefinition<'_, (SessionId, u16), ()> = TableDefinition::new("held");
pub(super) const ENTRIES: TableDefinition<'_, Place, &[u8]> = TableDefinition::new("entries");
pub(super) const RECEIVED: TableDefinition<'_, Place, ()> = TableDefinition::new("received");
pub(super) const BODIES: TableDefinition<'_, (BodyId, u16), &[u8]> = TableDefinition::new("bodies");
pub(super) const RETAINED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("retained");
pub(super) const WILLS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("wills");
pub(super) const DEVICES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("devices");

/// Keys of `META`.
pub(super) const META_FORMAT: &str = "format";
pub(super) const META_BATCH: &str = "batch";
pub(super) const META_NEXT_SESSION: &str = "next session";
