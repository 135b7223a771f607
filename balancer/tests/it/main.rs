//! The balancer as a real process, over real sockets.

mod balance;
mod health;
mod operations;
mod reload;
mod sessions;
mod support;
mod tls;
