//! Long computations, kept off the threads of the async executor.

use skein_types::{Statistics, Values};

/// Values that are hashed in less time than it takes to hand them to another thread.
const HASHED_IN_PLACE: usize = 1 << 13;

/// The statistics of values, computed on a thread where blocking is allowed if that takes long.
pub async fn statistics_of(values: &Values) -> Statistics {
    match values.known_statistics() {
        Some(known) => known,
        None if values.len() <= HASHED_IN_PLACE => values.statistics(),
        None => {
            let values = values.clone();
            blocking(move || values.statistics()).await
        }
    }
}

/// Runs `work` on a thread where blocking is allowed.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
