//! Promise, on Windows: a handle means one process and never another, and nothing of it is left when
//! the `SharedChild` goes.

#![cfg(windows)]

mod common;

use common::*;
use shared_child::seam::Backend;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;
use windows_sys::Win32::Foundation::{CloseHandle, ERROR_INVALID_PARAMETER, GetLastError};
use windows_sys::Win32::System::Threading::{
    CreateEventW, OpenProcess, PROCESS_QUERY_LIMITED_INFORMATION,
};

/// 259 is what `GetExitCodeProcess` says of a process that runs; and codes have 32 bits.
#[test]
fn every_exit_code_is_told() {
    watchdog!();
    on_every_backend(|backend| {
        for code in [259, 0, 1, i32::MAX, i32::MIN, -1, 0xC000_0005_u32 as i32] {
            let (child, stdin) = stoppable(backend, code);
            assert_eq!(child.try_wait().unwrap(), None);
            assert_eq!(child.wait_timeout(Duration::from_millis(5)).unwrap(), None);
            drop(stdin);
            assert_eq!(child.wait().unwrap().code(), Some(code));
            assert_eq!(child.try_wait().unwrap().unwrap().code(), Some(code));
            assert_eq!(child.wait_timeout(LONG).unwrap().unwrap().code(), Some(code));
            child.kill().unwrap();
            assert_eq!(child.into_inner().try_wait().unwrap().unwrap().code(), Some(code));
        }
    });
}

/// std's `Child` and a `SharedChild` kill with the same exit code.
#[test]
fn a_killed_child_exits_with_1() {
    watchdog!();
    on_every_backend(|backend| {
        let child = sleeper(backend);
        child.kill().unwrap();
        assert_eq!(wait(&child).code(), Some(1));
    });
}

/// As long as anybody has a handle of a process, it can be opened by its ID.
fn is_known(id: u32) -> bool {
    // SAFETY: it takes integers; the handle, if there is one, belongs to nobody else.
    unsafe {
        let process = OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, 0, id);
        if process.is_null() {
            assert_eq!(GetLastError(), ERROR_INVALID_PARAMETER);
            return false;
        }
        CloseHandle(process);
        true
    }
}

#[test]
fn a_child_is_forgotten_with_its_handle() {
    watchdog!();
    on_every_backend(|backend| {
        type End = fn(shared_child::SharedChild);
        let ends: [End; 4] = [
            drop,
            |child| assert!(wait(&child).success()),
            |child| drop(child.into_inner()),
            |child| {
                std::thread::scope(|scope| {
                    let waiters = [scope.spawn(|| wait(&child)), scope.spawn(|| wait(&child))];
                    assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap().success()));
                });
                assert!(is_known(child.id()), "the ID is taken while there is a handle");
            },
        ];
        for end in ends {
            let (child, stdin) = stoppable(backend, 0);
            let id = child.id();
            assert!(is_known(id));
            drop(stdin);
            end(child);
            // A child that was dropped is on its way out; nobody else has a handle.
            until("it is gone", || !is_known(id));
        }
    });
}

/// A dropped handle neither kills nor blocks.
#[test]
fn a_running_child_outlives_its_handle() {
    watchdog!();
    on_every_backend(|backend| {
        let mut command = helper(&["read", "say", "done"]);
        let child = backend.spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped())).unwrap();
        let (stdin, mut stdout) = (child.take_stdin(), child.take_stdout().unwrap());
        let id = child.id();
        drop(child);
        assert!(is_known(id), "it was killed");
        drop(stdin);
        let mut said = String::new();
        stdout.read_to_string(&mut said).unwrap();
        assert_eq!(said.trim_end(), "done");
        until("it is gone", || !is_known(id));
    });
}

/// The number of a new handle, which is the lowest that is free.
fn lowest_free_handle() -> usize {
    // SAFETY: no attributes and no name; the handle belongs to nobody else.
    unsafe {
        let event = CreateEventW(std::ptr::null(), 0, 0, std::ptr::null());
        assert!(!event.is_null());
        CloseHandle(event);
        event.addr()
    }
}

#[test]
fn handles_are_not_leaked() {
    watchdog!();
    on_every_backend(|backend| {
        let round = |backend: Backend| {
            assert!(wait(&quick(backend, 0)).success());
            drop(quick(backend, 0));
            let mut command = Command::new("no such program");
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            backend.spawn(&mut command).unwrap_err();
        };
        round(backend);
        let before = lowest_free_handle();
        for _ in 0..rounds(100) {
            round(backend);
        }
        // Handles are numbered in steps of 4. Other tests of this process come and go meanwhile.
        let more = lowest_free_handle().saturating_sub(before) / 4;
        assert!(more < rounds(100) / 2, "{more} more handles than before");
    });
}

/// `timeout`, the example, as far as Windows goes.
#[test]
fn the_example() {
    watchdog!();
    let timeout = |arguments: &[&str]| {
        let mut path = std::env::current_exe().unwrap();
        path.pop();
        let mut command = Command::new(path.join("..").join("examples").join("timeout.exe"));
        let child = env!("CARGO_BIN_EXE_shared_child_test_child");
        let arguments =
            arguments.iter().map(|argument| if *argument == "CHILD" { child } else { *argument });
        command.args(arguments).stdin(Stdio::null());
        wait(&shared_child::SharedChild::spawn(&mut command).unwrap()).code()
    };
    assert_eq!(timeout(&["0.1", "CHILD", "sleep"]), Some(124));
    assert_eq!(timeout(&["-p", "0.1", "CHILD", "sleep"]), Some(1), "as it was killed");
    assert_eq!(timeout(&["1d", "CHILD", "exit", "7"]), Some(7));
    assert_eq!(timeout(&["0", "CHILD", "exit", "259"]), Some(259));
    assert_eq!(timeout(&["1d", "no such program"]), Some(127));
    assert_eq!(timeout(&["1x", "CHILD", "exit", "7"]), Some(125));
}
