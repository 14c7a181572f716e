//! `davit login`, `logout`, `search` and `image explain`.

use super::connect::Daemon;
use super::error::{ClientError, doing};
use super::format::{Format, print_json, print_template};
use crate::auth_file;
use crate::cli::{ExplainArgs, LoginArgs, LogoutArgs, SearchArgs};
use crate::output;
use davit_proto::admin;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use std::io::{BufRead as _, IsTerminal as _, Read as _};
use std::path::PathBuf;
use std::process::ExitCode;

/// What a password may have, in bytes.
const PASSWORD: u64 = 64 << 10;

/// `davit login`: shown to the registry first, kept only if it takes them.
pub(crate) async fn login(mut daemon: Daemon, args: LoginArgs) -> Result<(), ClientError> {
    let LoginArgs { username, password_stdin, authfile, registry } = args;
    let path = place(authfile)?;
    let (username, password) =
        if password_stdin { read_password(username) } else { ask(username) }?;
    let request = admin::LoginRequest {
        registry: registry.clone(),
        username: username.clone(),
        password: password.clone(),
    };
    let answer = daemon.davit.login(request).await.map_err(doing("log in"))?.into_inner();
    auth_file::keep(&path, &registry, (&username, &password))?;
    let told = if answer.asked {
        format!("logged in to {registry} as {username}")
    } else {
        format!("kept for {registry}, which asks nobody for credentials: they are not proved")
    };
    Ok(output::print(&format!("{told} ({})\n", path.display()))?)
}

