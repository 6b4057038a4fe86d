//! Whom a node that stops names to its clients.
//!
//! Clients in Java and Go look the named server up in their own list, by its host alone, and take the first server of that
//! host. A client in Go then tries no other one until it has come there; without a name it stays as long as this node
//! answers its health check. So a member is named only if it is there and shares its host with nobody, and who is told to go
//! without a name is told the same by its health check.
use std::{collections::BTreeMap, time::Duration};

use super::transport::Transport;
use crate::{
    nacos::wire::{messages::ConnectResetRequest, payload::Payload},
    service::Contact,
};

/// The requests of a client that did not go are answered for so long after the end of its stream: one in Rust (nacos-sdk)
/// hears of the end a moment later, and would pass a refusal on.
pub const SERVED_AFTER_END: Duration = Duration::from_millis(250);

/// A server to go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Successor {
    host: String,
    port: String,
}

/// Those of the others that may be named. `own` is where this node talks to members.
pub(super) fn successors(own: &str, others: &[Contact]) -> Vec<Successor> {
    let split = |address: &str| address.rsplit_once(':').map(|(host, port)| (host.to_owned(), port.to_owned()));
    let address = |it: &Contact| {
        // Where a dead member served clients is not known: most likely on the host where it talked to members.
        let known = if it.member.http_address.is_empty() { &it.member.member_address } else { &it.member.http_address };
        split(known)
    };
    let mut on_host: BTreeMap<String, usize> = BTreeMap::new();
    for (host, _) in others.iter().filter_map(address).chain(split(own)) {
        *on_host.entry(host).or_default() += 1;
    }
    let there = others.iter().filter(|it| it.ready).filter_map(address);
    there.filter(|(host, _)| on_host.get(host) == Some(&1)).map(|(host, port)| Successor { host, port }).collect()
}

/// Go there, or, without a name, anywhere else.
pub(super) fn reset(id: u64, transport: &Transport, successor: Option<&Successor>) -> Payload {
    let message = ConnectResetRequest {
        headers: BTreeMap::new(),
        request_id: id.to_string(),
        connection_id: &transport.id,
        server_ip: successor.map(|it| &*it.host),
        server_port: successor.map(|it| &*it.port),
        module: "internal",
    };
    Payload::new("ConnectResetRequest", &message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Member;

    #[test]
    fn only_who_is_there_and_alone_on_its_host_is_named() {
        let contact = |member_address: &str, http_address: &str, ready| Contact {
            member: Member { node: 9, member_address: member_address.into(), http_address: http_address.into() },
            ready,
        };
        let cases: [(&str, Vec<Contact>, &[&str]); 6] = [
            (
                "a:7848",
                vec![contact("b:7848", "b:8848", true), contact("c:7848", "c:8849", true)],
                &["b:8848", "c:8849"],
            ),
            ("a:7848", vec![contact("b:7848", "b:8848", true), contact("c:7848", "", false)], &["b:8848"]),
            ("a:7848", vec![contact("b:7848", "b:8848", false)], &[]),
            ("a:7848", vec![contact("a:7858", "a:8858", true), contact("a:7868", "a:8868", true)], &[]),
            ("a:7848", vec![contact("b:7848", "b:8848", true), contact("b:7858", "", false)], &[]),
            ("[::1]:7848", vec![contact("[::2]:7848", "[::2]:8848", true)], &["[::2]:8848"]),
        ];
        for (own, others, expected) in cases {
            let named: Vec<_> =
                successors(own, &others).into_iter().map(|it| format!("{}:{}", it.host, it.port)).collect();
            assert_eq!(named, expected, "{own} {others:?}");
        }
    }
}
