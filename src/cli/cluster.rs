//! `coracle cluster …`.
use clap::{Arg, ArgMatches, Command};
use serde_json::Value;

use super::{Failure, client, text};

pub(super) fn commands(cluster: Command) -> Command {
    let node = || Arg::new("node").value_name("ID").required(true).value_parser(clap::value_parser!(u64));
    cluster
        .subcommand(
            Command::new("status").about("Who is in the cluster, and how it stands").arg(
                Arg::new("output").short('o').long("output").value_parser(["table", "json"]).default_value("table"),
            ),
        )
        .subcommand(
            Command::new("add")
                .about("Add a node that was started with --join")
                .arg(Arg::new("member").value_name("ID=HOST:PORT").required(true)),
        )
        .subcommand(Command::new("remove").about("Take a node out").arg(node()))
        .subcommand(Command::new("transfer").about("Make a node the leader").arg(node()))
}

pub(super) async fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let Some((name, matches)) = matches.subcommand() else {
        return Err(Failure::usage("say what to do with the cluster"));
    };
    let client = client(matches, "", "")?;
    let node = || matches.get_one::<u64>("node").copied().unwrap_or_default();
    match name {
        "status" => {
            let status = client.status().await?;
            let json = text(matches, "output") == "json";
            println!("{}", if json { status.to_string() } else { table(&status) });
        }
        "add" => {
            let member = text(matches, "member");
            let parsed = member.split_once('=').and_then(|(id, address)| Some((id.parse().ok()?, address)));
            let Some((node, address)) = parsed else {
                return Err(Failure::usage(format!("a node is named by ID=HOST:PORT, not by {member:?}")));
            };
            client.add_member(node, address).await?;
            eprintln!("node {node} is a member and votes");
        }
        "remove" => {
            client.remove_member(node()).await?;
            eprintln!("node {} is no member any more; stop it now", node());
        }
        _ => {
            client.transfer_leadership(node()).await?;
            eprintln!("node {} leads", node());
        }
    }
    Ok(())
}

fn table(status: &Value) -> String {
    let number = |name: &str| status[name].as_u64().map_or_else(|| "-".to_owned(), |it| it.to_string());
    let mut out = format!(
        "mode {}   node {}   leader {}   term {}   applied {}   ready {}\n",
        status["mode"].as_str().unwrap_or("-"),
        number("node"),
        number("leader"),
        number("term"),
        number("applied"),
        if status["ready"] == true { "yes" } else { status["notReady"].as_str().unwrap_or("no") },
    );
    let members = status["members"].as_array().map_or(&[][..], Vec::as_slice);
    if !members.is_empty() {
        out += &format!("\n{:<6}{:<10}{}\n", "NODE", "ROLE", "MEMBER ADDRESS");
    }
    for member in members {
        let text = |name: &str| member[name].as_str().unwrap_or("-").to_owned();
        out += &format!("{:<6}{:<10}{}\n", member["node"].to_string(), text("role"), text("memberAddress"));
    }
    out.trim_end().to_owned()
}
