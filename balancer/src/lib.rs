//! A TCP and TLS balancer that understands MQTT connections.
//!
//! | module | | what it does |
//! | --- | --- | --- |
//! | [`framing`] | pure | where packets begin and end in a direction of a connection |
//! | [`bucket`] | pure | how many clients a server may get a second |
//! | [`convert`] | pure | `haproxy.cfg` → our settings |
//! | [`gate`] | pure | a client's CONNECT → let in, or refused and in which words |
//! | [`health`] | pure | the state of one server: Joining, Healthy, Unhealthy, Draining, Gone |
//! | [`moves`] | pure | how many sessions each server has above its fair share |
//! | [`pace`] | pure | how fast many sessions are told to end |
//! | [`pick`] | pure | which server gets the next session |
//! | [`pool`] | pure | the servers of a backend; a new list of them → what changes |
//! | [`rules`] | pure | which backend a client goes to |
//! | [`settings`] | pure | text → checked settings, or all that is wrong with it |
//! | `verdict` | pure | what a health check has found |
//! | `limits` | | every limit with its reason |
//! | `backend` | edge | one backend at run time: the choice of a server, and who waits for one |
//! | `duplicates` | edge | the older sessions of a client that comes again |
//! | [`handover`] | [pure](handover::message) and edge | one process takes over from another, with listeners and sessions |
//! | `member` | edge | one server at run time: machine, counts, closing of its sessions |
//! | `moving` | edge | drains and rebalances, and what became of the clients |
//! | `names` | edge | names of servers → addresses, again and again |
//! | `origin` | edge | what a server is told of where its client comes from |
//! | `probe` | edge | health checks → inputs of the machine |
//! | `queue` | edge | where clients wait while all servers are full |
//! | `registry` | edge | all sessions that run, to be found by client or server and told to end |
//! | `relay` | edge | copies both ways, without buffers while idle; the clean end of who is told to leave |
//! | `credentials` | edge | files that are needed to meet servers: certificates, and the checks' password |
//! | `doors` | edge | where a running process can be asked |
//! | `entry` | edge | who may come to a frontend, and whom a PROXY header names |
//! | `frontend` | edge | one frontend: its rules and backends, the choice for a client |
//! | `guard` | edge | the gate of one frontend, with the rates that its clients share |
//! | `session` | edge | one client: handshake, gate, choice, connect or another, relay, access log |
//! | `waves` | edge | many sessions told to end at a pace |
//! | `tally` | edge | what is counted of frontends and servers |
//! | `telemetry` | edge | one sample of everything, and the page that Prometheus reads |
//! | `upstream` | edge | a session's connection to its server, plain or TLS |
//! | `workers` | edge | a thread and a runtime a core |
//! | `bound` | edge | an address that is listened on |
//! | `shared` | edge | what all sessions share |
//! | `running` | edge | all that runs: backends, frontends, bound addresses, certificates |
//! | `reload` | edge | new settings → what runs, as a transaction |
//! | `balancer` | edge | the whole: what runs under the settings in use, reloaded, handed on and stopped |
//! | `shown` | edge | the balancer as the dashboard and Prometheus know it |
//! | `admin` | edge | the admin socket |
//! | [`dashboard`] | edge | the status web page: logins, what it shows, the buttons on it |
//! | [`server`] | edge | start, signals, changed files, succession |

pub mod bucket;
pub mod convert;
pub mod dashboard;
pub mod framing;
pub mod gate;
pub mod handover;
pub mod health;
pub mod moves;
pub mod pace;
pub mod pick;
pub mod pool;
pub mod rules;
pub mod server;
pub mod settings;

mod admin;
mod backend;
mod balancer;
mod bound;
mod credentials;
mod doors;
mod duplicates;
mod entry;
mod frontend;
mod guard;
mod limits;
mod member;
mod moving;
mod names;
mod origin;
mod probe;
mod queue;
mod registry;
mod relay;
mod reload;
mod running;
mod session;
mod shared;
mod shown;
mod tally;
mod telemetry;
mod upstream;
mod verdict;
mod waves;
mod workers;
