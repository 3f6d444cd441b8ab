//! Promise: the usage of a child is reported once it has exited, no matter which call here waited for it, and the
//! figures are never those of another process.

use crate::common::*;
use shared_child::{SharedChild, Usage};
use std::process::Stdio;
use std::time::Duration;

/// Whether the system reports usage without a reap.
const REPORTS: bool = cfg!(any(
    windows,
    target_os = "linux",
    target_os = "android",
    target_os = "macos",
    target_os = "freebsd",
    target_os = "netbsd"
));

/// Whether the figures include the grandchildren that the child has waited for.
const COUNTS_GRANDCHILDREN: bool = REPORTS && !cfg!(any(windows, target_os = "netbsd"));

#[track_caller]
fn usage(child: &SharedChild) -> Option<Usage> {
    let usage = child.usage().expect("an answer");
    assert_eq!(usage.is_some(), REPORTS, "{usage:?}");
    if let Some(usage) = &usage {
        assert_eq!(usage.cpu(), usage.user + usage.system);
    }
    usage
}

/// Wine reports figures, but the times it gives for other processes are wrong.
fn has_used(usage: Option<Usage>, cpu: Duration) -> bool {
    on_wine() || usage.is_none_or(|usage| usage.cpu() >= cpu)
}

const BURNT: Duration = Duration::from_millis(100);

#[test]
fn usage_reports_the_cpu_time_of_a_child() {
    watchdog!();
    on_every_backend(|backend| {
        let child = backend.spawn(&mut helper(&["burn", "100"])).unwrap();
        assert!(wait(&child).success());
        let used = usage(&child);
        assert!(has_used(used, BURNT), "{used:?}");
        assert_eq!(usage(&child), used, "it is remembered");
    });
}

#[test]
fn usage_reports_the_peak_memory_of_a_child() {
    watchdog!();
    on_every_backend(|backend| {
        let child = backend.spawn(&mut helper(&["touch", "64"])).unwrap();
        assert!(wait(&child).success());
        let used = usage(&child);
        let peak = used.and_then(|usage| usage.peak_memory);
        if cfg!(any(target_os = "linux", target_os = "macos", target_os = "freebsd")) {
            assert!(peak.is_some(), "{used:?}");
        }
        // Systems count memory in large units.
        assert!(peak.is_none_or(|peak| peak >= 48 << 20), "{used:?}");
    });
}

/// Grandchildren that the child has waited for count, where the documentation says so.
#[test]
fn usage_includes_a_grandchild_that_was_waited_for() {
    watchdog!();
    on_every_backend(|backend| {
        let child = backend.spawn(&mut helper(&["run", "2", "burn", "100"])).unwrap();
        assert!(wait(&child).success());
        let used = usage(&child);
        assert!(!COUNTS_GRANDCHILDREN || has_used(used, BURNT), "{used:?}");
    });
}

/// More CPU time than the start of a process costs.
#[test]
fn usage_excludes_a_grandchild_that_was_not_waited_for() {
    watchdog!();
    on_every_backend(|backend| {
        let parts = ["spawn", "4", "burn", "1000", "say", "burnt", "read"];
        let mut command = helper(&parts);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = backend.spawn(&mut command).unwrap();
        let stdin = child.take_stdin();
        let mut said = std::io::BufReader::new(child.take_stdout().unwrap());
        let mut line = String::new();
        while line != "burnt\n" {
            line.clear();
            assert_ne!(std::io::BufRead::read_line(&mut said, &mut line).unwrap(), 0);
        }
        drop(stdin);
        wait(&child);
        let used = usage(&child);
        assert!(
            on_wine() || used.is_none_or(|usage| usage.cpu() < Duration::from_secs(1)),
            "{used:?}"
        );
    });
}

#[test]
fn no_usage_is_reported_before_the_exit() {
    watchdog!();
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        assert_eq!(child.usage().unwrap(), None);
        drop(stdin);
        assert_eq!(wait(&child).code(), Some(7));
        usage(&child);
        let child = sleeper(backend);
        assert_eq!(child.usage().unwrap(), None);
        kill_and_wait(&child);
        usage(&child);
    });
}

/// `usage` notices the exit, as a poll does; from then on the status is available.
#[test]
fn usage_notices_the_exit_without_a_wait() {
    watchdog!();
    on_every_backend(|backend| {
        let child = backend.spawn(&mut helper(&["burn", "100", "exit", "7"])).unwrap();
        if REPORTS {
            until("the usage is reported", || child.usage().unwrap().is_some());
            assert!(child.try_wait().unwrap().is_some());
        }
        assert_eq!(wait(&child).code(), Some(7));
        assert!(has_used(usage(&child), BURNT));
        let child = backend.spawn(&mut helper(&["burn", "100", "exit", "7"])).unwrap();
        until("it has exited", || child.try_wait().unwrap().is_some());
        assert!(has_used(usage(&child), BURNT));
    });
}

