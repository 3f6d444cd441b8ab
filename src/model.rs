//! Checks every interleaving of the lifecycle with loom, and of the fallback under it with up to three preemptions.
//! `ci/model` runs this, and proves that it detects planted faults.
//!
//! The mocked process has the worst behavior that a system allows: its ID has another owner as soon as the child is
//! reaped, a signal reaches the owner of the ID, and a reap by the ID takes the status of that owner.

mod fallback;

use crate::lifecycle::Lifecycle;
use crate::sys::{Exit, Observed, Reap, Reaped};
use crate::usage::Usage;
use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
use loom::thread;
use std::io;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Zombie,
    /// The ID belongs to another process now.
    Reaped,
    /// Reaped elsewhere. The ID belongs to another child of this process, which is a zombie.
    Recycled,
}

#[derive(Debug)]
struct Process {
    phase: Phase,
    status: i32,
    /// How often the lifecycle reaped the child.
    reaps: usize,
    /// How often the child was handed to the background reaper.
    abandoned: usize,
    next_owner_exited: bool,
}

/// The kernel's view: one process, and the owner of its ID.
#[derive(Debug)]
struct World {
    process: Mutex<Process>,
    exited: Condvar,
    kernel: Kernel,
}

/// What the kernel reports to the exit notice.
#[derive(Debug, Clone, Copy, Default)]
struct Kernel {
    /// The status of a zombie.
    shows_status: bool,
    /// The status of a child that was reaped elsewhere.
    keeps_status: bool,
    /// The status of a zombie is misread.
    is_misread: bool,
    /// A wait waits for the process that has the ID.
    waits_by_pid: bool,
}

const BY_ITSELF: i32 = 7 << 8;
const KILLED: i32 = 9;
const OF_THE_NEXT_OWNER: i32 = 77 << 8;
const GARBAGE: i32 = 99 << 8;

const USED: Usage =
    Usage { user: Duration::from_secs(7), system: Duration::ZERO, peak_memory: None };

impl World {
    fn new(kernel: Kernel) -> Arc<Self> {
        let process = Process {
            phase: Phase::Running,
            status: 0,
            reaps: 0,
            abandoned: 0,
            next_owner_exited: false,
        };
        Arc::new(Self { process: Mutex::new(process), exited: Condvar::new(), kernel })
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap()
    }

    /// Ends the process. Returns `false` if it had ended before.
    fn exit(&self, status: i32) -> bool {
        let mut process = self.process();
        let running = process.phase == Phase::Running;
        if running {
            process.phase = Phase::Zombie;
            process.status = status;
            self.exited.notify_all();
        }
        running
    }

    /// Reaps the child, as `waitpid(-1)` in another part of the program does.
    fn reap_elsewhere(&self) {
        self.process().phase = Phase::Reaped;
    }

    /// Ends the process that has the ID after the reap.
    fn next_owner_exits(&self) {
        self.process().next_owner_exited = true;
        self.exited.notify_all();
    }

    /// Reaps the child elsewhere. Another child of this process gets the ID and exits.
    fn recycle(&self) {
        let mut process = self.process();
        if process.phase == Phase::Zombie {
            process.phase = Phase::Recycled;
        }
    }
}

fn status(raw: i32) -> ExitStatus {
    std::os::unix::process::ExitStatusExt::from_raw(raw)
}

#[derive(Debug)]
struct MockChild(Arc<World>);

impl Reap for MockChild {
    fn reap(&mut self) -> io::Result<Reaped> {
        let mut process = self.0.process();
        match process.phase {
            Phase::Running => Ok(Reaped::NotYet),
            Phase::Zombie => {
                process.phase = Phase::Reaped;
                process.reaps += 1;
                Ok(Reaped::Status(status(process.status)))
            }
            Phase::Reaped => Ok(Reaped::NoSuchChild),
            Phase::Recycled => {
                process.phase = Phase::Reaped;
                Ok(Reaped::Status(status(OF_THE_NEXT_OWNER)))
            }
        }
    }

    fn id(&self) -> u32 {
        1
    }
}

/// An exit notice that signals by the ID, and cannot detect another owner.
#[derive(Debug)]
struct MockExit(Arc<World>);

impl MockExit {
    /// Sends a signal by the process ID. It has no effect on a zombie.
    fn signal_by_id(&self) -> io::Result<()> {
        assert!(self.0.process().reaps == 0, "another process has the ID");
        Ok(())
    }

