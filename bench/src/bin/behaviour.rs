//! How this crate, shared_child 1.1.2 and std behave in hostile cases, as a table:
//!
//! ```text
//! cargo run --release -p bench --bin behaviour
//! ```
//!
//! Each case runs in a process of its own, and is given up after a while. The case with the recycled
//! process ID takes root, and util-linux's `unshare`.

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("The cases are for Linux only.");
}

#[cfg(target_os = "linux")]
fn main() {
    linux::main();
}

#[cfg(target_os = "linux")]
mod linux {
    use shared_child::{Capture, SpawnOptions};
    use std::env;
    use std::io::{self, Read};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::process::{Child, Command, ExitStatus, Stdio};
    use std::thread;
    use std::time::{Duration, Instant};

    /// One of those that are compared. `None` for what it does not offer.
    trait Handle: Sized {
        fn spawn(command: &mut Command) -> io::Result<Self>;
        fn id(&self) -> u32;
        fn kill(&mut self) -> io::Result<()>;
        fn wait_timeout(&self, timeout: Duration) -> Option<io::Result<Option<ExitStatus>>>;
        fn output(command: &mut Command) -> Option<io::Result<Vec<u8>>>;
    }

    macro_rules! shared {
        ($handle:ty, $output:expr) => {
            impl Handle for $handle {
                fn spawn(command: &mut Command) -> io::Result<Self> {
                    <$handle>::spawn(command)
                }
                fn id(&self) -> u32 {
                    <$handle>::id(self)
                }
                fn kill(&mut self) -> io::Result<()> {
                    <$handle>::kill(self)
                }
                fn wait_timeout(&self, t: Duration) -> Option<io::Result<Option<ExitStatus>>> {
                    Some(<$handle>::wait_timeout(self, t))
                }
                fn output(command: &mut Command) -> Option<io::Result<Vec<u8>>> {
                    $output(command)
                }
            }
        };
    }

    shared!(shared_child::SharedChild, |command| {
        let captured = SpawnOptions::new().capture(command, &mut Capture::new());
        Some(captured.map(|captured| captured.stdout.bytes))
    });
    shared!(peer::SharedChild, |_| None);

    impl Handle for Child {
        fn spawn(command: &mut Command) -> io::Result<Self> {
            command.spawn()
        }
        fn id(&self) -> u32 {
            Child::id(self)
        }
        fn kill(&mut self) -> io::Result<()> {
            Child::kill(self)
        }
        fn wait_timeout(&self, _: Duration) -> Option<io::Result<Option<ExitStatus>>> {
            None
        }
        fn output(command: &mut Command) -> Option<io::Result<Vec<u8>>> {
            Some(command.output().map(|output| output.stdout))
        }
    }

    const NONE: &str = "not offered";
    const WHO: [&str; 3] = ["this crate", "1.1.2", "std"];
    const CASES: [(&str, &str); 6] = [
        ("greedy", "300 timed waits beside a `waitpid(-1)` in another thread"),
        ("blocked", "a timed wait with SIGCHLD blocked"),
        ("forever", "`wait_timeout(Duration::MAX)`"),
        ("recycled", "`kill` after a foreign reap, when the process ID has a new owner"),
        ("dropped", "100 handles dropped while their children run"),
        ("held", "the output of a command that leaves a process behind, which runs for 5 s"),
    ];

    pub(crate) fn main() {
        let arguments: Vec<String> = env::args().skip(1).collect();
        if let [case, who] = &arguments[..] {
            let answer = match who.as_str() {
                "1.1.2" => play::<peer::SharedChild>(case),
                "std" => play::<Child>(case),
                _ => play::<shared_child::SharedChild>(case),
            };
            println!("{answer}");
            return;
        }
        println!("| case | {} |\n|---|---|---|---|", WHO.join(" | "));
        for (case, title) in CASES {
            let answers = WHO.map(|who| in_its_own_process(case, who));
            println!("| {title} | {} |", answers.join(" | "));
        }
    }

