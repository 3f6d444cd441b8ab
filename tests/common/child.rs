//! The helper program: it plays every child of the tests, on every platform.
//!
//! `shared_child_test_child [PART [ARGUMENT]]…` plays the parts one after the other, and exits with 0
//! unless a part says otherwise. Nothing it does outlives ten minutes.

use std::io::{Read, Write};
use std::time::Duration;

fn main() {
    play(std::env::args().skip(1));
}

fn play(mut arguments: impl Iterator<Item = String>) {
    while let Some(part) = arguments.next() {
        let mut argument = || arguments.next().expect("the part wants an argument");
        match part.as_str() {
            // Says that it got this far.
            "say" => {
                let mut stdout = std::io::stdout();
                writeln!(stdout, "{}", argument()).expect("to say");
                stdout.flush().expect("to say");
            }
            // Runs until its standard input is closed.
            "read" => {
                let _ = std::io::stdin().read_to_end(&mut Vec::new());
            }
            // Echoes its standard input.
            "echo" => {
                std::io::copy(&mut std::io::stdin(), &mut std::io::stdout()).expect("to echo");
            }
            // Runs until it is killed.
            "sleep" => sleep(),
            "exit" => std::process::exit(argument().parse().expect("an exit code")),
            "complain" => eprintln!("{}", argument()),
            #[cfg(unix)]
            "signal" => unix::signal_self(argument().parse().expect("a signal")),
            #[cfg(unix)]
            "ignore" => unix::ignore(argument().parse().expect("a signal")),
            #[cfg(target_os = "linux")]
            "inherited" => linux::inherited(),
            // Goes on in a second thread, and ends the first.
            #[cfg(target_os = "linux")]
            "thread" => linux::go_on_in_a_thread(arguments.by_ref().collect()),
            other => panic!("unknown part: {other}"),
        }
    }
}

/// Not beyond the end of its parent: a test that fails leaves nobody behind. (Those who read have a
/// pipe that then ends.) And without a second thread: the first of several may look like a zombie
/// while the process has yet to exit.
fn sleep() {
    #[cfg(unix)]
    let parent = std::os::unix::process::parent_id();
    for _ in 0..600 {
        std::thread::sleep(Duration::from_secs(1));
        #[cfg(unix)]
        if std::os::unix::process::parent_id() != parent {
            break;
        }
    }
}

#[cfg(unix)]
mod unix {
    use std::ffi::c_int;
    pub(crate) fn signal_self(signal: c_int) {
        // No core files from the tests.
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: both calls take integers, or a struct that outlives them.
        unsafe {
            libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
            libc::kill(libc::getpid(), signal);
        }
    }

    pub(crate) fn ignore(signal: c_int) {
        // SAFETY: SIG_IGN runs no code.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

#[cfg(target_os = "linux")]
mod linux {
    pub(crate) fn go_on_in_a_thread(parts: Vec<String>) {
        std::thread::spawn(|| {
            super::play(parts.into_iter());
            std::process::exit(0);
        });
        // SAFETY: ends this thread only. What is on its stack is never used again.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }

    /// Lists what it got from its parent without being told so: descriptors, and signals that are
    /// blocked or ignored.
    pub(crate) fn inherited() {
        let directory = std::fs::read_dir("/proc/self/fd").expect("/proc");
        let mut descriptors: Vec<u32> = directory
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            // The one that lists them is closed by now.
            .filter(|fd| std::fs::metadata(format!("/proc/self/fd/{fd}")).is_ok())
            .collect();
        descriptors.sort_unstable();
        println!("descriptors {descriptors:?}");
        let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
        for line in
            status.lines().filter(|line| line.starts_with("SigBlk") || line.starts_with("SigIgn"))
        {
            println!("{line}");
        }
    }
}
