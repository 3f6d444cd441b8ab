//! What becomes of a tree when its handle is dropped.
//!
//! A drop takes a few system calls: it kills what can be killed at once, and leaves the rest to one thread, which serves
//! all dropped trees of the process. The thread kills in batches, so trees that are dropped close together cost one pass
//! over the process table; and it watches trees that must be seen to their end (those that die with this process, and
//! those whose cgroup must be removed). It ends when no tree is left. If no thread is to be had, a tree is killed on the
//! spot, and a tree that must be watched is tried again at a later spawn.

use super::{Leader, Owner, Survivor, Tree};
use crate::sync::{self, Mutex};
use crate::sys::{PerProcess, Port, Registration, spawn_helper};
use std::collections::HashMap;
use std::ops::Deref;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

pub(super) struct Owned {
    tree: Arc<Tree>,
    kill_on_drop: AtomicBool,
    given_up: bool,
    /// The child of a fork has copied this, and must not kill the tree, nor watch it.
    process: u32,
}

impl Owned {
    pub(super) fn new(tree: Tree, kill_on_drop: bool) -> Self {
        let kill_on_drop = AtomicBool::new(kill_on_drop);
        Self { tree: Arc::new(tree), kill_on_drop, given_up: false, process: process::id() }
    }
}

impl Owner for Owned {
    fn detach(&self) {
        self.kill_on_drop.store(false, Ordering::Relaxed);
    }

    fn into_leader(mut self: Box<Self>) -> Leader {
        self.given_up = true;
        let tree = Arc::clone(&self.tree);
        drop(self);
        Arc::into_inner(tree).expect("only a drop that does not give up shares it").into_leader()
    }
}

impl Deref for Owned {
    type Target = Tree;

    fn deref(&self) -> &Tree {
        &self.tree
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if self.given_up || self.tree.is_done() || self.process != process::id() {
            return;
        }
        let kill = *self.kill_on_drop.get_mut() && self.tree.kill_at_once();
        if kill || self.tree.container.outlives_the_handle() {
            // A child that reads its input to the end, or blocks writing, must notice that the handle is gone.
            let pipes = self
                .tree
                .leader()
                .with_child(|child| (child.stdin.take(), child.stdout.take(), child.stderr.take()));
            drop(pipes);
            leave(Dropped { tree: Arc::clone(&self.tree), kill });
        }
    }
}

struct Dropped {
    tree: Arc<Tree>,
    kill: bool,
}

#[derive(Default)]
struct Queue {
    arrived: Vec<Dropped>,
    /// What the thread sleeps on. There is a thread if and only if there is this.
    port: Option<sync::Arc<Port>>,
    /// Trees that must be watched, and for which there was no thread.
    stranded: Vec<Dropped>,
}

/// Never held over anything that blocks.
static QUEUE: PerProcess<Mutex<Queue>> = PerProcess::new();

/// Set when a tree is stranded. Every spawn reaches [`sweep`], so a direct call would link the code of trees into every
/// program.
static RETRY: PerProcess<OnceLock<fn()>> = PerProcess::new();

/// Tries again to watch the stranded trees.
pub(crate) fn sweep() {
    if let Some(retry) = RETRY.get().get() {
        retry();
    }
}

fn retry() {
    let stranded = std::mem::take(&mut QUEUE.get().lock().stranded);
    stranded.into_iter().for_each(leave);
}

/// Leaves a tree to the thread, which shares it from then on, and with it the duty to reap the leader.
fn leave(dropped: Dropped) {
    let mut queue = QUEUE.get().lock();
    let port = queue.port.clone().or_else(|| {
        let port = sync::Arc::new(Port::new());
        let its = sync::Arc::clone(&port);
        spawn_helper("child-tree", move || Watch::new(its).run()).ok()?;
        queue.port = Some(sync::Arc::clone(&port));
        Some(port)
    });
    if let Some(port) = port {
        queue.arrived.push(dropped);
        port.post(WAKE);
        return;
    }
    drop(queue);
    let Dropped { tree, kill } = dropped;
    if kill {
        // No handle is left to return an error from.
        let _ = tree.kill();
    }
    if tree.container.outlives_the_handle() && !has_ended(&tree) {
        // If the tree is tied to this process, it stays so: the leader is not reaped before the guardian is notified.
        QUEUE.get().lock().stranded.push(Dropped { tree, kill: false });
        RETRY.get().get_or_init(|| retry);
    }
}

/// Whether a tree has ended. An error, of a look at the tree, means that nothing more can be found out.
fn has_ended(tree: &Tree) -> bool {
    if matches!(tree.leader.try_wait(), Ok(None)) {
        return false;
    }
    tree.leader_has_ended();
    tree.is_done() || !matches!(Tree::survivors(&[tree]).pop(), Some(Ok(Some(_))))
}

/// A wish to wake up and see what has arrived. No tree has this token.
const WAKE: u64 = 0;

/// How many descriptors the thread keeps open for members of trees whose leaders have exited.
const WITNESSES: usize = 64;

/// How often the thread looks at trees that nothing notifies it of: between the first of these and the second.
const SOONEST: Duration = Duration::from_millis(20);
const LATEST: Duration = Duration::from_secs(1);

/// The state of the thread. Each tree is in one of these: its leader runs; or its leader has exited, and a member that
/// lives is its witness, without whose exit the tree cannot be empty; or it is polled.
struct Watch {
    port: sync::Arc<Port>,
    leaders: HashMap<u64, (Arc<Tree>, Registration)>,
    witnesses: HashMap<u64, (Arc<Tree>, Witness)>,
    polled: Vec<Arc<Tree>>,
    pause: Duration,
    next_token: u64,
}