/// Every thread that learns of the exit reads the usage, and all threads read the same figures.
#[test]
fn many_threads_read_the_same_usage() {
    watchdog!();
    on_every_backend(|backend| {
        for _ in 0..rounds(20) {
            let (child, stdin) = stoppable(backend, 7);
            let usages = std::thread::scope(|scope| {
                let waiter = || {
                    assert_eq!(wait(&child).code(), Some(7));
                    usage(&child)
                };
                let untimed = || {
                    assert_eq!(child.wait().unwrap().code(), Some(7));
                    usage(&child)
                };
                let poller = || {
                    until("it has exited", || child.try_wait().unwrap().is_some());
                    usage(&child)
                };
                let reader = || {
                    until("the usage is reported", || !REPORTS || child.usage().unwrap().is_some());
                    child.usage().unwrap()
                };
                let threads = [
                    scope.spawn(waiter),
                    scope.spawn(untimed),
                    scope.spawn(poller),
                    scope.spawn(reader),
                ];
                drop(stdin);
                threads.map(|thread| thread.join().unwrap())
            });
            assert!(usages.iter().all(|usage| *usage == usages[0]), "{usages:?}");
        }
    });
}

/// The reap was not ours.
#[test]
fn child_waited_for_before_new_has_no_usage() {
    watchdog!();
    on_every_backend(|backend| {
        let mut child = helper(&["exit", "7"]).spawn().unwrap();
        child.wait().unwrap();
        let child = backend.share(child).unwrap();
        assert_eq!(child.usage().unwrap(), None);
        assert_eq!(wait(&child).code(), Some(7));
        // The same with a child that was not waited for.
        let mut command = stoppable_command(7);
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take();
        let child = backend.share(child).unwrap();
        drop(stdin);
        wait(&child);
        usage(&child);
    });
}

#[test]
fn capture_reports_the_usage() {
    watchdog!();
    on_every_backend(|backend| {
        let captured =
            captures::run(backend, &["burn", "100", "say", "x"], &mut captures::bounded());
        assert!(captured.success(), "{captured:?}");
        assert_eq!(captured.usage.is_some(), REPORTS, "{captured:?}");
        assert!(has_used(captured.usage, BURNT), "{captured:?}");
        let mut capture = captures::bounded();
        let captured = captures::run(
            backend,
            &["say", "x", "sleep"],
            capture.timeout(Duration::from_millis(1)),
        );
        assert!(captured.stopped_by.is_some(), "{captured:?}");
        assert_eq!(captured.usage.is_some(), REPORTS, "{captured:?}");
    });
}

#[cfg(unix)]
mod unix_only {
    use super::*;
    #[cfg(target_os = "linux")]
    use crate::common::linux::{Deny, deny};
    #[cfg(target_os = "linux")]
    use crate::common::stage::daemon;
    use crate::common::stage::{Kind, Stage, lists, parts, start};
    #[cfg(target_os = "linux")]
    use shared_child::SpawnOptions;
    #[cfg(target_os = "linux")]
    use shared_child::seam::Backend;
    #[cfg(target_os = "linux")]
    use std::io::Write;

    /// The zombie is kept to hold its process ID, and its usage does not change.
    #[test]
    fn usage_of_a_pinned_leader_does_not_change() {
        watchdog!();
        if !lists(function_name!()) {
            return;
        }
        on_every_backend(|backend| {
            let line = [start("pid read"), parts("pid burn 100 exit 7")].concat();
            let stage = Stage::set(Kind::Group(backend), &line, 2);
            assert_eq!(wait(&stage.child).code(), Some(7));
            assert!(unix::is_zombie(stage.child.id()));
            let used = usage(&stage.child);
            assert!(has_used(used, BURNT), "{used:?}");
            stage.tree().kill().unwrap();
            stage.wait_empty();
            assert_eq!(unix::state(stage.child.id()), None);
            assert_eq!(usage(&stage.child), used);
        });
    }

