//! Who else is there for clients: asked only when this node sends its own away, so that nothing has to be kept up to date.
use std::{net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::{peers::Lane, replicator::Core, wire};
use crate::replication::{Contact, Member};

/// A member that does not answer in this time is not sent clients. One whose machine is gone is given up sooner, when no
/// connection to it can be opened.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks all other members at once.
pub(super) async fn ask_all(core: &Core) -> Vec<Contact> {
    join_all(core.others().into_iter().map(|(node, address)| ask(core, node, address))).await
}

async fn ask(core: &Core, node: u64, member_address: String) -> Contact {
    let asked = async {
        let mut client = core.peers.client(&member_address, Lane::Clients)?;
        client.contact(wire::ContactRequest { caller: core.peers.caller(node) }).await
    };
    let (http_address, ready) = match timeout(PATIENCE, asked).await {
        Ok(Ok(reply)) => {
            let reply = reply.into_inner();
            (completed(&reply.http_address, &member_address), reply.ready)
        }
        Ok(Err(status)) => {
            tracing::debug!(node, reason = status.message(), "this member is not there for clients");
            (String::new(), false)
        }
        Err(_) => {
            tracing::debug!(node, "this member is not there for clients: it does not answer");
            (String::new(), false)
        }
    };
    Contact { ready: ready && !http_address.is_empty(), member: Member { node, member_address, http_address } }
}

/// What this node answers.
pub(super) fn answer(http: Option<SocketAddr>, ready: bool) -> wire::ContactReply {
    wire::ContactReply { http_address: http.map_or_else(String::new, told), ready }
}

/// Whoever serves on all addresses does not know which one others use.
fn told(http: SocketAddr) -> String {
    if http.ip().is_unspecified() { format!(":{}", http.port()) } else { http.to_string() }
}

/// An address without a host is on the host where the member talks to members.
fn completed(http_address: &str, member_address: &str) -> String {
    match (http_address.strip_prefix(':'), member_address.rsplit_once(':')) {
        (Some(port), Some((host, _))) => format!("{host}:{port}"),
        (Some(_), None) => String::new(),
        (None, _) => http_address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_serves_everywhere_is_found_where_members_find_it() {
        let cases = [
            ("0.0.0.0:8848", "a.example:7848", "a.example:8848"),
            ("[::]:8848", "[fd00::1]:7848", "[fd00::1]:8848"),
            ("10.0.0.1:8848", "a.example:7848", "10.0.0.1:8848"),
        ];
        for (listens, member_address, expected) in cases {
            assert_eq!(completed(&told(listens.parse().unwrap()), member_address), expected);
        }
        assert_eq!(completed("", "a.example:7848"), "", "who serves no clients has no address for them");
    }
}
