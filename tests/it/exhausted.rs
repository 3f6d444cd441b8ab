//! Promise: a refusal by the system (of pidfds, threads, `/proc`) costs speed at most. The tests force every fallback
//! by a seccomp filter. For descriptors see `descriptors.rs`.

#![cfg(target_os = "linux")]

use crate::common::linux::{Deny, When, deny};
use crate::common::*;
use shared_child::SharedChild;
use shared_child::seam::Backend;
use shared_child::unix::{ReapedElsewhere, SharedChildExt};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

const BEST: Backend = Backend::ALL[0];

/// Tests the promises in short.
fn exercise(backend: Backend) {
    // Waits of every kind.
    let (child, stdin) = stoppable(backend, 7);
    assert_eq!(child.try_wait().unwrap(), None);
    assert_eq!(child.wait_timeout(Duration::ZERO).unwrap(), None);
    assert_eq!(child.wait_timeout(Duration::from_millis(5)).unwrap(), None);
    std::thread::scope(|scope| {
        let timed: Vec<_> = (0..5).map(|_| scope.spawn(|| wait(&child))).collect();
        let untimed = scope.spawn(|| child.wait().unwrap());
        drop(stdin);
        assert!(timed.into_iter().all(|waiter| waiter.join().unwrap().code() == Some(7)));
        assert_eq!(untimed.join().unwrap().code(), Some(7));
    });
    assert_eq!(child.into_inner().try_wait().unwrap().unwrap().code(), Some(7));
    // Signals.
    let child = sleeper(backend);
    child.send_signal(libc::SIGTERM).unwrap();
    assert_eq!(wait(&child).signal(), Some(libc::SIGTERM));
    let child = sleeper(backend);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| wait(&child));
        child.kill().unwrap();
        assert_eq!(waiter.join().unwrap().signal(), Some(libc::SIGKILL));
    });
    child.kill().unwrap();
    // Drops, before and after the exit.
    let (child, stdin) = stoppable(backend, 0);
    drop(stdin);
    linux::wait_for_zombie(child.id());
    drop(child);
    assert_eq!(
        linux::zombies(),
        [] as [u32; 0],
        "a child that had exited was not reaped by the drop"
    );
    drop(stoppable(backend, 0));
    // If no thread can be spawned, a later spawn reaps.
    until("reaped", || {
        wait(&quick(backend, 0));
        linux::children().is_empty()
    });
}

#[test]
fn child_works_with_nothing_refused() {
    alone!();
    watchdog!();
    assert_served_by(&sleeper_killed_on_drop(BEST), "Pidfd");
    on_every_backend(exercise);
}

/// Every error of `pidfd_open` selects the fallback.
macro_rules! without_pidfd_open {
    ($($name:ident: $errno:ident),*) => {$(
        #[test]
        fn $name() {
            alone!();
            watchdog!();
            deny(&[Deny::always(libc::SYS_pidfd_open, libc::$errno)]);
            assert_served_by(&sleeper_killed_on_drop(BEST), "Thread");
            exercise(BEST);
        }
    )*};
}

without_pidfd_open! {
    child_works_if_pidfd_open_is_not_implemented: ENOSYS,
    child_works_if_pidfd_open_is_not_permitted: EPERM,
    child_works_if_pidfd_open_has_no_descriptor: EMFILE,
    child_works_if_pidfd_open_has_no_file: ENFILE,
    child_works_if_pidfd_open_has_no_memory: ENOMEM,
    child_works_if_pidfd_open_is_invalid: EINVAL,
    child_works_if_pidfd_open_has_no_device: ENODEV
}

/// A handle whose child is killed at the end of the scope, so that no test leaves a process.
struct Killed(SharedChild);

impl Drop for Killed {
    fn drop(&mut self) {
        kill_and_wait(&self.0);
    }
}

impl std::ops::Deref for Killed {
    type Target = SharedChild;
    fn deref(&self) -> &SharedChild {
        &self.0
    }
}

fn sleeper_killed_on_drop(backend: Backend) -> Killed {
    Killed(sleeper(backend))
}

#[test]
fn child_works_if_waitid_does_not_know_pidfds() {
    // As on Linux 5.3.
    alone!();
    watchdog!();
    let rule = When::Is(0, libc::P_PIDFD);
    deny(&[Deny { call: libc::SYS_waitid, when: rule, errno: libc::EINVAL }]);
    assert_served_by(&sleeper_killed_on_drop(BEST), "Thread");
    exercise(BEST);
}