impl Watch {
    fn new(port: sync::Arc<Port>) -> Self {
        Self {
            port,
            leaders: HashMap::new(),
            witnesses: HashMap::new(),
            polled: Vec::new(),
            pause: SOONEST,
            next_token: WAKE + 1,
        }
    }

    fn run(mut self) {
        let mut due = Vec::new();
        while let Some(arrived) = self.take_arrived(due.is_empty()) {
            let (kill, watch): (Vec<_>, Vec<_>) =
                arrived.into_iter().partition(|dropped| dropped.kill);
            if !kill.is_empty() {
                let trees: Vec<&Tree> = kill.iter().map(|dropped| &*dropped.tree).collect();
                // No handle is left to return an error from.
                drop(Tree::kill_each(&trees));
            }
            let left = kill.into_iter().chain(watch).map(|dropped| dropped.tree);
            due.extend(left.filter(|tree| tree.container.outlives_the_handle()));
            self.watch(std::mem::take(&mut due));
            due = self.wait();
        }
    }

    /// What has arrived. `None` if the thread is to end, since nothing is left.
    fn take_arrived(&self, idle: bool) -> Option<Vec<Dropped>> {
        let idle =
            idle && self.leaders.is_empty() && self.witnesses.is_empty() && self.polled.is_empty();
        let mut queue = QUEUE.get().lock();
        if idle && queue.arrived.is_empty() {
            // Under the lock: the next drop starts a new thread.
            queue.port = None;
            return None;
        }
        Some(std::mem::take(&mut queue.arrived))
    }

    /// Finds out what to wait for next, tree by tree.
    fn watch(&mut self, due: Vec<Arc<Tree>>) {
        let mut left = Vec::new();
        for tree in due {
            if matches!(tree.leader.try_wait(), Ok(None)) {
                self.watch_leader(tree);
                continue;
            }
            tree.leader_has_ended();
            if !tree.is_done() {
                left.push(tree);
            }
        }
        let trees: Vec<&Tree> = left.iter().map(|tree| &**tree).collect();
        let survivors = Tree::survivors(&trees);
        for (tree, survivor) in left.into_iter().zip(survivors) {
            // Otherwise the tree is empty, or nothing more can be found out.
            if let Ok(Some(survivor)) = survivor {
                self.watch_survivor(tree, &survivor);
            }
        }
    }

    fn watch_leader(&mut self, tree: Arc<Tree>) {
        let token = self.next_token;
        let notice = tree.leader.notice();
        match notice.and_then(|notice| Registration::new(&notice, &self.port, token)) {
            Some(registration) => {
                self.next_token += 1;
                self.leaders.insert(token, (tree, registration));
            }
            None => self.polled.push(tree),
        }
    }

    fn watch_survivor(&mut self, tree: Arc<Tree>, survivor: &Survivor) {
        let token = self.next_token;
        let witness = if self.witnesses.len() < WITNESSES {
            Witness::register(survivor, &self.port, token)
        } else {
            None
        };
        match witness {
            Some(witness) => {
                self.next_token += 1;
                self.witnesses.insert(token, (tree, witness));
            }
            None => self.polled.push(tree),
        }
    }

    /// Blocks until a tree has arrived, or is due to be looked at. Returns those that are due.
    fn wait(&mut self) -> Vec<Arc<Tree>> {
        let idle = self.leaders.is_empty() && self.witnesses.is_empty() && self.polled.is_empty();
        // If nothing is left, this is a look at what has arrived meanwhile.
        let until = match (idle, self.polled.is_empty()) {
            (true, _) => Some(Instant::now()),
            (false, true) => None,
            (false, false) => Some(Instant::now() + self.pause),
        };
        let mut tokens = Vec::new();
        if self.port.wait(&mut tokens, usize::MAX, until).is_err() {
            // Another part of the program has closed a descriptor of the port: all trees are polled from here on.
            return self.poll_all();
        }
        let mut due = Vec::new();
        for token in tokens {
            if let Some((tree, registration)) = self.leaders.remove(&token) {
                registration.end(&self.port);
                due.push(tree);
            } else if let Some((tree, witness)) = self.witnesses.remove(&token) {
                witness.end(&self.port);
                due.push(tree);
            }
        }
        if due.is_empty() && until.is_none_or(|until| Instant::now() < until) {
            return due;
        }
        self.pause = if due.is_empty() { (self.pause * 2).min(LATEST) } else { SOONEST };
        due.append(&mut self.polled);
        due
    }

    fn poll_all(&mut self) -> Vec<Arc<Tree>> {
        std::thread::sleep(self.pause);
        self.pause = (self.pause * 2).min(LATEST);
        self.polled.extend(self.leaders.drain().map(|(_, (tree, registration))| {
            registration.end(&self.port);
            tree
        }));
        self.polled.extend(self.witnesses.drain().map(|(_, (tree, _))| tree));
        std::mem::take(&mut self.polled)
    }
}

/// A member whose exit the port reports.
#[cfg(unix)]
struct Witness(Box<dyn std::os::fd::AsFd + Send>);

#[cfg(unix)]
impl Witness {
    fn register(survivor: &Survivor, port: &Port, token: u64) -> Option<Self> {
        let descriptor = survivor.exit_descriptor()?;
        port.add(descriptor.as_fd(), token).ok()?;
        Some(Self(descriptor))
    }

    /// Takes the member out of the port, before its descriptor is closed.
    fn end(self, port: &Port) {
        port.remove(Some(self.0.as_fd()));
    }
}

/// Windows: the members of a job are polled.
#[cfg(windows)]
struct Witness(std::convert::Infallible);

#[cfg(windows)]
impl Witness {
    fn register(_: &Survivor, _: &Port, _: u64) -> Option<Self> {
        None
    }

    fn end(self, _: &Port) {
        match self.0 {}
    }
}