    fn in_its_own_process(case: &str, who: &str) -> String {
        let me = env::current_exe().expect("a path");
        let mut command = Command::new("unshare");
        command.args(["--fork", "--pid", "--mount-proc", "--kill-child"]);
        command.arg(me).args([case, who]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("unshare, of util-linux");
        let mut stdout = child.stdout.take().expect("a pipe");
        let reader = thread::spawn(move || {
            let mut answer = String::new();
            stdout.read_to_string(&mut answer).map(|_| answer)
        });
        let deadline = Instant::now() + Duration::from_secs(30);
        while child.try_wait().expect("to wait").is_none() {
            if Instant::now() > deadline {
                child.kill().expect("to kill");
                return "hangs".into();
            }
            thread::sleep(Duration::from_millis(10));
        }
        let answer = reader.join().expect("no panic").expect("to read");
        if answer.trim().is_empty() { "fails".into() } else { answer.trim().into() }
    }

    fn play<H: Handle>(case: &str) -> String {
        match case {
            "greedy" => greedy::<H>(),
            "blocked" => blocked::<H>(),
            "forever" => forever::<H>(),
            "recycled" => recycled::<H>(),
            "held" => held::<H>(),
            _ => dropped::<H>(),
        }
    }

    fn greedy<H: Handle>() -> String {
        thread::spawn(|| {
            loop {
                // SAFETY: no status is asked for.
                unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
            }
        });
        let mut failed = 0;
        for _ in 0..300 {
            // Long enough for the handle to be there first.
            let child = H::spawn(Command::new("sleep").arg("0.005")).expect("to spawn");
            match child.wait_timeout(Duration::from_secs(10)) {
                None => return NONE.into(),
                Some(Ok(Some(status))) if status.success() => {}
                Some(_) => failed += 1,
            }
        }
        format!("{failed} fail")
    }

    fn blocked<H: Handle>() -> String {
        // SAFETY: the set is initialised before it is read.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGCHLD);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        }
        let child = H::spawn(Command::new("sleep").arg("0.1")).expect("to spawn");
        let start = Instant::now();
        match child.wait_timeout(Duration::from_secs(5)) {
            None => NONE.into(),
            Some(_) if start.elapsed() < Duration::from_secs(4) => "returns at the exit".into(),
            Some(_) => "sleeps until the timeout".into(),
        }
    }

    fn forever<H: Handle>() -> String {
        let child = H::spawn(&mut Command::new("true")).expect("to spawn");
        match catch_unwind(AssertUnwindSafe(|| child.wait_timeout(Duration::MAX))) {
            Ok(None) => NONE.into(),
            Ok(Some(_)) => "waits".into(),
            Err(_) => "panics".into(),
        }
    }

    fn recycled<H: Handle>() -> String {
        let mut child = H::spawn(&mut Command::new("true")).expect("to spawn");
        let id = child.id();
        // SAFETY: no status is asked for.
        unsafe { libc::waitpid(id as i32, std::ptr::null_mut(), 0) };
        std::fs::write("/proc/sys/kernel/ns_last_pid", (id - 1).to_string()).expect("root");
        let mut stranger = Command::new("sleep").arg("1").spawn().expect("to spawn");
        assert_eq!(stranger.id(), id, "the ID was taken by somebody else");
        let _ = child.kill();
        let unharmed = stranger.wait().expect("to wait").success();
        if unharmed { "does nothing".into() } else { "kills the new owner".into() }
    }

    fn held<H: Handle>() -> String {
        let start = Instant::now();
        match H::output(Command::new("sh").args(["-c", "echo output; sleep 5 & exit 0"])) {
            None => NONE.into(),
            Some(Err(_)) => "fails".into(),
            Some(Ok(output)) if output != b"output\n" => "is not there".into(),
            Some(Ok(_)) if start.elapsed() < Duration::from_secs(4) => "is returned".into(),
            Some(Ok(_)) => "is waited for until that ends".into(),
        }
    }

    fn dropped<H: Handle>() -> String {
        for _ in 0..100 {
            drop(H::spawn(Command::new("sleep").arg("0.2")).expect("to spawn"));
        }
        thread::sleep(Duration::from_secs(2));
        let zombies = std::fs::read_dir("/proc").expect("/proc").flatten().filter(|entry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            stat.contains(") Z ")
        });
        format!("{} zombies", zombies.count())
    }
}
