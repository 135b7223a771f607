//! `nsd`: a declarative deployment orchestrator.
//!
//! A pure middle decides: [`system`] (nouns), [`manifest`] (text → manifest, all problems at once), [`compile`]
//! (manifest → [`system::System`]), [`plan`] (wanted + observed → steps), [`render`] (tera). A thin edge performs:
//! [`host`] (SSH, Docker, processes), [`observe`], [`apply`] (the only interpreter of steps), [`builder`] (git, Docker
//! build), [`bundled`] (our own images), [`history`] (revisions and timeline in git), [`report`] (events → terminal),
//! [`cli`] (one file a command).

pub mod apply;
pub mod builder;
pub mod bundled;
pub mod cli;
pub mod compile;
pub mod device;
pub mod failure;
pub mod history;
pub mod host;
pub mod keeper;
pub mod login;
pub mod manifest;
pub mod mqtt;
pub mod observe;
pub mod plan;
pub mod project;
pub mod render;
pub mod report;
pub mod secret;
pub mod supervise;
pub mod system;