/// The program may enter a sandbox while children run.
#[test]
fn running_children_are_served_after_waitid_refuses_pidfds() {
    alone!();
    watchdog!();
    let [waited, killed, reaped, orphan, zombie] = [(); 5].map(|()| stoppable(BEST, 7));
    let elsewhere = reaped.0.id();
    let rule = When::Is(0, libc::P_PIDFD);
    deny(&[Deny { call: libc::SYS_waitid, when: rule, errno: libc::EPERM }]);
    assert_eq!(waited.0.try_wait().unwrap(), None);
    assert_eq!(waited.0.wait_timeout(Duration::from_millis(5)).unwrap(), None);
    drop(waited.1);
    assert_eq!(wait(&waited.0).code(), Some(7));
    killed.0.kill().unwrap();
    assert_eq!(killed.0.wait().unwrap().signal(), Some(libc::SIGKILL));
    drop(reaped.1);
    linux::reap(elsewhere);
    reaped.0.kill().unwrap();
    let answer = reaped.0.wait();
    assert_eq!(answer.is_ok(), linux::keeps_status_of_reaped(), "{answer:?}");
    drop(orphan);
    drop(zombie.1);
    linux::wait_for_zombie(zombie.0.id());
    drop(zombie.0);
    until("reaped", || linux::children().is_empty());
}

/// Even the fallback cannot block then; it polls with `waitpid`, as std does.
#[test]
fn child_works_if_waitid_is_not_implemented() {
    alone!();
    watchdog!();
    deny(&[Deny::always(libc::SYS_waitid, libc::ENOSYS)]);
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        assert_eq!(child.try_wait().unwrap(), None);
        assert_eq!(child.wait_timeout(Duration::from_millis(30)).unwrap(), None);
        std::thread::scope(|scope| {
            let waiters = [scope.spawn(|| wait(&child)), scope.spawn(|| child.wait().unwrap())];
            drop(stdin);
            assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap().code() == Some(7)));
        });
        child.kill().unwrap();
        let child = sleeper(backend);
        child.send_signal(libc::SIGTERM).unwrap();
        assert_eq!(wait(&child).signal(), Some(libc::SIGTERM));
        drop(stoppable(backend, 0));
        until("reaped", || linux::children().is_empty());
        // The reap fails with ECHILD, which reveals a foreign reap.
        let (child, stdin) = stoppable(backend, 7);
        drop(stdin);
        linux::reap(child.id());
        child.kill().unwrap();
        assert!(child.wait().unwrap_err().get_ref().unwrap().is::<ReapedElsewhere>());
        // If the foreign reap came first, the ID is not used at all.
        let child = linux::spawn_reaped(backend);
        assert!(format!("{child:?}").contains("reaped elsewhere"), "{child:?}");
    });
}

/// A spawn works even if no way to wait works, and the child is still killed.
#[test]
fn kill_works_if_every_wait_is_refused() {
    alone!();
    watchdog!();
    deny(&[
        Deny::always(libc::SYS_waitid, libc::EPERM),
        Deny::always(libc::SYS_wait4, libc::EPERM),
    ]);
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        child.kill().unwrap();
        drop(stdin);
        until("dead", || linux::is_zombie(child.id()));
        for answer in [child.try_wait().map(drop), child.wait().map(drop)] {
            assert_eq!(answer.unwrap_err().raw_os_error(), Some(libc::EPERM));
        }
        // A drop does not block. (A child that cannot be reaped is left to the reaper that adopts the orphans of this
        // process.)
    });
}

/// On some systems a traced child has another parent meanwhile: it exists, but cannot be waited for. A filter on one
/// thread simulates that.
#[test]
fn child_that_cannot_be_waited_for_meanwhile_is_not_lost() {
    alone!();
    watchdog!();
    let backend = Backend::ALL[1];
    let ([child, killed], stdin) = {
        let (child, stdin) = stoppable(backend, 7);
        ([child, sleeper(backend)], stdin)
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            deny(&[Deny::always(libc::SYS_waitid, libc::ECHILD)]);
            assert_eq!(child.try_wait().unwrap(), None);
            assert_eq!(child.wait_timeout(Duration::from_millis(5)).unwrap(), None);
            drop(stdin);
            until("dead", || linux::is_zombie(child.id()));
            assert_eq!(child.try_wait().unwrap(), None, "the zombie is still ours");
            killed.kill().unwrap();
        });
    });
    assert_eq!(wait(&child).code(), Some(7));
    assert_eq!(wait(&killed).signal(), Some(libc::SIGKILL));
}

#[test]
fn child_works_if_pidfd_send_signal_is_not_implemented() {
    alone!();
    watchdog!();
    deny(&[Deny::always(libc::SYS_pidfd_send_signal, libc::ENOSYS)]);
    assert_served_by(&sleeper_killed_on_drop(BEST), "Pidfd");
    exercise(BEST);
}

