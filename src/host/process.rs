//! later

use std::time::Duration;
use tokio::sync::mpsc;
use super::engine::{ExecIo, LogLine, LogOptions, Order, PutFile, Status};
use crate::failure::Failure;
use crate::plan::{ContainerName, Surveyed};
use crate::report::Reporter;
use crate::system::System;
pub(crate) struct Processes;
impl Processes {
    pub(crate) async fn survey(&self, _: &System) -> Result<Surveyed, Failure> { Err(Failure::error("later")) }
    pub(crate) fn state_of(&self, _: &ContainerName) -> String { String::new() }
    pub(crate) async fn pull(&self, _: &str, _: &str, _: &Reporter) -> Result<(), Failure> { Err(Failure::error("later")) }
    pub(crate) async fn create(&self, _: &Order<'_>) -> Result<(), Failure> { Err(Failure::error("later")) }
    pub(crate) async fn start(&self, _: &ContainerName) -> Result<(), Failure> { Err(Failure::error("later")) }
    pub(crate) async fn stop(&self, _: &ContainerName, _: Duration) -> Result<(), Failure> { Err(Failure::error("later")) }
    pub(crate) async fn remove(&self, _: &ContainerName) -> Result<(), Failure> { Err(Failure::error("later")) }
    pub(crate) async fn put_files(&self, _: &ContainerName, _: &[PutFile]) -> Result<(), Failure> { Err(Failure::error("later")) }
    pub(crate) async fn read_files(&self, _: &ContainerName, _: &[String]) -> Result<Vec<PutFile>, Failure> { Err(Failure::error("later")) }
    pub(crate) async fn status(&self, _: &ContainerName) -> Result<Status, Failure> { Err(Failure::error("later")) }
    pub(crate) async fn logs(&self, _: &ContainerName, _: &LogOptions, _: mpsc::Sender<LogLine>) -> Result<(), Failure> { Err(Failure::error("later")) }
    pub(crate) async fn exec(&self, _: &ContainerName, _: &[String], _: ExecIo) -> Result<i64, Failure> { Err(Failure::error("later")) }

    pub(crate) fn open(_: &System, _: &crate::system::MachineName) -> Result<Self, Failure> { Err(Failure::error("later")) }
}
