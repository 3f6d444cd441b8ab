//! The contenders that block the thread which calls them.

use super::contender::{
    AllOutput, Apart, Contender, Feed, OutputLimit, OutputTimeout, TimeOut, Tree, WaitTimeout,
    command, timed_out,
};
use process_control::{ChildExt, Control};
use shared_child::linux::SpawnOptionsExt;
use shared_child::{CaptureOptions, SharedChild, SpawnOptions};
use std::io::{self, Error};
use std::mem;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use subprocess::ExecExt;
use subprocess::unix::{ExitStatusExt as _, JobExt};

/// This crate.
pub(crate) struct Ours;

/// shared_child 1.1.2.
pub(crate) struct Peer;

pub(crate) struct Std;

pub(crate) struct WaitTimeoutCrate;

pub(crate) struct ProcessControl;

pub(crate) struct Duct;

pub(crate) struct Subprocess;

/// What this crate and its predecessor have in common.
macro_rules! shared_child {
    ($handle:ty) => {
        type Handle = $handle;

        fn spawn(argv: &[&str]) -> io::Result<Self::Handle> {
            <$handle>::spawn(&mut command(argv))
        }

        fn id(handle: &Self::Handle) -> u32 {
            handle.id()
        }

        fn kill(handle: &mut Self::Handle) -> io::Result<()> {
            handle.kill()
        }

        fn wait(handle: &mut Self::Handle) -> io::Result<ExitStatus> {
            handle.wait()
        }

        const WAIT_TIMEOUT: Option<WaitTimeout<Self::Handle>> =
            Some(|handle, timeout| handle.wait_timeout(timeout));

        const APART: Option<Apart<Self::Handle>> = Some(|handle| {
            let handle = Arc::new(handle);
            let waiter = Arc::clone(&handle);
            (Box::new(move || waiter.wait()), Box::new(move || handle.kill()))
        });
    };
}

/// What those have in common that extend std's handle.
macro_rules! std_child {
    () => {
        type Handle = Child;

        fn spawn(argv: &[&str]) -> io::Result<Child> {
            command(argv).spawn()
        }

        fn id(handle: &Child) -> u32 {
            handle.id()
        }

        fn kill(handle: &mut Child) -> io::Result<()> {
            handle.kill()
        }

        fn wait(handle: &mut Child) -> io::Result<ExitStatus> {
            handle.wait()
        }
    };
}

impl Contender for Ours {
    shared_child!(SharedChild);

    const TREE: Option<Tree<Self::Handle>> = Some(Tree {
        spawn: |argv| SpawnOptions::new().tree(true).spawn(&mut command(argv)),
        kill: kill_tree,
    });

    const COMPLETE_TREE: Option<Tree<Self::Handle>> = Some(Tree {
        spawn: |argv| SpawnOptions::new().tree(true).cgroup(true).spawn(&mut command(argv)),
        kill: kill_tree,
    });

    const OUTPUT: Option<AllOutput> =
        Some(|argv| capture(argv, &mut CaptureOptions::new()).map(|[stdout, _]| stdout));

    const OUTPUT_TIMEOUT: Option<OutputTimeout> = Some(|argv, timeout| {
        capture(argv, CaptureOptions::new().timeout(timeout)).map(|[stdout, _]| stdout)
    });

    const OUTPUT_LIMIT: Option<OutputLimit> = Some(|argv, limit| {
        capture(argv, CaptureOptions::new().limit(limit)).map(|[stdout, _]| stdout)
    });

    const FEED: Option<Feed> =
        Some(|argv, input| capture(argv, CaptureOptions::new().stdin(input)));
}

fn kill_tree(child: &mut SharedChild) -> io::Result<()> {
    child.tree().ok_or_else(|| Error::other("no tree"))?.kill()
}

fn capture(argv: &[&str], capture: &mut CaptureOptions<'_>) -> io::Result<[Vec<u8>; 2]> {
    let captured = SpawnOptions::new().capture(&mut command(argv), capture)?;
    Ok([captured.stdout.bytes, captured.stderr.bytes])
}

impl Contender for Peer {
    shared_child!(peer::SharedChild);
}

impl Contender for Std {
    std_child!();

    const OUTPUT: Option<AllOutput> = Some(output);
}

fn output(argv: &[&str]) -> io::Result<Vec<u8>> {
    command(argv).output().map(|output| output.stdout)
}

impl Contender for WaitTimeoutCrate {
    std_child!();

    const WAIT_TIMEOUT: Option<WaitTimeout<Child>> = Some(wait_timeout::ChildExt::wait_timeout);
}

impl Contender for ProcessControl {
    std_child!();

    const WAIT_TIMEOUT: Option<WaitTimeout<Child>> = Some(|child, timeout| {
        let status = child.controlled().time_limit(timeout).wait()?;
        Ok(status.map(process_control::ExitStatus::into_std_lossy))
    });

    const TIME_OUT: Option<TimeOut<Child>> = Some(|child, timeout| {
        let control = child.controlled().time_limit(timeout);
        control.terminate_for_timeout().strict_errors().wait().map(|_| ())
    });

    const OUTPUT: Option<AllOutput> = Some(|argv| {
        let output = piped(argv)?.controlled_with_output().wait()?;
        Ok(output.ok_or_else(timed_out)?.stdout)
    });

    const OUTPUT_TIMEOUT: Option<OutputTimeout> =
        Some(|argv, timeout| kept(argv, usize::MAX, timeout));

    const OUTPUT_LIMIT: Option<OutputLimit> = Some(|argv, limit| kept(argv, limit, Duration::MAX));
}

