//! `coracle config …`.
use std::io::{self, Read, Write};

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{Failure, client, text};
use crate::{
    client::{Client, PublishOptions},
    types::Content,
};

pub(super) fn commands(config: Command) -> Command {
    let id =
        || Arg::new("id").value_name("ID").required(true).help("A data id, or NAMESPACE/GROUP/DATA_ID in one word");
    config
        .subcommand(Command::new("get").about("Print the exact bytes of a content").arg(id()))
        .subcommand(
            Command::new("set")
                .about("Publish a content")
                .arg(id())
                .arg(
                    Arg::new("text")
                        .value_name("TEXT")
                        .required(true)
                        .allow_hyphen_values(true)
                        .help("The content, - for standard input, or @FILE"),
                )
                .arg(Arg::new("type").long("type").help("text, properties, xml, json, html, yaml or toml"))
                .arg(Arg::new("if-md5").long("if-md5").help("Publish only if the stored content has this MD5")),
        )
        .subcommand(
            Command::new("watch")
                .about("Print the content, and each new one, as it changes")
                .arg(id())
                .arg(Arg::new("once").long("once").action(ArgAction::SetTrue).help("End after the first change")),
        )
        .subcommand(Command::new("delete").visible_alias("rm").about("Take a configuration away").arg(id()))
}

pub(super) async fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let Some((name, matches)) = matches.subcommand() else {
        return Err(Failure::usage("say what to do with a configuration"));
    };
    let (client, data_id) = target(matches)?;
    match name {
        "get" => get(&client, &data_id).await,
        "set" => set(&client, &data_id, matches).await,
        "watch" => watch(&client, &data_id, matches.get_flag("once")).await,
        _ => Ok(client.remove(&data_id).await?),
    }
}

/// `ID`, or `NAMESPACE/GROUP/DATA_ID`: a slash cannot be part of a name.
fn target(matches: &ArgMatches) -> Result<(Client, String), Failure> {
    let id = text(matches, "id");
    let (namespace, group, data_id) = match id.split('/').collect::<Vec<_>>()[..] {
        [data_id] => (text(matches, "namespace"), text(matches, "group"), data_id),
        [namespace, group, data_id] => (namespace, group, data_id),
        _ => return Err(Failure::usage(format!("{id:?} is neither a data id nor NAMESPACE/GROUP/DATA_ID"))),
    };
    let namespace = if namespace == "public" { "" } else { namespace };
    Ok((client(matches, namespace, group)?, data_id.to_owned()))
}

async fn get(client: &Client, data_id: &str) -> Result<(), Failure> {
    match client.get(data_id).await? {
        Some(content) => print(content.as_bytes()),
        None => Err(Failure {
            code: 3,
            message: format!("there is no configuration {data_id:?}"),
            hint: "look at --namespace and --group".into(),
        }),
    }
}

async fn set(client: &Client, data_id: &str, matches: &ArgMatches) -> Result<(), Failure> {
    let content = match text(matches, "text") {
        "-" => {
            let mut content = String::new();
            let read = io::stdin().read_to_string(&mut content);
            read.map_err(|err| Failure::usage(format!("cannot read standard input: {err}")))?;
            content
        }
        text => match text.strip_prefix('@') {
            Some(path) => {
                std::fs::read_to_string(path).map_err(|err| Failure::usage(format!("cannot read {path}: {err}")))?
            }
            None => text.to_owned(),
        },
    };
    let option = |name: &str| matches.get_one::<String>(name).cloned();
    let options = PublishOptions { content_type: option("type"), if_md5: option("if-md5") };
    client.publish_with(data_id, &content, &options).await?;
    eprintln!("published {data_id}: {} bytes, md5 {}", content.len(), Content::new(content.clone()).digest());
    Ok(())
}

async fn watch(client: &Client, data_id: &str, once: bool) -> Result<(), Failure> {
    let mut watch = client.watch(data_id);
    let mut first = true;
    loop {
        match watch.next().await? {
            Some(content) => {
                eprintln!("-- {data_id}: {} bytes, md5 {}", content.len(), Content::new(content.clone()).digest());
                print(content.as_bytes())?;
                if !content.ends_with('\n') {
                    print(b"\n")?;
                }
            }
            None => eprintln!("-- {data_id}: there is none"),
        }
        if once && !first {
            return Ok(());
        }
        first = false;
    }
}

fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|err| Failure::other(format!("cannot print: {err}")))
}
