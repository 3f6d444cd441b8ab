//! Promise: an `ExitNotice` is ready from the exit on, for event loops of other code, and takes no exit from a task.

use super::*;
#[cfg(unix)]
use rustix::event::{PollFd, PollFlags, Timespec};
#[cfg(unix)]
use shared_child::ExitNotice;
#[cfg(unix)]
use std::{io, process::ChildStdin};

#[cfg(windows)]
#[test]
fn notice_is_a_handle_that_stays_signalled() {
    use std::os::windows::io::{AsHandle, AsRawHandle};
    use windows_sys::Win32::Foundation::{WAIT_OBJECT_0, WAIT_TIMEOUT};
    use windows_sys::Win32::System::Threading::WaitForSingleObject;
    watchdog!();
    on_every_backend(|backend| {
        let wait_for = |notice: &shared_child::ExitNotice, milliseconds| {
            // SAFETY: the handle is the notice's, which is borrowed.
            unsafe { WaitForSingleObject(notice.as_handle().as_raw_handle(), milliseconds) }
        };
        let (child, stdin) = stoppable(backend, 7);
        let notices = [child.exit_notice().unwrap(), child.exit_notice().unwrap()];
        assert!(notices.iter().all(|notice| wait_for(notice, 0) == WAIT_TIMEOUT));
        drop(stdin);
        for _ in 0..3 {
            assert!(notices.iter().all(|notice| wait_for(notice, 60_000) == WAIT_OBJECT_0));
        }
        assert_eq!(child.try_wait().unwrap().unwrap().code(), Some(7));
        let late = child.exit_notice().unwrap();
        drop(child);
        assert_eq!([wait_for(&late, 0), wait_for(&notices[0], 0)], [WAIT_OBJECT_0; 2]);
    });
}

#[cfg(unix)]
fn is_ready(notice: &ExitNotice, within: Duration) -> bool {
    let mut fds = [PollFd::new(notice, PollFlags::IN)];
    let within = Timespec::try_from(within).unwrap();
    rustix::event::poll(&mut fds, Some(&within)).unwrap();
    fds[0].revents().contains(PollFlags::IN)
}

/// Runs a test on every backend that supports notices.
#[cfg(unix)]
fn with_notices(test: impl Fn(SharedChild, ChildStdin, ExitNotice)) {
    on_every_backend(|backend| {
        let (child, stdin) = stoppable(backend, 7);
        match child.exit_notice() {
            Ok(notice) => test(child, stdin, notice),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::Unsupported);
                #[cfg(target_os = "linux")]
                assert_ne!(backend, Backend::ALL[0], "{error}");
                drop(stdin);
                wait(&child);
            }
        }
    });
}

#[cfg(unix)]
#[test]
fn notice_is_unsupported_where_a_thread_waits() {
    watchdog!();
    let (child, stdin) = stoppable(Backend::ALL[1], 7);
    let error = child.exit_notice().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    assert!(error.to_string().contains(&child.id().to_string()), "{error}");
    drop(stdin);
    wait(&child);
    // A child that is known to have ended still yields a notice, which is ready at once.
    assert!(is_ready(&child.exit_notice().unwrap(), Duration::ZERO));
}

#[cfg(unix)]
#[test]
fn notice_is_ready_from_the_exit_on() {
    watchdog!();
    with_notices(|child, stdin, notice| {
        let second = child.exit_notice().unwrap();
        assert!(!is_ready(&notice, Duration::ZERO));
        let mut exited = child.wait_async();
        let counter = Arc::new(WakeCounter::default());
        assert!(poll(&mut exited, &counter).is_pending());
        drop(stdin);
        for notice in [&notice, &second, &notice] {
            assert!(is_ready(notice, LONG));
        }
        // The notices did not consume the exit of the task.
        counter.wait_beyond(0);
        assert!(unix::is_zombie(child.id()), "it was reaped");
        let late = child.exit_notice().unwrap();
        assert!(is_ready(&late, Duration::ZERO));
        assert!(unix::is_zombie(child.id()), "it was reaped");
        assert_eq!(child.try_wait().unwrap().unwrap().code(), Some(7));
        assert_eq!(finish(&mut exited).unwrap().code(), Some(7));
        let after = child.exit_notice().unwrap();
        drop(exited);
        drop(child);
        for _ in 0..3 {
            assert!([&notice, &second, &after].iter().all(|it| is_ready(it, Duration::ZERO)));
        }
    });
}

