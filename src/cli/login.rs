use std::io::IsTerminal;

use super::Context;
use crate::failure::{Failure, Kind};
use crate::login::{self, Person};

/// Say who works here; the name stands beside every revision and deploy
///
///   nsd login                                        # as git has it, or asked
///   nsd login --name "Ada Lovelace" --email ada@example.org
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct LoginArgs {
    /// By default git's user.name
    #[arg(long)]
    name: Option<String>,
    /// By default git's user.email
    #[arg(long)]
    email: Option<String>,
}

/// Forget who worked here
#[derive(clap::Args)]
pub(super) struct LogoutArgs {}

pub(super) async fn login(context: &Context, args: LoginArgs) -> Result<(), Failure> {
    let known = login::from_git();
    let name = answer(context, args.name, known.as_ref().map(|person| person.name.clone()), "name").await?;
    let email = answer(context, args.email, known.map(|person| person.email), "email").await?;
    let person = Person::new(&name, &email)?;
    login::keep(&person)?;
    context.screen.show(&person, || format!("logged in as {person}"));
    Ok(())
}

pub(super) fn logout(context: &Context, _args: LogoutArgs) -> Result<(), Failure> {
    let was = login::forget()?;
    context.screen.show(&serde_json::json!({ "logged-out": was }), || {
        if was { "logged out".to_owned() } else { "nobody was logged in".to_owned() }
    });
    Ok(())
}

/// As given, else as git knows it, else asked.
async fn answer(
    context: &Context,
    given: Option<String>,
    known: Option<String>,
    what: &str,
) -> Result<String, Failure> {
    if let Some(known) = given.or(known) {
        return Ok(known);
    }
    if context.global.json || !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            Kind::Usage,
            format!("git has no user.{what}, and nobody can be asked here"),
        )
        .hint("for example `nsd login --name \"Ada Lovelace\" --email ada@example.org`"));
    }
    context.ask(&format!("your {what}: ")).await
}
