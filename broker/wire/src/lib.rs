//! The bytes of MQTT 3.1, 3.1.1 and 5.0: the one place that knows them.
//!
//! [`frame()`] finds where a packet ends; [`decode`] parses the complete body and validates all that the specifications
//! fix, borrowing every string and payload; `encode` of each packet appends it to a buffer, or leaves the buffer as it
//! was. [`Template`] writes one message for many receivers. No sockets, no clock, no allocation in decoding.
//!
//! ```
//! use nsd_wire::{Packet, Publish, Version, read};
//!
//! let mut bytes = Vec::new();
//! Publish::new("plant/boiler/temperature", b"71.5").encode(Version::V311, &mut bytes)?;
//!
//! let (packet, length) = read(Version::V311, &bytes, 1024)?.expect("it is all there");
//! assert_eq!(length, bytes.len());
//! assert_eq!(packet, Packet::Publish(Publish::new("plant/boiler/temperature", b"71.5")));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod frame;
pub mod packet;

pub mod ack;
pub mod auth;
pub mod connack;
pub mod connect;
pub mod disconnect;
pub mod publish;
pub mod suback;
pub mod subscribe;
pub mod template;

pub mod error;
pub mod property;
pub mod qos;
pub mod reason;
pub mod repeated;
pub mod topic;
pub mod version;

mod bytes;
mod reader;
mod writer;

pub use ack::{Ack, AckKind, ReasonProperties};
pub use auth::{Auth, AuthProperties};
pub use connack::{ConnAck, ConnAckProperties};
pub use connect::{Connect, ConnectProperties, Will, WillProperties};
pub use disconnect::{Disconnect, DisconnectProperties};
pub use error::{DecodeError, EncodeError, ReadError};
pub use frame::{Frame, FrameError, MAX_REMAINING_LENGTH, PacketType, frame};
pub use packet::{Packet, Sender, decode, read};
pub use property::{Authentication, PayloadFormat, SubscriptionId};
pub use publish::{Publish, PublishProperties};
pub use qos::{PacketId, Qos};
pub use reason::{ConnectReturnCode, ReasonCode};
pub use repeated::{SubscriptionIds, UserProperties};
pub use suback::{ReasonCodes, SubAck, UnsubAck};
pub use subscribe::{
    RetainHandling, Subscribe, SubscribeFilter, SubscribeFilters, SubscribeOptions, SubscribeProperties,
    Unsubscribe, UnsubscribeFilters, UnsubscribeProperties,
};
pub use template::{Alias, Delivery, Template};
pub use version::Version;
