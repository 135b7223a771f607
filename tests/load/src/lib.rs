//! Load for MQTT brokers and TCP balancers.
//!
//! Pure: [`sequence`] (what arrived), [`pace`]'s schedule, [`frames`] (bytes of MQTT), [`report`] (what is told).
//! Edge: [`target`] and [`tls`] (connections), [`link`] (one MQTT connection), [`run`] (the course of every run),
//! [`mqtt`] and [`pattern`] (clients and who hears whom), [`bystander`], [`connections`], [`retained`] (other clients), [`usage`] (the server's CPU and memory).

pub mod bystander;
pub mod cli;
pub mod clock;
pub mod connections;
pub mod frames;
pub mod limits;
pub mod link;
pub mod mqtt;
pub mod pace;
pub mod pattern;
pub mod perform;
pub mod relay;
pub mod report;
pub mod retained;
pub mod run;
pub mod sequence;
pub mod serve;
pub mod target;
pub mod tls;
pub mod usage;
