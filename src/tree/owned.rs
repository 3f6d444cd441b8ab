//! What becomes of a tree when its handle goes. Dropping it never blocks: what may take time is left to a
//! thread. (If there is none to be had, a kill is made on the spot, which is bounded; and the rest is tried
//! again at a later spawn.)

use super::{Contain, Leader, Tree};
use crate::exit::{PerProcess, spawn_helper};
use crate::sync::Mutex;
use std::ops::Deref;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

pub(crate) struct Owned {
    tree: Arc<Tree>,
    kill_on_drop: AtomicBool,
    given_up: bool,
    /// What a fork has copied is not its own to kill, nor to see to its end.
    process: u32,
}

impl Owned {
    pub(crate) fn new(tree: Tree, kill_on_drop: bool) -> Self {
        let kill_on_drop = AtomicBool::new(kill_on_drop);
        Self { tree: Arc::new(tree), kill_on_drop, given_up: false, process: process::id() }
    }

    /// The tree outlives the handle.
    pub(crate) fn detach(&self) {
        self.kill_on_drop.store(false, Ordering::Relaxed);
    }

    /// The leader, to whoever wants it for themselves. The rest is let go of.
    pub(crate) fn into_leader(mut self) -> Leader {
        self.given_up = true;
        let tree = Arc::clone(&self.tree);
        drop(self);
        Arc::into_inner(tree).expect("only a drop that does not give up shares it").into_leader()
    }

    fn leave_behind(&self, kill: bool) {
        // Whoever reads its input to the end, or is blocked writing, is to see that the handle is gone.
        let pipes = self
            .tree
            .leader()
            .with_child(|child| (child.stdin.take(), child.stdout.take(), child.stderr.take()));
        drop(pipes);
        see_to(&self.tree, kill);
    }
}

/// Trees that are to be seen to the end, and for which there was no thread to be had.
static STRANDED: PerProcess<Mutex<Vec<Arc<Tree>>>> = PerProcess::new();

/// Tries again what could not be done at its time.
pub(crate) fn sweep() {
    let stranded = std::mem::take(&mut *STRANDED.get().lock());
    stranded.iter().for_each(|tree| see_to(tree, false));
}

/// Has a thread see to the tree, which shares it from then on, and with it the duty to reap the leader.
fn see_to(tree: &Arc<Tree>, kill: bool) {
    let its = Arc::clone(tree);
    let see_to_it = move || {
        // Nobody is left to be told of errors.
        if kill {
            let _ = its.kill();
        }
        if its.members.outlives_the_handle() {
            its.see_to_the_end(None);
        }
    };
    if spawn_helper("child-tree", see_to_it).is_ok() {
        return;
    }
    if kill {
        let _ = tree.kill();
    }
    // If it is tied to this process, it stays so: the leader is not reaped before the guardian is told.
    if tree.members.outlives_the_handle() && !tree.see_to_the_end(Some(Instant::now())) {
        STRANDED.get().lock().push(Arc::clone(tree));
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
        // What can be done at once is: the rest may take a while to come to it.
        let kill = *self.kill_on_drop.get_mut() && self.tree.kill_at_once();
        if kill || self.tree.members.outlives_the_handle() {
            self.leave_behind(kill);
        }
    }
}
