//! Promise, on Windows: a handle means one process and never another, and dropping the `SharedChild` leaves no handle
//! or thread behind.

#![cfg(windows)]

use crate::common::windows::{leaks_no_handle, leaks_no_handle_on_any_backend};
use crate::common::*;
use shared_child::seam::Backend;
use shared_child::{SpawnOptions, StreamEnd};
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;
use windows_sys::Win32::Foundation::{CloseHandle, ERROR_INVALID_PARAMETER, GetLastError};
use windows_sys::Win32::System::Threading::{OpenProcess, PROCESS_QUERY_LIMITED_INFORMATION};

/// `GetExitCodeProcess` returns 259 for a running process, and exit codes have 32 bits.
#[test]
fn every_exit_code_is_reported() {
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
fn killed_child_exits_with_1() {
    watchdog!();
    on_every_backend(|backend| {
        let child = sleeper(backend);
        child.kill().unwrap();
        assert_eq!(wait(&child).code(), Some(1));
    });
}

/// A process can be opened by its ID as long as a handle to it is open anywhere.
fn is_known(id: u32) -> bool {
    // SAFETY: the arguments are integers; the handle, if there is one, is owned here alone.
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
fn process_id_is_free_after_the_drop_of_its_handle() {
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
            // A dropped child is about to exit, and no other handle to it is open.
            until("the ID is free", || !is_known(id));
        }
    });
}

/// A dropped handle neither kills nor blocks.
#[test]
fn running_child_outlives_its_handle() {
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
        until("the ID is free", || !is_known(id));
    });
}

#[test]
fn handles_are_not_leaked() {
    alone!();
    watchdog!();
    leaks_no_handle_on_any_backend(|backend| {
        assert!(wait(&quick(backend, 0)).success());
        drop(quick(backend, 0));
        let mut command = Command::new("no such program");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        backend.spawn(&mut command).unwrap_err();
    });
}

/// Operations that are pending at the end leak no handle either: a pipe that is held open, and input that is never
/// read.
#[test]
fn handles_of_captures_are_not_leaked() {
    alone!();
    watchdog!();
    leaks_no_handle_on_any_backend(|backend| {
        assert!(
            captures::run(backend, &["echo-both"], captures::bounded().stdin("both")).success()
        );
        let mut capture = captures::bounded();
        capture.merge_stderr(true).stdin(vec![0; 1 << 20]).drain(Duration::ZERO);
        let mut command = helper(&["spawn", "1", "sleep"]);
        let captured = backend.capture(tree().kill_on_drop(true), &mut command, &mut capture);
        assert_eq!(captured.unwrap().stdout.end, StreamEnd::HeldOpen);
    });
}

fn tree() -> SpawnOptions {
    SpawnOptions::new().tree(true).clone()
}