    #[test]
    fn no_usage_is_reported_after_a_foreign_reap() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            let (child, stdin) = stoppable(backend, 7);
            drop(stdin);
            unix::reap(child.id());
            assert_eq!(child.usage().unwrap(), None);
            let _ = child.wait();
            assert_eq!(child.usage().unwrap(), None);
            let child = unix::spawn_reaped(backend);
            assert_eq!(child.usage().unwrap(), None);
        });
    }

    /// Figures that were reported do not change.
    #[test]
    fn foreign_reap_after_a_wait_does_not_change_the_usage() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            let stage = Stage::set(Kind::Group(backend), &parts("pid burn 100 exit 7"), 1);
            assert_eq!(wait(&stage.child).code(), Some(7));
            unix::reap(stage.child.id());
            let used = usage(&stage.child);
            assert!(has_used(used, BURNT), "{used:?}");
            assert_eq!(wait(&stage.child).code(), Some(7));
            assert_eq!(usage(&stage.child), used);
        });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn no_usage_is_reported_where_waitid_is_refused() {
        alone!();
        watchdog!();
        deny(&[Deny::always(libc::SYS_waitid, libc::ENOSYS)]);
        on_every_backend(|backend| {
            let (child, stdin) = stoppable(backend, 7);
            assert_eq!(child.usage().unwrap(), None);
            drop(stdin);
            assert_eq!(wait(&child).code(), Some(7));
            assert_eq!(child.usage().unwrap(), None);
        });
    }

    /// A sandbox denies `waitid` while the child runs.
    #[cfg(target_os = "linux")]
    #[test]
    fn no_usage_is_reported_if_waitid_is_refused_while_the_child_runs() {
        alone!();
        watchdog!();
        let children = Backend::ALL.iter().map(|backend| stoppable(*backend, 7));
        let children: Vec<_> = children.collect();
        deny(&[Deny::always(libc::SYS_waitid, libc::ENOSYS)]);
        for (child, stdin) in children {
            drop(stdin);
            assert_eq!(wait(&child).code(), Some(7));
            assert_eq!(child.usage().unwrap(), None);
        }
    }

    /// The cgroup counts every process that was ever in it, and its figures outlive it.
    #[cfg(target_os = "linux")]
    #[test]
    fn usage_of_a_cgroup_counts_every_member() {
        watchdog!();
        if !Kind::all("usage_of_a_cgroup_counts_every_member").contains(&Kind::Cgroup) {
            return;
        }
        // No process waits for the daemon, which burns CPU time after the leader has exited.
        let line = [daemon("pid hear burn 200 say burnt read"), parts("burn 100 pid")].concat();
        let mut stage = Stage::set(Kind::Cgroup, &line, 2);
        assert_eq!(wait(&stage.child).code(), Some(0));
        let cgroup = linux::tree_cgroup_of(stage.survivors()[0]).expect("the daemon is in it");
        let has_peak = cgroup.join("memory.peak").exists();
        let before = usage(&stage.child).unwrap();
        assert!(before.cpu() >= BURNT, "{before:?}");
        assert_eq!(before.peak_memory.is_some(), has_peak);
        stage.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        stage.hear("burnt");
        let since = usage(&stage.child).unwrap();
        assert!(since.cpu() >= before.cpu() + 2 * BURNT, "{since:?} after {before:?}");
        stage.stdin = None;
        stage.wait_empty();
        assert!(!cgroup.exists());
        let total = usage(&stage.child).unwrap();
        assert!(total.cpu() >= since.cpu(), "{total:?} after {since:?}");
        assert_eq!(total.peak_memory.is_some(), has_peak);
        assert_eq!(usage(&stage.child), Some(total));
    }

    /// No usage is reported while the leader runs, even if other members have ended. A capture reports it at its end.
    #[cfg(target_os = "linux")]
    #[test]
    fn running_leader_of_a_cgroup_has_no_usage() {
        watchdog!();
        if !Kind::all("running_leader_of_a_cgroup_has_no_usage").contains(&Kind::Cgroup) {
            return;
        }
        let stage = Stage::set(Kind::Cgroup, &parts("run 2 burn 100 pid read"), 1);
        assert_eq!(stage.child.usage().unwrap(), None);
        stage.child.kill().unwrap();
        wait(&stage.child);
        assert!(usage(&stage.child).unwrap().cpu() >= BURNT);
        stage.wait_empty();
        assert!(usage(&stage.child).unwrap().cpu() >= BURNT);

        let mut options = SpawnOptions::new();
        shared_child::linux::SpawnOptionsExt::cgroup(&mut options, true);
        let line = daemon("burn 100");
        let mut command = helper(&line);
        command.stdout(Stdio::piped());
        // The daemon holds the pipe open until it has burnt its CPU time.
        let captured = options.capture(&mut command, captures::bounded().drain(LONG)).unwrap();
        assert!(captured.usage.unwrap().cpu() >= BURNT, "{captured:?}");
    }

    /// Another process has removed the cgroup, so the child's own usage is reported.
    #[cfg(target_os = "linux")]
    #[test]
    fn usage_of_a_removed_cgroup_is_that_of_the_child() {
        watchdog!();
        if !Kind::all("usage_of_a_removed_cgroup_is_that_of_the_child").contains(&Kind::Cgroup) {
            return;
        }
        let stage = Stage::set(Kind::Cgroup, &parts("burn 100 pid hear exit 7"), 1);
        let cgroup = linux::tree_cgroup_of(stage.child.id()).expect("it is in it");
        stage.stdin.as_ref().unwrap().write_all(b"\n").unwrap();
        assert_eq!(wait(&stage.child).code(), Some(7));
        until("it is empty", || std::fs::remove_dir(&cgroup).is_ok());
        let used = usage(&stage.child).unwrap();
        assert!(used.cpu() >= BURNT && used.peak_memory.is_some(), "{used:?}");
        stage.wait_empty();
        assert_eq!(usage(&stage.child), Some(used));
    }

    /// A copied handle reports no other process's figures, and does not block.
    #[test]
    fn copied_handle_in_a_fork_reports_no_usage() {
        alone!();
        watchdog!();
        on_every_backend(|backend| {
            let (child, stdin) = stoppable(backend, 7);
            let reported = unix::in_a_fork(|| u8::from(matches!(child.usage(), Ok(Some(_)))));
            assert_eq!(reported, 0);
            drop(stdin);
            wait(&child);
            usage(&child);
        });
    }
}