    fn seen(&self, process: &Process) -> ExitStatus {
        status(if self.0.kernel.is_misread { GARBAGE } else { process.status })
    }

    fn abandon(this: &Arc<Self>) {
        let mut process = this.0.process();
        assert!(process.reaps == 0, "a reaped child was abandoned");
        process.abandoned += 1;
    }

    fn kill_a_settled_child(&self) -> io::Result<()> {
        panic!("signalled after it was settled");
    }
}

impl Exit for MockExit {
    fn wait(&self, deadline: Option<Instant>) -> io::Result<bool> {
        let process = self.0.process();
        if process.phase != Phase::Running {
            return Ok(true);
        }
        if deadline.is_some() {
            // Every deadline has passed: the scheduler may delay a thread for any time.
            return Ok(false);
        }
        drop(process);
        // Another thread may run here, before the system call.
        let mut process = self.0.process();
        while process.phase == Phase::Running {
            process = self.0.exited.wait(process).unwrap();
        }
        let is_kept = process.reaps == 0 || !self.0.kernel.waits_by_pid;
        assert!(is_kept, "reaped while a waiter relied on its ID");
        Ok(true)
    }

    fn observe(&self) -> io::Result<(Observed, Option<Usage>)> {
        let process = self.0.process();
        assert!(process.reaps == 0, "observed another process");
        let usage = (process.phase == Phase::Zombie).then_some(USED);
        let observed = match process.phase {
            Phase::Running => Observed::Running,
            Phase::Zombie => {
                Observed::Exited(self.0.kernel.shows_status.then(|| self.seen(&process)))
            }
            Phase::Reaped | Phase::Recycled => Observed::ReapedElsewhere,
        };
        Ok((observed, usage))
    }

    fn recover(&self) -> Option<ExitStatus> {
        let process = self.0.process();
        assert!(matches!(process.phase, Phase::Reaped | Phase::Recycled));
        self.0.kernel.keeps_status.then(|| status(process.status))
    }

    fn arbitrate(&self, seen: ExitStatus, reaped: ExitStatus) -> ExitStatus {
        let process = self.0.process();
        match self.0.kernel {
            Kernel { keeps_status: true, .. } => status(process.status),
            Kernel { is_misread: true, .. } => reaped,
            _ => seen,
        }
    }

    fn kill(&self) -> io::Result<()> {
        // The lifecycle prevents a signal after its own reap. After a foreign reap the notice does.
        assert!(self.0.process().reaps == 0, "another process was signalled");
        assert!(self.0.process().abandoned == 0, "signalled after the reaper may have reaped it");
        self.0.exit(KILLED);
        Ok(())
    }

    fn wait_relies_on_pid(&self) -> bool {
        self.0.kernel.waits_by_pid
    }

    fn settled(&self) {}
}

type Shared = Arc<Lifecycle<MockChild, MockExit>>;

fn spawn(world: &Arc<World>) -> Shared {
    let (child, exit) = (MockChild(Arc::clone(world)), MockExit(Arc::clone(world)));
    Arc::new(Lifecycle::unreaped(child, exit, MockExit::abandon))
}

fn on_a_thread<T: 'static>(
    child: &Shared,
    run: impl FnOnce(&Lifecycle<MockChild, MockExit>) -> T + 'static,
) -> thread::JoinHandle<T> {
    let child = Arc::clone(child);
    thread::spawn(move || run(&child))
}

fn exit_on_a_thread(world: &Arc<World>) -> thread::JoinHandle<bool> {
    let world = Arc::clone(world);
    thread::spawn(move || world.exit(BY_ITSELF))
}

#[test]
fn waiters_beside_a_kill_get_one_status() {
    loom::model(|| {
        let world = World::new(Kernel::default());
        let child = spawn(&world);
        let waiter = on_a_thread(&child, |child| child.wait(None).unwrap().unwrap());
        let poller = on_a_thread(&child, |child| child.try_wait().unwrap());
        child.signal(MockExit::kill).unwrap();
        let seen = waiter.join().unwrap();
        assert_eq!(seen, status(KILLED));
        assert!(poller.join().unwrap().is_none_or(|polled| polled == seen));
        assert_eq!(child.try_wait().unwrap(), Some(seen));
        assert_eq!(world.process().reaps, 1);
    });
}

