//! Kills or watches a tree whose handle is dropped.
//!
//! A drop makes a few system calls: it kills the processes that it can kill at once, and leaves the rest to one thread,
//! which serves all dropped trees of the process. The thread kills in batches, so trees that are dropped close together
//! cost one pass over the process table. It also watches trees to their end if they die with this process, or if their
//! cgroup must be removed. The thread ends when no tree is left. If the thread cannot be started, the drop itself kills
//! the whole tree, and a later spawn tries again to watch a tree.

use super::operations::Survivor;
use super::{Leader, Owner, Tree};
use crate::deferred;
use crate::event_queue::EventQueue;
use crate::fork_guard::PerProcess;
use crate::sync::{self, Mutex};
use crate::sys::spawn_helper;
use crate::watchlist::{Source, WAKE, Watchlist, next_token};
use std::ops::Deref;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(super) struct Owned {
    tree: Arc<Tree>,
    kill_on_drop: AtomicBool,
    given_up: bool,
    /// The process that spawned the tree. The child of a fork has copied this, and must neither kill nor watch the
    /// tree.
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
        let kill = *self.kill_on_drop.get_mut() && self.tree.operations.kill_at_once(&self.tree);
        if kill || self.tree.outlives_the_handle() {
            // Close the pipes, so that a child that reads its input to the end, or blocks in a write, notices the drop.
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
    /// The queue on which the thread sleeps. The thread exists if and only if the queue does.
    events: Option<sync::Arc<EventQueue>>,
}

/// The lock is never held across anything that blocks.
static QUEUE: PerProcess<Mutex<Queue>> = PerProcess::new();

/// Leaves a tree to the thread, which shares the tree from then on, and with it the duty to reap the leader.
fn leave(dropped: Dropped) {
    let Err(Dropped { tree, kill }) = hand_over(dropped) else { return };
    if kill {
        // No handle is left to return an error from.
        let _ = tree.kill();
    }
    if tree.outlives_the_handle() && !has_ended(&tree) {
        // A tree that dies with this process still does: the leader is not reaped before the guardian is notified.
        deferred::push(move || {
            hand_over(Dropped { tree: Arc::clone(&tree), kill: false }).is_ok() || has_ended(&tree)
        });
    }
}

/// Hands the tree to the thread. Returns the tree if the thread cannot be started.
fn hand_over(dropped: Dropped) -> Result<(), Dropped> {
    let mut queue = QUEUE.get().lock();
    if queue.events.is_none() {
        let events = sync::Arc::new(EventQueue::new());
        let its = sync::Arc::clone(&events);
        if spawn_helper("child-tree", move || Watch::new(its).run()).is_ok() {
            queue.events = Some(events);
        }
    }
    let Some(events) = queue.events.clone() else { return Err(dropped) };
    queue.arrived.push(dropped);
    events.post(WAKE);
    Ok(())
}

/// Returns whether a tree has ended. A tree whose members cannot be listed counts as ended, because nothing more can be
/// learned about it.
fn has_ended(tree: &Tree) -> bool {
    if matches!(tree.leader.try_wait(), Ok(None)) {
        return false;
    }
    tree.leader_has_ended();
    tree.is_done() || !matches!(Tree::survivors(&[tree]).pop(), Some(Ok(Some(_))))
}

/// The delay between two polls of trees whose end cannot be reported: the first and the longest.
const SOONEST: Duration = Duration::from_millis(20);
const LATEST: Duration = Duration::from_secs(1);

/// The state of the thread.
struct Watch {
    queue: sync::Arc<EventQueue>,
    /// Each tree is registered by its leader, or, after the leader's exit, by a member that lives and without whose exit
    /// the tree cannot be empty; or it is polled.
    trees: Watchlist<Arc<Tree>>,
    pause: Duration,
}

impl Watch {
    fn new(queue: sync::Arc<EventQueue>) -> Self {
        Self { queue, trees: Watchlist::new(), pause: SOONEST }
    }

    fn run(mut self) {
        let mut due = Vec::new();
        while let Some(arrived) = self.take_arrived(due.is_empty()) {
            let mut kill = Vec::new();
            for dropped in &arrived {
                if dropped.kill {
                    kill.push(&*dropped.tree);
                }
            }
            // No handle is left to return an error from.
            drop(Tree::kill_each(&kill));
            for dropped in arrived {
                if dropped.tree.outlives_the_handle() {
                    due.push(dropped.tree);
                }
            }
            self.watch(std::mem::take(&mut due));
            due = self.wait();
        }
    }

    /// Returns the trees that have arrived, or `None` if the thread is to end because nothing is left.
    fn take_arrived(&self, idle: bool) -> Option<Vec<Dropped>> {
        let mut queue = QUEUE.get().lock();
        if idle && self.trees.is_empty() && queue.arrived.is_empty() {
            // This happens under the lock, so the next drop starts a new thread.
            queue.events = None;
            return None;
        }
        Some(std::mem::take(&mut queue.arrived))
    }

    /// Decides for each tree which exit to wait for next.
    fn watch(&mut self, due: Vec<Arc<Tree>>) {
        let mut left = Vec::new();
        for tree in due {
            if matches!(tree.leader.try_wait(), Ok(None)) {
                let token = next_token();
                let source = Source::new(tree.leader.notice(), &self.queue, token);
                self.trees.insert(token, tree, source);
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
            // Otherwise the tree is empty, or nothing more can be learned about it.
            if let Ok(Some(survivor)) = survivor {
                let token = next_token();
                let source = self.register(&survivor, token);
                self.trees.insert(token, tree, source);
            }
        }
    }

    /// Registers a member, unless the list is so long that its descriptors would be missing elsewhere.
    #[cfg(unix)]
    fn register(&self, survivor: &Survivor, token: u64) -> Source {
        const FEW: usize = 64;
        let descriptor = if self.trees.len() < FEW { survivor.exit_descriptor() } else { None };
        Source::registered(descriptor.and_then(|descriptor| {
            crate::sys::Registration::of_descriptor(descriptor, self.queue.kernel(), token).ok()
        }))
    }

    /// Returns `Polled`: on Windows the members of a job are polled.
    #[cfg(windows)]
    fn register(&self, _: &Survivor, _: u64) -> Source {
        Source::Polled
    }

    /// Blocks until a tree has arrived or is due. Returns the trees that are due.
    fn wait(&mut self) -> Vec<Arc<Tree>> {
        let polls = !self.trees.polled().is_empty();
        // If no tree is left, only take the trees that have arrived meanwhile.
        let until = match (self.trees.is_empty(), polls) {
            (true, _) => Some(Instant::now()),
            (false, false) => None,
            (false, true) => Some(Instant::now() + self.pause),
        };
        let mut due = Vec::new();
        if self.queue.wait(&mut due, usize::MAX, until).is_err() {
            // Other code has closed a descriptor of the queue: all trees are polled from here on.
            self.trees.poll_all();
            std::thread::sleep(self.pause);
        }
        due.retain(|token| self.trees.get(*token).is_some());
        if due.is_empty() && until.is_none_or(|until| Instant::now() < until) {
            return Vec::new();
        }
        self.pause = if due.is_empty() { (self.pause * 2).min(LATEST) } else { SOONEST };
        due.extend_from_slice(self.trees.polled());
        let mut trees = Vec::new();
        for token in due {
            if let Some(entry) = self.trees.remove(token) {
                trees.push(entry.end());
            }
        }
        trees
    }
}
