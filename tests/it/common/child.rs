//! The helper program: it plays every child of the tests, on every platform.
//!
//! `shared_child_test_child [PART [ARGUMENT]]…` plays the parts one after the other, and exits with 0 unless a part
//! ends it. Neither it nor a process that it starts runs for more than ten minutes.

use shared_child::seam::Backend;
use shared_child::{SharedChild, SpawnOptions};
use std::io::{Read, Write};
use std::process::Command;
use std::time::Duration;

fn main() {
    play(std::env::args().skip(1));
}

/// Turns LeakSanitizer (`ci/asan`) off. It stops the program to inspect it, and hangs if a SIGCONT arrives then, as
/// in some tests; and this program leaks on purpose.
#[unsafe(no_mangle)]
extern "C" fn __lsan_is_turned_off() -> std::ffi::c_int {
    1
}

fn play(mut arguments: impl Iterator<Item = String>) {
    // The process exits without dropping the handles that it owns.
    let mut owned = std::mem::ManuallyDrop::new(Vec::<SharedChild>::new());
    while let Some(part) = arguments.next() {
        let mut argument = || arguments.next().expect("the part requires an argument");
        match part.as_str() {
            // Prints its argument.
            "say" => say(&argument()),
            // Runs until its standard input is closed.
            "read" => {
                let _ = std::io::stdin().read_to_end(&mut Vec::new());
            }
            // Runs until it has read a line.
            "hear" => {
                let _ = std::io::stdin().read_line(&mut String::new());
            }
            // Echoes its standard input.
            "echo" => {
                std::io::copy(&mut std::io::stdin(), &mut std::io::stdout()).expect("to echo");
            }
            // Echoes its standard input twice.
            "echo-both" => {
                let mut buffer = [0; 8192];
                while let count @ 1.. = std::io::stdin().read(&mut buffer).expect("to read") {
                    std::io::stdout().write_all(&buffer[..count]).expect("to write");
                    std::io::stderr().write_all(&buffer[..count]).expect("to write");
                }
            }
            // Writes this many bytes.
            "write" => write(&mut std::io::stdout(), &argument()),
            "write-err" => write(&mut std::io::stderr(), &argument()),
            // Writes until no process has the read end open.
            "flood" => while std::io::stdout().write_all(&[b'x'; 4096]).is_ok() {},
            // Writes a byte per millisecond until no process has the read end open.
            "drip" => {
                let mut stdout = std::io::stdout();
                while stdout.write_all(b".").and_then(|()| stdout.flush()).is_ok() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            "close-stdin" => close(0),
            "close-stdout" => close(1),
            "close-stderr" => close(2),
            // Runs until it is killed.
            "sleep" => sleep(),
            "exit" => std::process::exit(argument().parse().expect("an exit code")),
            "complain" => eprintln!("{}", argument()),
            // Starts another helper, which plays this many of the next arguments, and continues without it.
            "spawn" => {
                let count = argument().parse().expect("a number of arguments");
                let child = another(arguments.by_ref().take(count)).spawn().expect("to spawn");
                say(&format!("child {}", child.id()));
                std::mem::forget(child);
            }
            // Does the same through the library, and keeps the handle. The word chooses the options: see `own`.
            "owner" => {
                let kind = argument();
                let count = argument().parse().expect("a number of arguments");
                let mut command = another(arguments.by_ref().take(count));
                let child = own(&kind, &mut command);
                say(&format!("child {}", child.id()));
                owned.push(child);
            }
            "drop-owned" => owned.clear(),
            "poll-owned" => {
                for child in owned.iter() {
                    assert_eq!(child.try_wait().expect("to poll"), None, "it has exited");
                }
            }
            "give-up-owned" => {
                for child in owned.drain(..) {
                    std::mem::forget(child.into_inner());
                }
            }
            "wait-for-owned" => {
                for child in owned.iter() {
                    child.wait().expect("to wait");
                    assert!(
                        child.tree().is_none_or(|tree| tree.wait_empty(None).expect("to wait"))
                    );
                }
            }
            // Reaps the children without the library, whose next wait notices that.
            #[cfg(unix)]
            "reap-owned" => {
                for child in owned.iter() {
                    unix::reap(child.id());
                    let _ = child.wait();
                }
            }
            // Waits until this file exists.
            "await" => {
                let path = argument();
                let exists = (0..60_000).any(|_| {
                    std::thread::sleep(Duration::from_millis(1));
                    std::path::Path::new(&path).exists()
                });
                assert!(exists, "there is no such file");
            }
            "kill-owned" => {
                for child in owned.iter() {
                    child.tree().expect("a tree").kill().expect("to kill it");
                }
            }
            // Starts another helper in the same way, and waits for its exit.
            "run" => {
                let count = argument().parse().expect("a number of arguments");
                let mut child = another(arguments.by_ref().take(count)).spawn().expect("to spawn");
                child.wait().expect("to wait");
            }
            // Uses this many milliseconds of CPU time.
            "burn" => {
                let time = Duration::from_millis(argument().parse().expect("a number"));
                let start = cpu_time();
                while cpu_time() < start + time {
                    // Under wine another process reads the clock.
                    for number in 0..1_000_000_u32 {
                        std::hint::black_box(number);
                    }
                }
            }
            // Writes to this many MiB of memory.
            "touch" => {
                let size: usize = argument().parse().expect("a number");
                std::hint::black_box(vec![1_u8; size << 20]);
            }
            // Prints its process ID.
            "pid" => say(&format!("pid {}", std::process::id())),
            #[cfg(unix)]
            "default" => unix::on_signal(unix::signal(&argument()), libc::SIG_DFL),
            #[cfg(unix)]
            "setsid" => unix::setsid(),
            // Prints the ID of its process group.
            #[cfg(unix)]
            "group" => say(&unix::group().to_string()),
            #[cfg(unix)]
            "own-group" => unix::own_group(),
            // Enters the process group of another process of its session.
            #[cfg(unix)]
            "enter-group" => unix::enter_group(argument().parse().expect("a process group")),
            // Makes a new session when the signal arrives, and continues.
            #[cfg(unix)]
            "setsid-on" => unix::setsid_on(argument().parse().expect("a signal")),
            // Continues with an empty environment.
            #[cfg(unix)]
            "bare" => unix::without_environment(arguments.by_ref().collect()),
            // Moves between a group of its own and its old group until it is killed.
            #[cfg(unix)]
            "hop-groups" => unix::hop_groups(),
            #[cfg(unix)]
            "fork-steadily" => unix::fork_steadily(&argument()),
            // Executes another helper in its place, this many times.
            #[cfg(unix)]
            "exec-steadily" => {
                let times = argument().parse().expect("a number");
                let rest: Vec<String> = arguments.by_ref().collect();
                unix::exec_steadily(times, &rest);
                play(rest.into_iter());
            }
            // Prints the word "signal" and the argument when the signal arrives, and continues.
            #[cfg(unix)]
            "report" => unix::report(&argument()),
            #[cfg(unix)]
            "signal" => unix::signal_self(unix::signal(&argument())),
            #[cfg(unix)]
            "ignore" => unix::on_signal(unix::signal(&argument()), libc::SIG_IGN),
            #[cfg(all(unix, not(target_os = "linux")))]
            "inherited" => unix::inherited(),
            #[cfg(target_os = "linux")]
            "inherited" => linux::inherited(),
            // Moves itself to the cgroup of this directory.
            #[cfg(target_os = "linux")]
            "enter-cgroup" => {
                let procs = std::path::Path::new(&argument()).join("cgroup.procs");
                std::fs::write(procs, "0").expect("to enter the cgroup");
            }
            // Clears its dumpable flag, so that its environment belongs to root.
            #[cfg(target_os = "linux")]
            "hide" => linux::hide(),
            // Unmaps its environment. The argument must be longer than two pages; the environment follows it.
            #[cfg(target_os = "linux")]
            "unmap-environment" => {
                argument();
                linux::unmap_environment();
            }
            // Prints the signal that it receives when its parent dies.
            #[cfg(target_os = "linux")]
            "death-signal" => linux::death_signal(),
            // Shows an environment of this many MiB, which take no memory.
            #[cfg(target_os = "linux")]
            "vast-environment" => linux::show_an_environment(argument().parse().expect("a size")),
            // Continues in a second thread, and ends the first.
            #[cfg(target_os = "linux")]
            "thread" => linux::continue_in_a_thread(arguments.by_ref().collect()),
            other => panic!("unknown part: {other}"),
        }
    }
}

fn own(kind: &str, command: &mut Command) -> SharedChild {
    let mut options = SpawnOptions::new();
    options.tree(kind.contains("tree"));
    options.kill_with_parent(!kind.contains("loose")).kill_on_drop(kind.contains("drop"));
    #[cfg(unix)]
    if kind.contains("guarded") {
        shared_child::seam::tie_by_guardian(&mut options);
    }
    #[cfg(target_os = "linux")]
    shared_child::linux::SpawnOptionsExt::cgroup(&mut options, kind.contains("cgroup"));
    if kind.contains("thread") {
        // The spawning thread ends at once.
        return std::thread::scope(|scope| {
            scope.spawn(|| options.spawn(command)).join().expect("no panic").expect("to spawn")
        });
    }
    let backend = Backend::ALL[usize::from(kind.contains("fallback"))];
    backend.spawn_with(&options, command).expect("to spawn")
}

fn say(line: &str) {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{line}").expect("to say");
    stdout.flush().expect("to say");
}

/// Writes bytes that show their position.
fn write(to: &mut impl Write, count: &str) {
    let mut left: usize = count.parse().expect("a number");
    let block: Vec<u8> = (0..251).cycle().take(251 * 256).collect();
    while left > 0 {
        let some = left.min(block.len());
        to.write_all(&block[..some]).expect("to write");
        left -= some;
    }
    to.flush().expect("to write");
}

/// Closes a standard stream of this process.
fn close(stream: u32) {
    #[cfg(unix)]
    // SAFETY: std alone uses the descriptor, and treats a closed one as an empty one.
    drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(stream as i32) });
    #[cfg(windows)]
    {
        use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
        let handle = match stream {
            0 => std::io::stdin().as_raw_handle(),
            1 => std::io::stdout().as_raw_handle(),
            _ => std::io::stderr().as_raw_handle(),
        };
        // SAFETY: as above.
        drop(unsafe { OwnedHandle::from_raw_handle(handle) });
    }
}

