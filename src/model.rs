//! Every interleaving of the lifecycle, and of the fallback under it (with up to three preemptions), by
//! loom: `ci/model` runs this, and shows that it finds the faults which it is there to find.
//!
//! The child and its exit notice are mocked at their most treacherous: the process ID has a new owner
//! the moment the child is reaped, a signal goes to whoever owns the ID, and a reap takes what it gets.

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
    /// The ID means a stranger now.
    Reaped,
    /// Reaped by somebody else, and the stranger is a child of ours, and a zombie.
    Recycled,
}

#[derive(Debug)]
struct Process {
    phase: Phase,
    status: i32,
    /// Reaps by the lifecycle.
    reaps: usize,
    /// Handed to the background reaper.
    abandoned: usize,
    stranger_exited: bool,
}

/// What there is outside the program: one process, and who has its ID.
#[derive(Debug)]
struct World {
    process: Mutex<Process>,
    exited: Condvar,
    kernel: Kernel,
}

/// What the exit notice can learn.
#[derive(Debug, Clone, Copy, Default)]
struct Kernel {
    /// The status of a zombie.
    shows_status: bool,
    /// The status of what was reaped elsewhere.
    keeps_status: bool,
    /// What it shows is misread.
    is_misread: bool,
    /// Nothing but the exit of whatever has the process ID.
    waits_by_pid: bool,
}

const BY_ITSELF: i32 = 7 << 8;
const KILLED: i32 = 9;
const OF_A_STRANGER: i32 = 77 << 8;
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
            stranger_exited: false,
        };
        Arc::new(Self { process: Mutex::new(process), exited: Condvar::new(), kernel })
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap()
    }

    /// Says whether it was this that ended it.
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

    /// What a `waitpid(-1)` somewhere does.
    fn reap_elsewhere(&self) {
        self.process().phase = Phase::Reaped;
    }

    /// Whoever has the ID after a reap.
    fn stranger_exits(&self) {
        self.process().stranger_exited = true;
        self.exited.notify_all();
    }

    /// And another child of ours gets the ID, and exits.
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
                Ok(Reaped::Status(status(OF_A_STRANGER)))
            }
        }
    }

    fn id(&self) -> u32 {
        1
    }
}

/// An exit notice, by ID: of a stranger it knows no better than to signal it.
#[derive(Debug)]
struct MockExit(Arc<World>);

