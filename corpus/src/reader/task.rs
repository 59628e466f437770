//! A task that ends when nobody waits for it any more.

use tokio::task::{JoinError, JoinHandle};

/// The task, aborted when this is dropped.
pub(super) struct EndedOnDrop<T>(JoinHandle<T>);

impl<T: Send + 'static> EndedOnDrop<T> {
    /// Begins the work, which goes on while the consumer is busy elsewhere.
    pub fn spawn(work: impl Future<Output = T> + Send + 'static) -> Self {
        EndedOnDrop(tokio::spawn(work))
    }

    /// What came of it.
    pub async fn output(mut self) -> Result<T, JoinError> {
        (&mut self.0).await
    }
}

impl<T> Drop for EndedOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