/// The CPU time of this process, as its parent reads it.
#[cfg(unix)]
fn cpu_time() -> Duration {
    // SAFETY: the struct holds integers, and outlives the call.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &raw mut usage), 0);
        usage
    };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

#[cfg(windows)]
fn cpu_time() -> Duration {
    use windows_sys::Win32::Foundation::FILETIME;
    use windows_sys::Win32::System::Threading::{GetCurrentProcess, GetProcessTimes};
    let [mut created, mut exited, mut kernel, mut user] = [FILETIME::default(); 4];
    // SAFETY: the structs outlive the call, and the handle is always open.
    let succeeded = unsafe {
        GetProcessTimes(
            GetCurrentProcess(),
            &raw mut created,
            &raw mut exited,
            &raw mut kernel,
            &raw mut user,
        )
    };
    assert_ne!(succeeded, 0);
    let units =
        |time: FILETIME| u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime);
    Duration::from_nanos(100 * (units(kernel) + units(user)))
}

fn another(parts: impl Iterator<Item = String>) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command.args(parts);
    command
}

/// Sleeps until the process is killed, or its parent has ended: so a failed test leaves no process. (A process that
/// reads ends with its pipe.) There is no second thread: a process whose first thread has ended shows as a zombie
/// before it exits.
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
    use std::sync::OnceLock;

    pub(crate) fn signal_self(signal: c_int) {
        // No core files from the tests.
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the calls take integers, or a struct that outlives them, and install no handler.
        unsafe {
            libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
            // The program that runs the tests may ignore it.
            libc::signal(signal, libc::SIG_DFL);
            libc::kill(libc::getpid(), signal);
        }
    }

    pub(crate) fn reap(child: u32) {
        // SAFETY: no status is requested.
        let reaped = unsafe { libc::waitpid(child as libc::pid_t, std::ptr::null_mut(), 0) };
        assert_eq!(reaped, child as libc::pid_t, "waitpid: {}", std::io::Error::last_os_error());
    }

    pub(crate) fn setsid() {
        // SAFETY: no arguments.
        assert!(unsafe { libc::setsid() } > 0, "setsid: {}", std::io::Error::last_os_error());
    }

    pub(crate) fn group() -> libc::pid_t {
        // SAFETY: an integer.
        unsafe { libc::getpgid(0) }
    }

    pub(crate) fn own_group() {
        // SAFETY: integers.
        assert_eq!(unsafe { libc::setpgid(0, 0) }, 0, "{}", std::io::Error::last_os_error());
    }

    pub(crate) fn enter_group(group: libc::pid_t) {
        // SAFETY: integers.
        assert_eq!(unsafe { libc::setpgid(0, group) }, 0, "to enter the group");
    }

    pub(crate) fn setsid_on(signal: c_int) {
        extern "C" fn leave(_: c_int) {
            // SAFETY: setsid(2) takes no arguments, and is async-signal-safe.
            unsafe { libc::setsid() };
        }
        let leave: extern "C" fn(c_int) = leave;
        on_signal(signal, leave as libc::sighandler_t);
    }

    pub(crate) fn hop_groups() {
        // SAFETY: integers. Without a handler the alarm ends the process.
        unsafe {
            libc::alarm(600);
            let home = libc::getpgid(0);
            loop {
                libc::setpgid(0, 0);
                libc::setpgid(0, home);
            }
        }
    }

    pub(crate) fn without_environment(parts: Vec<String>) {
        use std::os::unix::process::CommandExt;
        let mut command = super::another(parts.into_iter());
        // The emulator requires this variable.
        let emulators = std::env::vars_os().filter(|(name, _)| name == "QEMU_LD_PREFIX");
        panic!("exec: {}", command.env_clear().envs(emulators).exec());
    }

    /// Forks all the time, with up to 300 short-lived children at once. With "hop" each process forks one, and ends.
    /// With "out" each child leaves the session. After 50,000 forks it prints "over", and ends.
    pub(crate) fn fork_steadily(how: &str) {
        let (hop, out) = (how.contains("hop"), how.contains("out"));
        let mut alive = 0;
        for _ in 0..50_000 {
            // SAFETY: the forks are of a process with a single thread, and make system calls only.
            unsafe {
                let child = libc::fork();
                if child == 0 {
                    if out {
                        libc::setsid();
                    }
                    if !hop {
                        libc::usleep(500_000);
                        libc::_exit(0);
                    }
                } else if hop {
                    libc::usleep(300);
                    libc::_exit(0);
                } else {
                    alive += 1;
                    while alive > 0 {
                        let how = if alive < 300 { libc::WNOHANG } else { 0 };
                        if libc::waitpid(-1, std::ptr::null_mut(), how) <= 0 {
                            break;
                        }
                        alive -= 1;
                    }
                    libc::usleep(1_000);
                }
            }
        }
        // No signal has ended the process.
        super::say("over");
    }

    pub(crate) fn exec_steadily(times: usize, rest: &[String]) {
        use std::os::unix::process::CommandExt;
        if times > 0 {
            let again = ["exec-steadily".to_owned(), (times - 1).to_string()];
            let error = super::another(again.iter().chain(rest).cloned()).exec();
            panic!("exec: {error}");
        }
    }

    /// Parses a signal's name, since most signals have different numbers on different systems; or its number.
    pub(crate) fn signal(text: &str) -> c_int {
        match text {
            "HUP" => libc::SIGHUP,
            "INT" => libc::SIGINT,
            "PIPE" => libc::SIGPIPE,
            "STOP" => libc::SIGSTOP,
            "TERM" => libc::SIGTERM,
            "USR1" => libc::SIGUSR1,
            number => number.parse().expect("a signal"),
        }
    }

    pub(crate) fn report(text: &str) {
        /// The text to print, by the signal's number.
        static LINES: [OnceLock<String>; 65] = [const { OnceLock::new() }; 65];
        extern "C" fn say(signal: c_int) {
            if let Some(line) = LINES[signal as usize].get() {
                // SAFETY: async-signal-safe, and the line is never dropped.
                unsafe { libc::write(1, line.as_ptr().cast(), line.len()) };
            }
        }
        let signal = signal(text);
        LINES[signal as usize].set(format!("signal {text}\n")).expect("one report per signal");
        // signal(2) would reset the handler on illumos once it has run.
        // SAFETY: a zeroed struct is valid, and outlives the call. The handler reads a value that no longer changes,
        // and makes one system call.
        unsafe {
            let mut action = std::mem::zeroed::<libc::sigaction>();
            action.sa_sigaction = say as extern "C" fn(c_int) as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART;
            assert_eq!(libc::sigaction(signal, &raw const action, std::ptr::null_mut()), 0);
        }
    }

    /// Prints what it has inherited from its parent: descriptors, and signals that are blocked or ignored.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn inherited() {
        // SAFETY: integers.
        let is_open = |fd: &c_int| unsafe { libc::fcntl(*fd, libc::F_GETFD) } != -1;
        println!("descriptors {:?}", (0..1024).filter(is_open).collect::<Vec<_>>());
        // SAFETY: the set outlives the calls, and the first one initialises it.
        let is_blocked = |signal: &c_int| unsafe {
            let mut set = std::mem::zeroed();
            assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut set), 0);
            libc::sigismember(&raw const set, *signal) == 1
        };
        println!("blocked {:?}", (1..65).filter(is_blocked).collect::<Vec<_>>());
        // SAFETY: the struct outlives the call, which fails for a number that is no signal.
        let is_ignored = |signal: &c_int| unsafe {
            let mut action = std::mem::zeroed::<libc::sigaction>();
            libc::sigaction(*signal, std::ptr::null(), &raw mut action) == 0
                && action.sa_sigaction == libc::SIG_IGN
        };
        println!("ignored {:?}", (1..65).filter(is_ignored).collect::<Vec<_>>());
    }

    pub(crate) fn on_signal(signal: c_int, action: libc::sighandler_t) {
        // SAFETY: neither action runs any code.
        unsafe { libc::signal(signal, action) };
    }
}

