//! The network border of both servers, and nothing else: sockets, certificates, headers in front of a connection,
//! signals, the admin socket. It knows neither MQTT nor balancing, so that broker and balancer mean the same thing
//! by "listen", "drain" and "reload".
//!
//! | module | what it does |
//! | --- | --- |
//! | [`listen`] | bind, accept with back-off and permits, who may come and how many, the open-file limit |
//! | [`tls`] | certificates, also of clients → handshakes; live change of all of them |
//! | [`websocket`] | HTTP upgrade; the payload of binary frames as a stream of bytes |
//! | [`stream`] | plain, TLS or WebSocket as one type; reads through a scratch buffer of the thread |
//! | [`proxy_header`] | PROXY protocol v1 and v2: parse and write (pure), read from a socket |
//! | [`drain`] | graceful end: stop, tell, wait, abort |
//! | [`signal`] | SIGTERM, SIGINT and SIGHUP as values |
//! | [`watch`] | a file or directory changed |
//! | [`http`] | HTTP/1 served on any stream: bounded requests, a router, answers |
//! | [`socket_file`] | the file of a unix socket, which only its owner may open |
//! | [`admin`] | HTTP with JSON on a unix socket: server and client |
//! | [`password`] | argon2id records, files of them, the work of `passwd` commands |
//! | [`config`] | TOML read key by key; all problems at once, with lines |
//! | [`metrics`] | what Prometheus reads (pure), and the port where it asks |
//! | [`process`] | what the kernel says about this process |
//! | [`notify`] | READY, and who the main process is, for systemd |
//! | [`logs`] | tracing to stderr, as text or JSON |

pub mod admin;
pub mod config;
pub mod drain;
pub mod http;
pub mod listen;
pub mod logs;
pub mod metrics;
pub mod notify;
pub mod password;
pub mod process;
pub mod proxy_header;
pub mod secret_file;
pub mod signal;
pub mod socket_file;
pub mod stream;
pub mod tls;
pub mod watch;
pub mod websocket;
