//! The one background thread: it reaps children whose handles were dropped, and wakes tasks that await exits or times.
//!
//! The thread starts when it is first needed and ends when nothing is left to do. Registering a child and handling its
//! exit cost the same however many children there are. The thread polls children whose exits the event queue cannot
//! report. If the thread cannot be started, later spawns and drops try again (`deferred.rs`).
//!
//! A fork without exec copies the state but not the thread. The copied entries are not children of the new process, and
//! its epoll is the parent's. So the child of a fork has a state of its own.

use crate::backoff::earlier;
use crate::deferred;
use crate::event_queue::EventQueue;
use crate::fork_guard::PerProcess;
use crate::sync::{Arc, Mutex};
use crate::sys::{Notice, PipeEvent, Registration, spawn_thread};
use crate::token_map::TokenMap;
use crate::watchlist::{Entry, Source, WAKE, Watchlist, next_token};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::{Duration, Instant};

/// The lock is never held across anything that blocks, nor across the caller's code: wakers are cloned, woken and
/// dropped without it.
static REAPER: PerProcess<Mutex<Option<Reaper>>> = PerProcess::new();

/// The state of the thread. The state exists if and only if the thread does.
struct Reaper {
    queue: Arc<EventQueue>,
    children: Watchlist<Child>,
    /// The tasks that wait, by the IDs of their registrations.
    wakers: TokenMap<Waker>,
    /// The pipes for which tasks wait, by their tokens.
    pipes: TokenMap<WatchedPipe>,
    /// The times at which to wake tasks, and the IDs. The ID of a removed registration stays for a while.
    timers: BinaryHeap<Reverse<(Instant, u64)>>,
    /// The time when a sleeping thread wakes up without a report.
    wakes_at: Option<Instant>,
    /// The delay before the next poll.
    pause: Duration,
    /// A task was served, so the thread lingers after the last one.
    served_tasks: bool,
}

struct Child {
    notice: Arc<Notice>,
    /// The handle was dropped: the thread reaps the child.
    is_orphan: bool,
    /// The IDs of the registrations to wake at the exit, sorted. Tasks usually end in the order in which they came, or
    /// in the reverse order. At both ends a removal moves no other ID.
    registrations: VecDeque<u64>,
}

struct WatchedPipe {
    /// The ID of the registration to wake.
    id: u64,
    registration: Registration,
    /// The queue reports nothing more until the registration is renewed.
    is_reported: bool,
}

/// The delay between two polls of orphans: the first and the longest.
const SOONEST: Duration = Duration::from_millis(20);
const LATEST: Duration = Duration::from_secs(1);

/// How long the thread stays after the last task: starting a thread is expensive next to awaiting a child.
const LINGER: Duration = Duration::from_secs(1);

/// The thread runs the caller's wakers.
const STACK: usize = 1024 * 1024;

/// Reaps a child whose handle is dropped, now or when it exits. Never blocks.
pub(crate) fn abandon(notice: &Arc<Notice>) {
    if notice.reap() {
        return;
    }
    deferred::retry();
    if !adopt(notice) {
        defer(Arc::clone(notice));
    }
}

fn defer(notice: Arc<Notice>) {
    deferred::push(Box::new(move || notice.reap() || adopt(&notice)));
}

/// Leaves the child to the thread. Returns `false` if the thread cannot be started.
fn adopt(notice: &Arc<Notice>) -> bool {
    let mut state = REAPER.get().lock();
    let Ok(reaper) = running(&mut state) else { return false };
    let token = reaper.watch(notice).unwrap_or_else(|| {
        // The thread sleeps beyond the next poll.
        reaper.pause = SOONEST;
        reaper.wake_by(Instant::now() + SOONEST);
        reaper.insert(next_token(), notice, Source::Polled)
    });
    reaper.children.get_mut(token).expect("it was inserted").is_orphan = true;
    true
}

/// Runs `run` under the lock of the state, so that the thread seems to be busy.
pub(crate) fn busy<T>(run: impl FnOnce() -> T) -> T {
    let _reaper = REAPER.get().lock();
    run()
}

/// The registration of a task. A drop removes it.
pub(crate) struct Wake {
    id: u64,
    /// The child whose exit wakes the task.
    token: Option<u64>,
    /// The tokens of the pipes, and what they wait for.
    pipes: Vec<(u64, PipeEvent)>,
}

