//! SUBSCRIBE and UNSUBSCRIBE: filters, validated when decoded and walked in place.

use std::fmt;

use crate::{
    error::{
        DecodeError::{self, Malformed, Protocol},
        EncodeError,
    },
    frame::PacketType,
    property::{self, Properties, PropertyId, PropertySink, SubscriptionId},
    qos::{PacketId, Qos},
    reader::Reader,
    repeated::UserProperties,
    topic,
    version::Version,
    writer::{self, Body, Section, Sink},
};

const QOS: u8 = 0b0000_0011;
const NO_LOCAL: u8 = 0b0000_0100;
const RETAIN_AS_PUBLISHED: u8 = 0b0000_1000;
const RETAIN_HANDLING_SHIFT: u8 = 4;
const RESERVED: u8 = 0b1100_0000;

/// A wish for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribe<'a> {
    pub packet_id: PacketId,
    pub properties: SubscribeProperties<'a>,
    /// One at least.
    pub filters: SubscribeFilters<'a>,
}

/// Properties of a SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SubscribeProperties<'a> {
    pub subscription_id: Option<SubscriptionId>,
    pub user: UserProperties<'a>,
}

/// One wish of a SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscribeFilter<'a> {
    pub filter: &'a str,
    pub options: SubscribeOptions,
}

/// How messages of one filter are wanted. Before v5 there is the QoS alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SubscribeOptions {
    /// The highest that is wanted.
    pub qos: Qos,
    /// Not those that the subscriber published itself.
    pub no_local: bool,
    /// With the RETAIN flag that the publisher gave.
    pub retain_as_published: bool,
    pub retain_handling: RetainHandling,
}

/// Whether retained messages are sent when subscribing.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RetainHandling {
    #[default]
    Send = 0,
    /// Only if the subscription is new.
    SendIfNew = 1,
    DoNotSend = 2,
}

/// The end of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    pub packet_id: PacketId,
    pub properties: UnsubscribeProperties<'a>,
    /// One at least.
    pub filters: UnsubscribeFilters<'a>,
}

/// Properties of an UNSUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnsubscribeProperties<'a> {
    pub user: UserProperties<'a>,
}

impl SubscribeOptions {
    /// The options of a byte. `None` where bits are reserved or a value is.
    pub const fn from_u8(byte: u8) -> Option<Self> {
        let retain_handling = match byte >> RETAIN_HANDLING_SHIFT {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return None,
        };
        let Some(qos) = Qos::from_u8(byte & QOS) else { return None };
        let no_local = byte & NO_LOCAL != 0;
        let retain_as_published = byte & RETAIN_AS_PUBLISHED != 0;
        Some(Self { qos, no_local, retain_as_published, retain_handling })
    }

    /// The byte on the wire of v5.
    pub const fn to_u8(self) -> u8 {
        self.qos as u8
            | if self.no_local { NO_LOCAL } else { 0 }
            | if self.retain_as_published { RETAIN_AS_PUBLISHED } else { 0 }
            | (self.retain_handling as u8) << RETAIN_HANDLING_SHIFT
    }
}

impl From<Qos> for SubscribeOptions {
    fn from(qos: Qos) -> Self {
        Self { qos, ..Self::default() }
    }
}

impl<'a> Subscribe<'a> {
    /// A SUBSCRIBE without properties.
    pub fn new(packet_id: PacketId, filters: &'a [SubscribeFilter<'a>]) -> Self {
        let filters = SubscribeFilters(Filters::List(filters));
        Self { packet_id, properties: SubscribeProperties::default(), filters }
    }

    pub(crate) fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let properties =
            if version.is_v5() { property::read(&mut reader)? } else { SubscribeProperties::default() };
        let mut entries = reader;
        let mut count = 0;
        while !entries.is_empty() {
            let filter = read_filter(version, &mut entries)?;
            check_options(version, filter, entries.u8()?)?;
            count += 1;
        }
        let bytes = reader.take_rest();
        if count == 0 {
            Err(NO_FILTER)
        } else {
            Ok(Self { packet_id, properties, filters: SubscribeFilters(Filters::Wire { bytes, count }) })
        }
    }

    /// Appends the packet to `out`.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.filters.is_empty() {
            return Err(EncodeError::Empty);
        }
        writer::packet(PacketType::Subscribe.first_byte(), self, version, out)
    }
}

impl<'a> Unsubscribe<'a> {
    /// An UNSUBSCRIBE without properties.
    pub fn new(packet_id: PacketId, filters: &'a [&'a str]) -> Self {
        let filters = UnsubscribeFilters(Filters::List(filters));
        Self { packet_id, properties: UnsubscribeProperties::default(), filters }
    }

    pub(crate) fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let properties =
            if version.is_v5() { property::read(&mut reader)? } else { UnsubscribeProperties::default() };
        let mut entries = reader;
        let mut count = 0;
        while !entries.is_empty() {
            read_filter(version, &mut entries)?;
            count += 1;
        }
        let bytes = reader.take_rest();
        if count == 0 {
            Err(NO_FILTER)
        } else {
            Ok(Self { packet_id, properties, filters: UnsubscribeFilters(Filters::Wire { bytes, count }) })
        }
    }

    /// Appends the packet to `out`.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.filters.is_empty() {
            return Err(EncodeError::Empty);
        }
        writer::packet(PacketType::Unsubscribe.first_byte(), self, version, out)
    }
}

const NO_FILTER: DecodeError = Protocol("no topic filter");

/// Shared subscriptions are of v5; before, `$share` is a level like any other.
fn read_filter<'a>(version: Version, reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    let filter = reader.string()?;
    let valid = if version.is_v5() { topic::valid_filter(filter) } else { topic::valid_levels(filter) };
    if valid { Ok(filter) } else { Err(Malformed("a topic filter breaks the rules of filters")) }
}

