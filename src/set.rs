//! Many children, and one wait for whichever exits next.
//!
//! A set has a [`Port`], in which its members are by a *token* each. Whoever waits hears of a token, looks at the child,
//! and takes the member out if it has exited; and who has taken it out hands it out. So each is handed out once, whoever
//! else is told of it: another thread, the same thread twice, another set.
//!
//! Members that are not to be heard of (no descriptor, no thread), and those that were heard of and are not to be had
//! yet, are looked at by whoever waits, after pauses.

use crate::SharedChild;
use crate::backoff::Backoff;
use crate::stop::{self, Stop};
use crate::sync::{Arc, Mutex};
use crate::sys::{Ask, Port, Registration};
use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash};
use std::io;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// Children that are waited for together, each known by a key.
///
/// Any number of threads may wait, insert, remove and kill at the same time, all through `&self`; each exit is returned
/// once, by the [`wait_next`](Self::wait_next) of one of them. The order is that of the exits, as far as the system
/// reports it. The notice of an exit costs the same however many children there are, and a set has no thread of its own.
/// (Each child has a descriptor, and a spawn costs more the more descriptors this process has:
/// [costs](crate::guide::costs).)
///
/// A child may be in several sets, and be waited for and killed by others meanwhile: a set holds
/// it by an [`Arc`]. When a set is dropped nothing happens to children that others hold too.
///
/// Keys are hashed, compared, cloned and dropped under the set's lock: their code must not use the set.
///
/// # Platforms
///
/// - **Linux, macOS, the BSDs**: one epoll or kqueue per set, and what wakes it: one to three descriptors.
/// - **Windows**: registered waits, for which the system has a thread for every 63 children, whichever sets they are in.
/// - **Other Unix, and children that are served without a descriptor**: the helper thread of the child.
/// - A child for which the set had no descriptor to spare when it was inserted, or for which no helper thread could be
///   started: the waiting threads poll such children, at most 50 times a second.
/// - A poll, and a timed wait that ends with `None`, check each child whose exit other waiters may learn of before the
///   set does: all on Windows, macOS and the BSDs, elsewhere children that a helper thread serves.
/// - A child keeps its descriptor until it is returned or removed, even if other threads have waited for it. A child
///   that is in a set several times has one more for each time but the first.
///
/// The child of a fork may drop a set, and must do nothing else with it.
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
    /// Never held over anything that blocks.
    members: Mutex<Members<K>>,
    port: Arc<Port>,
}

struct Members<K> {
    tokens: HashMap<K, u64>,
    by_token: HashMap<u64, Member<K>, BuildHasherDefault<DefaultHasher>>,
    /// Each is used once.
    next_token: u64,
    /// Those that nobody will tell of (any more).
    looked_at: BTreeSet<u64>,
    /// Of how many the port may hear later than others do.
    late: usize,
    /// How many threads are waiting.
    waiting: usize,
    /// `WAKE` has been posted, and nobody has seen since then how things stand.
    woken: bool,
}

struct Member<K> {
    key: K,
    child: Arc<SharedChild>,
    /// `None` for those that nobody could be had to tell of, and those that were known to have exited when they came.
    registration: Option<Registration>,
}

/// A child of a [`ChildSet`] that has exited.
///
/// # Examples
///
/// See [`ChildSet`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Finished<K> {
    /// The key that it had in the set.
    pub key: K,
    /// The child, which is not in the set any more.
    pub child: Arc<SharedChild>,
    /// Its exit status; or why that is not known, as [`SharedChild::wait`] would say.
    pub status: io::Result<ExitStatus>,
}

/// To wake up, and see how things stand. (No member has it.)
const WAKE: u64 = 0;

