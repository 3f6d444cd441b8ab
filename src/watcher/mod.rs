//! The one background thread. It reaps the children whose handles are gone ([`orphans`]), and wakes the tasks that
//! await children ([`tasks`]).
//!
//! It is started when it is first needed, sleeps until something is to be done, and ends when nothing is left: a thread
//! that stays would be one that the program did not ask for. To take on a child, and to hear of its exit, cost the same
//! however many there are.
//!
//! A fork without exec copies the state but not the thread. The copy's children are not its own, and
//! its epoll is the parent's; so the child of a fork has a state of its own.

#[cfg(unix)]
mod orphans;
#[cfg(windows)]
#[path = "no_orphans.rs"]
mod orphans;
pub(crate) mod tasks;

#[cfg(unix)]
pub(crate) use orphans::{adopt, busy, sweep};

use crate::sync::Arc;
use crate::sys::{Notice, PerProcess, Port, Registration, spawn_thread};
use orphans::Stranded;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

static SHARED: PerProcess<Shared> = PerProcess::new();

#[derive(Default)]
struct Shared {
    stranded: Stranded,
    /// Never held over anything that blocks, nor over code of the caller's: wakers are cloned, woken and dropped
    /// elsewhere.
    watcher: Mutex<Watcher>,
}

#[derive(Default)]
struct Watcher {
    /// What the thread sleeps on. There is a thread if and only if there is this.
    port: Option<Arc<Port>>,
    /// By a number that is used once: what was told of one that is gone must not meet another.
    watched: HashMap<u64, Watched, BuildHasherDefault<DefaultHasher>>,
    /// Those numbers, by the address of the notice, which is its own for as long as it is watched.
    numbers: HashMap<usize, u64, BuildHasherDefault<DefaultHasher>>,
    /// Who is to be woken at a time.
    timers: BTreeMap<(Instant, u64), Waker>,
    /// When the thread wakes up by itself, if it sleeps.
    wakes_at: Option<Instant>,
    /// Children that could not be taken on.
    stranded: Vec<Arc<Notice>>,
    /// Those that are to be reaped, and could not be at their time: a tracer holds them.
    held_up: Vec<Arc<Notice>>,
    /// Tasks come and go: the thread stays for a moment after the last.
    served_tasks: bool,
}

struct Watched {
    notice: Arc<Notice>,
    registration: Registration,
    /// Its handle is gone: to be reaped.
    orphan: bool,
    /// In the order of their numbers.
    wakers: Vec<(u64, Waker)>,
}

/// How often those are tried again that are held up.
const RETRY: Duration = Duration::from_millis(100);

/// How long the thread stays after the last task. A thread is dear next to a child that is awaited.
const LINGER: Duration = Duration::from_secs(1);

/// What a waker takes is the caller's.
const STACK: usize = 1024 * 1024;

impl Shared {
    fn with_watcher<T>(&self, run: impl FnOnce(&mut Watcher) -> T) -> T {
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = run(&mut watcher);
        self.stranded.are(watcher.stranded.len());
        answer
    }
}

