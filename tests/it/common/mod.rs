//! Helpers that the tests share.

#![allow(dead_code, unused_imports)] // each test file uses some of them

use shared_child::SharedChild;
use shared_child::seam::Backend;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub(crate) mod captures;
pub(crate) mod executor;
#[cfg(target_os = "linux")]
#[macro_use]
pub(crate) mod linux;
#[cfg(unix)]
pub(crate) mod stage;
#[cfg(unix)]
pub(crate) mod unix;
#[cfg(windows)]
pub(crate) mod windows;

/// Longer than any stall of a machine, and short enough to wait for.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Fails the whole test process, with this test's name, if the test takes too long.
pub(crate) struct Watchdog(Option<mpsc::Sender<()>>);

pub(crate) fn watchdog(test: &'static str) -> Watchdog {
    let (alive, dropped) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if dropped.recv_timeout(2 * LONG) == Err(mpsc::RecvTimeoutError::Timeout) {
            // The harness captures `eprintln!`, and prints it only when the test has ended.
            let _ = writeln!(std::io::stderr(), "{test} hangs");
            std::process::exit(101);
        }
    });
    Watchdog(Some(alive))
}

/// Guards a test by its own name.
#[macro_export]
macro_rules! watchdog {
    () => {
        let _watchdog = $crate::common::watchdog($crate::function_name!());
    };
}

/// The path of the enclosing function, without the crate.
#[macro_export]
macro_rules! function_name {
    () => {{
        fn here() {}
        let name = std::any::type_name_of_val(&here);
        let name = name.strip_suffix("::here").unwrap_or(name);
        name.split_once("::").map_or(name, |(_, name)| name)
    }};
}

/// The path of the helper program.
pub(crate) const HELPER: &str = env!("CARGO_BIN_EXE_shared_child_test_child");

/// A command for the helper program that plays these parts.
pub(crate) fn helper(parts: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(HELPER);
    command.args(parts).stdin(Stdio::null());
    command
}

/// The path of an example, which must be built.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this test's own path");
    let path = test.with_file_name(format!("../examples/{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(path.exists(), "{} is missing: run `cargo build --example {name}`", path.display());
    path
}

/// A new directory, which is removed with its files when this is dropped.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{name}-{}-{next}", std::process::id());
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir(&directory).expect("a directory");
        Self(directory)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).into_os_string().into_string().expect("a path in UTF-8")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Splits a text into parts.
pub(crate) fn parts(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// A part with these parts as its arguments, which another process plays.
pub(crate) fn given(to: &str, theirs: &[String]) -> Vec<String> {
    [&parts(to)[..], &[theirs.len().to_string()], theirs].concat()
}

/// A part that starts a child, which plays these parts.
pub(crate) fn start(theirs: &str) -> Vec<String> {
    given("spawn", &parts(theirs))
}

/// A child that runs until its pipe is dropped, and then exits with this code.
pub(crate) fn stoppable(backend: Backend, code: i32) -> (SharedChild, ChildStdin) {
    let child = backend.spawn(&mut stoppable_command(code)).expect("to spawn");
    let stdin = child.take_stdin().expect("a pipe");
    (child, stdin)
}

pub(crate) fn stoppable_command(code: i32) -> Command {
    let mut command = helper(&["read", "exit", &code.to_string()]);
    command.stdin(Stdio::piped());
    command
}

/// A child that runs until it is killed.
pub(crate) fn sleeper(backend: Backend) -> SharedChild {
    backend.spawn(&mut helper(&["sleep"])).expect("to spawn")
}

/// A child that exits at once.
pub(crate) fn quick(backend: Backend, code: i32) -> SharedChild {
    backend.spawn(&mut helper(&["exit", &code.to_string()])).expect("to spawn")
}

/// Waits for at most `LONG`.
#[track_caller]
pub(crate) fn wait(child: &SharedChild) -> ExitStatus {
    child.wait_timeout(LONG).expect("to wait").expect("it to exit")
}

/// Checks which mechanism the handle uses, or another detail that its `Debug` shows.
#[track_caller]
pub(crate) fn assert_served_by(child: &SharedChild, mechanism: &str) {
    let debug = format!("{child:?}");
    assert!(debug.contains(mechanism), "{debug}");
}

#[track_caller]
pub(crate) fn kill_and_wait(child: &SharedChild) {
    child.kill().expect("to kill");
    wait(child);
}

/// Runs a test on every backend that this system has.
pub(crate) fn on_every_backend(test: impl Fn(Backend)) {
    for backend in Backend::ALL {
        eprintln!("on {backend:?}");
        test(*backend);
    }
}

/// Polls a condition that has no notification. The pauses leave the processor to concurrent tests.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    let mut pause = Duration::from_micros(50);
    while !condition() {
        assert!(start.elapsed() < LONG, "still not: {what}");
        std::thread::sleep(pause);
        pause = (2 * pause).min(Duration::from_millis(5));
    }
}

