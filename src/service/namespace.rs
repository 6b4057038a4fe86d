//! Namespaces.
use std::collections::BTreeMap;

use super::{Read, ServiceError, Services, Written, config};
use crate::types::{Command, Consistency, Namespace, NamespaceId, Reply, RequestId};

impl Services {
    /// All namespaces that somebody created, and how many configurations there are in every namespace, created or not.
    ///
    /// # Errors
    /// As [`Services::get`].
    pub async fn namespaces(
        &self,
        consistency: Consistency,
    ) -> Result<Read<(Vec<Namespace>, BTreeMap<String, usize>)>, ServiceError> {
        self.read_barrier(consistency).await?;
        self.loaded()?;
        // First: what is listed after it is not older than it.
        let revision = self.state.revision();
        let mut counts = BTreeMap::new();
        for (key, _) in self.state.list(&|_| true) {
            match counts.get_mut(key.namespace()) {
                Some(count) => *count += 1,
                None => drop(counts.insert(key.namespace().to_owned(), 1)),
            }
        }
        Ok(Read { value: (self.state.namespaces(), counts), revision })
    }

    /// Creates a namespace.
    ///
    /// # Errors
    /// [`ServiceError`]; `Rejected` when there is one of that id.
    pub async fn create_namespace(
        &self,
        namespace: Namespace,
        request: Option<RequestId>,
    ) -> Result<Written, ServiceError> {
        self.change_namespace(Command::CreateNamespace(namespace), request).await
    }

    /// Renames a namespace.
    ///
    /// # Errors
    /// [`ServiceError`]; `Rejected` when there is none of that id.
    pub async fn update_namespace(
        &self,
        namespace: Namespace,
        request: Option<RequestId>,
    ) -> Result<Written, ServiceError> {
        self.change_namespace(Command::UpdateNamespace(namespace), request).await
    }

    /// Takes a namespace away; its configurations stay.
    ///
    /// # Errors
    /// [`ServiceError`]; `Rejected` when there is none of that id.
    pub async fn delete_namespace(&self, id: NamespaceId, request: Option<RequestId>) -> Result<Written, ServiceError> {
        self.change_namespace(Command::DeleteNamespace(id), request).await
    }

    async fn change_namespace(&self, command: Command, request: Option<RequestId>) -> Result<Written, ServiceError> {
        let reply: Reply = self.propose(command, request).await?;
        config::written(reply)
    }
}