/// Wakes the task once: when there is a reason to poll the child, when one of these pipes is ready, or at this time.
/// `None` if the exit or a pipe cannot be reported, or if the thread cannot be started.
pub(crate) fn register(
    notice: Option<&Arc<Notice>>,
    pipes: Vec<PipeEvent>,
    at: Option<Instant>,
    waker: &Waker,
) -> Option<Wake> {
    // A clone that is not stored is dropped after the lock is released, because dropping it may run the caller's code.
    let mut waker = Some(waker.clone());
    let mut state = REAPER.get().lock();
    let reaper = running(&mut state).ok()?;
    reaper.served_tasks = true;
    let id = next_token();
    let mut watched = Vec::with_capacity(pipes.len());
    for pipe in &pipes {
        let token = next_token();
        let registration = EventQueue::register_pipe(&reaper.queue, pipe, token)?;
        watched.push((token, WatchedPipe { id, registration, is_reported: false }));
    }
    let mut token = None;
    if let Some(notice) = notice {
        token = reaper.watch(notice);
        reaper.children.get_mut(token?)?.registrations.push_back(id);
    }
    if let Some(at) = at {
        reaper.timers.push(Reverse((at, id)));
        reaper.wake_by(at);
    }
    let mut tokens = Vec::with_capacity(pipes.len());
    for ((token, watched), pipe) in watched.into_iter().zip(pipes) {
        reaper.pipes.insert(token, watched);
        tokens.push((token, pipe));
    }
    reaper.wakers.insert(id, waker.take()?);
    Some(Wake { id, token, pipes: tokens })
}

impl Wake {
    /// Registers the task anew for the same events, at the cost of one system call per event that was reported. Returns
    /// `false` if that is not possible: the events are others, or the system has ended the registration.
    pub(crate) fn rearm(
        &mut self,
        notice: Option<&Arc<Notice>>,
        pipes: &[PipeEvent],
        at: Option<Instant>,
        waker: &Waker,
    ) -> bool {
        let is_same = self.pipes.iter().map(|(_, pipe)| pipe).eq(pipes);
        if !is_same || notice.is_some() != self.token.is_some() {
            return false;
        }
        let mut waker = Some(waker.clone());
        let mut state = REAPER.get().lock();
        let Some(reaper) = state.as_mut() else { return false };
        // The time of the former ID must not wake the task.
        let id = next_token();
        for (token, pipe) in &self.pipes {
            let Some(watched) = reaper.pipes.get_mut(*token) else { return false };
            if watched.is_reported && !watched.registration.rearm(pipe, *token) {
                return false;
            }
            (watched.id, watched.is_reported) = (id, false);
        }
        if let Some(token) = self.token {
            // A child whose exit was reported is not in the list.
            let Some(child) = reaper.children.get_mut(token) else { return false };
            if let Ok(index) = child.registrations.binary_search(&self.id) {
                child.registrations.remove(index);
            }
            child.registrations.push_back(id);
        }
        if let Some(at) = at {
            reaper.timers.push(Reverse((at, id)));
            reaper.wake_by(at);
        }
        // Dropped after the lock is released.
        let old = reaper.wakers.remove(self.id);
        reaper.forget_old_timers();
        reaper.served_tasks = true;
        self.id = id;
        if let Some(waker) = waker.take() {
            reaper.wakers.insert(id, waker);
        }
        drop(state);
        drop(old);
        true
    }

    /// Replaces the waker. Returns `false` if the task was woken already.
    pub(crate) fn renew(&self, waker: &Waker) -> bool {
        // The old waker is dropped after the lock is released.
        let mut waker = waker.clone();
        let mut state = REAPER.get().lock();
        let Some(reaper) = state.as_mut() else { return false };
        let Some(old) = reaper.wakers.get_mut(self.id) else { return false };
        std::mem::swap(old, &mut waker);
        true
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        let mut state = REAPER.get().lock();
        let Some(reaper) = state.as_mut() else { return };
        let removed = reaper.remove_registration(self);
        let mut pipes = Vec::with_capacity(self.pipes.len());
        for (token, _) in &self.pipes {
            pipes.extend(reaper.pipes.remove(*token));
        }
        // The thread may sleep until a time that no task awaits any more. If nothing is left, wake it so that it ends
        // earlier.
        if reaper.is_idle() && reaper.wake_by(Instant::now() + LINGER) {
            reaper.served_tasks = true;
        }
        drop(state);
        drop((removed, pipes));
    }
}