fn piped(argv: &[&str]) -> io::Result<Child> {
    command(argv).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
}

/// Its result has no output after a timeout, and all of it before. What is to be kept of what is read, and when, its
/// caller keeps by a filter, as documented.
fn kept(argv: &[&str], limit: usize, timeout: Duration) -> io::Result<Vec<u8>> {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let filter = {
        let kept = Arc::clone(&kept);
        move |bytes: &[u8]| {
            let mut kept = kept.lock().map_err(|_| Error::other("poisoned"))?;
            let room = limit - kept.len();
            kept.extend_from_slice(&bytes[..room.min(bytes.len())]);
            Ok(false)
        }
    };
    let control = piped(argv)?.controlled_with_output().stdout_filter(filter);
    control.time_limit(timeout).terminate_for_timeout().wait()?;
    kept.lock().map(|mut kept| mem::take(&mut *kept)).map_err(|_| Error::other("poisoned"))
}

impl Contender for Duct {
    type Handle = duct::Handle;

    fn spawn(argv: &[&str]) -> io::Result<duct::Handle> {
        expression(argv).start()
    }

    fn id(handle: &duct::Handle) -> u32 {
        handle.pids()[0]
    }

    fn kill(handle: &mut duct::Handle) -> io::Result<()> {
        handle.kill()
    }

    fn wait(handle: &mut duct::Handle) -> io::Result<ExitStatus> {
        handle.wait().map(|output| output.status)
    }

    const WAIT_TIMEOUT: Option<WaitTimeout<duct::Handle>> =
        Some(|handle, timeout| Ok(handle.wait_timeout(timeout)?.map(|output| output.status)));

    const APART: Option<Apart<duct::Handle>> = Some(|handle| {
        let handle = Arc::new(handle);
        let waiter = Arc::clone(&handle);
        let wait = move || waiter.wait().map(|output| output.status);
        (Box::new(wait), Box::new(move || handle.kill()))
    });

    const OUTPUT: Option<AllOutput> =
        Some(|argv| expression(argv).stdout_capture().run().map(|output| output.stdout));

    const OUTPUT_TIMEOUT: Option<OutputTimeout> = Some(|argv, timeout| {
        let handle = expression(argv).stdout_capture().start()?;
        if let Some(output) = handle.wait_timeout(timeout)? {
            return Ok(output.stdout.clone());
        }
        // What there was is to be had if this closes the pipe.
        handle.kill()?;
        let output = handle.wait_timeout(Duration::from_millis(200))?;
        output.map(|output| output.stdout.clone()).ok_or_else(timed_out)
    });

    const FEED: Option<Feed> = Some(|argv, input| {
        let fed = expression(argv).stdin_bytes(input).stdout_capture().stderr_capture();
        fed.run().map(|output| [output.stdout, output.stderr])
    });
}

/// A status other than zero is no error here.
fn expression(argv: &[&str]) -> duct::Expression {
    duct::cmd(argv[0], &argv[1..]).unchecked()
}

impl Contender for Subprocess {
    type Handle = subprocess::Job;

    fn spawn(argv: &[&str]) -> io::Result<subprocess::Job> {
        exec(argv).start()
    }

    fn id(job: &subprocess::Job) -> u32 {
        job.pid()
    }

    fn kill(job: &mut subprocess::Job) -> io::Result<()> {
        job.kill()
    }

    fn wait(job: &mut subprocess::Job) -> io::Result<ExitStatus> {
        job.wait().and_then(known)
    }

    const WAIT_TIMEOUT: Option<WaitTimeout<subprocess::Job>> =
        Some(|job, timeout| job.wait_timeout(timeout)?.map(known).transpose());

    const APART: Option<Apart<subprocess::Job>> = Some(|job| {
        let process = job.processes[0].clone();
        (Box::new(move || process.wait().and_then(known)), Box::new(move || job.kill()))
    });

    const TREE: Option<Tree<subprocess::Job>> = Some(Tree {
        spawn: |argv| exec(argv).setpgid().start(),
        kill: |job| job.send_signal_group(libc::SIGKILL),
    });

    const OUTPUT: Option<AllOutput> =
        Some(|argv| exec(argv).capture().map(|capture| capture.stdout));

    const OUTPUT_TIMEOUT: Option<OutputTimeout> = Some(|argv, timeout| {
        let mut job = exec(argv).stdout(subprocess::Redirection::Pipe).start()?;
        let mut stdout = Vec::new();
        // Unlike `capture_timeout` it leaves what there was, as documented.
        let read = job.communicate()?.limit_time(timeout).read_to(&mut stdout, io::sink());
        job.kill()?;
        match read {
            Err(error) if error.kind() != io::ErrorKind::TimedOut => Err(error),
            _ => Ok(stdout),
        }
    });

    const OUTPUT_LIMIT: Option<OutputLimit> = Some(|argv, limit| {
        exec(argv).communicate()?.limit_size(limit).read().map(|(stdout, _)| stdout)
    });

    const FEED: Option<Feed> = Some(|argv, input| {
        exec(argv).stdin(input).capture().map(|capture| [capture.stdout, capture.stderr])
    });
}

fn exec(argv: &[&str]) -> subprocess::Exec {
    subprocess::Exec::cmd(argv[0]).args(argv[1..].iter().copied())
}

/// It calls one undetermined that it could not get.
fn known(status: subprocess::ExitStatus) -> io::Result<ExitStatus> {
    status.into_raw().map(ExitStatus::from_raw).ok_or_else(|| Error::other("undetermined"))
}