#[test]
fn kill_beside_exit_and_wait_reports_the_first_end() {
    loom::model(|| {
        let world = World::new(Kernel::default());
        let child = spawn(&world);
        let exit = exit_on_a_thread(&world);
        let waiter = on_a_thread(&child, |child| child.wait(None).unwrap().unwrap());
        child.signal(MockExit::kill).unwrap();
        let seen = waiter.join().unwrap();
        let by_itself = exit.join().unwrap();
        assert_eq!(seen, status(if by_itself { BY_ITSELF } else { KILLED }));
        assert_eq!(world.process().reaps, 1);
    });
}

#[test]
fn kill_beside_a_reap_signals_no_other_process() {
    loom::model(|| {
        let world = World::new(Kernel::default());
        world.exit(BY_ITSELF);
        let child = spawn(&world);
        let poller = on_a_thread(&child, |child| child.try_wait().unwrap());
        let killer = on_a_thread(&child, |child| child.signal(MockExit::kill));
        killer.join().unwrap().unwrap();
        assert_eq!(poller.join().unwrap(), Some(status(BY_ITSELF)), "it had exited");
        assert_eq!(child.wait(None).unwrap(), Some(status(BY_ITSELF)));
    });
}

#[test]
fn timed_wait_beside_untimed_wait_agrees_with_it() {
    loom::model(|| {
        let world = World::new(Kernel::default());
        let child = spawn(&world);
        let exit = exit_on_a_thread(&world);
        let brief = on_a_thread(&child, |child| child.wait(Some(Instant::now())).unwrap());
        let seen = child.wait(None).unwrap().unwrap();
        assert!(brief.join().unwrap().is_none_or(|brief| brief == seen));
        exit.join().unwrap();
        assert_eq!(world.process().reaps, 1);
    });
}

#[test]
fn drop_beside_exit_and_wait_leaves_one_duty_to_reap() {
    loom::model(|| {
        let world = World::new(Kernel::default());
        let child = spawn(&world);
        let exit = exit_on_a_thread(&world);
        let brief = on_a_thread(&child, |child| child.wait(Some(Instant::now())).unwrap());
        drop(child);
        let seen = brief.join().unwrap();
        exit.join().unwrap();
        let process = world.process();
        assert_eq!(process.reaps, usize::from(seen.is_some()));
        assert_eq!(process.reaps + process.abandoned, 1, "one duty to reap");
    });
}

#[test]
fn into_inner_abandons_nothing() {
    loom::model(|| {
        let world = World::new(Kernel::default());
        let child = spawn(&world);
        let exit = exit_on_a_thread(&world);
        on_a_thread(&child, |child| child.try_wait().unwrap()).join().unwrap();
        let child = Arc::try_unwrap(child).ok().expect("the only one").into_inner();
        exit.join().unwrap();
        drop(child);
        assert_eq!(world.process().abandoned, 0);
    });
}

/// The exit of a pinned child is returned, and its ID still means the child. The child is reaped once, when it is
/// unpinned.
#[test]
fn pinned_child_keeps_its_id_after_its_exit() {
    loom::model(|| {
        let world = World::new(Kernel { shows_status: true, ..Kernel::default() });
        let child = spawn(&world);
        child.pin();
        let exit = exit_on_a_thread(&world);
        let waiter = on_a_thread(&child, |child| child.wait(None).unwrap().unwrap());
        child.signal(MockExit::signal_by_id).unwrap();
        assert_eq!(waiter.join().unwrap(), status(BY_ITSELF));
        exit.join().unwrap();
        child.signal(MockExit::signal_by_id).unwrap();
        assert_eq!(child.try_wait().unwrap(), Some(status(BY_ITSELF)));
        assert_eq!(world.process().reaps, 0, "the ID was released");
        child.unpin();
        assert_eq!(world.process().reaps, 1);
        assert_eq!(child.try_wait().unwrap(), Some(status(BY_ITSELF)));
    });
}

/// A signal by the ID runs beside the unpin.
#[test]
fn unpin_beside_signal_and_poll_reaps_once() {
    loom::model(|| {
        let world = World::new(Kernel { shows_status: true, ..Kernel::default() });
        let child = spawn(&world);
        child.pin();
        world.exit(BY_ITSELF);
        let unpin = on_a_thread(&child, |child| child.unpin());
        let waiter = on_a_thread(&child, |child| child.try_wait().unwrap());
        child.signal(MockExit::signal_by_id).unwrap();
        unpin.join().unwrap();
        assert_eq!(waiter.join().unwrap(), Some(status(BY_ITSELF)));
        assert_eq!(world.process().reaps, 1);
        drop(child);
        assert_eq!(world.process().abandoned, 0);
    });
}

