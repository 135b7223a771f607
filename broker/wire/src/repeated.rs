//! The two properties that may occur many times: user properties and subscription identifiers.
//!
//! Those of a received packet stay where they are, validated, and are walked or copied from there; those of a packet
//! to be written may also be a list.

use std::fmt;

use crate::{
    error::{DecodeError, EncodeError},
    property::{self, Properties, PropertyId, PropertySink, SubscriptionId},
    reader::Reader,
    writer::{Section, Sink},
};

/// A validated stretch of a property section that has all occurrences of one property, `own` bytes of them; other
/// properties may stand between.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Span<'a> {
    bytes: &'a [u8],
    own: usize,
}

impl Span<'_> {
    /// The usual case: one copy writes them all.
    const fn is_unmixed(&self) -> bool {
        self.own == self.bytes.len()
    }
}

/// Where one property has been seen so far.
#[derive(Default)]
pub(crate) struct Occurrences {
    at: Option<(usize, usize)>,
    own: usize,
}

impl Occurrences {
    pub(crate) fn note(&mut self, start: usize, end: usize) {
        self.own += end - start;
        self.at = Some((self.at.map_or(start, |(first, _)| first), end));
    }

    pub(crate) fn span<'a>(&self, section: &'a [u8]) -> Option<Span<'a>> {
        let (start, end) = self.at?;
        Some(Span { bytes: section.get(start..end)?, own: self.own })
    }
}

#[derive(Clone, Copy)]
enum Many<'a, T> {
    Wire(Span<'a>),
    List(&'a [T]),
}

/// User properties: pairs of strings, in the order of the sender [MQTT-3.3.2-18].
#[derive(Clone, Copy)]
pub struct UserProperties<'a>(Many<'a, (&'a str, &'a str)>);

impl<'a> UserProperties<'a> {
    /// To be written from a list.
    pub const fn from_pairs(pairs: &'a [(&'a str, &'a str)]) -> Self {
        Self(Many::List(pairs))
    }

    /// From what [`write_wire`](Self::write_wire) wrote, or another has: it is validated.
    pub fn from_wire(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        #[derive(Default)]
        struct Only<'a>(UserProperties<'a>);
        impl<'a> Properties<'a> for Only<'a> {
            fn take(&mut self, _id: PropertyId, _value: &mut Reader<'a>) -> Result<bool, DecodeError> {
                Ok(false)
            }
            fn set_user(&mut self, user: UserProperties<'a>) {
                self.0 = user;
            }
        }
        Ok(property::read_section::<Only<'_>>(bytes)?.0)
    }

    /// Appends them as they are in a packet, without a length before.
    pub fn write_wire(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let before = out.len();
        self.write(out).inspect_err(|_| out.truncate(before))
    }

    pub(crate) const fn from_span(span: Span<'a>) -> Self {
        Self(Many::Wire(span))
    }

    pub const fn is_empty(&self) -> bool {
        match self.0 {
            Many::Wire(span) => span.own == 0,
            Many::List(pairs) => pairs.is_empty(),
        }
    }

    /// Name and value, one after another.
    pub const fn iter(&self) -> UserPropertyIter<'a> {
        UserPropertyIter(self.0)
    }
}

impl Default for UserProperties<'_> {
    fn default() -> Self {
        Self::from_pairs(&[])
    }
}

impl PartialEq for UserProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for UserProperties<'_> {}

impl fmt::Debug for UserProperties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for UserProperties<'a> {
    type Item = (&'a str, &'a str);
    type IntoIter = UserPropertyIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Section for UserProperties<'_> {
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        match self.0 {
            Many::Wire(span) if span.is_unmixed() => {
                sink.bytes(span.bytes);
                Ok(())
            }
            Many::Wire(_) => self.iter().try_for_each(|pair| user_property(sink, pair)),
            Many::List(pairs) => pairs.iter().try_for_each(|&pair| user_property(sink, pair)),
        }
    }
}

#[inline]
fn user_property<S: Sink>(sink: &mut S, (name, value): (&str, &str)) -> Result<(), EncodeError> {
    sink.u8(PropertyId::UserProperty as u8);
    sink.string(name)?;
    sink.string(value)
}

/// See [`UserProperties::iter`].
pub struct UserPropertyIter<'a>(Many<'a, (&'a str, &'a str)>);

impl<'a> Iterator for UserPropertyIter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Many::List(pairs) => pairs.split_off_first().copied(),
            Many::Wire(span) => {
                next_of(span, PropertyId::UserProperty, |r| Some((r.string().ok()?, r.string().ok()?)))
            }
        }
    }
}

/// Subscription identifiers of a PUBLISH, in the order of the sender. Only a server sends them.
#[derive(Clone, Copy)]
pub struct SubscriptionIds<'a>(Many<'a, SubscriptionId>);

impl<'a> SubscriptionIds<'a> {
    /// To be written from a list.
    pub const fn from_list(ids: &'a [SubscriptionId]) -> Self {
        Self(Many::List(ids))
    }

    pub(crate) const fn from_span(span: Span<'a>) -> Self {
        Self(Many::Wire(span))
    }

    pub const fn is_empty(&self) -> bool {
        match self.0 {
            Many::Wire(span) => span.own == 0,
            Many::List(ids) => ids.is_empty(),
        }
    }

    /// One after another.
    pub const fn iter(&self) -> SubscriptionIdIter<'a> {
        SubscriptionIdIter(self.0)
    }
}

impl Default for SubscriptionIds<'_> {
    fn default() -> Self {
        Self::from_list(&[])
    }
}

impl PartialEq for SubscriptionIds<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for SubscriptionIds<'_> {}

impl fmt::Debug for SubscriptionIds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for SubscriptionIds<'a> {
    type Item = SubscriptionId;
    type IntoIter = SubscriptionIdIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Section for SubscriptionIds<'_> {
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        match self.0 {
            Many::Wire(span) if span.is_unmixed() => {
                sink.bytes(span.bytes);
                Ok(())
            }
            Many::Wire(_) => self.iter().try_for_each(|id| sink.subscription_id(id)),
            Many::List(ids) => ids.iter().try_for_each(|&id| sink.subscription_id(id)),
        }
    }
}

/// See [`SubscriptionIds::iter`].
pub struct SubscriptionIdIter<'a>(Many<'a, SubscriptionId>);

impl Iterator for SubscriptionIdIter<'_> {
    type Item = SubscriptionId;

    fn next(&mut self) -> Option<SubscriptionId> {
        match &mut self.0 {
            Many::List(ids) => ids.split_off_first().copied(),
            Many::Wire(span) => {
                next_of(span, PropertyId::SubscriptionIdentifier, |r| property::subscription_id(r).ok())
            }
        }
    }
}

/// The next value of `wanted` in a validated span, which is cut behind it. Reads cannot fail, it was all read before;
/// if they could, the walk would end.
fn next_of<'a, T>(
    span: &mut Span<'a>,
    wanted: PropertyId,
    read: impl FnOnce(&mut Reader<'a>) -> Option<T>,
) -> Option<T> {
    let mut reader = Reader::new(span.bytes);
    while !reader.is_empty() {
        let id = PropertyId::from_u8(reader.u8().ok()?)?;
        if id == wanted {
            let value = read(&mut reader)?;
            span.bytes = reader.take_rest();
            return Some(value);
        }
        property::skip(id, &mut reader).ok()?;
    }
    None
}
