//! Many children, and one wait for the next exit.
//!
//! A set has an [`EventQueue`], in which each member is registered by a *token*. A waiting thread receives a token,
//! polls that child, and removes the member if the child has exited. The thread that removes a member returns it. So
//! each member is returned once, even if its exit is reported several times: to another thread, to the same thread
//! twice, or to another set.
//!
//! The waiting threads poll, with pauses, the members without a working registration (no descriptor, no thread), and
//! the members whose exit was reported before they could be reaped.

use crate::SharedChild;
use crate::backoff::{Backoff, earlier};
use crate::event_queue::EventQueue;
use crate::stop;
use crate::sync::{Arc, Mutex};
use crate::watchlist::{Entry, Source, WAKE, Watchlist, next_token};
use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::io;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// Children that are waited for together, each known by a key.
///
/// Any number of threads may wait, insert, remove and kill at the same time, all through `&self`. Each exit is returned
/// once, by the [`wait_next`](Self::wait_next) of one thread. The order is that of the exits, as far as the system
/// reports it. The work for an exit does not depend on the number of children, and a set has no thread of its own.
/// (Each child has a descriptor, and a spawn costs more the more descriptors this process has:
/// [costs](crate::guide::costs).)
///
/// A child may be in several sets, and other threads may wait for it and kill it meanwhile: a set holds it by an
/// [`Arc`]. Dropping a set does nothing to a child of which another [`Arc`] exists.
///
/// A set hashes, compares, clones and drops keys under its lock: their code must not use the set.
///
/// # Platforms
///
/// - **Linux, macOS, the BSDs**: one epoll or kqueue per set, and the means to wake it: one to three descriptors.
/// - **Windows**: registered waits, for which the system has one thread per 63 children, over all sets.
/// - **Other Unix, and children without a descriptor**: the helper thread of the child.
/// - **Children for which no descriptor was free at the insertion, or no helper thread could be started**: the waiting
///   threads poll them, at most 50 times a second.
/// - Before a poll or a timed wait returns `None`, it checks each child whose exit other waiters can observe before the
///   set does: all children on Windows, macOS and the BSDs, elsewhere the children that a helper thread serves.
/// - A child keeps its descriptor until it is returned or removed, even if other threads have waited for it. A child
///   that is in a set several times has one more for each time but the first.
///
/// The child of a fork may drop a set, but must not use it otherwise.
///
/// # Examples
///
/// ```
/// use shared_child::{ChildSet, SharedChild};
/// use std::process::Command;
///
/// # fn main() -> std::io::Result<()> {
/// let set = ChildSet::new();
/// for flag in ["--version", "--help"] {
///     let mut command = Command::new("rustc");
///     # command.stdout(std::process::Stdio::null());
///     set.insert(flag, SharedChild::spawn(command.arg(flag))?);
/// }
/// while let Some(finished) = set.wait_next() {
///     println!("{}: {}", finished.key, finished.status?);
/// }
/// # Ok(())
/// # }
/// ```
pub struct ChildSet<K> {
    /// The lock is never held across anything that blocks.
    members: Mutex<Members<K>>,
    queue: Arc<EventQueue>,
}

struct Members<K> {
    tokens: HashMap<K, u64>,
    children: Watchlist<(K, Arc<SharedChild>)>,
    /// How many threads are waiting.
    waiting: usize,
    /// `WAKE` was posted, and no waiter has checked the set since then.
    woken: bool,
}

/// A child of a [`ChildSet`] that has exited.
///
/// # Examples
///
/// See [`ChildSet`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Finished<K> {
    /// The key of the child in the set.
    pub key: K,
    /// The child, which is not in the set any more.
    pub child: Arc<SharedChild>,
    /// The exit status of the child, or the error that [`SharedChild::wait`] returns.
    pub status: io::Result<ExitStatus>,
}

