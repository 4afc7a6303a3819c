//! A server on a thread, for the time of one test.

use crate::client::Client;
use arenite_shim::nbd::{Backing, Counts, Export, Server};
use arenite_shim::record::Tape;
use arenite_shim::trace::Event;
use arenite_shim::Disk;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

/// A path for a socket that nobody else has.
pub fn socket_path() -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("arenite-nbd-{}-{number}.sock", std::process::id()))
}

/// Sets the flag when it is dropped, so that a test that fails does not wait for its server.
struct Stopper<'a>(&'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `body` beside a server of `backing`, set up by `prepare`.
pub fn serve_with(
    backing: &(dyn Backing + Sync),
    prepare: impl FnOnce(&mut Export<'_>) + Send,
    body: impl FnOnce(&Path, &Arc<Tape>),
) -> (Counts, Vec<Event>) {
    let path = socket_path();
    let (stop, tape) = (AtomicBool::new(false), Tape::new());
    let server = Server::bind(&path).unwrap();
    let counts = std::thread::scope(|scope| {
        let stopper = Stopper(&stop);
        let (stop, record) = (&stop, Arc::clone(&tape));
        let serving = scope.spawn(move || {
            let mut sink: &Tape = &record;
            let mut export = Export::new(backing, &mut sink, "disk");
            prepare(&mut export);
            server.serve(&mut export, stop, false).unwrap();
            export.counts()
        });
        body(&path, &tape);
        drop(stopper);
        serving.join().unwrap()
    });
    assert!(!path.exists());
    (counts, tape.trace(Arc::from([])).events)
}

/// Runs `body` with a client beside a server of 64 KiB in memory.
pub fn with_client(body: impl FnOnce(&mut Client)) -> (Counts, Vec<Event>) {
    serve_with(&Disk::zeroed(64 << 10), |_| {}, |path, _| body(&mut Client::connect(path)))
}

/// The events in few letters: `w1 c1 f2 F2`, with `!` behind completions that failed and `l` for what was lost.
pub fn spell(events: &[Event]) -> String {
    let failed = |result: &Result<(), _>| if result.is_ok() { "" } else { "!" };
    let word = |event: &Event| match event {
        Event::Issue { id, .. } => format!("w{id}"),
        Event::Complete { id, result } => format!("c{id}{}", failed(result)),
        Event::Lost { id } => format!("l{id}"),
        Event::FlushIssue { id } => format!("f{id}"),
        Event::FlushComplete { id, result } => format!("F{id}{}", failed(result)),
        Event::Mark(mark) => format!("{mark:?}"),
    };
    events.iter().map(word).collect::<Vec<_>>().join(" ")
}
