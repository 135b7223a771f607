//! later
use super::{Host, Hosts};
use crate::failure::Failure;
use crate::report::Reporter;
use crate::system::{Image, System};
pub(crate) async fn ship(_: &Hosts, _: &Host, _: &System, _: &Image, _: &str, _: &Reporter) -> Result<(), Failure> { Err(Failure::error("later")) }
