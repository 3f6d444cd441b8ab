//! The command line, and the plays of a whole run.

use super::blocking::Ours;
use super::cases::{self, Case};
use super::contender::Result;
use super::play::{self, WHO};
use super::table::{self, Seen};
use indicatif::{ProgressBar, ProgressStyle};
use lexopt::{Arg, ValueExt};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

const USAGE: &str = "usage: behaviour [--json FILE] [--runs N] [CASE…]";

/// How many play at the same time: most of them sleep.
const AT_ONCE: usize = 4;

pub fn run() -> Result<()> {
    let mut json: Option<PathBuf> = None;
    let mut runs = 3;
    let mut names: Vec<String> = Vec::new();
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("json") => json = Some(parser.value()?.into()),
            Arg::Long("runs") => runs = parser.value()?.parse()?,
            Arg::Long("help") => {
                println!("{USAGE}");
                for case in cases::all::<Ours>() {
                    println!("  {:<14} {}", case.name, case.title);
                }
                return Ok(());
            }
            // What this runs itself as, which is not for users.
            Arg::Value(name) if name == cases::CHILD => {
                cases::child(parser.value()?.parse()?, parser.value()?.parse()?)
            }
            Arg::Value(name) if name == play::PLAY => {
                return play::here(&parser.value()?.string()?, &parser.value()?.string()?);
            }
            Arg::Value(name) => names.push(name.string()?),
            other => return Err(format!("{}\n{USAGE}", other.unexpected()).into()),
        }
    }
    let mut cases = cases::all::<Ours>();
    if let Some(name) = names.iter().find(|name| cases.iter().all(|case| case.name != *name)) {
        return Err(format!("no case is called {name}; --help lists them").into());
    }
    cases.retain(|case| names.is_empty() || names.iter().any(|name| name == case.name));

    let who = WHO.map(|(who, _)| who);
    let (seen, errors) = play_all(&cases, &who, runs);
    print!("{}", table::markdown(&cases, &who, &seen));
    if let Some(path) = json {
        let json = serde_json::to_string_pretty(&table::json(&cases, &who, &seen))?;
        std::fs::write(path, json + "\n")?;
    }
    if errors.is_empty() { Ok(()) } else { Err(errors.join("\n").into()) }
}

/// What was seen, and what went wrong.
fn play_all(cases: &[Case], who: &[&'static str], runs: usize) -> (Seen, Vec<String>) {
    let plays = |alone: bool| -> Vec<Play> {
        let cases = cases.iter().filter(|case| case.is_alone == alone);
        let plays = cases.flat_map(|case| who.iter().map(|who| (case.name, *who)));
        let plays: Vec<Play> = plays.collect();
        plays.repeat(runs)
    };
    // It is shown only if standard error is a terminal.
    let progress = ProgressBar::new((cases.len() * who.len() * runs) as u64);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len}, {elapsed} {wide_msg}");
    progress.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let (mut seen, mut errors) = (Seen::new(), Vec::new());
    for (alone, players) in [(true, 1), (false, AT_ONCE)] {
        for ((case, who), answer) in play_by(players, &plays(alone), &progress) {
            let answer = answer.unwrap_or_else(|error| {
                errors.push(error);
                "could not be played".into()
            });
            seen.entry((case, who)).or_default().push(answer);
        }
    }
    progress.finish_and_clear();
    (seen, errors)
}

/// A case, and who plays it.
type Play = (&'static str, &'static str);

fn play_by(players: usize, plays: &[Play], progress: &ProgressBar) -> Vec<(Play, Answer)> {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let play = || {
            let mut answers = Vec::new();
            while let Some(play) = plays.get(next.fetch_add(1, Ordering::Relaxed)) {
                progress.set_message(format!("{} of {}", play.0, play.1));
                let answer = play::apart(play.0, play.1).map_err(|error| error.to_string());
                answers.push((*play, answer));
                progress.inc(1);
            }
            answers
        };
        let players: Vec<_> = (0..players).map(|_| scope.spawn(play)).collect();
        players
            .into_iter()
            .flat_map(|player| player.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    })
}

/// What a play has shown, or why there was none.
type Answer = std::result::Result<String, String>;