/// `timeout`, the example, as far as Windows supports it.
#[test]
fn timeout_example_returns_the_same_statuses() {
    watchdog!();
    let timeout = |arguments: &[&str]| {
        let mut command = Command::new(example("timeout"));
        let arguments =
            arguments.iter().map(|argument| if *argument == "CHILD" { HELPER } else { *argument });
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

/// Promise: a tree is a job object. `Tree::kill` leaves no survivor and reports that it is complete; a dropped tree
/// leaves nothing behind, except the processes that are meant to live.
mod trees {
    use super::*;
    use shared_child::windows::SpawnOptionsExt;
    use shared_child::{Containment, Mechanism, SharedChild, SpawnOptions, Tree};
    use std::collections::BTreeSet;
    use std::io::{BufRead, BufReader};
    use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
    use std::os::windows::process::CommandExt;
    use std::process::{ChildStdin, ChildStdout};
    use std::time::Instant;
    use windows_sys::Win32::Foundation::WAIT_TIMEOUT;
    use windows_sys::Win32::System::Threading::{
        CREATE_NEW_PROCESS_GROUP, CREATE_SUSPENDED, GetPriorityClass, IDLE_PRIORITY_CLASS,
        NORMAL_PRIORITY_CLASS, PROCESS_SYNCHRONIZE, WaitForSingleObject,
    };

    /// A member that has reported its process ID. An open handle identifies it from then on.
    struct Member {
        id: u32,
        process: OwnedHandle,
    }

    impl Member {
        fn open(id: u32) -> Self {
            let access = PROCESS_SYNCHRONIZE | PROCESS_QUERY_LIMITED_INFORMATION;
            // SAFETY: the arguments are integers; the handle is owned here alone.
            let process = unsafe {
                let process = OpenProcess(access, 0, id);
                assert!(!process.is_null(), "process {id}: {}", std::io::Error::last_os_error());
                OwnedHandle::from_raw_handle(process)
            };
            Self { id, process }
        }

        fn lives(&self) -> bool {
            // SAFETY: the handle is open.
            unsafe { WaitForSingleObject(self.process.as_raw_handle(), 0) == WAIT_TIMEOUT }
        }

        fn priority(&self) -> u32 {
            // SAFETY: the handle is open.
            unsafe { GetPriorityClass(self.process.as_raw_handle()) }
        }
    }

    /// A child whose descendants are all known. Dropping the stage ends them: nearly all of them read their input to
    /// its end.
    struct Stage {
        child: Option<SharedChild>,
        stdin: Option<ChildStdin>,
        said: BufReader<ChildStdout>,
        members: Vec<Member>,
    }

    impl Stage {
        /// Returns when this many members have reported their process IDs.
        fn set(options: &SpawnOptions, parts: &[String], members: usize) -> Self {
            Self::on(Backend::ALL[0], options, parts, members)
        }

        fn on(backend: Backend, options: &SpawnOptions, parts: &[String], members: usize) -> Self {
            Self::of(backend, options, &mut helper(parts), members)
        }

        fn of(
            backend: Backend,
            options: &SpawnOptions,
            command: &mut Command,
            members: usize,
        ) -> Self {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let child = backend.spawn_with(options, command).expect("to spawn");
            let stdin = child.take_stdin();
            let said = BufReader::new(child.take_stdout().expect("a pipe"));
            let mut stage = Self { child: Some(child), stdin, said, members: Vec::new() };
            for _ in 0..members {
                let id = stage.hear("pid ").parse().expect("a process ID");
                stage.members.push(Member::open(id));
            }
            stage
        }

        /// Returns the rest of the next line with this prefix.
        fn hear(&mut self, beginning: &str) -> String {
            loop {
                let mut line = String::new();
                let length = self.said.read_line(&mut line).expect("to hear");
                assert_ne!(length, 0, "they ended before they said {beginning:?}");
                if let Some(rest) = line.strip_prefix(beginning) {
                    return rest.trim_end().to_owned();
                }
            }
        }

        fn child(&self) -> &SharedChild {
            self.child.as_ref().expect("it was not given away")
        }

        #[track_caller]
        fn tree(&self) -> &Tree {
            self.child().tree().expect("a tree")
        }

        fn ids(&self) -> BTreeSet<u32> {
            self.members.iter().map(|member| member.id).collect()
        }

        fn living(&self) -> BTreeSet<u32> {
            self.members.iter().filter(|member| member.lives()).map(|member| member.id).collect()
        }

        #[track_caller]
        fn wait_empty(&self) {
            let empty = self.tree().wait_empty(Some(Instant::now() + LONG)).expect("to wait");
            assert!(empty, "still there: {:?}", self.tree().processes());
        }

        /// Checks by every account that no member is left.
        #[track_caller]
        fn is_empty(&self) {
            self.wait_empty();
            assert_eq!(self.living(), BTreeSet::new());
            assert_eq!(self.tree().processes().expect("a list"), [] as [u32; 0]);
            assert!(self.tree().is_empty().expect("an answer"));
        }

        /// Checks that all members live, and live on until their input is closed: none is about to exit.
        #[track_caller]
        fn all_live_on(&mut self) {
            self.living_live_on(self.ids());
        }

        #[track_caller]
        fn living_live_on(&mut self, living: BTreeSet<u32>) {
            // Only time can show that nothing happens: a member that is about to exit has this long to do so.
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(self.living(), living);
            self.stdin = None;
            until("they have ended", || self.living().is_empty());
        }
    }

    impl Drop for Stage {
        fn drop(&mut self) {
            if let Some(tree) = self.child.as_ref().and_then(SharedChild::tree) {
                let _ = tree.kill();
            }
        }
    }

    /// A part that reports its process ID, and runs until its input is closed.
    fn member() -> Vec<String> {
        parts("pid read")
    }

    /// A name, the parts to play, and the number of members.
    fn cases() -> Vec<(&'static str, Vec<String>, usize)> {
        let with = |others: &[Vec<String>]| [&others.concat()[..], &member()].concat();
        vec![
            ("the leader alone", member(), 1),
            ("children", with(&[start("pid read"), start("pid read")]), 3),
            // More than the first query has room for.
            ("many children", with(&vec![start("pid read"); 20]), 21),
            ("grandchildren", with(&[given("spawn", &with(&[start("pid read")]))]), 3),
            ("an orphan", with(&[given("run", &[start("pid read"), parts("exit 0")].concat())]), 2),
            ("a tree inside", with(&[given("owner tree-loose", &with(&[start("pid read")]))]), 3),
            ("a child that is tied to its parent", with(&[given("owner single", &member())]), 2),
            (
                "the child of such a child",
                with(&[given("owner single", &with(&[start("pid read")]))]),
                3,
            ),
        ]
    }

    #[test]
    fn kill_leaves_no_survivor() {
        watchdog!();
        on_every_backend(|backend| {
            for (name, parts, members) in cases() {
                eprintln!("{name}");
                let stage = Stage::on(backend, &tree(), &parts, members);
                let by = Mechanism::JobObject;
                assert_eq!(stage.tree().containment(), Containment::Complete { by });
                assert!(!stage.tree().is_empty().unwrap());
                let listed: BTreeSet<u32> = stage.tree().processes().unwrap().into_iter().collect();
                assert!(listed.is_superset(&stage.ids()), "{listed:?} of {:?}", stage.ids());
                assert_eq!(stage.living(), stage.ids());
                stage.tree().kill().unwrap();
                stage.is_empty();
                assert_eq!(wait(stage.child()).code(), Some(1));
                // The same again, when the tree is empty.
                stage.tree().kill().unwrap();
                assert!(stage.tree().wait_empty(Some(Instant::now())).unwrap());
            }
        });
    }

    /// The leader has exited and was waited for; the tree is still a tree.
    #[test]
    fn kill_ends_a_tree_whose_leader_has_exited() {
        watchdog!();
        on_every_backend(|backend| {
            let parts = [start("pid read"), start("pid read"), parts("exit 7")].concat();
            let stage = Stage::on(backend, &tree(), &parts, 2);
            assert_eq!(wait(stage.child()).code(), Some(7));
            assert_eq!(stage.child().try_wait().unwrap().unwrap().code(), Some(7));
            assert!(!stage.tree().is_empty().unwrap());
            let listed: BTreeSet<u32> = stage.tree().processes().unwrap().into_iter().collect();
            assert!(listed.is_superset(&stage.ids()));
            stage.child().kill().unwrap(); // Kills the leader alone.
            assert_eq!(stage.living(), stage.ids());
            stage.tree().kill().unwrap();
            stage.is_empty();
            assert_eq!(wait(stage.child()).code(), Some(7));
        });
    }

    #[test]
    fn wait_empty_returns_when_the_tree_ends_by_itself() {
        watchdog!();
        let parts = [start("pid read"), start("pid read"), parts("pid")].concat();
        let mut stage = Stage::set(&tree(), &parts, 3);
        assert!(wait(stage.child()).success());
        let soon = Instant::now() + Duration::from_millis(20);
        assert!(!stage.tree().wait_empty(Some(soon)).unwrap());
        assert!(Instant::now() >= soon);
        let stdin = stage.stdin.take();
        std::thread::scope(|scope| {
            let waiters = [(); 3].map(|()| scope.spawn(|| stage.tree().wait_empty(None).unwrap()));
            drop(stdin);
            assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap()));
        });
        stage.is_empty();
    }

    #[test]
    fn kills_waits_and_stops_from_several_threads_succeed() {
        watchdog!();
        for _ in 0..rounds(20) {
            let parts = [start("pid read"), member()].concat();
            let stage = Stage::set(&tree(), &parts, 2);
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| stage.tree().kill().unwrap());
                    scope.spawn(|| stage.wait_empty());
                    scope.spawn(|| assert_eq!(wait(stage.child()).code(), Some(1)));
                    scope.spawn(|| stage.tree().processes().unwrap());
                    scope.spawn(|| stage.child().stop(LONG).unwrap());
                }
            });
            stage.is_empty();
        }
    }

    /// Runs the test with and without a job that kills when it is closed.
    fn both(test: impl Fn(SpawnOptions)) {
        for kill_with_parent in [false, true] {
            eprintln!("kill_with_parent: {kill_with_parent}");
            test(tree().kill_with_parent(kill_with_parent).clone());
        }
    }

    #[test]
    fn drop_kills_a_tree_with_kill_on_drop() {
        watchdog!();
        let three = [start("pid read"), start("pid read"), member()].concat();
        both(|options| {
            let mut stage = Stage::set(options.clone().kill_on_drop(true), &three, 3);
            drop(stage.child.take());
            until("all have ended", || stage.living().is_empty());
            // The tree dies after the leader has exited.
            let parts = [start("pid read"), parts("exit 7")].concat();
            let mut stage = Stage::set(options.clone().kill_on_drop(true), &parts, 1);
            assert_eq!(wait(stage.child()).code(), Some(7));
            drop(stage.child.take());
            until("all have ended", || stage.living().is_empty());
        });
    }

    #[test]
    fn drop_kills_no_process_without_kill_on_drop_or_after_detach() {
        watchdog!();
        let parts = [start("pid read"), start("pid read"), member()].concat();
        both(|options| {
            let mut stage = Stage::set(&options, &parts, 3);
            drop(stage.child.take());
            stage.all_live_on();
            let mut stage = Stage::set(options.clone().kill_on_drop(true), &parts, 3);
            stage.child().detach();
            drop(stage.child.take());
            stage.all_live_on();
        });
    }

    #[test]
    fn into_inner_kills_no_process() {
        watchdog!();
        let parts = [start("pid read"), start("pid read"), member()].concat();
        both(|options| {
            let mut stage = Stage::set(options.clone().kill_on_drop(true), &parts, 3);
            let mut child = stage.child.take().unwrap().into_inner();
            assert_eq!(child.try_wait().unwrap(), None);
            stage.all_live_on();
            assert!(child.wait().unwrap().success());
        });
    }

    /// The inner tree's owner acts on the inner tree alone.
    #[test]
    fn kill_of_an_inner_tree_spares_the_outer_one() {
        watchdog!();
        // Only one member reads the line that is written.
        let inner = [start("pid sleep"), parts("pid sleep")].concat();
        let parts = [
            given("owner tree-loose", &inner),
            start("pid sleep"),
            parts("pid hear kill-owned say killed sleep"),
        ]
        .concat();
        let mut stage = Stage::set(&tree(), &parts, 4);
        let outer = BTreeSet::from([stage.child().id()]);
        assert!(outer.is_subset(&stage.ids()));
        std::io::Write::write_all(stage.stdin.as_mut().unwrap(), b"now\n").unwrap();
        stage.hear("killed");
        until("the inner tree has ended", || stage.living().len() == 2);
        assert!(stage.living().is_superset(&outer));
        assert!(!stage.tree().is_empty().unwrap());
        stage.tree().kill().unwrap();
        stage.is_empty();
    }

    #[test]
    fn tree_dies_with_its_parent() {
        watchdog!();
        // The parent then starts a process that is in no tree and inherits every inheritable handle.
        let parts = [
            given("owner tree", &[start("pid read"), member()].concat()),
            start("say other pid read"),
            member(),
        ]
        .concat();
        let mut stage = Stage::set(&SpawnOptions::new(), &parts, 4);
        assert!(stage.child().tree().is_none());
        stage.child().kill().unwrap();
        assert_eq!(wait(stage.child()).code(), Some(1));
        until("the tree has ended", || stage.living().len() == 1);
        let other = stage.living();
        stage.living_live_on(other);
    }

    /// The tree dies even if its handle was dropped and its leader has exited.
    #[test]
    fn tree_without_a_handle_dies_with_this_process() {
        const MARK: &str = "SHARED_CHILD_TEST_OWNER";
        watchdog!();
        let me = function_name!();
        if std::env::var_os(MARK).is_some() {
            // Runs the test again in a process of its own, which is then terminated. (The harness has begun a line.)
            let parts = [parts("say begun"), start("pid read"), parts("exit 7")].concat();
            let mut command = helper(&parts);
            command.stdin(Stdio::inherit());
            let mut options = tree();
            let child = options.kill_with_parent(true).spawn(&mut command).unwrap();
            assert_eq!(wait(&child).code(), Some(7));
            drop(child);
            println!("\ndropped");
            std::thread::sleep(2 * LONG);
        }
        let mut owner = Command::new(std::env::current_exe().unwrap());
        owner.args(["--exact", me, "--nocapture", "--test-threads", "1"]).env(MARK, "1");
        let mut stage = Stage::of(Backend::ALL[0], &SpawnOptions::new(), &mut owner, 0);
        let member = stage.hear("child ").parse().expect("a process ID");
        stage.members.push(Member::open(member));
        stage.hear("dropped");
        assert_eq!(stage.living().len(), 1);
        stage.child().kill().unwrap();
        until("the tree has ended", || stage.living().is_empty());
    }

    /// Its descendants survive.
    #[test]
    fn single_child_dies_with_its_parent() {
        watchdog!();
        let child = [start("pid read"), member()].concat();
        let mut stage = Stage::set(
            &SpawnOptions::new(),
            &[given("owner single", &child), member()].concat(),
            3,
        );
        stage.child().kill().unwrap();
        until("the child has ended", || stage.living().len() == 1);
        let grandchild = stage.living();
        stage.living_live_on(grandchild);
    }

    /// While its parent lives, it behaves like any other child.
    #[test]
    fn tied_child_ends_as_any_other_child_while_its_parent_lives() {
        watchdog!();
        let mut tied = SpawnOptions::new();
        tied.kill_with_parent(true);
        let parts = [start("pid read"), member()].concat();
        type End = fn(SharedChild);
        let ends: [(bool, bool, End); 5] = [
            (false, true, |child| kill_and_wait(&child)),
            (false, false, drop),
            (true, true, drop),
            (true, false, |child| {
                child.detach();
                drop(child);
            }),
            (true, false, |child| drop(child.into_inner())),
        ];
        for (kill_on_drop, dies, end) in ends {
            eprintln!("kill_on_drop: {kill_on_drop}, dies: {dies}");
            let mut stage = Stage::set(tied.clone().kill_on_drop(kill_on_drop), &parts, 2);
            assert!(stage.child().tree().is_none());
            let id = stage.child().id();
            end(stage.child.take().unwrap());
            let mut living = stage.ids();
            if dies {
                living.remove(&id);
                until("it has ended", || stage.living() == living);
            }
            stage.living_live_on(living);
        }
        let mut command = stoppable_command(259);
        let child = tied.spawn(&mut command).unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        drop(child.take_stdin());
        assert_eq!(wait(&child).code(), Some(259));
        let inner = child.into_inner().try_wait().unwrap();
        assert_eq!(inner.unwrap().code(), Some(259));
    }

    /// The stop ends the tree at once where there is no console, and by CTRL_BREAK where there is one.
    #[test]
    fn stop_ends_a_tree_or_a_child_at_once() {
        watchdog!();
        const CONTROL_C_EXIT: i32 = 0xC000_013A_u32 as i32;
        let parts = [start("pid read"), member()].concat();
        let stop = |child: &SharedChild| {
            let before = Instant::now();
            let status = child.stop(LONG).unwrap();
            assert!(before.elapsed() < LONG, "the grace has passed");
            status
        };
        on_every_backend(|backend| {
            let stage = Stage::on(backend, &tree(), &parts, 2);
            let status = stop(stage.child());
            assert!([Some(1), Some(CONTROL_C_EXIT)].contains(&status.code()), "{status}");
            stage.is_empty();
            assert_eq!(stop(stage.child()), status);

            let mut group = SpawnOptions::new();
            group.creation_flags(CREATE_NEW_PROCESS_GROUP);
            for options in [&group, group.clone().kill_with_parent(true)] {
                let child = backend.spawn_with(options, &mut helper(&["sleep"])).unwrap();
                let status = stop(&child);
                assert!([Some(1), Some(CONTROL_C_EXIT)].contains(&status.code()), "{status}");
            }
            // It shares our console group, so it must not receive CTRL_BREAK.
            assert_eq!(stop(&sleeper(backend)).code(), Some(1));
            let child = quick(backend, 7);
            wait(&child);
            assert_eq!(stop(&child).code(), Some(7));
        });
    }

    /// Options for a plain child, a single child in a job, and a tree, with these flags.
    fn with_flags(flags: u32) -> [SpawnOptions; 3] {
        let mut plain = SpawnOptions::new();
        plain.creation_flags(flags);
        [plain.clone(), plain.clone().kill_with_parent(true).clone(), plain.tree(true).clone()]
    }

    #[test]
    fn creation_flags_are_merged() {
        watchdog!();
        // Wine 8 starts every process with the same priority.
        let idle = if on_wine() { NORMAL_PRIORITY_CLASS } else { IDLE_PRIORITY_CLASS };
        for options in with_flags(IDLE_PRIORITY_CLASS) {
            let mut command = helper(&["pid", "read"]);
            let stage = Stage::of(Backend::ALL[0], &options, &mut command, 1);
            assert_eq!(stage.members[0].priority(), idle, "{options:?}");
            // The flags stay on the command.
            let stage = Stage::of(Backend::ALL[0], &SpawnOptions::new(), &mut command, 1);
            assert_eq!(stage.members[0].priority(), idle, "{options:?}");
        }
        // Options without flags leave the command's own flags alone.
        let mut command = helper(&["pid", "read"]);
        command.creation_flags(IDLE_PRIORITY_CLASS);
        let stage = Stage::of(Backend::ALL[0], &SpawnOptions::new(), &mut command, 1);
        assert_eq!(stage.members[0].priority(), idle);
    }

    /// `CREATE_SUSPENDED` leaves the child suspended.
    #[test]
    fn child_spawned_suspended_stays_suspended() {
        watchdog!();
        #[track_caller]
        fn is_suspended(child: SharedChild) {
            assert_eq!(child.wait_timeout(Duration::from_millis(50)).unwrap(), None);
            if let Some(tree) = child.tree() {
                assert_eq!(tree.processes().unwrap(), [child.id()]);
                tree.kill().unwrap();
                assert!(tree.wait_empty(Some(Instant::now() + LONG)).unwrap());
            }
            kill_and_wait(&child);
        }
        for options in with_flags(CREATE_SUSPENDED) {
            let mut command = helper(&["exit", "7"]);
            is_suspended(options.spawn(&mut command).unwrap());
            is_suspended(SharedChild::spawn(&mut command).unwrap());
            // Other options set other flags on the same command.
            let other = tree().spawn(&mut command).unwrap();
            assert_eq!(wait(&other).code(), Some(7));
            assert_eq!(wait(&SharedChild::spawn(&mut command).unwrap()).code(), Some(7));
        }
        let mut command = helper(&["exit", "7"]);
        command.creation_flags(CREATE_SUSPENDED);
        is_suspended(SpawnOptions::new().spawn(&mut command).unwrap());
    }

    /// No child stays suspended, and the trees do not affect each other.
    #[test]
    fn trees_of_one_command_are_independent() {
        watchdog!();
        let single = SpawnOptions::new().kill_with_parent(true).clone();
        let kinds = [tree(), SpawnOptions::new(), single, tree(), SpawnOptions::new()];
        let mut command = helper(&["pid", "read"]);
        let [first, plain, single, second, third] =
            kinds.map(|options| Stage::of(Backend::ALL[0], &options, &mut command, 1));
        first.tree().kill().unwrap();
        first.is_empty();
        assert!([plain, single, second, third].iter().all(|stage| stage.members[0].lives()));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        assert!(command.status().unwrap().success());
        assert!(wait(&SharedChild::spawn(&mut command).unwrap()).success());
        // The command is usable after a failed spawn.
        let mut command = helper(&["exit", "7"]);
        command.current_dir("no such directory");
        tree().spawn(&mut command).unwrap_err();
        command.current_dir(".");
        assert_eq!(command.status().unwrap().code(), Some(7));
    }

    #[test]
    fn handles_of_trees_are_not_leaked() {
        alone!();
        watchdog!();
        both(|options| {
            let round = || {
                let child = options.spawn(&mut helper(&["exit", "0"])).unwrap();
                assert!(wait(&child).success());
                assert!(child.tree().unwrap().wait_empty(Some(Instant::now() + LONG)).unwrap());
                drop(child);
                let child = options.spawn(&mut helper(&["sleep"])).unwrap();
                child.tree().unwrap().kill().unwrap();
                let leader = Member::open(child.id());
                drop(child);
                until("it has ended", || !leader.lives());
                let error = options.spawn(&mut Command::new("no such program")).unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
            };
            leaks_no_handle(round);
        });
    }
}