fn check_options(version: Version, filter: &str, byte: u8) -> Result<(), DecodeError> {
    let reserved = if version.is_v5() { RESERVED } else { !QOS };
    if byte & reserved != 0 {
        return Err(Malformed("reserved bits of the subscription options are set"));
    }
    if byte & QOS == QOS {
        return Err(if version.is_v5() { Protocol("maximum QoS 3") } else { Malformed("requested QoS 3") });
    }
    let options = SubscribeOptions::from_u8(byte).ok_or(Protocol("retain handling 3"))?;
    if options.no_local && topic::Shared::is_shared(filter) {
        return Err(Protocol("no local on a shared subscription"));
    }
    Ok(())
}

impl Body for Subscribe<'_> {
    fn write_body<S: Sink>(&self, version: Version, sink: &mut S) -> Result<(), EncodeError> {
        sink.u16(self.packet_id.get());
        if version.is_v5() {
            sink.section(&self.properties)?;
        }
        for SubscribeFilter { filter, options } in self.filters {
            sink.string(filter)?;
            sink.u8(if version.is_v5() { options.to_u8() } else { options.qos as u8 });
        }
        Ok(())
    }
}

impl Body for Unsubscribe<'_> {
    fn write_body<S: Sink>(&self, version: Version, sink: &mut S) -> Result<(), EncodeError> {
        sink.u16(self.packet_id.get());
        if version.is_v5() {
            sink.section(&self.properties)?;
        }
        self.filters.iter().try_for_each(|filter| sink.string(filter))
    }
}

impl<'a> Properties<'a> for SubscribeProperties<'a> {
    fn take(&mut self, id: PropertyId, value: &mut Reader<'a>) -> Result<bool, DecodeError> {
        match id {
            PropertyId::SubscriptionIdentifier => {
                self.subscription_id = Some(property::subscription_id(value)?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn set_user(&mut self, user: UserProperties<'a>) {
        self.user = user;
    }
}

impl Section for SubscribeProperties<'_> {
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        if let Some(id) = self.subscription_id {
            sink.subscription_id(id)?;
        }
        self.user.write(sink)
    }
}

impl<'a> Properties<'a> for UnsubscribeProperties<'a> {
    fn take(&mut self, _id: PropertyId, _value: &mut Reader<'a>) -> Result<bool, DecodeError> {
        Ok(false)
    }

    fn set_user(&mut self, user: UserProperties<'a>) {
        self.user = user;
    }
}

impl Section for UnsubscribeProperties<'_> {
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        self.user.write(sink)
    }
}

// ---- the filters, in place ----------------------------------------------------------------------------------------

#[derive(Clone, Copy)]
enum Filters<'a, T> {
    /// Validated entries of a packet.
    Wire {
        bytes: &'a [u8],
        count: usize,
    },
    List(&'a [T]),
}

impl<'a, T: Copy> Filters<'a, T> {
    const fn len(&self) -> usize {
        match self {
            Self::Wire { count, .. } => *count,
            Self::List(list) => list.len(),
        }
    }

    /// Reads cannot fail, the entries were all read before; if they could, the walk would end.
    fn next(&mut self, read: impl FnOnce(&mut Reader<'a>) -> Option<T>) -> Option<T> {
        match self {
            Self::List(list) => list.split_off_first().copied(),
            Self::Wire { bytes, count } => {
                let mut reader = Reader::new(bytes);
                let entry = read(&mut reader)?;
                *bytes = reader.take_rest();
                *count = count.saturating_sub(1);
                Some(entry)
            }
        }
    }
}

macro_rules! filters {
    ($(#[$doc:meta])* $name:ident, $iter:ident, $item:ty, $read:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $name<'a>(Filters<'a, $item>);

        impl<'a> $name<'a> {
            /// To be written from a list.
            pub const fn from_list(list: &'a [$item]) -> Self {
                Self(Filters::List(list))
            }

            pub const fn len(&self) -> usize {
                self.0.len()
            }

            pub const fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// One after another.
            pub const fn iter(&self) -> $iter<'a> {
                $iter(self.0)
            }
        }

        #[doc = concat!("See [`", stringify!($name), "::iter`].")]
        pub struct $iter<'a>(Filters<'a, $item>);

        impl<'a> Iterator for $iter<'a> {
            type Item = $item;

            fn next(&mut self) -> Option<Self::Item> {
                self.0.next($read)
            }

            fn size_hint(&self) -> (usize, Option<usize>) {
                (self.0.len(), Some(self.0.len()))
            }
        }

        impl ExactSizeIterator for $iter<'_> {}

        impl<'a> IntoIterator for $name<'a> {
            type Item = $item;
            type IntoIter = $iter<'a>;

            fn into_iter(self) -> Self::IntoIter {
                self.iter()
            }
        }

        impl PartialEq for $name<'_> {
            fn eq(&self, other: &Self) -> bool {
                self.iter().eq(other.iter())
            }
        }

        impl Eq for $name<'_> {}

        impl fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_list().entries(self.iter()).finish()
            }
        }
    };
}

filters! {
    /// The filters of a SUBSCRIBE, in its order.
    SubscribeFilters, SubscribeFilterIter, SubscribeFilter<'a>,
    |reader| {
        let filter = reader.string().ok()?;
        Some(SubscribeFilter { filter, options: SubscribeOptions::from_u8(reader.u8().ok()?)? })
    }
}

filters! {
    /// The filters of an UNSUBSCRIBE, in its order.
    UnsubscribeFilters, UnsubscribeFilterIter, &'a str, |reader| reader.string().ok()
}
