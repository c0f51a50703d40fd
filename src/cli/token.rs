//! `meterseal token`: tokens for programs that use the API.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use serde_json::{Value, json};

use super::{ConfigArgument, Done, Failed, complete, good_config, print};
use crate::agent::access::{self, AccessDone, AccessOrder};
use crate::clock::Clock;
use crate::store::{Scope, Token};

#[derive(Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it, this once
    #[command(after_help = "Example:\n  meterseal token create grafana --scope read")]
    Create {
        /// Names it in the list and in the log
        name: String,
        #[command(flatten)]
        config: ConfigArgument,
        /// read sees everything, export also makes bundles, admin does everything; ingest is for programs that hand in readings
        #[arg(long, value_parser = scope())]
        scope: Scope,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the tokens: name, scope, who made them, when they were last used
    #[command(after_help = "Example:\n  meterseal token list")]
    List {
        #[command(flatten)]
        config: ConfigArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Take a token away: it opens nothing from now on
    #[command(after_help = "Example:\n  meterseal token revoke grafana")]
    Revoke {
        /// As `token list` has it
        name: String,
        #[command(flatten)]
        config: ConfigArgument,
    },
}

fn scope() -> impl clap::builder::TypedValueParser<Value = Scope> {
    PossibleValuesParser::new(Scope::ALL.map(Scope::as_str))
        .map(|name| Scope::ALL.into_iter().find(|scope| scope.as_str() == name).unwrap_or(Scope::Read))
}

pub fn token(command: TokenCommand) -> Done {
    match command {
        TokenCommand::Create { name, config, scope, json } => create(&config.path, name, scope, json),
        TokenCommand::List { config, json } => list(&config.path, json),
        TokenCommand::Revoke { name, config } => revoke(&config.path, name),
    }
}

fn create(path: &Path, name: String, scope: Scope, json: bool) -> Done {
    let config = good_config(path, &Clock::system())?;
    let done = complete(access::order(&config, AccessOrder::Token { name, scope }))??;
    let AccessDone::Token { made, token } = done else { return Err(Failed::new("the daemon told no token")) };
    if json {
        let mut view = view(&made);
        view["token"] = json!(token);
        print::json(&view);
    } else {
        print::out(&format!("{token}\n"));
        eprintln!("Keep it: it is shown once.");
    }
    Ok(ExitCode::SUCCESS)
}

fn list(path: &Path, json: bool) -> Done {
    let config = good_config(path, &Clock::system())?;
    let done = complete(access::order(&config, AccessOrder::Tokens {}))??;
    let AccessDone::Tokens(tokens) = done else { return Err(Failed::new("the daemon told no tokens")) };
    if json {
        print::json(&tokens.iter().map(view).collect::<Vec<_>>());
        return Ok(ExitCode::SUCCESS);
    }
    let width = tokens.iter().map(|token| token.name.chars().count()).max().unwrap_or(0);
    for Token { name, scope, created, by, last_used, .. } in &tokens {
        let used = last_used.map_or_else(|| "not used since it is kept".to_owned(), |at| format!("last used {at}"));
        let by = by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        print::out(&format!("{name:width$}  {:6}  made {created}{by}, {used}\n", scope.as_str()));
    }
    Ok(ExitCode::SUCCESS)
}

fn view(token: &Token) -> Value {
    let Token { id, name, scope, created, by, last_used } = token;
    json!({
        "id": id, "name": name, "scope": scope, "created": created.to_string(), "by": by,
        "last_used": last_used.map(|at| at.to_string()),
    })
}

fn revoke(path: &Path, name: String) -> Done {
    let config = good_config(path, &Clock::system())?;
    complete(access::order(&config, AccessOrder::NoToken { name: name.clone() }))??;
    print::out(&format!("the token {name} is revoked\n"));
    Ok(ExitCode::SUCCESS)
}
