//! What operators do: new certificates, files with mistakes, many reloads.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use nsd_load::cli::Role;
use nsd_load::report::Report;
use nsd_load::target::{Stream, Target};
use tokio::time::{Instant, sleep};

use super::Seen;
use super::configuration::Options;
use super::stage::{ANSWER, SETTLE, Stage, closed, echo, enter_by, stop};
use crate::contenders::{LOAD_PROCESSOR, make_certificate};
use crate::process::Program;

/// A changed file is noticed by then, if ever.
const NOTICED: Duration = Duration::from_secs(6);

pub(super) async fn certificate(stage: &Stage<'_>) -> Result<Seen> {
    let servers = stage.servers(&[Role::Session; 2]).await?;
    let balancer = stage.balancer(&Options::default()).await?;
    let by_tls = stage.by_tls()?;
    let mut session = enter_by(&by_tls, ANSWER).await?;
    let old = shown(&session)?;
    let fresh = stage.certificate().with_extension("new");
    make_certificate(&fresh)?;
    std::fs::rename(&fresh, stage.certificate())?;
    let by_itself = is_served(&by_tls, &old).await?;
    let how = if let Some(after) = by_itself {
        format!("after {:.1} s without a reload", after.as_secs_f64())
    } else {
        stage.reload(&balancer).await?;
        if is_served(&by_tls, &old).await?.is_some() { "after a reload".into() } else { "never".into() }
    };
    let lives = echo(&mut session).await.is_ok();
    stop(balancer, servers).await;
    let sessions = if lives { "sessions stay" } else { "sessions are cut" };
    Ok(Seen::new(by_itself.is_some() && lives, format!("{how}, {sessions}")))
}

/// The certificate that was shown.
fn shown(stream: &Stream) -> Result<Vec<u8>> {
    let Stream::Tls(stream) = stream else { anyhow::bail!("a plain connection has no certificate") };
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    Ok(shown.context("no certificate")?.to_vec())
}

async fn is_served(by_tls: &Target, old: &[u8]) -> Result<Option<Duration>> {
    let begun = Instant::now();
    while begun.elapsed() < NOTICED {
        if shown(&by_tls.connect().await?)? != old {
            return Ok(Some(begun.elapsed()));
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(None)
}

pub(super) async fn broken_file(stage: &Stage<'_>) -> Result<Seen> {
    let servers = stage.servers(&[Role::Session; 3]).await?;
    let balancer = stage.balancer(&Options::default()).await?;
    let mut session = stage.client().await?;
    stage.configure(&Options { broken: true, ..Options::default() })?;
    stage.reload(&balancer).await?;
    let served = stage.client().await.is_ok() && echo(&mut session).await.is_ok();
    let said = std::fs::read_to_string(stage.log())?;
    let told = said.lines().any(|line| line.contains("balanse") && line.contains(".conf:"));
    stage.configure(&Options { servers: 3, ..Options::default() })?;
    stage.reload(&balancer).await?;
    let _new = stage.clients(10).await?;
    let repaired = stage.at_servers()?[2] >= 2 && echo(&mut session).await.is_ok();
    stop(balancer, servers).await;
    let text = format!(
        "{}, {}, {}",
        if served { "goes on" } else { "serves nobody" },
        if told { "told with its line" } else { "not told where" },
        if repaired { "the good file works" } else { "the good file changes nothing" },
    );
    Ok(Seen::new(served && told && repaired, text))
}

pub(super) async fn reloads(stage: &Stage<'_>) -> Result<Seen> {
    let servers = stage.servers(&[Role::Session; 3]).await?;
    let balancer = stage.balancer(&Options::default()).await?;
    let sessions = stage.clients(2000).await?;
    let words = ["connect", "--json", "--duration", "31s", "--at-once", "8", "--sources", "64", "--target"];
    let args = words.map(String::from).into_iter().chain([stage.plain().to_string()]);
    let churn = Program::new(stage.load, args).on(Some(LOAD_PROCESSOR));
    let churn = churn.command().stdout(Stdio::piped()).spawn()?;
    for round in 0..10 {
        stage.configure(&Options { servers: 2 + round % 2, ..Options::default() })?;
        stage.reload(&balancer).await?;
    }
    let output = churn.wait_with_output().await?;
    let report: Report = serde_json::from_slice(&output.stdout).context("the load tool's report")?;
    sleep(SETTLE).await;
    let dropped = closed(&sessions);
    stop(balancer, servers).await;
    let (failed, made) = (report.failures.count, report.count);
    let text = format!("{failed} of {made} failed, {dropped} dropped");
    Ok(Seen::new(failed == 0 && dropped == 0 && made > 0.0, text))
}
