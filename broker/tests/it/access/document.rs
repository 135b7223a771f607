//! Every example of `docs/broker-access.md` is what it says.
