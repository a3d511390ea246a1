//! Where blocks go: what a partition's driver needs of ClickHouse.

use std::time::Duration;

use crate::{
    decode::Table,
    native::Block,
    partition::TopicPartition,
    read_back::Sought,
    store::{Store, StoreError},
};

/// A store of rows.
pub(crate) trait Sink: Send + Sync + 'static {
    /// Inserts the block, unless the token is known; without one, whatever is there. Returns how long it took.
    fn insert(
        &self,
        table: Table,
        token: Option<&str>,
        block: &Block,
    ) -> impl Future<Output = Result<Duration, StoreError>> + Send;

    /// Whether every one of these rows is stored.
    fn holds(
        &self,
        table: Table,
        partition: TopicPartition,
        sought: Sought,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Whether it answers.
    fn ping(&self) -> impl Future<Output = Result<(), StoreError>> + Send;
}

impl Sink for Store {
    async fn insert(&self, table: Table, token: Option<&str>, block: &Block) -> Result<Duration, StoreError> {
        Store::insert(self, table, token, block).await
    }

    async fn holds(
        &self,
        table: Table,
        partition: TopicPartition,
        sought: Sought,
    ) -> Result<bool, StoreError> {
        Store::holds(self, table, partition, sought).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Store::ping(self).await
    }
}
