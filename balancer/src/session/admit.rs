//! A client of a frontend in MQTT mode: its CONNECT is read and judged, then offered to servers until one answers. All
//! that this needs is gone once the client and its server talk.

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use nsd_edge::stream::read_scratch;
use nsd_wire::{Connect, ReasonCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{timeout, timeout_at};
use tracing::debug;

use super::{Client, Failed, Seated, line, number, reach};
use crate::backend::{Backend, Who};
use crate::framing::Framing;
use crate::gate::{
    Answer, Gate, GateRules, Passed, Refusal, Refused, Verdict, answer, connack, connack_code, is_success,
    longest_silence,
};
use crate::guard::Guard;
use crate::limits;
use crate::member::Seat;
use crate::origin::Origin;
use crate::pick;
use crate::registry::{Names, Registry};
use crate::relay::{End, Moved, Order};
use crate::settings::Policy;
use crate::upstream::Upstream;

pub(super) async fn admit<C>(stream: &mut C, client: &Client, guard: &Guard) -> Result<Seated, Failed>
where
    C: AsyncRead + AsyncWrite + Origin + Unpin,
{
    let mut gate = Gate::default();
    let deadline = tokio::time::Instant::now() + guard.rules.deadline;
    let verdict = match timeout_at(deadline, read_connect(stream, &mut gate, &guard.rules)).await {
        Ok(Ok(verdict)) => verdict.and_then(|passed| let_in(stream, client, guard, &gate, passed)),
        Ok(Err(error)) => {
            debug!(client = %client.peer, %error, "broke before its CONNECT was complete");
            return Err(failed(client, End::ClientBroke, &gate, 0));
        }
        Err(_elapsed) => Err(Refused::new(Refusal::TooSlow, None)),
    };
    match verdict {
        Ok(guest) => {
            let Passed { version, keep_alive, .. } = guest.passed;
            client.frontend.tally.count(|counts| counts.connect(number(version), keep_alive));
            offer(stream, client, &guard.rules, &gate, guest).await
        }
        Err(refused) => {
            client.frontend.tally.count(|counts| counts.connack(&refused.answer));
            say_goodbye(stream, &refused.answer).await;
            Err(failed(client, End::Refused(refused.why), &gate, refused.answer.len()))
        }
    }
}

/// Until the gate has decided. Never reads more than it has room for.
async fn read_connect<C>(
    stream: &mut C,
    gate: &mut Gate,
    rules: &GateRules,
) -> io::Result<Result<Passed, Refused>>
where
    C: AsyncRead + Unpin,
{
    let mut room = Gate::FIRST_ROOM;
    loop {
        let mut limited = (&mut *stream).take(room as u64);
        let judge = |bytes: &[u8]| {
            let ended = Verdict::Refused(Refused::new(Refusal::Unfinished, None));
            if bytes.is_empty() { ended } else { gate.take(bytes, rules) }
        };
        match read_scratch(&mut limited, judge).await? {
            Verdict::More(more) => room = more,
            Verdict::Passed(passed) => return Ok(Ok(passed)),
            Verdict::Refused(refused) => return Ok(Err(refused)),
        }
    }
}

/// Who has passed the gate, and what its CONNECT says: decoded once.
struct Guest<'c> {
    passed: Passed,
    /// That the frontend's rules give it.
    backend: &'c Backend,
    names: Names,
    /// See [`Who::client`].
    key: Option<u64>,
}

fn let_in<'c>(
    stream: &impl Origin,
    client: &'c Client,
    guard: &Guard,
    gate: &Gate,
    passed: Passed,
) -> Result<Guest<'c>, Refused> {
    let refused = |why| Refused::new(why, Some(passed.version));
    let connect = gate.connect();
    let id = connect.as_ref().map_or("", |connect| connect.client_id);
    guard.count(client.peer.ip(), id).map_err(refused)?;
    let backend = client.backend(stream, connect.as_ref()).ok_or_else(|| refused(Refusal::Rule))?;
    let key = (!id.is_empty()).then(|| pick::key(id));
    let names = connect.as_ref().map_or_else(Registry::nobody, |connect| names(client, connect));
    Ok(Guest { passed, backend, names, key })
}

