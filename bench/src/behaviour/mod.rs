//! How this crate and other libraries behave in hostile cases.
//!
//! Each case runs several times per contender, each time in a process of its own with a PID namespace of its own, and
//! with a deadline. A cell of the table states what was observed, and where runs differ all of it. The cases require
//! root, and util-linux's `unshare` and `setsid`.

mod cases;
mod system;

use crate::cli::Result;
use crate::machine::{self, versions};
use crate::peers::{Contender, Contender::*, is_not_offered, use_worker_threads};
use crate::report::table;
use cases::{ALONE, Case, TOPICS, cases};
use indicatif::ProgressBar;
use shared_child::{CaptureOptions, SpawnOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::catch_unwind;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;
use std::{env, io, iter, thread};

/// The argument that makes this program run a case.
const PLAY: &str = "__play";
/// The argument that makes this program a child: it exits after some milliseconds with a status.
const CHILD: &str = "__child";
const RUNS: usize = 3;

/// The columns of the table.
const CONTENDERS: [Contender; 7] =
    [ThisCrate, SharedChild1, Std, Duct, Subprocess, WrappedOnTokio, Tokio];

/// The observed behaviour, by case and contender.
type Observed = BTreeMap<(&'static str, &'static str), BTreeSet<String>>;

pub fn run() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [CHILD, milliseconds, status] => {
            thread::sleep(Duration::from_millis(milliseconds.parse()?));
            std::process::exit(status.parse()?)
        }
        [PLAY, case, contender] => {
            println!("{}", play(case, contender)?);
            return Ok(());
        }
        _ => {}
    }
    if words.iter().any(|word| cases().all(|case| case.0 != *word)) {
        cases().for_each(|case| println!("{:<14} {}", case.0, case.1));
        return Err("usage: behaviour [CASE…], of these cases".into());
    }
    let wanted = |case: &&Case| words.is_empty() || words.contains(&case.0);
    let observed = observe(&cases().filter(wanted).collect::<Vec<_>>());
    let columns: Vec<&str> = iter::once("").chain(CONTENDERS.map(Contender::name)).collect();
    for (topic, cases) in TOPICS {
        let rows = cases.iter().filter(wanted).map(|case| {
            // Runs that differ are all in the cell.
            let runs = CONTENDERS.map(|it| observed[&(case.0, it.name())].iter().cloned());
            let cells = runs.into_iter().map(|runs| runs.collect::<Vec<_>>().join(", or "));
            iter::once(case.1.to_owned()).chain(cells).collect()
        });
        println!("# {topic}\n\n{}", table(&columns, rows));
    }
    println!("{:?}, {}", versions(), machine::describe());
    Ok(())
}

/// Runs all cases, and first the cases that must run alone.
fn observe(cases: &[&Case]) -> Observed {
    let progress = ProgressBar::new((cases.len() * CONTENDERS.len() * RUNS) as u64);
    let observed = Mutex::new(Observed::new());
    // Most cases sleep most of the time.
    for (alone, at_once) in [(true, 1), (false, 4)] {
        let plays = cases.iter().filter(|case| ALONE.contains(&case.0) == alone);
        let plays = plays.flat_map(|case| CONTENDERS.map(|it| (case.0, it.name())));
        let plays = Mutex::new(plays.collect::<Vec<_>>().repeat(RUNS));
        let player = || {
            while let Some(play) = { plays.lock().unwrap().pop() } {
                let cell = apart(play.0, play.1).unwrap_or_else(|error| format!("FAILED: {error}"));
                observed.lock().unwrap().entry(play).or_default().insert(cell);
                progress.inc(1);
            }
        };
        thread::scope(|scope| (0..at_once).for_each(|_| drop(scope.spawn(player))));
    }
    progress.finish_and_clear();
    observed.into_inner().unwrap()
}

/// Runs a case in a process of its own. The end of the PID namespace kills what the case leaves behind.
fn apart(case: &str, contender: &str) -> Result<String> {
    let mut command = Command::new("unshare");
    command.args(["--fork", "--pid", "--mount-proc", "--kill-child"]);
    // The first process of the namespace is a shell, so that the program has no special role in it.
    command.args(["sh", "-c", "\"$@\"; exit $?", "sh"]);
    command.arg(env::current_exe()?).args([PLAY, case, contender]);
    let mut capture = CaptureOptions::new();
    capture.timeout(Duration::from_secs(30));
    let captured = SpawnOptions::new().capture(&mut command, &mut capture)?;
    // A shell returns 128 and the signal.
    match captured.status.and_then(|status| status.code()) {
        _ if captured.stopped_by.is_some() => Ok("hangs".into()),
        Some(0) => Ok(captured.stdout.text().trim().to_owned()),
        Some(code) if code == 128 + libc::SIGABRT => Ok("aborts the process".into()),
        Some(code) if code == 128 + libc::SIGSEGV => Ok("crashes the process".into()),
        _ => Err(captured.stderr.text().trim().into()),
    }
}

/// Runs a case in this process.
fn play(case: &str, contender: &str) -> Result<String> {
    let case = cases().find(|it| it.0 == case).ok_or("no such case")?;
    let contender = Contender::named(contender).ok_or("no such contender")?;
    // In other cases these threads would receive signals.
    if matches!(contender, Tokio | WrappedOnTokio) {
        use_worker_threads()?;
    }
    match catch_unwind(|| case.2(contender)) {
        Ok(Err(error)) if error.downcast_ref::<io::Error>().is_some_and(is_not_offered) => {
            Ok("–".into())
        }
        Ok(observed) => observed,
        Err(_) => Ok("panics".into()),
    }
}
