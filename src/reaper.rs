//! The one background thread: it reaps children whose handles were dropped, and wakes tasks that await exits or times.
//!
//! The thread starts when it is first needed and ends when nothing is left to do. Registering a child and handling its
//! exit cost the same however many children there are. The thread polls children whose exits the event queue cannot
//! report. If the thread cannot be started, later spawns and drops try again (`deferred.rs`).
//!
//! A fork without exec copies the state but not the thread. The copied entries are not children of the new process, and
//! its epoll is the parent's. So the child of a fork has a state of its own.

use crate::deferred;
use crate::event_queue::{EventQueue, Registration};
use crate::fork_guard::PerProcess;
use crate::sync::{Arc, Mutex};
use crate::sys::{Notice, spawn_thread};
use crate::watchlist::{Entry, Source, WAKE, Watchlist, next_token};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;
use std::time::{Duration, Instant};

/// The lock is never held across anything that blocks, nor across the caller's code: wakers are cloned, woken and
/// dropped without it.
static REAPER: PerProcess<Mutex<Option<Reaper>>> = PerProcess::new();

/// The state of the thread. The state exists if and only if the thread does.
struct Reaper {
    queue: Arc<EventQueue>,
    children: Watchlist<Child>,
    /// The tokens of the children, by the address of the notice, which is unique while the child is in the list.
    tokens: HashMap<usize, u64, BuildHasherDefault<DefaultHasher>>,
    timers: BTreeMap<(Instant, u64), Waker>,
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
    /// Sorted by their IDs.
    wakers: Vec<(u64, Waker)>,
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
    let notice = Arc::clone(notice);
    if !adopt(&notice) {
        defer(notice);
    }
}

fn defer(notice: Arc<Notice>) {
    deferred::push(move || notice.reap() || adopt(&notice));
}

/// Leaves the child to the thread. Returns `false` if the thread cannot be started.
fn adopt(notice: &Arc<Notice>) -> bool {
    with_reaper(|reaper| {
        let token = reaper.watch(notice).unwrap_or_else(|| {
            let token = next_token();
            reaper.insert(token, notice, Source::Polled);
            // The thread sleeps beyond the next poll.
            reaper.pause = SOONEST;
            reaper.wake_by(Instant::now() + SOONEST);
            token
        });
        reaper.children.get_mut(token).expect("it was inserted").is_orphan = true;
    })
    .is_ok()
}

/// Runs `run` under the lock of the state, so that the thread seems to be busy.
#[cfg(unix)]
pub(crate) fn busy<T>(run: impl FnOnce() -> T) -> T {
    let _reaper = REAPER.get().lock();
    run()
}

/// A registration of a task. The task [removes](forget) a registration that it does not need any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    Exit { token: u64, id: u64 },
    Timer { at: Instant, id: u64 },
}

/// The result of [`at_exit`].
pub(crate) enum Answer {
    /// The task will be woken.
    Will(Wake),
    /// No exit of this child can be reported: the task polls it.
    CannotTell,
    /// The thread cannot be started.
    NoThread,
}

/// Wakes the task once when there is a reason to poll the child: at once if there is one already.
pub(crate) fn at_exit(notice: &Arc<Notice>, waker: &Waker) -> Answer {
    // An unused clone is dropped after the lock is released, because dropping it may run the caller's code.
    let mut waker = Some(waker.clone());
    let answer = with_reaper(|reaper| {
        reaper.served_tasks = true;
        let token = reaper.watch(notice)?;
        let (child, id) = (reaper.children.get_mut(token)?, next_token());
        child.wakers.extend(waker.take().map(|waker| (id, waker)));
        Some(Wake::Exit { token, id })
    });
    match answer {
        Ok(Some(wake)) => Answer::Will(wake),
        Ok(None) => Answer::CannotTell,
        Err(_) => Answer::NoThread,
    }
}

/// Wakes the task at this time. Returns `None` if the thread cannot be started.
pub(crate) fn at(at: Instant, waker: &Waker) -> Option<Wake> {
    let mut waker = Some(waker.clone());
    let wake = with_reaper(|reaper| {
        reaper.served_tasks = true;
        let id = next_token();
        reaper.timers.extend(waker.take().map(|waker| ((at, id), waker)));
        reaper.wake_by(at);
        Wake::Timer { at, id }
    });
    wake.ok()
}

