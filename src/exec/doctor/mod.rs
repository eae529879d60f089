//! Looks at a machine and at what a pipeline needs of it, before a run meets it.

mod check;
mod inputs;
mod models;
mod processor;
mod resources;
mod store;

use check::blocking;
pub use check::{Check, Checkup, CheckupRequest, Health};
pub use inputs::unusable_here;
pub use processor::refuse_arithmetic;

/// Looks at the processor, devices, memory and disks, and with a pipeline also at its store, the store's clock, its
/// tables and what the pipeline makes of them, its evaluation queries and its models. Writes two small objects into the
/// store, which it takes away again. Nothing is fetched, no row of the corpus is asked for, no weights are loaded.
pub async fn examine(request: &CheckupRequest) -> Checkup {
    let looked = request.clone();
    let machine = move || {
        let mut checks = processor::checks(looked.pipeline.as_ref());
        checks.extend(resources::checks(&looked));
        checks
    };
    let machine = blocking(machine).await;
    let mut checks = machine.unwrap_or_else(|error| vec![Check::failed("machine", &error)]);
    if let Some(pipeline) = &request.pipeline {
        let (stored, newest) = store::checks(pipeline).await;
        checks.extend(stored);
        checks.extend(inputs::checks(pipeline, newest.as_ref()).await);
        checks.extend(models::checks(pipeline, &request.reporter).await);
    }
    Checkup { checks }
}
