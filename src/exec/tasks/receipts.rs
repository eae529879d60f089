//! What the tasks of a run wrote.

use futures::{StreamExt, stream};

use crate::error::Result;
use crate::stage::{self, AdaptReceipt, BuildReceipt, EncodeReceipt, Plan};
use crate::store::Root;

/// Receipts read at the same time.
const READERS: usize = 16;

/// The receipts of a run's tasks.
#[derive(Default)]
pub(crate) struct Receipts {
    pub encode: Vec<EncodeReceipt>,
    pub build: Vec<BuildReceipt>,
    pub adapt: Option<AdaptReceipt>,
}

impl Receipts {
    /// Of a plan whose tasks other processes ran.
    ///
    /// # Errors
    /// Transient, naming the first task that is not finished.
    pub async fn read(plan: &Plan, root: &Root) -> Result<Self> {
        let encode = plan.encode.iter().map(|task| stage::encode_receipt(task, root)).collect();
        let build = plan.build.iter().map(|task| stage::build_receipt(task, root)).collect();
        let adapt = match &plan.adapt {
            Some(task) => Some(stage::adapt_receipt(task, root).await?),
            None => None,
        };
        Ok(Self {
            adapt,
            encode: all_of(encode).await.into_iter().collect::<Result<_>>()?,
            build: all_of(build).await.into_iter().collect::<Result<_>>()?,
        })
    }
}

/// Waits for reads of receipts, some at a time; their results in the same order.
// They come as a list: a stream that made them while it is polled would keep the future from being spawned.
pub(crate) async fn all_of<T>(reads: Vec<impl Future<Output = T>>) -> Vec<T> {
    stream::iter(reads).buffered(READERS).collect().await
}