/// Replaces the waker of a registration. Returns `false` if the task was woken already.
pub(crate) fn renew(wake: Wake, waker: &Waker) -> bool {
    let mut waker = waker.clone();
    let mut reaper = REAPER.get().lock();
    let old = reaper.as_mut().and_then(|reaper| match wake {
        Wake::Exit { token, id } => {
            let child = reaper.children.get_mut(token)?;
            let index = child.position(id)?;
            Some(&mut child.wakers[index].1)
        }
        Wake::Timer { at, id } => reaper.timers.get_mut(&(at, id)),
    });
    let is_registered = old.map(|old| std::mem::swap(old, &mut waker)).is_some();
    // The old waker is dropped after the lock is released.
    drop(reaper);
    is_registered
}

/// Removes a registration.
pub(crate) fn forget(wake: Wake) {
    let mut reaper = REAPER.get().lock();
    let Some(state) = reaper.as_mut() else { return };
    let (waker, child) = match wake {
        Wake::Exit { token, id } => state.remove_waker(token, id),
        Wake::Timer { at, id } => (state.timers.remove(&(at, id)), None),
    };
    // The thread may sleep until a time that no task awaits any more. If nothing is left, wake it so that it ends
    // earlier.
    let is_idle = state.children.is_empty() && state.timers.is_empty();
    if is_idle && state.wake_by(Instant::now() + LINGER) {
        state.served_tasks = true;
    }
    let queue = Arc::clone(&state.queue);
    drop(reaper);
    drop((waker, child.map(|child| child.end(&queue))));
}

/// Runs `run` under the lock with the state of the thread. Starts the thread if it does not run. The thread ends when
/// nothing is left to do, so `run` must register something.
fn with_reaper<T>(run: impl FnOnce(&mut Reaper) -> T) -> io::Result<T> {
    let mut reaper = REAPER.get().lock();
    if let Some(reaper) = &mut *reaper {
        return Ok(run(reaper));
    }
    let queue = Arc::new(EventQueue::new());
    let its = Arc::clone(&queue);
    spawn_thread("child-watcher", STACK, move || run_thread(&its))?;
    Ok(run(reaper.insert(Reaper::new(queue))))
}

impl Reaper {
    fn new(queue: Arc<EventQueue>) -> Self {
        Self {
            queue,
            children: Watchlist::new(),
            tokens: HashMap::default(),
            timers: BTreeMap::new(),
            wakes_at: None,
            pause: SOONEST,
            served_tasks: false,
        }
    }

    /// Returns the token by which the queue reports the child's exit. `None` if the queue cannot report it.
    fn watch(&mut self, notice: &Arc<Notice>) -> Option<u64> {
        if let Some(token) = self.tokens.get(&address(notice)) {
            return Some(*token);
        }
        let token = next_token();
        let registration = Registration::new(notice, &self.queue, token)?;
        self.insert(token, notice, Source::Registered(registration));
        Some(token)
    }

    fn insert(&mut self, token: u64, notice: &Arc<Notice>, source: Source) {
        let child = Child { notice: Arc::clone(notice), is_orphan: false, wakers: Vec::new() };
        self.tokens.insert(address(notice), token);
        self.children.insert(token, child, source);
    }

    fn remove(&mut self, token: u64) -> Option<Entry<Child>> {
        let child = self.children.remove(token)?;
        self.tokens.remove(&address(&child.value.notice));
        Some(child)
    }

