//! A request that comes again is answered what it was answered before, and not done again.
//!
//! What is remembered is part of the state, so that it does not matter which node a client asks the second time, or
//! whether everything was restarted meanwhile. Refusals are not remembered: they wrote nothing, and are decided anew.
use super::{Effects, StateReader};
use crate::types::{Mutation, RememberedRequest, Reply, Request, Revision, limits};

/// The answer that this request was given before. An id that was used for another request is no repetition.
pub(super) fn answered_before(state: &dyn StateReader, request: &Request) -> Option<Reply> {
    let RememberedRequest { request: known, revision, changed } = state.remembered_request(request.id)?;
    let reply = if changed { Reply::Applied(revision) } else { Reply::Unchanged(revision) };
    (known == *request).then_some(reply)
}

/// Adds to the effects of a request that it was done, and forgets the oldest one when there are too many.
pub(super) fn remember(state: &dyn StateReader, request: Request, effects: &mut Effects) {
    let (revision, changed) = match effects.reply {
        Reply::Applied(revision) => (revision, true),
        Reply::Unchanged(revision) => (revision, false),
        Reply::Rejected(_) => return,
    };
    let known_id = state.remembered_request(request.id).is_some();
    if !known_id && state.remembered_count() >= limits::REQUESTS_REMEMBERED_MAX {
        effects.writes.extend(state.oldest_request(Revision(0)).map(Mutation::ForgetRequest));
    }
    effects.writes.push(Mutation::RememberRequest(RememberedRequest { request, revision, changed }));
}
