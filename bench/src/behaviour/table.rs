//! What was seen, as Markdown and as JSON.

use super::cases::Case;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

/// The columns of one table. More would not fit on a page.
const AT_ONCE: usize = 4;

/// What was seen, by case and contender: the answers of all plays.
pub(crate) type Seen = BTreeMap<(&'static str, &'static str), Vec<String>>;

/// The first of those who are compared is in each of the tables.
pub(crate) fn markdown(cases: &[Case], who: &[&'static str], seen: &Seen) -> String {
    let mut text = String::new();
    let Some((first, others)) = who.split_first() else { return text };
    let chunk = others.len().div_ceil(others.len().div_ceil(AT_ONCE).max(1)).max(1);
    for others in others.chunks(chunk) {
        let columns: Vec<&'static str> =
            [*first].into_iter().chain(others.iter().copied()).collect();
        let _ = writeln!(text, "| case | {} |", columns.join(" | "));
        let _ = writeln!(text, "|---|{}", "---|".repeat(columns.len()));
        for case in cases {
            let cells = columns.iter().map(|who| cell(seen, case.name, who));
            let cells: Vec<String> = cells.collect();
            let _ = writeln!(text, "| {} | {} |", case.title, cells.join(" | "));
        }
        text.push('\n');
    }
    let _ = writeln!(text, "With {}, on Linux {}.", versions(who), kernel());
    text
}

pub(crate) fn json(cases: &[Case], who: &[&'static str], seen: &Seen) -> Value {
    let cases = cases.iter().map(|case| {
        let cells: Map<String, Value> = who
            .iter()
            .filter_map(|who| {
                let plays = seen.get(&(case.name, *who))?;
                let cell = json!({ "cell": cell(seen, case.name, who), "plays": plays });
                Some((who.to_string(), cell))
            })
            .collect();
        json!({ "name": case.name, "title": case.title, "contenders": cells })
    });
    let cases: Vec<Value> = cases.collect();
    json!({ "versions": versions(who), "kernel": kernel(), "cases": cases })
}

/// What all plays have shown.
fn cell(seen: &Seen, case: &'static str, who: &'static str) -> String {
    let mut plays = seen.get(&(case, who)).cloned().unwrap_or_default();
    plays.sort();
    plays.dedup();
    range(&plays).unwrap_or_else(|| plays.join(", or "))
}

/// Several that differ in the number that they begin with are one.
fn range(plays: &[String]) -> Option<String> {
    let parts: Option<Vec<(u64, &str)>> = plays
        .iter()
        .map(|play| {
            let (number, rest) = play.split_once(' ')?;
            Some((number.parse().ok()?, rest))
        })
        .collect();
    let parts = parts?;
    let (_, rest) = parts.first()?;
    let (low, high) = (parts.iter().min()?.0, parts.iter().max()?.0);
    let is_one = low != high && parts.iter().all(|(_, other)| other == rest);
    is_one.then(|| format!("{low} to {high} {rest}"))
}

/// Of those that have one of their own, and are not named by it.
fn versions(who: &[&str]) -> String {
    let lock = include_str!("../../../Cargo.lock");
    let versions: Vec<String> = who
        .iter()
        .filter_map(|who| {
            let (_, package) = lock.split_once(&format!("name = \"{who}\"\nversion = \""))?;
            Some(format!("{who} {}", package.split_once('"')?.0))
        })
        .collect();
    versions.join(", ")
}

fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().split('-').next().unwrap_or_default().to_owned()
}
