//! The verbs by which admins govern a network: its servers, its admins, its rules, its checkpoints, and keys.

use ginnel_local_api::{
    AdminList, AdminRequest, ApiError, ChangeOutcome, Changed, CosignRequest, DelegateRequest, Exit, Policy,
    PolicyRequest, Request, Right, Rotated, ServerAddRequest, ServerList, ServerRequest, ServerRole, ThresholdRequest,
};

use crate::arguments::{AdminAction, PolicyChange, ServerAction};
use crate::client::Client;
use crate::output::{Output, clean};
use crate::table::Table;
use crate::time::{ago, now};
use crate::verb::{secret, short, show};

pub(crate) async fn server(action: &ServerAction, client: &Client, output: &Output) -> Result<Exit, ApiError> {
    let server = |server: &String| ServerRequest { server: server.clone() };
    match action {
        ServerAction::List => servers(client, output).await,
        ServerAction::Add { founding } => {
            let founding = secret(founding)?;
            change(Request::ServerAdd(ServerAddRequest { founding }), client, output).await
        }
        ServerAction::Remove { server: name } => change(Request::ServerRemove(server(name)), client, output).await,
        ServerAction::Promote { server: name } => change(Request::ServerPromote(server(name)), client, output).await,
    }
}

pub(crate) async fn admin(action: &AdminAction, client: &Client, output: &Output) -> Result<Exit, ApiError> {
    let admin = |peer: &String| AdminRequest { peer: peer.clone() };
    match action {
        AdminAction::List => admins(client, output).await,
        AdminAction::Add { peer } => change(Request::AdminAdd(admin(peer)), client, output).await,
        AdminAction::Remove { peer } => change(Request::AdminRemove(admin(peer)), client, output).await,
        AdminAction::Threshold { count } => {
            change(Request::AdminThreshold(ThresholdRequest { threshold: *count }), client, output).await
        }
    }
}

pub(crate) async fn cosign(proposal: &str, client: &Client, output: &Output) -> Result<Exit, ApiError> {
    let proposal = secret(proposal)?.expose().to_owned();
    change(Request::Cosign(CosignRequest { proposal }), client, output).await
}

pub(crate) async fn checkpoint(client: &Client, output: &Output) -> Result<Exit, ApiError> {
    change(Request::Checkpoint, client, output).await
}

pub(crate) async fn policy(options: &PolicyChange, client: &Client, output: &Output) -> Result<Exit, ApiError> {
    let delegate = options.delegate.as_ref().map(|peer| DelegateRequest {
        peer: peer.clone(),
        rights: options.rights.iter().filter_map(|right| right.of_delegate()).collect(),
    });
    if options.strict.is_some() || delegate.is_some() {
        let request = PolicyRequest { strict: options.strict, delegate };
        return change(Request::PolicySet(request), client, output).await;
    }
    let answer = client.ask(&Request::Policy).await?;
    show(&answer, output, |policy: Policy, output| {
        output.line(&format!("network  {}", clean(&policy.network)));
        let strict = if policy.strict {
            "yes: without an admin's word for seven days nobody new is let in"
        } else {
            "no: without an admin's word for seven days machines only warn"
        };
        output.line(&format!("strict   {strict}"));
        let mut table = Table::new(&["DELEGATE", "KEY", "MAY"]);
        for delegate in &policy.delegates {
            let rights = delegate.rights.iter().map(|right| match right {
                Right::Leases => "vouch for the log",
                Right::Invites => "invite",
            });
            let rights: Vec<&str> = rights.collect();
            table.row([clean(&delegate.peer), short(&delegate.id), rights.join(", ")]);
        }
        if !policy.delegates.is_empty() {
            table.lines().iter().for_each(|line| output.line(line));
        }
    })
}

pub(crate) async fn rotate_keys(client: &Client, output: &Output) -> Result<Exit, ApiError> {
    let answer = client.ask(&Request::RotateKeys).await?;
    show(&answer, output, |rotated: Rotated, output| {
        output.line(&format!("{} has new keys ({}); the old ones are dead", clean(&rotated.name), short(&rotated.id)));
    })
}

async fn servers(client: &Client, output: &Output) -> Result<Exit, ApiError> {
    let answer = client.ask(&Request::ServerList).await?;
    show(&answer, output, |list: ServerList, output| {
        let mut table = Table::new(&["KEY", "ROLE", "STATE", "LAST HEARD", "ADDRESSES", "TROUBLE"]);
        for server in &list.servers {
            let role = match server.role {
                ServerRole::Sequencer => "sequencer",
                ServerRole::Mirror => "mirror",
                ServerRole::Unknown => "unknown",
            };
            let state = if server.connected { "connected" } else { "not connected" };
            let addresses = clean(&server.addresses.join(", "));
            let trouble = server.trouble.as_deref().map(clean).unwrap_or_default();
            let heard = ago(now(), server.last_contact);
            table.row([short(&server.key), role.to_owned(), state.to_owned(), heard, addresses, trouble]);
        }
        table.lines().iter().for_each(|line| output.line(line));
    })
}

async fn admins(client: &Client, output: &Output) -> Result<Exit, ApiError> {
    let answer = client.ask(&Request::AdminList).await?;
    show(&answer, output, |list: AdminList, output| {
        let mut table = Table::new(&["ADMIN", "KEY", ""]);
        for admin in &list.admins {
            let name = admin.name.as_deref().map_or_else(|| "-".to_owned(), clean);
            let here = if admin.here { "this machine" } else { "" };
            table.row([name, short(&admin.id), here.to_owned()]);
        }
        table.lines().iter().for_each(|line| output.line(line));
        output.note(&format!("{} of {} must agree to a change.", list.threshold, list.admins.len()));
    })
}

/// Asks for a change that admins sign. What others must sign is printed alone on standard output.
async fn change(request: Request, client: &Client, output: &Output) -> Result<Exit, ApiError> {
    let answer = client.ask(&request).await?;
    show(&answer, output, |changed: Changed, output| tell(&changed, output))
}

/// Tells what became of a change that admins sign.
pub(crate) fn tell(changed: &Changed, output: &Output) {
    let what = changed.what.as_deref().map(clean);
    match (changed.outcome, &changed.proposal) {
        (ChangeOutcome::Done, _) => {
            output.line(&what.map_or_else(|| "Done".to_owned(), |what| format!("Done: {what}")));
        }
        (ChangeOutcome::Proposed, proposal) => {
            let admins = if changed.missing == 1 {
                "One more admin".to_owned()
            } else {
                format!("{} more admins", changed.missing)
            };
            output.note(&format!(
                "Not in effect yet: {}.\n{admins} must run `ginnel cosign` with the string below.",
                what.as_deref().unwrap_or("a change")
            ));
            if let Some(invite) = &changed.invite {
                output.note(&format!(
                    "Once signed, this string joins; it is not told again:\n{}",
                    clean(invite.expose())
                ));
            }
            output.line(&clean(proposal.as_deref().unwrap_or_default()));
        }
    }
}