#[cfg(target_os = "linux")]
mod linux {
    pub(crate) fn continue_in_a_thread(parts: Vec<String>) {
        std::thread::spawn(|| {
            super::play(parts.into_iter());
            std::process::exit(0);
        });
        // SAFETY: ends this thread only. Its stack is never used again.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }

    pub(crate) fn hide() {
        // SAFETY: integers.
        let result = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
        assert_eq!(result, 0, "prctl: {}", std::io::Error::last_os_error());
    }

    pub(crate) fn unmap_environment() {
        let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc");
        let (_, after_name) = stat.rsplit_once(") ").expect("a name");
        // The fields have the numbers of proc_pid_stat(5); the first one here is 3.
        let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
        let address = |field: usize| fields[field - 3].parse::<usize>().expect("an address");
        let (arguments, start, end) = (address(48), address(50), address(51));
        let page = 4096;
        let first = start / page * page;
        assert!(first > arguments, "the pages of the environment hold something else");
        let length = end.next_multiple_of(page) - first;
        // SAFETY: these pages hold the ends of the arguments, which std has copied, and the environment, which is no
        // longer used.
        let result = unsafe { libc::munmap(first as *mut _, length) };
        assert_eq!(result, 0, "munmap: {}", std::io::Error::last_os_error());
    }

    pub(crate) fn death_signal() {
        let mut signal: std::ffi::c_int = 0;
        // SAFETY: the integer outlives the call.
        let result = unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut signal) };
        assert_eq!(result, 0, "prctl: {}", std::io::Error::last_os_error());
        println!("death signal {signal}");
    }

    /// Requires a kernel built for checkpoints, but no privilege: prctl(2), PR_SET_MM_MAP.
    pub(crate) fn show_an_environment(mebibytes: usize) {
        let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc");
        let (_, after_name) = stat.rsplit_once(") ").expect("a name");
        // The fields have the numbers of proc_pid_stat(5); the first one here is 3.
        let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
        let address = |field: usize| fields[field - 3].parse::<u64>().expect("an address");
        let size = mebibytes << 20;
        let (access, kind) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        );
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), size, access, kind, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        // SAFETY: reads the end of the heap.
        let heap_end = unsafe { libc::sbrk(0) } as u64;
        let start = start as u64;
        // `struct prctl_mm_map`: no auxiliary vector, and no other executable (-1).
        let map: [u64; 13] = [
            address(26),
            address(27),
            address(45),
            address(46),
            address(47),
            heap_end,
            address(28),
            address(48),
            address(49),
            start,
            start + size as u64 - 1,
            0,
            u64::from(u32::MAX) << 32,
        ];
        let length = size_of_val(&map);
        // SAFETY: the kernel reads `length` bytes of the map, which outlives the call, and checks the addresses.
        let result =
            unsafe { libc::prctl(libc::PR_SET_MM, libc::PR_SET_MM_MAP, map.as_ptr(), length, 0) };
        let error = std::io::Error::last_os_error();
        match (result, error.raw_os_error()) {
            (0, _) => super::say("vast"),
            (_, Some(libc::EINVAL)) => super::say("not supported"),
            _ => panic!("prctl: {error}"),
        }
    }

    /// Prints what it has inherited from its parent: descriptors, and signals that are blocked or ignored, including
    /// those of the C library.
    pub(crate) fn inherited() {
        let directory = std::fs::read_dir("/proc/self/fd").expect("/proc");
        let mut descriptors: Vec<u32> = directory
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            // The descriptor of the listing itself is closed by now.
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