impl<K: Clone + Eq + Hash> ChildSet<K> {
    /// A set without children.
    ///
    /// # Examples
    ///
    /// ```
    /// use shared_child::ChildSet;
    ///
    /// let set = ChildSet::<String>::new();
    /// assert!(set.wait_next().is_none()); // nobody to wait for
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self {
            members: Mutex::new(Members {
                tokens: HashMap::new(),
                by_token: HashMap::default(),
                next_token: WAKE + 1,
                looked_at: BTreeSet::new(),
                late: 0,
                waiting: 0,
                woken: false,
            }),
            port: Arc::new(Port::new()),
        }
    }

    /// Adds a child, running or not; those who are waiting wait for it too from here on. Returns the child that
    /// had the same key, if there was one: it is not in the set any more.
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
        let token = members.next_token;
        members.next_token += 1;
        // The key first, whose code may panic: nothing has happened then.
        let old = members.tokens.insert(key.clone(), token);
        let old = old.and_then(|token| Some((token, Self::forget(&mut members, token)?)));
        // Whoever hears of the token waits for the lock, and finds it.
        let registration = match child.notice() {
            Some(notice) => {
                let registration = Registration::new(&notice, &self.port, token);
                if registration.is_none() {
                    self.look_at(&mut members, token);
                }
                registration
            }
            None => {
                self.port.post(token);
                None
            }
        };
        let member = Member { key, child, registration };
        members.late += usize::from(member.is_late());
        members.by_token.insert(token, member);
        drop(members);
        old.map(|(token, old)| self.give_up(token, old))
    }

    /// Takes a child out. It is not waited for any more, and nothing else happens to it. `None` if there is no
    /// such key, as when the child was handed out.
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
        if members.by_token.is_empty() {
            self.wake_one(&mut members);
        }
        drop(members);
        member.map(|member| self.give_up(token, member))
    }

    /// The child with this key.
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
        members.by_token.get(token).map(|member| Arc::clone(&member.child))
    }

    /// Blocks until a child has exited, and takes it out of the set. `None` if the set is empty, or becomes so
    /// meanwhile: since others have got, or removed, the last.
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

    /// Like [`wait_next`](Self::wait_next), but for no longer than `timeout`: `None` if nobody has exited then. (Whether
    /// that is so, or the set is empty, [`is_empty`](Self::is_empty) tells.)
    ///
    /// Looks at least once. Any timeout is fine, [`Duration::MAX`] included.
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
        // A moment that no clock will ever show is as good as none.
        self.next(Instant::now().checked_add(timeout))
    }

    /// Like [`wait_next`](Self::wait_next), but until `deadline` at the latest: `None` if nobody has exited then.
    ///
    /// Looks at least once, also if the deadline has passed.
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
    /// set.kill_all()?; // who is left
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_next_deadline(&self, deadline: Instant) -> Option<Finished<K>> {
        self.next(Some(deadline))
    }

    /// A child that has exited, if there is one. Does not wait.
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

    /// How many children are in the set: those that have exited and were not handed out included.
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(shared_child::ChildSet::<u32>::new().len(), 0);
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.lock().by_token.len()
    }

    /// Whether no child is in the set.
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

    /// The children that are in the set now, with their keys, in no order. What happens to the set meanwhile does not
    /// change what this gives.
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
        let all = members.by_token.values();
        let all: Vec<_> =
            all.map(|member| (member.key.clone(), Arc::clone(&member.child))).collect();
        all.into_iter()
    }

    /// Kills all children that are in the set, and the whole [trees](SharedChild::tree) of those that lead one. They
    /// stay in the set until they are returned, each with the status that it ended with.
    ///
    /// All trees together take one search of the process table, not one each.
    ///
    /// # Errors
    ///
    /// The first error of [`SharedChild::kill`] and [`Tree::kill`](crate::Tree::kill). An error for one child does not
    /// keep the others from being killed.
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
        stop::kill_all(self.children().iter().map(|child| &**child))
    }

    /// [Stops](SharedChild::stop) all children that are in the set at the same time, and the whole trees of those that
    /// lead one: requests them to terminate, waits for up to `grace` until all have ended, then kills those that are
    /// left.
    ///
    /// They stay in the set until they are returned. A child that was returned before is not in the set any more, so
    /// the rest of its tree is not stopped. Killed processes are waited for at most 1 s in all; a child that takes
    /// longer to end is still in the set.
    ///
    /// # Errors
    ///
    /// The first error of [`SharedChild::stop`], except for statuses that are lost. An error for one child does not
    /// keep the others from being stopped.
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
        let children = self.children();
        Stop::begin(children.iter().map(|child| &**child), Ask::DEFAULT, grace).run()
    }

    fn children(&self) -> Vec<Arc<SharedChild>> {
        let members = self.members.lock();
        let all = members.by_token.values().map(|member| &member.child);
        // A child may be in the set several times.
        let mut known = HashSet::new();
        all.filter(|child| known.insert(std::ptr::from_ref::<SharedChild>(child)))
            .map(Arc::clone)
            .collect()
    }

    fn next(&self, deadline: Option<Instant>) -> Option<Finished<K>> {
        let _waiting = Waiting::in_set(self)?;
        let mut pause = Backoff::new();
        let mut tokens = Vec::with_capacity(1);
        loop {
            let mut members = self.members.lock();
            members.woken &= !tokens.contains(&WAKE);
            let looked_at = members.looked_at.clone();
            drop(members);
            // The one that was heard of comes first. (`WAKE` finds no member.)
            for token in tokens.drain(..) {
                if let Some(finished) = self.take_if_exited(token) {
                    return Some(finished);
                }
                // Told of, and not to be had yet (see `Backoff`). Unless it is no member any more.
                let mut members = self.members.lock();
                if members.by_token.contains_key(&token) {
                    self.look_at(&mut members, token);
                }
            }
            if let Some(finished) = looked_at.iter().find_map(|token| self.take_if_exited(*token)) {
                return Some(finished);
            }
            if self.is_empty() {
                return None;
            }
            let look = (!looked_at.is_empty()).then(|| Instant::now() + pause.next());
            let until = deadline.into_iter().chain(look).min();
            // One token, though that is a system call an exit more: what this thread does not hand out is for others
            // to hear of.
            let over = match self.port.wait(&mut tokens, 1, until) {
                Ok(()) => tokens.is_empty() && deadline.is_some_and(|at| at <= Instant::now()),
                Err(_) => {
                    // Somebody has closed our descriptors.
                    self.look_at_all();
                    !pause.sleep(deadline)
                }
            };
            if over {
                // Somebody may know of an exit already of which the port has not been told: nobody tells of it, or
                // another thread is on its way here.
                return self.untold().into_iter().find_map(|token| self.take_if_exited(token));
            }
        }
    }

    /// Those of which the port may hear later than others do, or never, in the order in which they were inserted.
    fn untold(&self) -> BTreeSet<u64> {
        let members = self.members.lock();
        let mut untold = members.looked_at.clone();
        if members.late > 0 {
            let late = members.by_token.iter().filter(|(_, member)| member.is_late());
            untold.extend(late.map(|(token, _)| *token));
        }
        untold
    }

    /// Whoever is told that the child has exited, and finds it here, hands it out.
    fn take_if_exited(&self, token: u64) -> Option<Finished<K>> {
        let child = Arc::clone(&self.members.lock().by_token.get(&token)?.child);
        let status = child.try_wait().transpose()?;
        let member = Self::take(&mut self.members.lock(), token)?;
        let (key, child) = member.leave(&self.port);
        Some(Finished { key, child, status })
    }

    fn take(members: &mut Members<K>, token: u64) -> Option<Member<K>> {
        // The key first, whose code may panic: the member stays then.
        members.tokens.remove(&members.by_token.get(&token)?.key);
        Self::forget(members, token)
    }

    /// Its key is in `tokens` no more, or is another's.
    fn forget(members: &mut Members<K>, token: u64) -> Option<Member<K>> {
        let member = members.by_token.remove(&token)?;
        members.late -= usize::from(member.is_late());
        members.looked_at.remove(&token);
        Some(member)
    }

    /// Not under the lock. It was not handed out, so nobody may ever come for its token.
    fn give_up(&self, token: u64, member: Member<K>) -> Arc<SharedChild> {
        let (_, child) = member.leave(&self.port);
        self.port.withdraw(token);
        child
    }

    /// From here on whoever waits looks at it.
    fn look_at(&self, members: &mut Members<K>, token: u64) {
        if members.looked_at.is_empty() {
            // They sleep for longer than one does who looks.
            self.wake_one(members);
        }
        members.looked_at.insert(token);
    }

    fn look_at_all(&self) {
        let mut members = self.members.lock();
        members.looked_at = members.by_token.keys().copied().collect();
    }
}