/// Runs the rest of a test in a process of its own: the same test binary, with this test alone. Returns `true` in
/// that process.
#[track_caller]
pub(crate) fn isolated(test: &str, wrapper: &[&str]) -> bool {
    const MARK: &str = "SHARED_CHILD_TEST_ALONE";
    if std::env::var_os(MARK).is_some_and(|name| name == test) {
        return true;
    }
    let me = std::env::current_exe().expect("a path");
    let mut command = match wrapper {
        [] => Command::new(me),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(me);
            command
        }
    };
    // The output goes to a file: a process that a failed test leaves behind would hold a pipe open.
    let name = format!("{}-{}.log", test.replace("::", "-"), std::process::id());
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let file = std::fs::File::create(&log).expect("a log file");
    command.args(["--exact", test, "--nocapture", "--test-threads", "1"]).env(MARK, test);
    command.stdin(Stdio::null()).stdout(file.try_clone().expect("a copy")).stderr(file);
    let mut child = command.spawn().expect("to start the test alone");
    let deadline = Instant::now() + 3 * LONG;
    let status = loop {
        match child.try_wait().expect("to wait") {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                child.kill().expect("to kill");
                break child.wait().expect("to wait");
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let said = String::from_utf8_lossy(&std::fs::read(&log).expect("the log")).into_owned();
    std::fs::remove_file(&log).expect("to remove the log");
    eprintln!("{said}");
    assert!(status.success(), "{test} failed on its own: {status}");
    assert!(said.contains("1 passed"), "{test} did not run on its own");
    false
}

/// Returns from the test unless it runs in a process of its own; starts that process if needed.
#[macro_export]
macro_rules! alone {
    () => {
        $crate::alone!(&[])
    };
    ($wrapper:expr) => {
        if !$crate::common::isolated($crate::function_name!(), $wrapper) {
            return;
        }
    };
}

/// Whether this is wine, which does not support everything that Windows does.
#[cfg(windows)]
pub(crate) fn on_wine() -> bool {
    use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleA, GetProcAddress};
    // SAFETY: the names end with a zero. The module is part of every process.
    unsafe {
        let ntdll = GetModuleHandleA(c"ntdll.dll".as_ptr().cast());
        GetProcAddress(ntdll, c"wine_get_version".as_ptr().cast()).is_some()
    }
}

#[cfg(not(windows))]
pub(crate) fn on_wine() -> bool {
    false
}

/// The number of repetitions of a test that finds races by repetition: higher if the environment requests torture,
/// lower on an emulated machine.
pub(crate) fn rounds(usual: usize) -> usize {
    if std::env::var_os("SHARED_CHILD_TORTURE").is_some() {
        usual * 10
    } else if std::env::var_os("SHARED_CHILD_BRIEF").is_some() {
        usual / 10
    } else {
        usual
    }
}