/// Returns the state of the thread. Starts the thread if it does not run. It ends when nothing is left to do, so the
/// caller must register something before it releases the lock.
fn running(state: &mut Option<Reaper>) -> io::Result<&mut Reaper> {
    if state.is_none() {
        let queue = Arc::new(EventQueue::new());
        let its = Arc::clone(&queue);
        spawn_thread("child-watcher", STACK, Box::new(move || run_thread(&its)))?;
        *state = Some(Reaper::new(queue));
    }
    Ok(state.as_mut().expect("it was set"))
}

impl Reaper {
    fn new(queue: Arc<EventQueue>) -> Self {
        Self {
            queue,
            children: Watchlist::new(),
            wakers: TokenMap::new(),
            pipes: TokenMap::new(),
            timers: BinaryHeap::new(),
            wakes_at: None,
            pause: SOONEST,
            served_tasks: false,
        }
    }

    /// Returns the token by which the queue reports the child's exit. `None` if the queue cannot report it.
    #[allow(clippy::unnecessary_cast, reason = "the type differs between systems")]
    fn watch(&mut self, notice: &Arc<Notice>) -> Option<u64> {
        // The token of a former entry, or that of the reaper of a parent process, is not in the list.
        let token = notice.token.load(Ordering::Relaxed) as u64;
        if self.children.get(token).is_some() {
            return Some(token);
        }
        let token = next_token();
        let registration = EventQueue::register(&self.queue, notice, token)?;
        Some(self.insert(token, notice, Source::Registered(registration)))
    }

    fn insert(&mut self, token: u64, notice: &Arc<Notice>, source: Source) -> u64 {
        let notice = Arc::clone(notice);
        notice.token.store(token as _, Ordering::Relaxed);
        let child = Child { notice, is_orphan: false, registrations: VecDeque::new() };
        self.children.insert(token, child, source);
        token
    }

    /// Removes a registration, and the child if nothing else waits for it.
    fn remove_registration(&mut self, wake: &Wake) -> (Option<Waker>, Option<Entry<Child>>) {
        let waker = self.wakers.remove(wake.id);
        self.forget_old_timers();
        let Some(token) = wake.token else { return (waker, None) };
        let Some(child) = self.children.get_mut(token) else { return (waker, None) };
        // One of many is found by binary search.
        if let Ok(index) = child.registrations.binary_search(&wake.id) {
            child.registrations.remove(index);
        }
        let is_needed = child.is_orphan || !child.registrations.is_empty();
        (waker, if is_needed { None } else { self.children.remove(token) })
    }