impl<K> ChildSet<K> {
    /// Has one of those who wait see how things stand: that there is something to be looked at where there was nothing,
    /// that nobody is left to be waited for, or that one who looked has left.
    ///
    /// One is enough: whoever leaves wakes the next, if there is reason for it still. And so is one token in the port.
    /// All reasons come under the lock, and who takes the token says so under the lock, before it sees how things stand.
    /// What comes
    ///
    /// - before that, it sees: it looks from here on, or leaves;
    /// - after that, has another token posted.
    ///
    /// If all leave for another reason than the token, it is for the next who comes, since nobody sleeps while there is
    /// something in the port.
    fn wake_one(&self, members: &mut Members<K>) {
        if members.waiting > 0 && !members.woken {
            members.woken = true;
            self.port.post(WAKE);
        }
    }
}

impl<K> Member<K> {
    fn is_late(&self) -> bool {
        self.registration.as_ref().is_some_and(|registration| !registration.is_prompt())
    }

    /// Not under the lock.
    fn leave(self, port: &Port) -> (K, Arc<SharedChild>) {
        if let Some(registration) = self.registration {
            registration.end(port);
        }
        (self.key, self.child)
    }
}

/// A thread that waits.
struct Waiting<'a, K>(&'a ChildSet<K>);

impl<'a, K> Waiting<'a, K> {
    /// `None` if there is nobody to wait for.
    fn in_set(set: &'a ChildSet<K>) -> Option<Self> {
        let mut members = set.members.lock();
        if members.by_token.is_empty() {
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
        // Those who sleep are to leave as well if nobody is left to be waited for; and if this one was to look at what
        // nobody tells of, that is for another from here on.
        if members.by_token.is_empty() || !members.looked_at.is_empty() {
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
        let count = self.members.lock().by_token.len();
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

    /// However many find an exit by looking, and leave that to others without having taken what was posted for them.
    #[test]
    fn one_is_woken_once() {
        let set = ChildSet::new();
        for n in 0..30 {
            // One that reads until it is killed.
            let child = SharedChild::spawn(Command::new("cat").stdin(Stdio::piped()));
            set.insert(n, child.expect("to spawn"));
        }
        set.look_at_all();
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
        let (mut told, mut tokens) = (Vec::new(), Vec::new());
        loop {
            set.port.wait(&mut tokens, 1, Some(Instant::now())).expect("nobody closes it");
            if tokens.is_empty() {
                break;
            }
            told.append(&mut tokens);
        }
        drop(sleeps);
        assert_eq!(told.iter().filter(|token| **token == WAKE).count(), 1, "{told:?}");
    }
}
