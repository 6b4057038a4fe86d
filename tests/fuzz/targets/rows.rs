//! What the log and the state store: proposals, records, namespaces, the row that says where a state stands. The first byte
//! says which; the rest is the message.
//!
//! What is read, written again, is read as the same. A proposal that is read can be applied, and what it wrote can be read
//! over HTTP.
use axum::http::StatusCode;
use bytes::Bytes;
use coracle::{
    state_machine::StateReader,
    storage::codec::{
        decode_meta, decode_namespace, decode_proposal, decode_record, encode_meta, encode_namespace, encode_proposal,
        encode_record,
    },
    types::{Command, Proposal, Reply, Revision, Variant},
};

use super::app::{App, block_on};

pub fn run(input: &[u8]) {
    let Some((which, rest)) = input.split_first() else { return };
    let bytes = Bytes::copy_from_slice(rest);
    match which % 4 {
        0 => {
            let Ok(proposal) = decode_proposal(bytes.clone()) else { return };
            let again = encode_proposal(&proposal);
            assert_eq!(decode_proposal(again.clone()).as_ref(), Ok(&proposal));
            assert_eq!(encode_proposal(&proposal), again);
            apply(&proposal, bytes);
        }
        1 => {
            let Ok(record) = decode_record(bytes) else { return };
            assert_eq!(decode_record(encode_record(&record)), Ok(record));
        }
        2 => {
            let Ok(namespace) = decode_namespace(bytes) else { return };
            assert_eq!(decode_namespace(encode_namespace(&namespace)), Ok(namespace));
        }
        _ => {
            let Ok((applied, witness)) = decode_meta(bytes) else { return };
            assert_eq!(decode_meta(encode_meta(&applied, witness)), Ok((applied, witness)));
        }
    }
}

fn apply(proposal: &Proposal, bytes: Bytes) {
    let mut app = App::new();
    let reply = app.replicator.apply(bytes.clone());
    let again = app.replicator.apply(bytes);
    assert_eq!((app.replicator.proposals(), app.revision()), (2, 2));
    let Command::PublishConfig(publication) = &proposal.command else { return };
    let (key, variant) = (&publication.key, &publication.variant);
    // With any precondition: there was nothing before.
    assert_eq!(reply, Reply::Applied(Revision(1)));
    let record = app.state.record(key, variant).unwrap().expect("it was applied");
    assert_eq!(record.content, publication.content);
    assert_eq!(record.modified, if again == Reply::Applied(Revision(2)) { Revision(2) } else { Revision(1) });
    let target =
        format!("/nacos/v1/cs/configs?dataId={}&group={}&tenant={}", key.data_id(), key.group(), key.namespace());
    let which = match variant {
        Variant::Formal => String::new(),
        Variant::Beta => "&beta=true".into(),
        Variant::Tag(tag) => format!("&tag={}", tag.as_str()),
    };
    let (status, body) = block_on(app.get(&format!("{target}{which}")));
    assert_eq!(status, StatusCode::OK);
    assert!(*variant == Variant::Beta || *body == *record.content.bytes());
    for more in ["&show=all", "&search=blur&pageNo=1&pageSize=9"] {
        let (status, body) = block_on(app.get(&format!("{target}{more}")));
        assert!(status == StatusCode::OK, "{more}: {status} {body:?}");
    }
}