/// In the child of a fork, as in a daemon, the numbers may belong to other descriptors.
#[cfg(target_os = "linux")]
#[test]
fn fork_that_drops_its_notices_closes_no_other_descriptor() {
    use std::os::fd::AsRawFd;
    alone!();
    watchdog!();
    let (child, stdin) = stoppable(Backend::ALL[0], 7);
    let ended = quick(Backend::ALL[0], 8);
    wait(&ended);
    let mut notices = [&child, &ended].map(|child| Some(child.exit_notice().unwrap()));
    let forked = || {
        let copies = notices.each_mut().map(|notice| notice.take().expect("a copy"));
        let numbers = copies.each_ref().map(AsRawFd::as_raw_fd);
        // SAFETY: plain integers. The copies are not used again.
        numbers.iter().for_each(|fd| assert_eq!(unsafe { libc::dup2(2, *fd) }, *fd));
        drop(copies);
        // SAFETY: plain integers.
        numbers.iter().filter(|fd| unsafe { libc::fcntl(**fd, libc::F_GETFD) } != -1).count() as u8
    };
    assert_eq!(unix::in_a_fork(forked), 2, "the drop closed other descriptors");
    let [notice, of_ended] = notices.map(|notice| notice.expect("only the fork has taken it"));
    assert!(is_ready(&of_ended, Duration::ZERO));
    assert!(!is_ready(&notice, Duration::ZERO));
    drop(stdin);
    assert!(is_ready(&notice, LONG));
    assert_eq!(wait(&child).code(), Some(7));
}

#[cfg(unix)]
#[test]
fn notice_outlives_the_handle() {
    watchdog!();
    with_notices(|child, stdin, notice| {
        drop(child);
        assert!(!is_ready(&notice, Duration::ZERO));
        drop(stdin);
        assert!(is_ready(&notice, LONG));
        assert!(is_ready(&notice, Duration::ZERO));
    });
    with_notices(|child, stdin, notice| {
        let mut inner = child.into_inner();
        drop(stdin);
        assert!(is_ready(&notice, LONG));
        assert_eq!(inner.wait().unwrap().code(), Some(7));
        assert!(is_ready(&notice, Duration::ZERO));
    });
}

#[cfg(target_os = "linux")]
#[test]
fn notices_work_in_an_epoll_of_the_caller() {
    use rustix::event::epoll;
    watchdog!();
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let (children, mut pipes): (Vec<_>, Vec<_>) =
        (0..10).map(|code| stoppable(Backend::ALL[0], code)).unzip();
    let notices: Vec<_> = children.iter().map(|child| child.exit_notice().unwrap()).collect();
    for (index, notice) in notices.iter().enumerate() {
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&epoll, notice, data, epoll::EventFlags::IN).unwrap();
    }
    let long = Timespec::try_from(LONG).unwrap();
    for last in (0..10_usize).rev() {
        drop(pipes.pop());
        let mut events = Vec::with_capacity(10);
        // A stop of this process interrupts `epoll_wait`, without any handler.
        rustix::io::retry_on_intr(|| {
            epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&long))
        })
        .unwrap();
        let ready: Vec<u64> = events.iter().map(|event| event.data.u64()).collect();
        assert_eq!(ready, [last as u64]);
        assert_eq!(children[last].try_wait().unwrap().unwrap().code(), Some(last as i32));
        epoll::delete(&epoll, &notices[last]).unwrap();
    }
}