impl MockExit {
    /// What goes by the process ID, and has no effect on a zombie.
    fn means_the_child(&self) -> io::Result<()> {
        assert!(self.0.process().reaps == 0, "the ID means a stranger");
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

    fn kill_what_is_left(&self) -> io::Result<()> {
        panic!("settled, and yet signalled");
    }
}

impl Exit for MockExit {
    fn wait(&self, deadline: Option<Instant>) -> io::Result<bool> {
        let process = self.0.process();
        if process.phase != Phase::Running {
            return Ok(true);
        }
        if deadline.is_some() {
            // It has passed: any deadline may have, when the scheduler says so.
            return Ok(false);
        }
        drop(process);
        // Here it is held up, on its way into the system call.
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
        assert!(process.reaps == 0, "asked about a stranger");
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
        // A foreign reap is for the notice to find out; our own is for the lifecycle to prevent.
        assert!(self.0.process().reaps == 0, "a stranger was signalled");
        assert!(self.0.process().abandoned == 0, "whoever reaps may have reaped it by now");
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
fn waiters_and_a_kill() {
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
fn a_kill_against_an_exit_against_a_wait() {
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
fn a_kill_after_a_wait_in_another_thread() {
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
fn a_wait_that_gives_up_beside_one_that_does_not() {
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
fn a_drop_against_an_exit_against_a_wait() {
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
        assert_eq!(process.reaps + process.abandoned, 1, "exactly one has the duty to reap");
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

/// While it is pinned, an exit is told, and yet whatever goes by the process ID means the child. It is
/// reaped once, after that.
#[test]
fn a_pin_against_an_exit_against_a_wait() {
    loom::model(|| {
        let world = World::new(Kernel { shows_status: true, ..Kernel::default() });
        let child = spawn(&world);
        child.pin();
        let exit = exit_on_a_thread(&world);
        let waiter = on_a_thread(&child, |child| child.wait(None).unwrap().unwrap());
        child.signal(MockExit::means_the_child).unwrap();
        assert_eq!(waiter.join().unwrap(), status(BY_ITSELF));
        exit.join().unwrap();
        child.signal(MockExit::means_the_child).unwrap();
        assert_eq!(child.try_wait().unwrap(), Some(status(BY_ITSELF)));
        assert_eq!(world.process().reaps, 0, "the ID was given away");
        child.unpin();
        assert_eq!(world.process().reaps, 1);
        assert_eq!(child.try_wait().unwrap(), Some(status(BY_ITSELF)));
    });
}

/// Somebody still goes by the ID when the pin is taken off.
#[test]
fn an_unpin_against_a_signal_against_a_wait() {
    loom::model(|| {
        let world = World::new(Kernel { shows_status: true, ..Kernel::default() });
        let child = spawn(&world);
        child.pin();
        world.exit(BY_ITSELF);
        let unpin = on_a_thread(&child, |child| child.unpin());
        let waiter = on_a_thread(&child, |child| child.try_wait().unwrap());
        child.signal(MockExit::means_the_child).unwrap();
        unpin.join().unwrap();
        assert_eq!(waiter.join().unwrap(), Some(status(BY_ITSELF)));
        assert_eq!(world.process().reaps, 1);
        drop(child);
        assert_eq!(world.process().abandoned, 0);
    });
}

/// A pinned child that is given away knows its status; one that is dropped is abandoned.
#[test]
fn the_end_of_a_pinned_child() {
    for given_away in [true, false] {
        loom::model(move || {
            let world = World::new(Kernel { shows_status: true, ..Kernel::default() });
            let child = spawn(&world);
            child.pin();
            let exit = exit_on_a_thread(&world);
            let seen = child.try_wait().unwrap();
            if given_away {
                drop(Arc::try_unwrap(child).ok().expect("the only one").into_inner());
            } else {
                drop(child);
            }
            exit.join().unwrap();
            let process = world.process();
            if given_away {
                assert_eq!(process.abandoned, 0);
                assert!(process.reaps == 1 || seen.is_none(), "its status was told");
            } else {
                assert_eq!((process.reaps, process.abandoned), (0, 1));
            }
        });
    }
}

/// What it has used is known to whoever has been told of the exit, and stays so.
#[test]
fn usage_is_asked_of_the_zombie_and_remembered() {
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

/// Who reaps the child may be quicker, and then nobody knows.
#[test]
fn usage_against_a_foreign_reaper() {
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

/// Who is to be killed with the handle is killed before anybody can reap it.
#[test]
fn a_kill_on_drop() {
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
        assert!(seen.is_none_or(|seen| seen == status(BY_ITSELF)), "the drop was the last");
        assert!(by_itself || process.status == KILLED);
        assert_ne!(process.phase, Phase::Running, "it lives on");
    });
}

/// A status that was told while a waiter relied on the process ID stands, even if somebody else reaps
/// before that waiter is out.
#[test]
fn a_status_that_was_told_stands() {
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

/// Whoever reaps, all waiters agree, and what is settled stays.
fn a_foreign_reaper(keeps_status: bool) {
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
        child.signal(MockExit::kill_what_is_left).unwrap();
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
fn a_foreign_reaper_and_a_kernel_that_forgets() {
    a_foreign_reaper(false);
}

#[test]
fn a_foreign_reaper_and_a_kernel_that_remembers() {
    a_foreign_reaper(true);
}

/// If somebody else reaps between our observation and our reap, and another child of ours has the ID by then,
/// that is reaped: by ID, nothing can prevent it. But its status is never taken for the child's.
#[test]
fn a_foreign_reaper_and_a_new_owner_that_is_ours() {
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

/// an observation that misreads the zombie's status gives way to the reap.
#[test]
fn a_misread_status_gives_way_to_the_reaped_one() {
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

/// Where the kernel keeps the status of the very process, neither a misread status nor another child's is taken for it.
#[test]
fn a_kept_status_decides_between_what_was_seen_and_what_was_reaped() {
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
fn a_status_that_was_told_before_the_reap_stands() {
    loom::model(|| {
        let kernel = Kernel { shows_status: true, is_misread: true, ..Kernel::default() };
        let world = World::new(kernel);
        world.exit(BY_ITSELF);
        let child = spawn(&world);
        child.pin();
        let told = child.try_wait().unwrap();
        let poller = on_a_thread(&child, |child| child.try_wait().unwrap());
        child.unpin();
        assert_eq!(poller.join().unwrap(), told);
        assert_eq!(child.try_wait().unwrap(), told);
        assert_eq!(world.process().reaps, 1);
    });
}