/// `davit logout`: nobody need be asked.
pub(crate) fn logout(args: &LogoutArgs) -> Result<ExitCode, ClientError> {
    let LogoutArgs { all, authfile, registry } = args;
    let path = place(authfile.clone())?;
    let registry = registry.as_ref().filter(|_| !all);
    let forgotten = auth_file::forget(&path, registry.map(String::as_str))?;
    let whom = registry.map_or("any registry", String::as_str);
    if forgotten {
        output::print(&format!("forgotten for {whom} ({})\n", path.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::complain(&format!("davit: {} has nothing for {whom}", path.display()));
    Ok(ExitCode::FAILURE)
}

fn place(authfile: Option<PathBuf>) -> Result<PathBuf, ClientError> {
    Ok(authfile.map_or_else(auth_file::own_path, Ok)?)
}

/// From the standard input, which a script gives.
fn read_password(username: Option<String>) -> Result<(String, String), ClientError> {
    let username = username.ok_or(ClientError::NoUser)?;
    let mut password = String::new();
    let read = std::io::stdin().lock().take(PASSWORD).read_to_string(&mut password);
    read.map_err(ClientError::Password)?;
    Ok((username, password.trim_end_matches(['\r', '\n']).to_owned()))
}

/// Of whoever sits at the terminal.
fn ask(username: Option<String>) -> Result<(String, String), ClientError> {
    if !std::io::stdin().is_terminal() {
        return Err(ClientError::NoPassword);
    }
    let username = match username {
        Some(username) => username,
        None => line("Username: ")?,
    };
    Ok((username, without_echo(|| line("Password: "))?))
}

fn line(prompt: &str) -> Result<String, ClientError> {
    output::print_error_bytes(prompt.as_bytes())?;
    let mut text = String::new();
    let mut stdin = std::io::stdin().lock().take(PASSWORD);
    stdin.read_line(&mut text).map_err(ClientError::Password)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// A signal that ends this program while it waits leaves a terminal that shows nothing: so signals are keys meanwhile, and none ends it.
fn without_echo(work: impl FnOnce() -> Result<String, ClientError>) -> Result<String, ClientError> {
    let failed = |error: rustix::io::Errno| ClientError::Terminal(error.into());
    let before = tcgetattr(std::io::stdin()).map_err(failed)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
    tcsetattr(std::io::stdin(), OptionalActions::Now, &silent).map_err(failed)?;
    let answer = work();
    tcsetattr(std::io::stdin(), OptionalActions::Now, &before).map_err(failed)?;
    output::print_error_bytes(b"\n")?;
    match answer {
        Ok(text) if text.contains('\u{3}') => Err(ClientError::Interrupted),
        answer => answer,
    }
}

/// `davit search`.
pub(crate) async fn search(mut daemon: Daemon, args: SearchArgs) -> Result<(), ClientError> {
    let SearchArgs { registry, term } = args;
    let (username, password) = super::pull::own_credentials(&registry, "x/x")?;
    let request = admin::SearchRequest { registry: registry.clone(), term, username, password };
    let answer = daemon.davit.search(request).await.map_err(doing("search"))?.into_inner();
    let admin::SearchResponse { repositories, more } = answer;
    let lines: String = repositories.iter().map(|name| format!("{registry}/{name}\n")).collect();
    output::print(&lines)?;
    if more {
        output::complain("davit: there are more: search for a longer word");
    }
    Ok(())
}

/// `davit image explain`.
pub(crate) async fn explain(mut daemon: Daemon, args: ExplainArgs) -> Result<(), ClientError> {
    let ExplainArgs { listing, image } = args;
    let username = match davit_runtime::image::Images::place(&image) {
        Ok((registry, repository)) => auth_file::own(&registry, &repository)?,
        // The daemon says what is wrong with it.
        Err(_) => None,
    };
    let username = username.and_then(|auth| auth_file::user(&auth)).unwrap_or_default();
    let request = admin::ExplainRequest { image: image.clone(), username };
    let failed = doing(format!("explain {image}"));
    let answer = daemon.davit.explain(request).await.map_err(failed)?.into_inner();
    match &listing.format {
        Format::Json => print_json(&json(&answer)),
        Format::Table => Ok(output::print(&text(&answer))?),
        Format::Template(text) => print_template(text, &json(&answer)),
    }
}

fn json(answer: &admin::ExplainResponse) -> serde_json::Value {
    let endpoint = |one: &admin::ExplainedEndpoint| {
        serde_json::json!({
            "url": one.url,
            "resolves": one.resolves,
            "pulls": one.pulls,
            "told_registry": one.told_registry,
            "ca": one.ca,
            "client_certificates": one.client_certificates,
            "skip_verify": one.skip_verify,
            "headers": one.headers,
            "source": one.source,
            "is_registry": one.is_registry,
            "user": one.user,
        })
    };
    let endpoints: Vec<_> = answer.endpoints.iter().map(endpoint).collect();
    serde_json::json!({
        "registry": answer.registry,
        "repository": answer.repository,
        "endpoints": endpoints,
    })
}

fn text(answer: &admin::ExplainResponse) -> String {
    let mut text = format!("repository {} of registry {}\n", answer.repository, answer.registry);
    for (at, one) in answer.endpoints.iter().enumerate() {
        text.push_str(&format!("{}. {}\n", at + 1, one.url));
        for reason in reasons(one) {
            text.push_str(&format!("   {reason}\n"));
        }
    }
    text
}

/// What is done there, and why.
fn reasons(one: &admin::ExplainedEndpoint) -> Vec<String> {
    let asked = match (one.resolves, one.pulls) {
        (true, true) => "asked what tags mean, and for content",
        (true, false) => "asked what tags mean, not for content",
        (false, true) => "asked for content, not what tags mean",
        (false, false) => "asked for nothing: its capabilities allow neither",
    };
    let why = match (one.source.is_empty(), one.is_registry) {
        (true, _) => "the registry itself: no file says otherwise".to_owned(),
        (false, true) => format!("the registry itself, as {} says", one.source),
        (false, false) => format!("a mirror, as {} says", one.source),
    };
    let credentials = match (one.is_registry, one.user.is_empty()) {
        (false, _) => "without credentials: those for a registry are told to no mirror".to_owned(),
        (true, true) => "without credentials: there are none for it".to_owned(),
        (true, false) => format!("as user {}", one.user),
    };
    let mut all = vec![why, asked.to_owned(), credentials];
    if !one.told_registry.is_empty() {
        all.push(format!("told which registry is meant: {}", one.told_registry));
    }
    let mut list = |what: &str, items: &[String]| {
        if !items.is_empty() {
            all.push(format!("{what}: {}", items.join(", ")));
        }
    };
    list("trusts besides the system's certificates", &one.ca);
    list("shows itself by", &one.client_certificates);
    list("sends headers", &one.headers);
    if one.skip_verify {
        all.push("its certificate is not checked".to_owned());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_says_where_as_whom_and_why() {
        let origin = admin::ExplainedEndpoint {
            url: "https://quay.io/v2".to_owned(),
            resolves: true,
            pulls: true,
            is_registry: true,
            user: "me".to_owned(),
            ..admin::ExplainedEndpoint::default()
        };
        let mirror = admin::ExplainedEndpoint {
            url: "http://mirror/v2".to_owned(),
            pulls: true,
            source: "/etc/x/hosts.toml".to_owned(),
            told_registry: "quay.io".to_owned(),
            skip_verify: true,
            ..admin::ExplainedEndpoint::default()
        };
        let answer = admin::ExplainResponse {
            registry: "quay.io".to_owned(),
            repository: "a/b".to_owned(),
            endpoints: vec![mirror, origin],
        };
        let told = text(&answer);
        for part in [
            "1. http://mirror/v2\n   a mirror, as /etc/x/hosts.toml says\n   asked for content, not what tags mean\n   without credentials",
            "2. https://quay.io/v2\n   the registry itself: no file says otherwise\n   asked what tags mean, and for content\n   as user me",
            "its certificate is not checked",
        ] {
            assert!(told.contains(part), "{part}\nin\n{told}");
        }
    }
}