impl<K: Clone + Eq + Hash> ChildSet<K> {
    /// Creates a set without children.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::ChildSet;
    ///
    /// let set = ChildSet::<String>::new();
    /// assert!(set.wait_next().is_none()); // no child to wait for
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self {
            members: Mutex::new(Members {
                tokens: HashMap::new(),
                children: Watchlist::new(),
                waiting: 0,
                woken: false,
            }),
            queue: Arc::new(EventQueue::new()),
        }
    }

    /// Adds a child, running or not. Waiting threads wait for it too from then on. Returns the child that had the same
    /// key, if there was one: it is not in the set any more.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{ChildSet, SharedChild}, std::{process::Command, sync::Arc}};
    /// # fn main() -> std::io::Result<()> {
    /// let set = ChildSet::new();
    /// let child = Arc::new(SharedChild::spawn(Command::new("rustc").arg("--version"))?);
    /// set.insert(1, Arc::clone(&child)); // shared: it can be killed from elsewhere
    /// set.insert(2, SharedChild::spawn(Command::new("rustc").arg("--version"))?);
    /// assert_eq!(set.len(), 2);
    /// # while set.wait_next().is_some() {}
    /// # Ok(())
    /// # }
    /// ```
    pub fn insert(&self, key: K, child: impl Into<Arc<SharedChild>>) -> Option<Arc<SharedChild>> {
        let child = child.into();
        let mut members = self.members.lock();
        let token = next_token();
        // The key comes first: its code may panic, and then nothing has changed.
        let old = members.tokens.insert(key.clone(), token);
        let old = old.and_then(|token| Some((token, members.children.remove(token)?)));
        // A thread that receives the token waits for the lock, and finds the child.
        let source = Source::new(child.notice(), &self.queue, token);
        if source.is_polled() {
            self.wake_first_poller(&mut members);
        }
        members.children.insert(token, (key, child), source);
        drop(members);
        old.map(|(token, old)| self.give_up(token, old))
    }

    /// Removes a child from the set, and does nothing else to the child. Returns `None` if there is no such key, as
    /// after a wait has returned the child.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{ChildSet, SharedChild}, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let set = ChildSet::new();
    /// set.insert("version", SharedChild::spawn(Command::new("rustc").arg("--version"))?);
    /// let child = set.remove("version").expect("it was not handed out");
    /// assert!(set.is_empty());
    /// # child.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn remove<Q>(&self, key: &Q) -> Option<Arc<SharedChild>>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let mut members = self.members.lock();
        let token = members.tokens.get(key).copied()?;
        let member = Self::take(&mut members, token);
        if members.children.is_empty() {
            self.wake_one(&mut members);
        }
        drop(members);
        member.map(|member| self.give_up(token, member))
    }

    /// Returns the child with this key.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{ChildSet, SharedChild}, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let set = ChildSet::new();
    /// set.insert("version", SharedChild::spawn(Command::new("rustc").arg("--version"))?);
    /// if let Some(child) = set.get("version") {
    ///     child.kill()?;
    /// }
    /// # set.wait_next();
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn get<Q>(&self, key: &Q) -> Option<Arc<SharedChild>>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let members = self.members.lock();
        let token = members.tokens.get(key)?;
        members.children.get(*token).map(|(_, child)| Arc::clone(child))
    }

    /// Blocks until a child has exited, and removes it from the set. Returns `None` if the set is empty, or becomes
    /// empty meanwhile because other threads waited for or removed the last child.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{ChildSet, SharedChild}, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let set = ChildSet::new();
    /// set.insert("version", SharedChild::spawn(Command::new("rustc").arg("--version"))?);
    /// let finished = set.wait_next().expect("there is one");
    /// assert!(finished.status?.success());
    /// assert!(set.wait_next().is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_next(&self) -> Option<Finished<K>> {
        self.next(None)
    }

    /// Waits like [`wait_next`](Self::wait_next), for at most `timeout`. Returns `None` if no child has exited by then,
    /// or if the set is empty ([`is_empty`](Self::is_empty) distinguishes the two).
    ///
    /// Polls at least once. Any timeout is valid, even [`Duration::MAX`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{ChildSet, SharedChild}, std::{process::Command, time::Duration}};
    /// # fn main() -> std::io::Result<()> {
    /// let set = ChildSet::new();
    /// set.insert("version", SharedChild::spawn(Command::new("rustc").arg("--version"))?);
    /// while !set.is_empty() {
    ///     match set.wait_next_timeout(Duration::from_secs(1)) {
    ///         Some(finished) => println!("{}: {:?}", finished.key, finished.status),
    ///         None => println!("{} are running", set.len()),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_next_timeout(&self, timeout: Duration) -> Option<Finished<K>> {
        // A deadline that the clock cannot represent is equivalent to none.
        self.next(Instant::now().checked_add(timeout))
    }

    /// Waits like [`wait_next`](Self::wait_next), until `deadline` at the latest. Returns `None` if no child has exited
    /// by then, or if the set is empty.
    ///
    /// Polls at least once, even if the deadline has passed.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{ChildSet, SharedChild}, std::{process::Command, time::{Duration, Instant}}};
    /// # fn main() -> std::io::Result<()> {
    /// let set = ChildSet::new();
    /// set.insert("version", SharedChild::spawn(Command::new("rustc").arg("--version"))?);
    /// let deadline = Instant::now() + Duration::from_secs(60); // for all together
    /// while set.wait_next_deadline(deadline).is_some() {}
    /// set.kill_all()?; // the remaining children
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_next_deadline(&self, deadline: Instant) -> Option<Finished<K>> {
        self.next(Some(deadline))
    }

    /// Returns a child that has exited, if there is one, and removes it from the set. Never blocks.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{ChildSet, SharedChild}, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let set = ChildSet::new();
    /// let child = SharedChild::spawn(Command::new("rustc").arg("--version"))?;
    /// child.wait()?;
    /// set.insert("version", child);
    /// assert!(set.try_wait_next().is_some());
    /// assert!(set.try_wait_next().is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_wait_next(&self) -> Option<Finished<K>> {
        self.next(Some(Instant::now()))
    }

    /// Returns the number of children in the set, including children that have exited but were not returned yet.
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(shared_child::ChildSet::<u32>::new().len(), 0);
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.lock().children.len()
    }

    /// Returns whether the set has no child.
    ///
    /// # Examples
    ///
    /// ```
    /// assert!(shared_child::ChildSet::<u32>::new().is_empty());
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the present children of the set, with their keys, in no order. Later changes of the set do not affect
    /// the iterator.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{ChildSet, SharedChild}, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let set = ChildSet::new();
    /// set.insert("version", SharedChild::spawn(Command::new("rustc").arg("--version"))?);
    /// for (key, child) in set.iter() {
    ///     println!("{key}: process {}", child.id());
    /// }
    /// # set.wait_next();
    /// # Ok(())
    /// # }
    /// ```
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (K, Arc<SharedChild>)> + use<K> {
        let members = self.members.lock();
        let all = members.children.values();
        let all: Vec<_> = all.map(|(key, child)| (key.clone(), Arc::clone(child))).collect();
        all.into_iter()
    }

    /// Kills all children in the set, and the whole [tree](SharedChild::tree) of each child that leads one. The
    /// children stay in the set until a wait returns them, each with its exit status.
    ///
    /// All trees together require one search of the process table, not one per tree.
    ///
    /// # Errors
    ///
    /// The first error of [`SharedChild::kill`] and [`Tree::kill`](crate::Tree::kill). After an error for one child the
    /// other children are killed nevertheless.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{ChildSet, SharedChild}, std::process::Command};
    /// # fn main() -> std::io::Result<()> {
    /// let set = ChildSet::new();
    /// set.insert("version", SharedChild::spawn(Command::new("rustc").arg("--version"))?);
    /// set.kill_all()?;
    /// while let Some(finished) = set.wait_next() {
    ///     println!("{}: {}", finished.key, finished.status?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn kill_all(&self) -> io::Result<()> {
        stop::kill_all(&self.children())
    }

    /// [Stops](SharedChild::stop) all children in the set at the same time, and the whole tree of each child that leads
    /// one: requests them to terminate, waits for at most `grace` until all have ended, then kills the remaining ones.
    ///
    /// The children stay in the set until a wait returns them. A child that was returned before is not in the set any
    /// more, so the rest of its tree is not stopped. This waits at most 1 s in all for killed processes; a child that
    /// takes longer to end is still in the set.
    ///
    /// # Errors
    ///
    /// The first error of [`SharedChild::stop`], except for lost statuses. After an error for one child the other
    /// children are stopped nevertheless.
    ///
    /// # Examples
    ///
    /// ```
    /// # use {shared_child::{ChildSet, SharedChild}, std::{process::Command, time::Duration}};
    /// # fn main() -> std::io::Result<()> {
    /// let set = ChildSet::new();
    /// for n in 0..3 {
    ///     set.insert(n, SharedChild::spawn(Command::new("rustc").arg("--version"))?);
    /// }
    /// set.stop_all(Duration::from_secs(5))?; // 5 seconds for all three, not 15
    /// while let Some(finished) = set.wait_next() {
    ///     println!("{}: {}", finished.key, finished.status?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn stop_all(&self, grace: Duration) -> io::Result<()> {
        stop::stop_all(&self.children(), grace)
    }

    /// Returns each child once: a child may be in the set several times.
    fn children(&self) -> Vec<Arc<SharedChild>> {
        let mut children = Vec::new();
        for (_, child) in self.members.lock().children.values() {
            children.push(Arc::clone(child));
        }
        children.sort_unstable_by_key(Arc::as_ptr);
        children.dedup_by(|one, other| Arc::ptr_eq(one, other));
        children
    }

    fn next(&self, deadline: Option<Instant>) -> Option<Finished<K>> {
        let _waiting = Waiting::in_set(self)?;
        let mut pause = Backoff::new();
        let mut tokens = Vec::with_capacity(1);
        loop {
            let mut members = self.members.lock();
            members.woken &= !tokens.contains(&WAKE);
            let polled = members.children.polled().to_vec();
            drop(members);
            // Poll the reported child first. (`WAKE` is no child's token.)
            for token in tokens.drain(..) {
                if let Some(finished) = self.take_if_exited(token) {
                    return Some(finished);
                }
                // The exit was reported before the child can be reaped (see `Backoff`), or the child is not in the set
                // any more.
                let mut members = self.members.lock();
                if members.children.get(token).is_some() {
                    self.wake_first_poller(&mut members);
                    members.children.poll(token);
                }
            }
            if let Some(finished) = polled.iter().find_map(|token| self.take_if_exited(*token)) {
                return Some(finished);
            }
            if self.is_empty() {
                return None;
            }
            let poll = (!polled.is_empty()).then(|| Instant::now() + pause.next());
            let until = earlier(deadline, poll);
            // One token per system call: this thread returns one child, and leaves the others to other threads.
            let over = match self.queue.wait(&mut tokens, 1, until) {
                Ok(()) => tokens.is_empty() && deadline.is_some_and(|at| at <= Instant::now()),
                Err(_) => {
                    // Other code has closed a descriptor of the queue.
                    self.members.lock().children.poll_all();
                    !pause.sleep(deadline)
                }
            };
            if over {
                // Other waiters may have observed an exit that the queue does not report, or reports later.
                let unreported = self.members.lock().children.unreported();
                return unreported.into_iter().find_map(|token| self.take_if_exited(token));
            }
        }
    }

    /// Returns the child if it has exited. If several threads find the exit, the one that removes the child returns it.
    fn take_if_exited(&self, token: u64) -> Option<Finished<K>> {
        let child = Arc::clone(&self.members.lock().children.get(token)?.1);
        let status = child.try_wait().transpose()?;
        let entry = Self::take(&mut self.members.lock(), token)?;
        let (key, child) = entry.end();
        Some(Finished { key, child, status })
    }

    fn take(members: &mut Members<K>, token: u64) -> Option<Entry<(K, Arc<SharedChild>)>> {
        // The key comes first: its code may panic, and then the child stays.
        members.tokens.remove(&members.children.get(token)?.0);
        members.children.remove(token)
    }

    /// Ends the registration of a removed child. The caller holds no lock. The child was not returned by a wait, so no
    /// waiter may ever take its token.
    fn give_up(&self, token: u64, entry: Entry<(K, Arc<SharedChild>)>) -> Arc<SharedChild> {
        let (_, child) = entry.end();
        self.queue.withdraw(token);
        child
    }

    /// Wakes a waiter to poll, if none polls yet: the waiters sleep beyond the next poll.
    fn wake_first_poller(&self, members: &mut Members<K>) {
        if members.children.polled().is_empty() {
            self.wake_one(members);
        }
    }
}

