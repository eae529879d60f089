//! A process of the model: the real code in a thread with a runtime of its own.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use scalingnote::error::Error;
use scalingnote::store::Root;

use super::clock;
use super::store::Seen;
use super::world::{Told, World};

/// What a process does with its root.
pub type Body = Arc<dyn Fn(Seat) -> Pin<Box<dyn Future<Output = Told>>> + Send + Sync>;

/// Where a process stands.
#[derive(Clone)]
pub struct Seat {
    pub root: Root,
    pub me: usize,
    pub world: Arc<World>,
}

/// Makes a body of an async function.
pub fn body<F>(work: impl Fn(Seat) -> F + Send + Sync + 'static) -> Body
where
    F: Future<Output = Told> + 'static,
{
    Arc::new(move |seat| Box::pin(work(seat)))
}

/// Starts it; it runs until it stands at the gate.
pub fn start(world: &Arc<World>, me: usize, body: &Body) -> JoinHandle<()> {
    let (world, body) = (Arc::clone(world), Arc::clone(body));
    let work = move || {
        let (ahead, wake, kill) = {
            let state = world.lock();
            let process = &state.processes[me];
            (Arc::clone(&process.ahead), Arc::clone(&process.wake), Arc::clone(&process.kill))
        };
        let _following = clock::follow(&ahead);
        let hook = |change: fn(&World, usize)| {
            let world = Arc::clone(&world);
            move || change(&world, me)
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .thread_keep_alive(Duration::ZERO)
            .on_thread_start(hook(|world, me| world.tell(me, |process| process.busy += 1)))
            .on_thread_stop(hook(|world, me| world.tell(me, |process| process.busy -= 1)))
            .on_thread_park(hook(|world, me| world.parked(me, true)))
            .on_thread_unpark(hook(|world, me| world.parked(me, false)))
            .build()
            .expect("a runtime");
        let root = Seen { world: Arc::clone(&world), process: Some(me) }.root();
        let seat = Seat { root, me, world: Arc::clone(&world) };
        let working = async {
            let stirred = async {
                loop {
                    wake.notified().await;
                }
            };
            tokio::select! {
                biased;
                () = kill.notified() => Told::Killed,
                told = body(seat) => told,
                () = stirred => Told::Killed,
            }
        };
        let working = std::panic::AssertUnwindSafe(|| runtime.block_on(working));
        let told = std::panic::catch_unwind(working);
        let told = told.unwrap_or_else(|_| Told::Failed("it panicked".to_owned()));
        runtime.shutdown_background();
        world.tell(me, |process| process.told = Some(told));
    };
    let thread = std::thread::Builder::new().name(format!("process {me}")).stack_size(32 << 20);
    thread.spawn(work).expect("a thread")
}

/// An error as the program would tell it.
pub fn failed(error: &Error) -> Told {
    match error.is_retryable() {
        true => Told::Again(format!("{:?}: {error}", error.kind())),
        false => Told::Failed(format!("{:?}: {error}", error.kind())),
    }
}
