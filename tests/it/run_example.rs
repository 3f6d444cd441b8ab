//! The example `run`, as its users run it: every way to end, and its report.
#![cfg(unix)]

use crate::common::stage::{FINDS_DAEMONS, lists};
use crate::common::{HELPER, LONG, example, helper, unix, until};
use serde_json::{Value, json};
use shared_child::{CaptureOptions, Captured, SpawnOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

fn ours() -> PathBuf {
    example("run")
}

/// Runs `run` with these options, on the helper program that plays these parts.
#[track_caller]
fn run(options: &[&str], parts: &[&str]) -> Captured {
    let command = helper(parts);
    let mut ours = Command::new(ours());
    ours.args(options).arg("--").arg(command.get_program()).args(command.get_args());
    within_bounds(&mut ours)
}

#[track_caller]
fn within_bounds(ours: &mut Command) -> Captured {
    let mut options = SpawnOptions::new();
    options.tree(true).kill_on_drop(true);
    let captured = options.capture(ours, CaptureOptions::new().timeout(LONG)).expect("to run");
    assert!(captured.stopped_by.is_none(), "it hangs: {captured:?}");
    captured
}

fn code(captured: &Captured) -> Option<i32> {
    captured.status.expect("a status").code()
}

#[track_caller]
fn report_of(captured: &Captured) -> Value {
    serde_json::from_slice(&captured.stdout.bytes).expect("one JSON object")
}

#[test]
fn output_is_passed_on_and_reported() {
    let captured = run(&[], &["say", "out", "complain", "err", "exit", "3"]);
    assert_eq!(code(&captured), Some(3));
    assert_eq!(captured.stdout.text(), "out\n");
    let report = captured.stderr.text();
    assert!(report.starts_with("err\nrun: exit status: 3\n"), "{report}");
    assert!(report.contains("run: stdout: 4 bytes\n"), "{report}");
    assert!(!report.contains("left running"), "{report}");
}

#[test]
fn report_is_one_json_object() {
    let captured = run(&["--json"], &["say", "out", "complain", "err"]);
    assert_eq!(code(&captured), Some(0));
    // The output that is passed on does not mix with the report.
    assert_eq!(captured.stderr.text(), "out\nerr\n");
    let report = report_of(&captured);
    assert_eq!(report["success"], true);
    assert_eq!(report["code"], 0);
    let stream = |text: &str| json!({ "text": text, "bytes": 4, "omitted": 0, "end": "closed" });
    assert_eq!((&report["stdout"], &report["stderr"]), (&stream("out\n"), &stream("err\n")));
    if cfg!(any(target_os = "linux", target_os = "macos", target_os = "freebsd")) {
        assert!(report["peak_memory"].as_u64().expect("a figure") > 100_000, "{report}");
    }
    assert_eq!(report["survivors_killed"], json!([]));
}

#[test]
fn timeout_stops_the_command() {
    let captured = run(&["--json", "--timeout", "50ms", "--grace", "0"], &["flood"]);
    assert_eq!(code(&captured), Some(124));
    let report = report_of(&captured);
    assert_eq!(
        (&report["stopped_by"], &report["signal"]),
        (&json!("timeout"), &json!(libc::SIGKILL))
    );
    let captured = run(&["--json", "--timeout", "50ms", "--grace", "1m"], &["sleep"]);
    assert_eq!(report_of(&captured)["signal"], libc::SIGTERM);
}

#[test]
fn idle_command_is_stopped() {
    let captured = run(&["--json", "--idle", "50ms"], &["say", "out", "sleep"]);
    assert_eq!(code(&captured), Some(124));
    assert_eq!(report_of(&captured)["stopped_by"], "idle");
    let captured = run(&["--idle", "1m"], &["say", "out"]);
    assert_eq!(code(&captured), Some(0));
}

#[test]
fn limit_omits_output_or_stops_the_command() {
    let captured = run(&["--json", "--limit", "1k"], &["write", "5000"]);
    let report = report_of(&captured);
    assert_eq!(
        (&report["stdout"]["bytes"], &report["stdout"]["omitted"]),
        (&json!(5000), &json!(3976))
    );
    assert_eq!(code(&captured), Some(0));
    let captured = run(&["--json", "--limit", "1k", "--stop-at-limit"], &["flood"]);
    assert_eq!(
        (code(&captured), &report_of(&captured)["stopped_by"]),
        (Some(124), &json!("limit"))
    );
}

#[test]
fn spill_writes_a_long_stream_to_a_file() {
    let directory = concat!(env!("CARGO_TARGET_TMPDIR"), "/run_example_spill");
    let _ = std::fs::remove_dir_all(directory);
    std::fs::create_dir(directory).expect("a new directory");
    let prefix = format!("{directory}/output");
    let options = ["--json", "--limit", "1k", "--spill", &prefix];
    let parts = ["write", "5000", "complain", "err"];
    let report = report_of(&run(&options, &parts));
    let path = format!("{prefix}.stdout");
    let spilled = json!({ "path": path, "bytes": 5000, "error": null });
    assert_eq!(
        (&report["stdout"]["spilled"], &report["stderr"]["spilled"]),
        (&spilled, &Value::Null)
    );
    assert_eq!(std::fs::metadata(&path).expect("a file").len(), 5000);
    // The file exists now, so it is not written again, and the command succeeds.
    let captured = run(&options[1..], &parts);
    assert_eq!(code(&captured), Some(0));
    let report = captured.stderr.text();
    assert!(report.contains("3976 not kept, 0 written to a file (cannot write"), "{report}");
    std::fs::remove_dir_all(directory).expect("to remove it");
}

#[test]
fn merged_streams_keep_their_order() {
    let parts = ["say", "1", "complain", "2", "say", "3"];
    assert_eq!(run(&["--merge"], &parts).stdout.text(), "1\n2\n3\n");
    let report = report_of(&run(&["--merge", "--json"], &parts));
    assert_eq!((&report["stdout"]["text"], &report["stderr"]), (&json!("1\n2\n3\n"), &Value::Null));
}

#[test]
fn input_file_is_passed_to_the_command() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let captured = run(&["--stdin", file.to_str().expect("UTF-8")], &["echo"]);
    assert_eq!(captured.stdout.bytes, std::fs::read(&file).expect("a file"));
    // Without the option there is no input.
    assert_eq!(code(&run(&[], &["read"])), Some(0));
    assert_eq!(code(&run(&["--stdin", "/no/such/file"], &["read"])), Some(125));
}