impl<K> ChildSet<K> {
    /// Wakes one waiter, because the first child is to be polled, because the set is empty, or because a thread that
    /// polled has left.
    ///
    /// One waiter is enough: a thread that leaves wakes the next if the reason still holds. One token in the queue is
    /// enough too. Reasons arise under the lock, and the thread that takes the token clears `woken` under the lock before
    /// it checks the set:
    ///
    /// - it observes each reason that arose before that, and polls or leaves;
    /// - a reason that arises after that posts another token.
    ///
    /// If all waiters leave without the token, the next waiter takes it: no thread sleeps while the queue has a token.
    fn wake_one(&self, members: &mut Members<K>) {
        if members.waiting > 0 && !members.woken {
            members.woken = true;
            self.queue.post(WAKE);
        }
    }
}

/// A thread that waits.
struct Waiting<'a, K>(&'a ChildSet<K>);

impl<'a, K> Waiting<'a, K> {
    /// Returns `None` if the set is empty.
    fn in_set(set: &'a ChildSet<K>) -> Option<Self> {
        let mut members = set.members.lock();
        if members.children.is_empty() {
            return None;
        }
        members.waiting += 1;
        Some(Self(set))
    }
}

impl<K> Drop for Waiting<'_, K> {
    fn drop(&mut self) {
        let mut members = self.0.members.lock();
        members.waiting -= 1;
        // If the set is empty the other waiters leave too. If this thread polled, another one polls from here on.
        if members.children.is_empty() || !members.children.polled().is_empty() {
            self.0.wake_one(&mut members);
        }
    }
}