/// Asks one server after the other. Nothing was acknowledged to the client yet, so each may be sent the same bytes.
///
/// A server that closes or keeps silent is not blamed here: a client may have brought that about. Its check tells, soon.
async fn offer<C>(
    stream: &mut C,
    client: &Client,
    rules: &GateRules,
    gate: &Gate,
    guest: Guest<'_>,
) -> Result<Seated, Failed>
where
    C: AsyncRead + AsyncWrite + Origin + Unpin,
{
    let Guest { passed, backend, names, key } = guest;
    let policy = backend.policy.load_full();
    let key = key.filter(|_| policy.is_affine(passed.clean));
    let who = Who { source: client.peer.ip(), client: key };
    let mut tried = Vec::new();
    let (mut last_word, mut why) = (None, None);
    while tried.len() < limits::CONNECT_ATTEMPTS {
        let found = line::seat(stream.socket(), backend, &policy, who, &tried).await;
        let Some(seat) = found.map_err(|end| failed(client, end, gate, 0))? else { break };
        let name = &seat.member().name;
        tried.push(seat.member().id);
        let mut server = match reach(backend, seat.member(), &policy, || client.header(stream)).await {
            Ok(Some(server)) => server,
            Ok(None) => continue,
            Err(end) => {
                why = Some(end);
                break;
            }
        };
        let asked = timeout(rules.answer_timeout, ask(&mut server, gate.bytes(), passed));
        let asked = tokio::select! {
            biased;
            order = seat.closed() => match order {
                Order::Stop => return Err(failed(client, End::Told(order), gate, 0)),
                _ => continue,
            },
            asked = asked => asked,
        };
        if let Ok(Ok((_, answer))) = &asked {
            connack_code(answer).into_iter().for_each(|code| seat.member().connacks.count(code));
        }
        match asked {
            Ok(Ok((Answer::ForClient, answer))) => {
                seat.member().connected(&policy);
                client.frontend.tally.count(|counts| counts.connack(&answer));
                pass_on(stream, rules, &answer).await.map_err(|end| failed(client, end, gate, 0))?;
                return Ok(seated(server, seat, (names, &policy), (rules, gate, passed), &answer));
            }
            Ok(Ok((_, answer))) => {
                debug!(server = name, "is unavailable, trying another server");
                last_word = Some(answer);
            }
            Ok(Err(error)) => debug!(server = name, %error, "no answer, trying another server"),
            Err(_elapsed) => debug!(server = name, "does not answer, trying another server"),
        }
        seat.member().suspected();
    }
    let busy = tried.is_empty() && backend.is_usable();
    let (end, reason) = if busy {
        (End::ServersBusy, ReasonCode::ServerBusy)
    } else {
        (End::NoServer, ReasonCode::ServerUnavailable)
    };
    let answer = last_word.unwrap_or_else(|| connack(reason, passed.version));
    client.frontend.tally.count(|counts| counts.connack(&answer));
    say_goodbye(stream, &answer).await;
    Err(failed(client, why.unwrap_or(end), gate, answer.len()))
}

/// Sends the CONNECT with what came behind it, and reads the beginning of the answer.
async fn ask(server: &mut Upstream, connect: &[u8], passed: Passed) -> io::Result<(Answer, Vec<u8>)> {
    server.write_all(connect).await?;
    server.flush().await?;
    let mut heard = Vec::new();
    loop {
        match answer(&heard, passed.version) {
            Answer::More => {}
            judged => return Ok((judged, heard)),
        }
        let mut limited = (&mut *server).take(limits::ANSWER);
        let before = heard.len();
        read_scratch(&mut limited, |bytes| heard.extend_from_slice(bytes)).await?;
        if heard.len() == before {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn pass_on<C: AsyncWrite + Unpin>(stream: &mut C, rules: &GateRules, answer: &[u8]) -> Result<(), End> {
    let write = async {
        stream.write_all(answer).await?;
        stream.flush().await
    };
    match timeout(rules.answer_timeout, write).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(End::ClientBroke),
    }
}

/// Tells the client why, and waits a little until it has read that.
async fn say_goodbye<C>(stream: &mut C, answer: &[u8])
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    if answer.is_empty() {
        return;
    }
    let goodbye = async {
        stream.write_all(answer).await?;
        stream.shutdown().await?;
        let mut left = limits::FAREWELL_BYTES;
        while left > 0 {
            match read_scratch(stream, <[u8]>::len).await? {
                0 => break,
                more => left = left.saturating_sub(more),
            }
        }
        io::Result::Ok(())
    };
    // Whether it hears is its own affair.
    let _ = timeout(limits::FAREWELL, goodbye).await;
}

fn seated(
    server: Upstream,
    seat: Seat,
    (names, policy): (Names, &Policy),
    (rules, gate, passed): (&GateRules, &Gate, Passed),
    answer: &[u8],
) -> Seated {
    let (mut up, mut down) = (Framing::default(), Framing::default());
    up.follow(gate.bytes());
    down.follow(answer);
    Seated {
        server,
        seat,
        moved: Moved {
            up: gate.bytes().len() as u64,
            down: answer.len() as u64,
            messages_up: up.publishes().into(),
            messages_down: down.publishes().into(),
        },
        up,
        down,
        version: Some(passed.version),
        clean: passed.clean,
        will: passed.will,
        names,
        silence: longest_silence(passed, answer, rules),
        accepted: is_success(answer),
        duplicates: policy.duplicates,
    }
}

fn failed(client: &Client, end: End, gate: &Gate, told: usize) -> Failed {
    let moved = Moved { up: gate.bytes().len() as u64, down: told as u64, ..Moved::default() };
    // As far as they can be read.
    let names = gate.connect().map(|connect| names(client, &connect));
    Failed { end, names, version: gate.version(), moved, tls: None }
}

fn names(client: &Client, connect: &Connect<'_>) -> Names {
    let user = connect.user_name.filter(|_| client.shared.log_user_names.load(Relaxed)).unwrap_or_default();
    client.shared.registry.names(connect.client_id, user)
}