impl Watcher {
    /// The port of the thread, which is started if there is none. It ends only when nothing is left to be done, so
    /// the caller gives it something under the same lock.
    fn port(&mut self) -> io::Result<&Arc<Port>> {
        if self.port.is_none() {
            let port = Arc::new(Port::new());
            let its = Arc::clone(&port);
            spawn_thread("child-watcher", STACK, move || run(&its))?;
            self.port = Some(port);
            self.wakes_at = None;
        }
        self.port.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Has the thread hear of the child. Says whether it will, and by which number.
    fn watch(&mut self, notice: &Arc<Notice>) -> io::Result<Option<(u64, &mut Watched)>> {
        let port = Arc::clone(self.port()?);
        let known = self.numbers.get(&address(notice)).copied();
        let number = known.unwrap_or_else(next_number);
        if known.is_none() {
            let Some(registration) = Registration::new(notice, &port, number) else {
                return Ok(None);
            };
            let notice = Arc::clone(notice);
            self.numbers.insert(address(&notice), number);
            let wakers = Vec::new();
            self.watched.insert(number, Watched { notice, registration, orphan: false, wakers });
        }
        Ok(self.watched.get_mut(&number).map(|watched| (number, watched)))
    }

    fn unwatch(&mut self, number: u64) -> Option<Watched> {
        let watched = self.watched.remove(&number)?;
        self.numbers.remove(&address(&watched.notice));
        Some(watched)
    }

    /// There is reason to look at those: who awaits them is due to be woken.
    fn heard(&mut self, numbers: &[u64], due: &mut Due) {
        for number in numbers {
            // What is not there any more was told too late.
            let Some(watched) = self.unwatch(*number) else { continue };
            due.wakers.extend(watched.wakers.into_iter().map(|(_, waker)| waker));
            due.registrations.push(watched.registration);
            if watched.orphan {
                self.held_up.push(watched.notice);
            }
        }
        self.reap_orphans();
    }

    fn fire_timers(&mut self, due: &mut Due) {
        let now = Instant::now();
        while let Some(timer) = self.timers.first_entry().filter(|timer| timer.key().0 <= now) {
            due.wakers.push(timer.remove());
        }
    }

    /// The port has failed, since somebody has closed a descriptor of ours. Who awaits something starts anew, and what
    /// is left is tried again at later spawns and drops.
    fn give_up(&mut self, due: &mut Due) {
        let numbers: Vec<u64> = self.watched.keys().copied().collect();
        self.heard(&numbers, due);
        due.wakers.extend(std::mem::take(&mut self.timers).into_values());
        self.stranded.append(&mut self.held_up);
        self.port = None;
    }

    /// Until when to sleep.
    fn sleeps_until(&mut self, lingers_until: Option<Instant>) -> Result<Option<Instant>, Over> {
        let now = Instant::now();
        if self.watched.is_empty() && self.timers.is_empty() && self.held_up.is_empty() {
            match lingers_until.filter(|until| *until > now) {
                Some(until) => self.wakes_at = Some(until),
                None => {
                    // Under the lock: whoever is next starts a new thread.
                    self.port = None;
                    return Err(Over);
                }
            }
        } else {
            let retry = (!self.held_up.is_empty()).then(|| now + RETRY);
            let timer = self.timers.first_key_value().map(|((at, _), _)| *at);
            self.wakes_at = retry.into_iter().chain(timer).min();
        }
        Ok(self.wakes_at)
    }
}

/// What the thread does when it has released the lock.
#[derive(Default)]
struct Due {
    wakers: Vec<Waker>,
    registrations: Vec<Registration>,
}

impl Due {
    fn perform(&mut self, port: &Port) {
        // A child may be awaited again from here on, while it is still in the port: that takes a copy of its descriptor.
        for registration in self.registrations.drain(..) {
            registration.end(port);
        }
        for waker in self.wakers.drain(..) {
            // What a waker does is the caller's. The others must not suffer for it.
            if let Err(thrown) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
                // Nor for what it has thrown, which may panic when it is dropped.
                let dropped = catch_unwind(AssertUnwindSafe(|| drop(thrown)));
                dropped.unwrap_or_else(std::mem::forget);
            }
        }
    }
}

/// There is nothing left to be done.
struct Over;

/// The next number, of those who are watched and those who are to be woken. The child of a fork counts on: what it has
/// copied is about numbers that nobody else gets, when it is dropped there. (Without atomics of 64 bits they begin again
/// after 2^32.)
#[allow(clippy::unnecessary_cast, reason = "on some systems it is one")]
fn next_number() -> u64 {
    #[cfg(not(target_has_atomic = "64"))]
    use std::sync::atomic::AtomicU32 as Atomic;
    #[cfg(target_has_atomic = "64")]
    use std::sync::atomic::AtomicU64 as Atomic;
    static LAST: Atomic = Atomic::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) as u64 + 1
}

fn address(notice: &Arc<Notice>) -> usize {
    Arc::as_ptr(notice).addr()
}

/// The thread.
fn run(port: &Arc<Port>) {
    let shared = SHARED.get();
    let (mut numbers, mut due) = (Vec::new(), Due::default());
    let mut waited = Ok(());
    let mut lingers_until = None;
    loop {
        let until = shared.with_watcher(|watcher| {
            watcher.heard(&numbers, &mut due);
            watcher.fire_timers(&mut due);
            if waited.is_err() {
                watcher.give_up(&mut due);
                return Err(Over);
            }
            if std::mem::take(&mut watcher.served_tasks) || !due.wakers.is_empty() {
                lingers_until = Some(Instant::now() + LINGER);
            }
            watcher.sleeps_until(lingers_until)
        });
        due.perform(port);
        let Ok(until) = until else { return };
        numbers.clear();
        waited = port.wait(&mut numbers, usize::MAX, until);
    }
}
