//! Namespaces. They need not exist for a configuration to be published into them, and outlive no configuration: both
//! as in Nacos.
use super::{Effects, StateReader};
use crate::types::{Mutation, Namespace, NamespaceId, Rejection, Reply, Revision};

pub(super) fn create(state: &dyn StateReader, at: Revision, namespace: &Namespace) -> Effects {
    if namespace.id.is_public() || state.namespace(&namespace.id).is_some() {
        return Effects::reply_only(Reply::Rejected(Rejection::NamespaceExists));
    }
    put(at, namespace)
}

pub(super) fn update(state: &dyn StateReader, at: Revision, namespace: &Namespace) -> Effects {
    if state.namespace(&namespace.id).is_none() {
        return Effects::reply_only(Reply::Rejected(Rejection::NamespaceAbsent));
    }
    put(at, namespace)
}

pub(super) fn delete(state: &dyn StateReader, at: Revision, id: &NamespaceId) -> Effects {
    if state.namespace(id).is_none() {
        return Effects::reply_only(Reply::Rejected(Rejection::NamespaceAbsent));
    }
    Effects { writes: vec![Mutation::DeleteNamespace(id.clone())], event: None, reply: Reply::Applied(at) }
}

fn put(at: Revision, namespace: &Namespace) -> Effects {
    Effects { writes: vec![Mutation::PutNamespace(namespace.clone())], event: None, reply: Reply::Applied(at) }
}