#[test]
fn pinned_child_is_reaped_by_into_inner_and_abandoned_by_drop() {
    for by_into_inner in [true, false] {
        loom::model(move || {
            let world = World::new(Kernel { shows_status: true, ..Kernel::default() });
            let child = spawn(&world);
            child.pin();
            let exit = exit_on_a_thread(&world);
            let seen = child.try_wait().unwrap();
            if by_into_inner {
                drop(Arc::try_unwrap(child).ok().expect("the only one").into_inner());
            } else {
                drop(child);
            }
            exit.join().unwrap();
            let process = world.process();
            if by_into_inner {
                assert_eq!(process.abandoned, 0);
                assert!(process.reaps == 1 || seen.is_none(), "its status was returned");
            } else {
                assert_eq!((process.reaps, process.abandoned), (0, 1));
            }
        });
    }
}

/// A thread that has received the status gets the usage, and the usage stays.
#[test]
fn usage_is_read_from_the_zombie_and_kept() {
    for pinned in [false, true] {
        loom::model(move || {
            let world = World::new(Kernel { shows_status: true, ..Kernel::default() });
            let child = spawn(&world);
            if pinned {
                child.pin();
            }
            let exit = exit_on_a_thread(&world);
            let poller = on_a_thread(&child, |child| {
                let seen = child.try_wait().unwrap();
                (seen, child.usage())
            });
            assert_eq!(child.wait(None).unwrap(), Some(status(BY_ITSELF)));
            assert_eq!(child.usage(), Some(USED));
            exit.join().unwrap();
            let (seen, usage) = poller.join().unwrap();
            assert!(seen.is_none() || usage == Some(USED));
            child.unpin();
            assert_eq!(world.process().reaps, 1);
            assert_eq!(child.usage(), Some(USED));
        });
    }
}

/// A foreign reaper may reap before the first observation. Then the usage is missing.
#[test]
fn usage_beside_a_foreign_reaper_is_right_or_missing() {
    loom::model(|| {
        let world =
            World::new(Kernel { shows_status: true, keeps_status: true, ..Kernel::default() });
        world.exit(BY_ITSELF);
        let child = spawn(&world);
        let foreign = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.reap_elsewhere())
        };
        child.wait(None).unwrap();
        let usage = child.usage();
        foreign.join().unwrap();
        assert!(usage.is_none_or(|usage| usage == USED));
        assert_eq!(child.try_wait().unwrap(), Some(status(BY_ITSELF)));
        assert_eq!(child.usage(), usage);
    });
}

/// With `kill_on_drop` the child is killed while it cannot be reaped.
#[test]
fn drop_kills_before_it_abandons() {
    loom::model(|| {
        let world = World::new(Kernel { shows_status: true, ..Kernel::default() });
        let child = spawn(&world);
        child.kill_on_drop(true);
        let exit = exit_on_a_thread(&world);
        let brief = on_a_thread(&child, |child| child.wait(Some(Instant::now())).unwrap());
        drop(child);
        let by_itself = exit.join().unwrap();
        let seen = brief.join().unwrap();
        let process = world.process();
        assert_eq!(process.reaps + process.abandoned, 1);
        assert!(
            seen.is_none_or(|seen| seen == status(BY_ITSELF)),
            "a waiter saw the kill of the drop"
        );
        assert!(by_itself || process.status == KILLED);
        assert_ne!(process.phase, Phase::Running, "the child still runs");
    });
}

/// A status that was returned while a waiter relied on the process ID stands, even if another part of the program
/// reaps before that waiter leaves.
#[test]
fn status_returned_beside_a_waiter_stands_after_a_foreign_reap() {
    loom::model(|| {
        let world =
            World::new(Kernel { shows_status: true, waits_by_pid: true, ..Kernel::default() });
        let child = spawn(&world);
        let waiter = on_a_thread(&child, |child| child.wait(None));
        world.exit(BY_ITSELF);
        assert_eq!(child.try_wait().unwrap(), Some(status(BY_ITSELF)));
        world.reap_elsewhere();
        assert_eq!(waiter.join().unwrap().unwrap(), Some(status(BY_ITSELF)));
        assert_eq!(child.try_wait().unwrap(), Some(status(BY_ITSELF)));
    });
}

