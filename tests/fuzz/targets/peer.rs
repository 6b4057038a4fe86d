//! What members say to each other. The first byte says which message; the rest is its bytes.
//!
//! A message is refused, or what was understood of it, written again, is understood as the same. An entry that changes who
//! votes names one set of voters or two, none of them empty: without a voter any set of nodes would be a majority.
use coracle::raft::garbled::{Message, reread};

pub fn run(input: &[u8]) {
    let Some((which, rest)) = input.split_first() else { return };
    let message = Message::ALL[usize::from(*which) % Message::ALL.len()];
    let Ok(understood) = reread(message, rest) else { return };
    for voters in &understood.voters {
        assert!((1..=2).contains(&voters.len()), "{} sets of voters", voters.len());
        assert!(voters.iter().all(|it| *it > 0), "an empty set of voters");
    }
    for index in &understood.indexes {
        assert!(*index < u64::MAX, "there is no entry after that one");
    }
    let again = reread(message, &understood.bytes).expect("what was understood can be said");
    assert_eq!(again, understood);
}
