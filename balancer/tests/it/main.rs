//! The balancer as a real process, over real sockets.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests fail as tests do")]

mod balance;
mod checks;
mod clock;
mod convert;
mod cut_links;
mod dashboard;
mod dashboard_page;
mod duplicates;
mod floods;
mod gate;
mod handover;
mod health;
mod hostile;
mod http;
mod leave;
mod metrics;
mod moves;
mod names;
mod operations;
mod proxy;
mod reload;
mod rules;
mod sessions;
mod slow_links;
mod sources;
mod storm;
mod support;
mod tls;
mod tls_files;
mod tls_resumption;
mod tls_settings;
mod upstream_tls;
mod who;
