//! Which token is meant: by id, by name, or picked on the terminal.

use super::account::Account;
use super::ask::{answer, is_interactive, shown};
use crate::astro::record::{Details, Role};
use crate::cli::terminal;
use crate::clock::now;
use anyhow::bail;

/// Names that are shown to a person who has mistyped one.
const MOST_NAMES: usize = 10;

/// The record of the token, read just now.
pub(super) async fn token(
    account: &Account,
    id: Option<&str>,
    name: Option<&str>,
) -> anyhow::Result<Details> {
    let id = match id {
        Some(id) => id.to_owned(),
        None => of_list(account, name).await?,
    };
    let details = account.details(&id).await?;
    if let Some(name) = name.filter(|name| details.token.name != *name) {
        bail!(
            "nothing was rotated: token {id} is named {:?}, not {name:?}; leave one of the two out",
            shown(&details.token.name)
        );
    }
    Ok(details)
}

/// The id of the only token of the scope with this name, or of the one that is picked.
async fn of_list(account: &Account, name: Option<&str>) -> anyhow::Result<String> {
    if name.is_none() && !is_interactive() {
        bail!("which token? Give its id or --name; without a terminal it cannot be picked");
    }
    let scope = account.entity.scope;
    let (tokens, others): (Vec<_>, Vec<_>) = account
        .list()
        .await?
        .into_iter()
        .partition(|it| it.token.scope == scope.of_record());
    let is_meant = |it: &&Details| name.is_none_or(|name| it.token.name == name);
    let meant: Vec<_> = tokens.iter().filter(is_meant).collect();
    match (&meant[..], name) {
        ([one], Some(_)) => Ok(one.token.id.clone()),
        ([], _) => match others.iter().find(is_meant).map(|it| &it.token) {
            Some(other) if name.is_some() => bail!(
                "nothing was rotated: {:?} ({}) has the scope {}, and a {scope} API token is asked for; --scope says which",
                shown(&other.name),
                other.id,
                other.scope
            ),
            _ => bail!(
                "nothing was rotated: no {scope} API token {}is in {}; {}",
                name.map_or_else(String::new, |name| format!("named {name:?} ")),
                account.entity,
                names(&tokens)
            ),
        },
        (several, _) => {
            anstream::eprint!("{}", table(account, several));
            if is_interactive() {
                return pick(several);
            }
            bail!(
                "nothing was rotated: {} {scope} API tokens are named {:?}; give the id of one of them",
                several.len(),
                name.unwrap_or_default()
            )
        }
    }
}

fn pick(several: &[&Details]) -> anyhow::Result<String> {
    let choice = answer("Which one? (a number of the list)")?;
    let number = choice.and_then(|it| it.parse::<usize>().ok());
    let chosen = number.and_then(|number| several.get(number.checked_sub(1)?));
    match chosen {
        Some(chosen) => Ok(chosen.token.id.clone()),
        None => bail!("nothing was rotated: that is no number of the list"),
    }
}

fn names(tokens: &[Details]) -> String {
    let first = tokens.iter().take(MOST_NAMES);
    let names: Vec<_> = first
        .map(|it| format!("{:?}", shown(&it.token.name)))
        .collect();
    match tokens.len() {
        0 => "there is none".into(),
        1..=MOST_NAMES => format!("there are {}", names.join(", ")),
        all => format!("there are {all}, among them {}", names.join(", ")),
    }
}

/// Narrow enough for 80 columns with whole ids.
fn table(account: &Account, tokens: &[&Details]) -> String {
    let (now, scope) = (now(), account.entity.scope.of_record());
    let rows = tokens.iter().enumerate().map(|(index, it)| {
        let here = |role: &&Role| role.entity_type == scope;
        let role = it.roles.iter().find(here).map(|role| shown(&role.role));
        let role = role.unwrap_or_default();
        let age = it.created.map(|at| terminal::short(now.duration_since(at)));
        let age = age.map(|age| format!("{age} ago"));
        let by = it.created_by.as_ref().map(|by| format!("by {}", shown(by)));
        let created: Vec<_> = age.into_iter().chain(by).collect();
        [
            (index + 1).to_string(),
            it.token.id.clone(),
            shown(&it.token.name),
            shown(&it.description),
            role.trim_start_matches(&format!("{scope}_")).to_owned(),
            created.join(" "),
        ]
    });
    let header = ["#", "ID", "NAME", "DESCRIPTION", "ROLE", "CREATED"];
    terminal::table_within(terminal::width_of_stderr(), header, rows)
}