    /// Removes old IDs from the heap, each time when they can be half of it.
    fn forget_old_timers(&mut self) {
        if self.timers.len() > 2 * self.wakers.len() + 100 {
            let mut timers = std::mem::take(&mut self.timers).into_vec();
            while let Some(timer) = timers.pop() {
                if self.wakers.get(timer.0.1).is_some() {
                    self.timers.push(timer);
                }
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.children.is_empty() && self.wakers.len() == 0
    }

    /// Wakes the thread by this time if it sleeps for longer. Returns whether it does.
    fn wake_by(&mut self, at: Instant) -> bool {
        let sleeps_longer = self.wakes_at.is_none_or(|wakes_at| at < wakes_at);
        if sleeps_longer {
            self.wakes_at = Some(at);
            self.queue.post(WAKE);
        }
        sleeps_longer
    }

    /// Handles the reports of the queue.
    fn handle(&mut self, tokens: &[u64], due: &mut Due) {
        for token in tokens {
            if let Some(pipe) = self.pipes.get_mut(*token) {
                pipe.is_reported = true;
                let id = pipe.id;
                self.wake(id, due);
                continue;
            }
            // A report may be about a child that was removed.
            let Some(child) = self.children.get_mut(*token) else { continue };
            let is_over = !child.is_orphan || child.notice.reap();
            let mut registrations = std::mem::take(&mut child.registrations);
            while let Some(id) = registrations.pop_front() {
                self.wake(id, due);
            }
            if is_over {
                self.end(*token, due);
            } else {
                // The exit was reported before the child can be reaped: a tracer holds the child, for example.
                self.children.poll(*token);
                self.pause = SOONEST;
            }
        }
    }

    fn reap_polled(&mut self, due: &mut Due) {
        for token in self.children.polled().to_vec() {
            if self.children.get(token).is_some_and(|child| child.notice.reap()) {
                self.end(token, due);
            }
        }
    }

    fn wake(&mut self, id: u64, due: &mut Due) {
        if let Some(waker) = self.wakers.remove(id) {
            due.wakers.push(waker);
        }
    }

    fn end(&mut self, token: u64, due: &mut Due) {
        if let Some(child) = self.children.remove(token) {
            due.children.push(child);
        }
    }

    fn fire_timers(&mut self, due: &mut Due) {
        let now = Instant::now();
        while let Some(&Reverse((at, id))) = self.timers.peek() {
            // The ID of a removed registration is dropped early, so that it does not wake the thread.
            if at > now && self.wakers.get(id).is_some() {
                break;
            }
            self.wake(id, due);
            self.timers.pop();
        }
    }

    /// Ends all registrations because the queue has failed: other code has closed its descriptor. Tasks register anew,
    /// and orphans are deferred.
    fn give_up(&mut self, due: &mut Due) {
        for id in self.wakers.tokens() {
            self.wake(id, due);
        }
        for token in self.pipes.tokens() {
            due.pipes.extend(self.pipes.remove(token));
        }
        for token in self.children.tokens() {
            match self.children.get(token) {
                Some(child) if child.is_orphan && !child.notice.reap() => {
                    defer(Arc::clone(&child.notice));
                }
                _ => {}
            }
            self.end(token, due);
        }
    }

    /// Returns the time until which to sleep: the next poll, or the first timer. `None` to sleep until a report.
    fn next_wake(&mut self) -> Option<Instant> {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        if self.children.polled().is_empty() {
            return timer;
        }
        let poll = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LATEST);
        earlier(timer, Some(poll))
    }
}

/// The work of the thread after it has released the lock.
#[derive(Default)]
struct Due {
    wakers: Vec<Waker>,
    children: Vec<Entry<Child>>,
    pipes: Vec<WatchedPipe>,
}

impl Due {
    fn perform(self) {
        // A task may await the child again while its old registration exists: the new registration copies the
        // descriptor.
        drop((self.children, self.pipes));
        self.wakers.into_iter().for_each(wake);
    }
}

/// Wakes a task. A panic of its waker must not harm other tasks.
pub(crate) fn wake(waker: Waker) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
        // The payload may panic when it is dropped.
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(payload)));
        dropped.unwrap_or_else(std::mem::forget);
    }
}

fn run_thread(queue: &EventQueue) {
    let mut tokens = Vec::new();
    let mut has_failed = false;
    let mut lingers_until = Instant::now();
    loop {
        let mut due = Due::default();
        let mut state = REAPER.get().lock();
        let reaper = state.as_mut().expect("only the thread removes its state");
        reaper.handle(&tokens, &mut due);
        reaper.reap_polled(&mut due);
        reaper.fire_timers(&mut due);
        let now = Instant::now();
        if std::mem::take(&mut reaper.served_tasks) || !due.wakers.is_empty() {
            lingers_until = now + LINGER;
        }
        if has_failed {
            reaper.give_up(&mut due);
        }
        let is_over = has_failed || (reaper.is_idle() && lingers_until <= now);
        reaper.wakes_at = if reaper.is_idle() { Some(lingers_until) } else { reaper.next_wake() };
        let until = reaper.wakes_at;
        if is_over {
            // This happens under the lock, so the next registration starts a new thread.
            *state = None;
        }
        drop(state);
        due.perform();
        if is_over {
            return;
        }
        tokens.clear();
        has_failed = queue.wait(&mut tokens, usize::MAX, until).is_err();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{REAPER, register};
    use std::task::Waker;
    use std::time::{Duration, Instant};

    #[test]
    fn removed_registrations_hold_no_memory() {
        let far = Instant::now() + Duration::from_secs(3600);
        let wake =
            || register(None, Vec::new(), Some(far), Waker::noop()).expect("the thread starts");
        let kept = wake();
        let many: Vec<_> = (0..20_000).map(|_| wake()).collect();
        drop(many);
        let state = REAPER.get().lock();
        let reaper = state.as_ref().expect("one registration is left");
        let held = reaper.timers.capacity();
        drop(state);
        drop(kept);
        assert!(held < 2_000, "room for {held} timers");
    }
}