impl<K: Clone + Eq + Hash> Default for ChildSet<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K> fmt::Debug for ChildSet<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.members.lock().children.len();
        f.debug_struct("ChildSet").field("len", &count).finish_non_exhaustive()
    }
}

#[cfg(all(test, unix, not(loom)))]
mod tests {
    use super::{ChildSet, WAKE, Waiting};
    use crate::SharedChild;
    use std::process::{Command, Stdio};
    use std::thread;
    use std::time::Instant;

    /// Covers many threads that find exits by polling, and leave without taking the token that was posted for them.
    #[test]
    fn leaving_pollers_post_one_wake_token() {
        let set = ChildSet::new();
        for n in 0..30 {
            // This child reads until it is killed.
            let child = SharedChild::spawn(Command::new("cat").stdin(Stdio::piped()));
            set.insert(n, child.expect("to spawn"));
        }
        set.members.lock().children.poll_all();
        set.kill_all().expect("to kill");
        for (_, child) in set.iter() {
            child.wait().expect("to wait");
        }
        let sleeps = Waiting::in_set(&set);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| while set.wait_next().is_some() {});
            }
        });
        let (mut reported, mut tokens) = (Vec::new(), Vec::new());
        loop {
            set.queue.wait(&mut tokens, 1, Some(Instant::now())).expect("its descriptor is open");
            if tokens.is_empty() {
                break;
            }
            reported.append(&mut tokens);
        }
        drop(sleeps);
        assert_eq!(reported.iter().filter(|token| **token == WAKE).count(), 1, "{reported:?}");
    }
}