    /// Removes a waker, and the child if nothing else waits for it.
    fn remove_waker(&mut self, token: u64, id: u64) -> (Option<Waker>, Option<Entry<Child>>) {
        let Some(child) = self.children.get_mut(token) else { return (None, None) };
        let waker = child.position(id).map(|index| child.wakers.remove(index).1);
        let is_needed = child.is_orphan || !child.wakers.is_empty();
        (waker, if is_needed { None } else { self.remove(token) })
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
            // A report may be about a child that was removed.
            let Some(child) = self.children.get_mut(*token) else { continue };
            due.wakers.extend(child.wakers.drain(..).map(|(_, waker)| waker));
            if !child.is_orphan || child.notice.reap() {
                due.children.extend(self.remove(*token));
            } else {
                // The exit was reported before the child can be reaped: a tracer holds the child, for example.
                self.children.poll(*token);
                self.pause = SOONEST;
            }
        }
    }

    fn reap_polled(&mut self, due: &mut Due) {
        let reaped: Vec<u64> = self
            .children
            .polled()
            .iter()
            .copied()
            .filter(|token| self.children.get(*token).is_some_and(|child| child.notice.reap()))
            .collect();
        due.children.extend(reaped.into_iter().filter_map(|token| self.remove(token)));
    }

    fn fire_timers(&mut self, due: &mut Due) {
        let now = Instant::now();
        while let Some(timer) = self.timers.first_entry().filter(|timer| timer.key().0 <= now) {
            due.wakers.push(timer.remove());
        }
    }

    /// Ends the thread because the queue has failed: other code has closed its descriptor. Tasks register anew, and
    /// orphans are deferred.
    fn give_up(mut self, due: &mut Due) {
        due.wakers.extend(std::mem::take(&mut self.timers).into_values());
        for token in self.children.tokens() {
            let child = self.children.get_mut(token).expect("it is in the list");
            due.wakers.extend(child.wakers.drain(..).map(|(_, waker)| waker));
            if child.is_orphan && !child.notice.reap() {
                defer(Arc::clone(&child.notice));
            }
            due.children.extend(self.remove(token));
        }
    }

    /// Returns the time until which to sleep (`None` to sleep until a report), or `Over` if nothing is left to do.
    fn sleeps_until(&mut self, lingers_until: Option<Instant>) -> Result<Option<Instant>, Over> {
        let now = Instant::now();
        self.wakes_at = if self.children.is_empty() && self.timers.is_empty() {
            Some(lingers_until.filter(|until| *until > now).ok_or(Over)?)
        } else {
            let poll = (!self.children.polled().is_empty()).then(|| {
                let pause = self.pause;
                self.pause = (pause * 2).min(LATEST);
                now + pause
            });
            let timer = self.timers.first_key_value().map(|((at, _), _)| *at);
            poll.into_iter().chain(timer).min()
        };
        Ok(self.wakes_at)
    }
}

impl Child {
    /// Finds one of many wakers by binary search.
    fn position(&self, id: u64) -> Option<usize> {
        self.wakers.binary_search_by_key(&id, |(id, _)| *id).ok()
    }
}

/// The work of the thread after it has released the lock.
#[derive(Default)]
struct Due {
    wakers: Vec<Waker>,
    children: Vec<Entry<Child>>,
}

impl Due {
    fn perform(&mut self, queue: &EventQueue) {
        // A task may await the child again while its old registration exists: the new registration copies the
        // descriptor.
        for child in self.children.drain(..) {
            child.end(queue);
        }
        for waker in self.wakers.drain(..) {
            // A panic of one waker must not harm other tasks.
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
                // The payload may panic when it is dropped.
                let dropped = catch_unwind(AssertUnwindSafe(|| drop(payload)));
                dropped.unwrap_or_else(std::mem::forget);
            }
        }
    }
}

/// Nothing is left to do.
struct Over;

fn address(notice: &Arc<Notice>) -> usize {
    Arc::as_ptr(notice).addr()
}

fn run_thread(queue: &Arc<EventQueue>) {
    let (mut tokens, mut due) = (Vec::new(), Due::default());
    let mut waited = Ok(());
    let mut lingers_until = None;
    loop {
        let until = {
            let mut reaper = REAPER.get().lock();
            let state = reaper.as_mut().expect("only the thread removes its state");
            state.handle(&tokens, &mut due);
            state.reap_polled(&mut due);
            state.fire_timers(&mut due);
            if std::mem::take(&mut state.served_tasks) || !due.wakers.is_empty() {
                lingers_until = Some(Instant::now() + LINGER);
            }
            let until = state.sleeps_until(lingers_until);
            if waited.is_err() {
                reaper.take().expect("it was there").give_up(&mut due);
                Err(Over)
            } else {
                // This happens under the lock, so the next registration starts a new thread.
                until.inspect_err(|_| *reaper = None)
            }
        };
        due.perform(queue);
        let Ok(until) = until else { return };
        tokens.clear();
        waited = queue.wait(&mut tokens, usize::MAX, until);
    }
}