#[test]
fn child_works_if_a_sandbox_refuses_pidfd_send_signal() {
    alone!();
    watchdog!();
    deny(&[Deny::always(libc::SYS_pidfd_send_signal, libc::EPERM)]);
    assert_served_by(&sleeper_killed_on_drop(BEST), "Pidfd");
    exercise(BEST);
    // After a foreign reap there is still no process to signal.
    let (child, stdin) = stoppable(BEST, 7);
    drop(stdin);
    linux::reap(child.id());
    child.kill().unwrap();
}

/// A true EPERM is returned, and nothing else is tried.
#[test]
fn signal_to_a_child_of_another_user_is_refused() {
    alone!();
    watchdog!();
    if !linux::is_root() {
        eprintln!("{} skipped: this requires root", function_name!());
        return;
    }
    on_every_backend(|backend| {
        let child = sleeper_killed_on_drop(backend);
        let refused = linux::without_root(|| child.send_signal(libc::SIGTERM).unwrap_err());
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        assert_eq!(child.try_wait().unwrap(), None);
        // Once the child has exited, no signal is sent, so none is refused.
        let (child, stdin) = stoppable(backend, 7);
        drop(stdin);
        linux::wait_for_zombie(child.id());
        linux::without_root(|| child.send_signal(libc::SIGTERM)).unwrap();
        linux::without_root(|| child.kill()).unwrap();
        assert_eq!(wait(&child).code(), Some(7));
    });
}

#[test]
fn foreign_reap_is_an_error_if_the_kernel_keeps_no_status() {
    // As before Linux 6.15.
    alone!();
    watchdog!();
    let get_info = libc::_IOWR::<[u64; 8]>(0xff, 11) as u32;
    deny(&[Deny { call: libc::SYS_ioctl, when: When::Is(1, get_info), errno: libc::ENOTTY }]);
    exercise(BEST);
    let (child, stdin) = stoppable(BEST, 7);
    drop(stdin);
    linux::reap(child.id());
    for _ in 0..2 {
        let error = child.wait().unwrap_err();
        assert!(error.get_ref().unwrap().is::<ReapedElsewhere>(), "{error:?}");
    }
}

#[test]
fn child_works_without_proc() {
    alone!();
    watchdog!();
    let path_only = When::Has(2, libc::O_PATH as u32);
    deny(&[
        Deny::always(libc::SYS_pidfd_open, libc::ENOSYS),
        Deny { call: libc::SYS_openat, when: path_only, errno: libc::ENOENT },
    ]);
    let child = sleeper_killed_on_drop(BEST);
    assert_served_by(&child, "identity: None");
    drop(child);
    exercise(BEST);
    // Even if the ID has no new owner, a foreign reap is detected.
    let (child, stdin) = stoppable(BEST, 7);
    drop(stdin);
    linux::reap(child.id());
    child.kill().unwrap();
    assert!(child.wait().unwrap_err().get_ref().unwrap().is::<ReapedElsewhere>());
}

/// In a PID namespace whose `/proc` belongs to another one, with different process IDs.
#[test]
fn proc_of_another_namespace_is_not_used() {
    const WRAPPER: &[&str] = &["unshare", "--fork", "--pid"];
    if !linux::is_root() {
        eprintln!("{} skipped: this requires root", function_name!());
        return;
    }
    alone!(WRAPPER);
    watchdog!();
    deny(&[Deny::always(libc::SYS_pidfd_open, libc::ENOSYS)]);
    let (child, stdin) = stoppable(BEST, 7);
    assert_served_by(&child, "identity: None");
    assert_eq!(child.wait_timeout(Duration::from_millis(5)).unwrap(), None);
    drop(stdin);
    assert_eq!(wait(&child).code(), Some(7));
    let child = sleeper(BEST);
    child.kill().unwrap();
    assert_eq!(wait(&child).signal(), Some(libc::SIGKILL));
}

#[test]
fn child_works_without_threads() {
    alone!();
    watchdog!();
    // The watchdog's thread and the waiters of `exercise` start before the filter is installed, so this is a shorter
    // exercise, of this thread alone.
    deny(&Deny::threads());
    assert!(std::thread::Builder::new().spawn(|| ()).is_err(), "the filter works");
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        assert_eq!(child.wait_timeout(Duration::from_millis(30)).unwrap(), None);
        drop(stdin);
        assert_eq!(wait(&child).code(), Some(7));
        let child = sleeper(backend);
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        // No background thread can reap these children, so later spawns and drops do.
        for _ in 0..20 {
            drop(stoppable(backend, 0));
        }
        until("reaped", || {
            wait(&quick(backend, 0));
            linux::children().is_empty()
        });
        drop(stoppable(backend, 0));
        until("reaped", || {
            let (child, stdin) = stoppable(backend, 0);
            drop(stdin);
            linux::wait_for_zombie(child.id());
            drop(child);
            linux::children().len() < 2
        });
        wait(&quick(backend, 0));
    });
}
