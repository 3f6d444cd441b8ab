//! Promise: dropping a handle never blocks and never kills, and leaves no zombie, descriptor or thread behind.

use crate::common::*;
use std::io::Read;
use std::process::Stdio;

/// A drop closes the child's pipes, like the drop of std's `Child`, even before the child is reaped: a child that
/// reads its input to the end would never exit otherwise.
#[test]
fn drop_closes_the_pipes_and_does_not_kill() {
    watchdog!();
    on_every_backend(|backend| {
        let mut command = helper(&["read", "say", "done"]);
        let child = backend.spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped())).unwrap();
        let mut stdout = child.take_stdout().unwrap();
        drop(child);
        let mut said = String::new();
        stdout.read_to_string(&mut said).unwrap();
        assert_eq!(said.trim_end(), "done", "it ran on, and was not killed");
    });
}

#[cfg(unix)]
mod unix_only {
    use super::*;
    use shared_child::SharedChild;
    use shared_child::seam;
    #[cfg(target_os = "linux")]
    use shared_child::seam::Backend;

    fn nothing_left() -> bool {
        unix::children().is_empty() && unix::helper_threads().is_empty()
    }

    #[test]
    fn drop_reaps_an_exited_child_at_once() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            for _ in 0..rounds(50) {
                let (child, stdin) = stoppable(backend, 0);
                drop(stdin);
                unix::wait_for_zombie(child.id());
                drop(child);
                assert!(nothing_left(), "{:?}", unix::children());
            }
        });
    }

    #[test]
    fn dropped_child_is_reaped_when_it_exits() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            let before = unix::descriptors();
            for round in 0..rounds(50) {
                let (child, stdin) = stoppable(backend, 0);
                if round % 2 == 0 {
                    // On the helper-thread backend the helper thread exists already.
                    let timeout = std::time::Duration::from_millis(1);
                    assert_eq!(child.wait_timeout(timeout).unwrap(), None);
                }
                drop(child);
                assert_eq!(unix::children().len(), 1, "it was killed");
                drop(stdin);
                until("nothing is left", nothing_left);
            }
            until("no descriptors", || unix::descriptors() == before);
        });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn one_thread_reaps_all_dropped_children() {
        alone!();
        watchdog!();
        let backend = Backend::ALL[0];
        let before = unix::descriptors();
        for _ in 0..3 {
            let (children, pipes): (Vec<_>, Vec<_>) =
                (0..rounds(300)).map(|_| stoppable(backend, 0)).unzip();
            drop(children);
            // The thread sets its name in a moment.
            until("one watcher", || unix::helper_threads() == ["child-watcher"]);
            // The watcher uses no CPU time while nothing happens.
            until("it sleeps", linux::helper_threads_rest);
            drop(pipes);
            until("nothing is left", nothing_left);
            assert_eq!(unix::descriptors(), before);
        }
    }

    /// The reaper's thread starts and ends; each drop must reach a running one, or start one.
    #[test]
    fn drops_that_race_the_end_of_the_reaper_leave_no_zombie() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for round in 0..rounds(100) {
                            let child = quick(backend, 0);
                            if round % 3 == 0 {
                                drop(child.try_wait());
                            }
                            drop(child);
                        }
                    });
                }
            });
            until("nothing is left", nothing_left);
        });
    }

    #[test]
    fn into_inner_leaves_the_reaping_to_the_caller() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            let (child, stdin) = stoppable(backend, 7);
            let mut inner = child.into_inner();
            drop(stdin);
            unix::wait_for_zombie(inner.id());
            // Other drops make the reaper poll its children.
            drop(stoppable(backend, 0));
            until("the other one is reaped", || unix::children().len() == 1);
            assert!(unix::is_zombie(inner.id()), "it was reaped behind the caller's back");
            assert_eq!(inner.wait().unwrap().code(), Some(7));
        });
    }

    #[test]
    fn dropped_handle_made_by_new_reaps_its_child() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            drop(backend.share(stoppable_command(0).spawn().unwrap()).unwrap());
            until("nothing is left", nothing_left);
        });
    }

    /// The reaper notices a traced zombie, and cannot reap it until the tracer detaches.
    #[cfg(target_os = "linux")]
    #[test]
    fn traced_orphan_is_reaped_after_its_release() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            let child = sleeper(backend);
            let pid = child.id();
            let release = linux::trace_from_a_fork(pid);
            drop(child);
            // SAFETY: it is a child of this process, and unreaped.
            unsafe { libc::kill(unix::pid_t(pid), libc::SIGKILL) };
            until("a zombie", || unix::is_zombie(pid));
            release();
            until("nothing is left", nothing_left);
        });
    }

    /// A fork copies the reaper's state, but not its thread. The copy starts with a new reaper, and leaves the
    /// parent's children alone.
    #[test]
    fn fork_reaps_its_own_children_and_none_of_the_parent() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            let (child, stdin) = stoppable(backend, 0);
            drop(child);
            let failed = unix::in_a_fork(|| {
                let (child, stdin) = stoppable(backend, 0);
                drop(child);
                drop(stdin);
                until("reaped in the fork", || unix::children().is_empty());
                0
            });
            assert_eq!(failed, 0);
            assert_eq!(unix::children().len(), 1);
            drop(stdin);
            until("nothing is left", nothing_left);
        });
    }

    /// A lock that a thread of the parent held during the fork stays locked in the copy for ever.
    #[test]
    fn fork_while_the_reaper_works_still_drops_and_reaps() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            let (child, stdin) = stoppable(backend, 7);
            let mut child = Some(child);
            let drop_and_reap = || {
                drop(child.take());
                let (own, stdin) = stoppable(backend, 0);
                drop(own);
                drop(stdin);
                until("reaped in the fork", || unix::children().is_empty());
                0
            };
            let failed = seam::while_the_reaper_works(|| unix::in_a_fork(drop_and_reap));
            assert_eq!(failed, 0);
            drop(stdin);
            let child = child.expect("only the fork has dropped it");
            assert_eq!(wait(&child).code(), Some(7));
        });
    }

    /// A daemon closes all descriptors. The parent's descriptor numbers then mean something else.
    #[test]
    fn fork_that_has_closed_all_descriptors_still_reaps() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            let (child, stdin) = stoppable(backend, 0);
            drop(child);
            let open = unix::in_a_fork(|| {
                // SAFETY: plain integers. The fork, which ends by `_exit`, uses none of these descriptors again; the
                // parent closes `stdin`.
                unsafe {
                    (3..65_536).for_each(|fd| _ = libc::close(fd));
                    assert!((3..100).all(|fd| libc::dup(0) == fd));
                }
                let (own, own_stdin) = stoppable(backend, 0);
                drop(own);
                drop(own_stdin);
                until("reaped in the fork", || unix::children().is_empty());
                // SAFETY: plain integers.
                (3..100).filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } != -1).count() as u8
            });
            assert_eq!(open, 97, "some were closed behind its back");
            drop(stdin);
            until("nothing is left", nothing_left);
        });
    }

    #[test]
    fn thousands_of_children_leave_no_zombie_or_descriptor() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            let before = unix::descriptors();
            for round in 0..rounds(1000) {
                let child = quick(backend, 0);
                match round % 4 {
                    0 => assert!(wait(&child).success()),
                    1 => assert!(child.into_inner().wait().unwrap().success()),
                    2 => child.kill().unwrap(),
                    _ => drop(child),
                }
            }
            until("nothing is left", nothing_left);
            until("no descriptors", || unix::descriptors() == before);
        });
    }

    #[test]
    fn failed_spawns_leave_no_child_thread_or_descriptor() {
        alone!();
        watchdog!();
        let before = unix::descriptors();
        for _ in 0..rounds(300) {
            let mut command = std::process::Command::new("/no/such/program");
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            SharedChild::spawn(&mut command).unwrap_err();
        }
        assert!(nothing_left());
        assert_eq!(unix::descriptors(), before);
    }

    /// A handle that is kept after the exit holds no descriptor: a program may keep thousands.
    #[test]
    fn handle_of_an_exited_child_holds_no_descriptor() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            let before = unix::descriptors();
            let kept: Vec<_> = (0..50).map(|_| quick(backend, 0)).collect();
            assert!(kept.iter().all(|child| wait(child).success()));
            // A helper thread may be about to end.
            until("no threads", || unix::helper_threads().is_empty());
            until("no descriptors", || unix::descriptors() == before);
            assert!(kept.iter().all(|child| child.wait().is_ok()));
        });
    }

    /// A child inherits from the library exactly what it would inherit from std: no extra descriptor, and no signal
    /// blocked or ignored.
    #[test]
    fn child_inherits_the_same_as_a_child_of_std() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            let alive = sleeper(backend);
            assert_eq!(alive.wait_timeout(std::time::Duration::from_millis(1)).unwrap(), None);
            let (orphan, stdin) = stoppable(backend, 0);
            drop(orphan);
            let inherited = |command: &mut std::process::Command| {
                let child = backend.spawn(command.stdout(Stdio::piped())).unwrap();
                std::io::read_to_string(child.take_stdout().unwrap()).unwrap()
            };
            let theirs = inherited(&mut helper(&["inherited"]));
            assert!(theirs.starts_with("descriptors [0, 1, 2"), "{theirs}");
            let of_std = helper(&["inherited"]).stdout(Stdio::piped()).output().unwrap();
            assert_eq!(theirs, String::from_utf8(of_std.stdout).unwrap());
            drop(stdin);
            kill_and_wait(&alive);
            until("nothing is left", nothing_left);
        });
    }
}