/// A process that holds the pipes outlives the command: a daemon where the library finds daemons, elsewhere a member of
/// the group. It is reported, and killed.
#[test]
fn daemon_that_holds_the_pipes_is_reported_and_killed() {
    if !lists(function_name!()) {
        return;
    }
    let daemon = ["spawn", "4", "setsid", "say", "there", "sleep", "say", "done"];
    let member = ["spawn", "3", "say", "there", "sleep", "say", "done"];
    let parts = if FINDS_DAEMONS { &daemon[..] } else { &member };
    let captured = run(&["--json"], parts);
    let report = report_of(&captured);
    assert_eq!((&report["code"], &report["stdout"]["end"]), (&json!(0), &json!("held open")));
    let survivors = report["survivors_killed"].as_array().expect("a list");
    assert_eq!(survivors.len(), 1, "{report}");
    let id = survivors[0]["pid"].as_u64().expect("an ID") as u32;
    until("it is dead", || !unix::is_alive(id));
}

#[test]
fn command_that_cannot_be_run_gives_126_or_127() {
    let mut ours_alone = Command::new(ours());
    assert_eq!(code(&within_bounds(ours_alone.arg("/no/such/program"))), Some(127));
    assert_eq!(code(&within_bounds(Command::new(ours()).arg("/"))), Some(126));
}

#[test]
fn invalid_options_are_refused() {
    for arguments in [
        &[][..],
        &["--timeout"],
        &["--timeout", "x", "true"],
        &["--limit", "-1", "true"],
        &["--nonsense"],
    ] {
        let captured = within_bounds(Command::new(ours()).args(arguments));
        assert_eq!(code(&captured), Some(125), "{arguments:?}");
        assert!(captured.stderr.text().contains("--help"), "{arguments:?}");
    }
    assert!(within_bounds(Command::new(ours()).arg("--help")).stdout.text().starts_with("Usage"));
}

/// The reader of the output closes the pipe, and the command is stopped.
#[test]
fn closed_output_stops_the_command() {
    let mut command = Command::new("sh");
    command.env("OURS", ours()).env("HELPER", HELPER);
    command.args(["-c", "\"$OURS\" -- \"$HELPER\" say one flood | head -n 1"]);
    let captured = within_bounds(&mut command);
    assert_eq!(captured.stdout.text(), "one\n");
    assert!(captured.stderr.text().contains("its output was rejected"), "{captured:?}");
}