/// All waiters get the same result, whichever thread reaps, and it does not change.
fn check_a_foreign_reap(keeps_status: bool) {
    loom::model(move || {
        let world = World::new(Kernel { keeps_status, ..Kernel::default() });
        world.exit(BY_ITSELF);
        let child = spawn(&world);
        let foreign = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.reap_elsewhere())
        };
        let poller = on_a_thread(&child, |child| child.try_wait().map(Option::unwrap));
        let answer = child.wait(None).map(Option::unwrap);
        foreign.join().unwrap();
        child.signal(MockExit::kill_a_settled_child).unwrap();
        let answers = [answer, poller.join().unwrap(), child.try_wait().map(Option::unwrap)];
        let ours = world.process().reaps == 1;
        for answer in answers {
            assert_eq!(answer.ok(), (ours || keeps_status).then(|| status(BY_ITSELF)));
        }
        drop(child);
        assert_eq!(world.process().abandoned, 0);
    });
}

#[test]
fn foreign_reap_is_an_error_for_all_if_the_status_is_lost() {
    check_a_foreign_reap(false);
}

#[test]
fn foreign_reap_gives_all_the_status_that_the_kernel_kept() {
    check_a_foreign_reap(true);
}

/// A foreign reap between the observation and the reap can give the ID to another child of this process. Then the
/// reap by the ID reaps that child, which nothing can prevent. But its status is not returned for the first child.
#[test]
fn foreign_reap_never_gives_the_status_of_another_child() {
    loom::model(|| {
        let world = World::new(Kernel { shows_status: true, ..Kernel::default() });
        world.exit(BY_ITSELF);
        let child = spawn(&world);
        let foreign = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.recycle())
        };
        let poller = on_a_thread(&child, |child| child.try_wait().map(Option::unwrap).ok());
        let answer = child.wait(None).map(Option::unwrap).ok();
        foreign.join().unwrap();
        assert_eq!(poller.join().unwrap(), answer);
        assert!(answer.is_none_or(|answer| answer == status(BY_ITSELF)));
        assert_eq!(child.try_wait().map(Option::unwrap).ok(), answer);
    });
}

/// An observation may misread the status of the zombie.
#[test]
fn misread_status_gives_way_to_the_reaped_one() {
    loom::model(|| {
        let kernel = Kernel { shows_status: true, is_misread: true, ..Kernel::default() };
        let world = World::new(kernel);
        world.exit(BY_ITSELF);
        let child = spawn(&world);
        let poller = on_a_thread(&child, |child| child.try_wait().unwrap());
        assert_eq!(child.wait(None).unwrap(), Some(status(BY_ITSELF)));
        assert_eq!(poller.join().unwrap(), Some(status(BY_ITSELF)));
        assert_eq!(child.try_wait().unwrap(), Some(status(BY_ITSELF)));
        assert_eq!(world.process().reaps, 1);
    });
}

/// Where the kernel keeps the status of the process, neither a misread status nor that of another child is returned.
#[test]
fn kept_status_overrides_the_seen_and_the_reaped_one() {
    loom::model(|| {
        let world = World::new(Kernel {
            shows_status: true,
            keeps_status: true,
            is_misread: true,
            waits_by_pid: false,
        });
        world.exit(BY_ITSELF);
        let child = spawn(&world);
        let foreign = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.recycle())
        };
        assert_eq!(child.wait(None).unwrap(), Some(status(BY_ITSELF)));
        foreign.join().unwrap();
        assert_eq!(child.try_wait().unwrap(), Some(status(BY_ITSELF)));
    });
}

/// A pinned child is not reaped when its status is returned, and a status that was returned does not change.
#[test]
fn status_returned_while_pinned_stands_after_the_reap() {
    loom::model(|| {
        let kernel = Kernel { shows_status: true, is_misread: true, ..Kernel::default() };
        let world = World::new(kernel);
        world.exit(BY_ITSELF);
        let child = spawn(&world);
        child.pin();
        let returned = child.try_wait().unwrap();
        let poller = on_a_thread(&child, |child| child.try_wait().unwrap());
        child.unpin();
        assert_eq!(poller.join().unwrap(), returned);
        assert_eq!(child.try_wait().unwrap(), returned);
        assert_eq!(world.process().reaps, 1);
    });
}
