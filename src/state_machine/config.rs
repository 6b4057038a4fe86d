//! Publishing and removing versions of configurations.
use std::sync::Arc;

use super::{Effects, ReadError, StateReader};
use crate::{
    planted::{self, Bug},
    types::{
        Change, ConfigKey, ConfigRecord, Digest, Head, LocalDataChangeEvent, Millis, Mutation, Precondition,
        Publication, Rejection, Reply, Revision, Variant, limits,
    },
};

pub(super) fn publish(
    state: &dyn StateReader,
    at: Revision,
    proposed_at: Millis,
    publication: &Publication,
) -> Result<Effects, ReadError> {
    let Publication { key, variant, content, .. } = publication;
    let versions = state.versions(key);
    let head = versions.as_ref().and_then(|it| it.head(variant)).copied();
    if !holds(publication.precondition, head.as_ref()) {
        let current = head.map(|head| head.digest);
        return Ok(Effects::reply_only(Reply::Rejected(Rejection::PreconditionFailed { current })));
    }
    let gray_count = versions.as_ref().map_or(0, |it| it.gray_count());
    if *variant != Variant::Formal && head.is_none() && gray_count >= limits::GRAY_VERSIONS_MAX {
        return Ok(Effects::reply_only(Reply::Rejected(Rejection::TooManyGrayVersions)));
    }
    // The old record is loaded only for the few things that an update may leave as they are.
    let old = match head {
        Some(head) if head.labelled => state.record(key, variant)?,
        Some(_) | None => None,
    };
    let record = merge(publication, head, old.as_deref(), at, proposed_at);
    let old_ips = versions.as_ref().and_then(|it| it.beta.as_ref()).map_or(&[][..], |(ips, _)| ips);
    let seen_differently = head.is_none_or(|head| head.digest != content.digest())
        || *variant == Variant::Beta && old_ips != record.beta_ips;
    let event = seen_differently.then(|| event(at, key, variant, Change::Put(content.digest())));
    let writes = vec![Mutation::PutConfig(key.clone(), variant.clone(), Arc::new(record))];
    Ok(Effects { writes, event, reply: Reply::Applied(at) })
}

pub(super) fn remove(
    state: &dyn StateReader,
    at: Revision,
    key: &ConfigKey,
    variant: &Variant,
    created: Option<Revision>,
) -> Effects {
    let head = state.versions(key).and_then(|it| it.head(variant).copied());
    let Some(head) = head.filter(|head| created.is_none_or(|created| head.created == created)) else {
        return Effects::reply_only(Reply::Unchanged(at));
    };
    let answered = if planted::is(Bug::RemovalForgetsItsRevision) { head.modified } else { at };
    Effects {
        writes: vec![Mutation::DeleteConfig(key.clone(), variant.clone())],
        event: (!planted::is(Bug::RemovalIsNotTold)).then(|| event(at, key, variant, Change::Deleted)),
        reply: Reply::Applied(answered),
    }
}

fn holds(precondition: Precondition, head: Option<&Head>) -> bool {
    let digest: Option<Digest> = head.map(|head| head.digest);
    match precondition {
        Precondition::None => true,
        Precondition::Absent | Precondition::DigestUnknown => digest.is_none(),
        Precondition::DigestIsOrAbsent(expected) => digest.is_none_or(|digest| digest == expected),
    }
}

fn merge(
    publication: &Publication,
    head: Option<Head>,
    old: Option<&ConfigRecord>,
    at: Revision,
    proposed_at: Millis,
) -> ConfigRecord {
    let mut attributes = publication.attributes.clone();
    let kept = |field: &mut Option<String>, old: Option<&String>| {
        if field.is_none() {
            *field = old.cloned();
        }
    };
    kept(&mut attributes.app_name, old.and_then(|old| old.attributes.app_name.as_ref()));
    kept(&mut attributes.config_tags, old.and_then(|old| old.attributes.config_tags.as_ref()));
    // Clocks of two leaders may differ; the time of one record never runs backwards.
    let modified_at = head.map_or(proposed_at, |head| head.modified_at.max(proposed_at));
    let (created, created_at) = head.map_or((at, proposed_at), |head| (head.created, head.created_at));
    ConfigRecord {
        content: publication.content.clone(),
        attributes,
        beta_ips: publication.beta_ips.clone(),
        created,
        created_at,
        modified: at,
        modified_at,
        author: publication.author.clone(),
    }
}

fn event(revision: Revision, key: &ConfigKey, variant: &Variant, change: Change) -> LocalDataChangeEvent {
    LocalDataChangeEvent { revision, key: key.clone(), variant: variant.clone(), change }
}
