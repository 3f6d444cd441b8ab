//! The example `shell`, as an agent uses it: requests and answers, one JSON object per line.
//!
//! A command that a test stops writes its process ID, and reads an input that the test, or a FIFO, holds open. So a command
//! that ends sooner was stopped.
#![cfg(unix)]

use crate::common::stage::{Helpers, LISTS, findable_daemon, parts};
use crate::common::{HELPER, LONG, Scratch, example, unix, until, wait};
use serde_json::{Value, json};
use shared_child::{
    Capture, CaptureOptions, Captured, Reached, SpawnOptions, Stream, Until, unix::SharedChildExt,
};
use std::process::Command;

const STUBBORN: &str = "ignore TERM pid read";

/// A running `shell`, and the answers that no test has received.
struct Server {
    capture: Capture<'static>,
    answers: Vec<Value>,
    last_id: u64,
    helpers: Helpers,
}

impl Server {
    fn start() -> Self {
        Self::with(&[])
    }

    fn with(options: &[&str]) -> Self {
        unix::default_terminal_signals();
        let mut command = Command::new(example("shell"));
        command.args(options);
        let mut capture = CaptureOptions::new();
        capture.stdin_open().timeout(LONG);
        let mut spawn = SpawnOptions::new();
        spawn.kill_on_drop(true).kill_with_parent(true);
        let capture = spawn.begin_capture(&mut command, &mut capture).expect("to spawn");
        Self { capture, answers: Vec::new(), last_id: 0, helpers: Helpers::default() }
    }

    fn send_line(&self, line: &str) {
        self.capture.write(format!("{line}\n").as_bytes()).expect("to write");
    }

    /// Sends a request. Returns its ID.
    fn send(&mut self, mut request: Value) -> u64 {
        self.last_id += 1;
        request["id"] = json!(self.last_id);
        self.send_line(&request.to_string());
        self.last_id
    }

    /// Returns the next answer, whatever its request.
    #[track_caller]
    fn next(&mut self) -> Value {
        let chunk = self.capture.read(Until::line().of(Stream::Stdout));
        assert_eq!(chunk.reached, Reached::Line, "{chunk:?}");
        serde_json::from_slice(&chunk.stdout.bytes).expect("a JSON object")
    }

    /// Returns the answer to this request. Keeps the others.
    #[track_caller]
    fn answer(&mut self, id: u64) -> Value {
        loop {
            let known = self.answers.iter().position(|answer| answer["id"] == id);
            if let Some(index) = known {
                return self.answers.swap_remove(index);
            }
            let next = self.next();
            self.answers.push(next);
        }
    }

    #[track_caller]
    fn result(&mut self, id: u64) -> Value {
        let answer = self.answer(id);
        assert_eq!(answer["error"], Value::Null, "{answer}");
        answer["result"].clone()
    }

    #[track_caller]
    fn request(&mut self, request: Value) -> Value {
        let id = self.send(request);
        self.result(id)
    }

    #[track_caller]
    fn error(&mut self, request: Value) -> String {
        let id = self.send(request);
        let answer = self.answer(id);
        answer["error"].as_str().unwrap_or_else(|| panic!("no error: {answer}")).to_owned()
    }

    /// Starts the helper program with these parts. Returns the number of the child.
    #[track_caller]
    fn play(&mut self, parts: &[String], mut request: Value) -> u64 {
        let mut command = vec![HELPER.to_owned()];
        command.extend_from_slice(parts);
        request["op"] = json!("start");
        request["command"] = json!(command);
        self.request(request)["child"].as_u64().expect("a number")
    }

    #[track_caller]
    fn read(&mut self, child: u64, mut conditions: Value) -> Value {
        conditions["op"] = json!("read");
        conditions["child"] = json!(child);
        self.request(conditions)
    }

    #[track_caller]
    fn write(&mut self, child: u64, data: &str) {
        let result = self.request(json!({ "op": "write", "child": child, "data": data }));
        assert_eq!(result["written"], data.len());
    }

    #[track_caller]
    fn close_stdin(&mut self, child: u64) {
        self.request(json!({ "op": "close_stdin", "child": child }));
    }

    #[track_caller]
    fn stop(&mut self, child: u64) -> Value {
        self.request(json!({ "op": "stop", "child": child, "grace_ms": 0 }))
    }

    /// Reads the process IDs that this many members of a child write.
    #[track_caller]
    fn hear_pids(&mut self, child: u64, members: usize) {
        while self.helpers.0.len() < members {
            let line = self.read(child, json!({ "line": true }));
            assert_eq!(line["reached"], "line", "{line}");
            if let Some(pid) = text(&line).strip_prefix("pid ") {
                self.helpers.0.push(pid.trim_end().parse().expect("a process ID"));
            }
        }
        assert_eq!(self.helpers.alive().len(), members);
    }

    /// Starts a command and a daemon of it that ignore the request to terminate.
    #[track_caller]
    fn play_stubborn(&mut self) -> u64 {
        let stubborn = [findable_daemon(STUBBORN), parts(STUBBORN)].concat();
        let child = self.play(&stubborn, json!({ "stdin": true }));
        self.hear_pids(child, 2);
        child
    }

    /// Checks that the server ends with this code, and leaves no process.
    #[track_caller]
    fn ends(&mut self, code: i32) -> Captured {
        let status = wait(self.capture.child());
        until("no process is left", || self.helpers.alive().is_empty());
        let captured = self.capture.finish();
        assert_eq!(status.code(), Some(code), "{captured:?}");
        assert!(captured.stopped_by.is_none(), "it hangs: {captured:?}");
        captured
    }
}

/// Returns the text of all parts.
#[track_caller]
fn text(result: &Value) -> String {
    let parts = result["output"].as_array().unwrap_or_else(|| panic!("no output: {result}"));
    parts.iter().filter_map(|part| part["text"].as_str()).collect()
}

/// Returns how many bytes were kept and omitted, of parts that are UTF-8.
#[track_caller]
fn lengths(result: &Value) -> (usize, u64) {
    let parts = result["output"].as_array().expect("output");
    (text(result).len(), parts.iter().filter_map(|part| part["omitted"].as_u64()).sum())
}

fn stdout(text: &str) -> Value {
    json!([{ "stream": "stdout", "text": text }])
}

/// An interactive shell, without job control: the tests may run on a terminal.
#[test]
fn transcript_of_an_interactive_shell_is_complete() {
    watchdog!();
    let mut server = Server::start();
    let shell = server.request(json!({
        "op": "start",
        "command": ["sh", "+m", "-i"],
        "stdin": true,
        "merge_stderr": true,
        "environment": { "PS1": "ready> ", "PS2": "more> ", "ENV": null, "WORD": "value" },
        "directory": "/",
    }));
    let shell = shell["child"].as_u64().expect("a number");
    let prompt = json!({ "pattern": "ready> " });
    let first = server.read(shell, prompt.clone());
    assert_eq!((&first["reached"], &first["running"]), (&json!("pattern"), &json!(true)));
    // Some shells echo what is typed, so each line produces a text that it does not contain.
    let lines = [
        ("echo $((6 * 7))\n", "42\n"),
        ("pwd; echo \"the $WORD\"\n", "/\nthe value\n"),
        ("echo t''o stderr >&2\n", "to stderr\n"),
        ("number=7\n", ""),
        ("for n in 1 2; do echo $n$number; done\n", "17\n27\n"),
        ("(exit 3); echo \"status $?\"\n", "status 3\n"),
    ];
    let mut transcript = text(&first);
    for (typed, expected) in lines {
        server.write(shell, typed);
        let chunk = server.read(shell, prompt.clone());
        assert_eq!(chunk["reached"], "pattern", "{chunk}");
        let output = text(&chunk);
        let output = output.strip_suffix("ready> ").expect("a prompt");
        assert!(output.ends_with(expected), "{typed:?}: {output:?}");
        transcript += &text(&chunk);
    }
    assert_eq!(transcript.matches("ready> ").count(), 1 + lines.len(), "{transcript}");

    // The prompt of a line that is not complete.
    server.write(shell, "echo one \\\n");
    assert_eq!(server.read(shell, json!({ "pattern": "more> " }))["reached"], "pattern");
    server.write(shell, "t''wo\n");
    let chunk = server.read(shell, prompt.clone());
    assert!(text(&chunk).contains("one two\n"), "{chunk}");

    // A program in the shell reads what is typed, until Ctrl-C, which the shell survives.
    server.write(shell, &format!("'{HELPER}' say hears echo\n"));
    assert_eq!(server.read(shell, json!({ "pattern": "hears\n" }))["reached"], "pattern");
    server.write(shell, "to the program\n");
    assert_eq!(server.read(shell, json!({ "pattern": "to the program\n" }))["reached"], "pattern");
    server.request(json!({ "op": "signal", "child": shell, "signal": "INT" }));
    assert_eq!(server.read(shell, prompt)["reached"], "pattern");

    server.write(shell, "exit 5\n");
    let end = server.read(shell, json!({}));
    assert_eq!((&end["reached"], &end["running"]), (&json!("end"), &json!(false)), "{end}");
    assert_eq!((&end["status"]["code"], &end["stopped_by"]), (&json!(5), &Value::Null), "{end}");
    server.capture.close_stdin();
    server.ends(0);
}

/// The first command cannot end before its input is closed, after the answers of the others.
#[test]
fn long_read_delays_no_other_request() {
    watchdog!();
    let mut server = Server::start();
    let slow = server.play(&parts("read say last"), json!({ "stdin": true }));
    let long = server.send(json!({ "op": "read", "child": slow }));
    let others: Vec<u64> =
        (0..3).map(|_| server.play(&parts("echo"), json!({ "stdin": true }))).collect();
    for (number, other) in others.iter().enumerate() {
        server.write(*other, &format!("line {number}\n"));
    }
    for (number, other) in others.iter().enumerate() {
        let chunk = server.read(*other, json!({ "line": true }));
        assert_eq!(chunk["output"], stdout(&format!("line {number}\n")));
    }
    // A second read of the first child has a timeout of its own.
    let second = server.read(slow, json!({ "timeout_ms": 1 }));
    assert_eq!((&second["reached"], &second["output"]), (&json!("deadline"), &json!([])));
    let listed = server.request(json!({ "op": "list" }));
    assert_eq!(listed["children"].as_array().expect("a list").len(), 4);
    assert!(server.answers.is_empty(), "{:?}", server.answers);
    server.close_stdin(slow);
    let end = server.result(long);
    assert_eq!((&end["reached"], &end["output"]), (&json!("end"), &stdout("last\n")));
}

#[test]
fn writes_of_a_child_keep_their_order() {
    watchdog!();
    let mut server = Server::start();
    let child = server.play(&parts("echo"), json!({ "stdin": true, "limit": 1 << 20 }));
    // All are sent before an answer is read: fewer than may be pending.
    let mut expected = String::new();
    let mut sent = Vec::new();
    for number in 0..50 {
        let data = format!("{number} {}\n", "x".repeat(number * 100));
        expected += &data;
        sent.push(server.send(json!({ "op": "write", "child": child, "data": data })));
    }
    sent.push(server.send(json!({ "op": "close_stdin", "child": child })));
    for id in sent {
        server.result(id);
    }
    let mut written = String::new();
    loop {
        let chunk = server.read(child, json!({ "bytes": 10_000 }));
        written += &text(&chunk);
        if chunk["reached"] == "end" {
            break;
        }
    }
    assert!(written == expected, "{} of {} bytes: {written:.1000}", written.len(), expected.len());
}

#[test]
fn each_condition_ends_a_read() {
    watchdog!();
    let mut server = Server::start();
    let child = server.play(&parts("echo-both"), json!({ "stdin": true }));
    // No other condition can be met: the child writes what it reads.
    let silent = server.read(child, json!({ "silent_ms": 20, "line": true, "quiet_ms": 1 }));
    assert_eq!((&silent["reached"], &silent["output"]), (&json!("quiet"), &json!([])));
    let deadline = server.read(child, json!({ "timeout_ms": 20, "line": true }));
    assert_eq!((&deadline["reached"], &deadline["running"]), (&json!("deadline"), &json!(true)));
    server.write(child, "one\ntwo three\n");
    let of_stdout = |mut conditions: Value| {
        conditions["stream"] = json!("stdout");
        conditions
    };
    for (conditions, reached, end) in [
        (json!({ "line": true }), "line", "one\n"),
        (json!({ "pattern": "wo" }), "pattern", "two"),
        (json!({ "pattern": ["no", { "hex": "6872" }] }), "pattern", " thr"),
        (json!({ "bytes": 2 }), "bytes", "ee"),
    ] {
        let chunk = server.read(child, of_stdout(conditions));
        assert_eq!(chunk["reached"], reached, "{chunk}");
        let mut seen = String::new();
        for part in chunk["output"].as_array().expect("output") {
            if part["stream"] == "stdout" {
                seen += part["text"].as_str().expect("text");
            }
        }
        assert_eq!(seen, end, "{chunk}");
    }
    let quiet = server.read(child, json!({ "quiet_ms": 20 }));
    assert_eq!(quiet["reached"], "quiet");
    server.close_stdin(child);
    let end = server.read(child, json!({ "line": true, "pattern": "never" }));
    assert_eq!((&end["reached"], &end["status"]["code"]), (&json!("end"), &json!(0)), "{end}");
    assert_eq!((&end["held_open"], &end["stopped_by"]), (&json!(false), &Value::Null));
    // Each later read returns the end too.
    assert_eq!(server.read(child, json!({}))["reached"], "end");
}

#[test]
fn flood_is_bounded_and_delays_no_other_request() {
    watchdog!();
    let mut server = Server::start();
    // The output is not read in the background, so nothing is omitted before the read.
    let waits = json!({ "limit": 1000, "background": false });
    let child = server.play(&parts("flood"), waits);
    let chunk = server.read(child, json!({ "bytes": 1_000_000 }));
    assert_eq!(chunk["reached"], "bytes");
    assert_eq!(lengths(&chunk), (1000, 999_000));
    // The gap stands in the middle.
    let gap = json!({ "stream": "stdout", "omitted": 999_000 });
    assert_eq!(chunk["output"][1], gap, "{chunk}");
    // Reads of at most the limit omit nothing.
    let chunk = server.read(child, json!({ "bytes": 1000 }));
    assert_eq!((&chunk["output"], lengths(&chunk)), (&stdout(&"x".repeat(1000)), (1000, 0)));

    let background = server.play(&parts("flood"), json!({ "limit": 100 }));
    let mut omitted = 0;
    until("output is omitted", || {
        let chunk = server.read(background, json!({ "timeout_ms": 1 }));
        let (kept, more) = lengths(&chunk);
        assert!(kept <= 100 && chunk["running"] == true, "{chunk}");
        omitted += more;
        omitted > 1_000_000
    });
    // While both flood, a third command converses.
    let third = server.play(&parts("echo"), json!({ "stdin": true }));
    server.write(third, "line\n");
    assert_eq!(server.read(third, json!({ "line": true }))["output"], stdout("line\n"));
    // A line cannot be sought where output was omitted.
    until("output is omitted before the read", || {
        let chunk = server.read(background, json!({ "line": true, "timeout_ms": 1 }));
        chunk["reached"] == "omitted"
    });
    for flood in [child, background] {
        let end = server.stop(flood);
        assert!(end["status"]["signal"].is_number(), "{end}");
        assert!(lengths(&end).0 <= 1000, "{end}");
    }
}

#[test]
fn deadline_of_a_command_stops_it() {
    watchdog!();
    let mut server = Server::with(&["--grace", "1000h"]);
    for (option, stopped_by) in [("timeout_ms", "timeout"), ("idle_ms", "idle")] {
        let child = server.play(&parts("sleep"), json!({ option: 50 }));
        let end = server.read(child, json!({}));
        assert_eq!((&end["reached"], &end["stopped_by"]), (&json!("end"), &json!(stopped_by)));
        assert_eq!(end["status"]["signal"], libc::SIGTERM, "{end}");
    }
}

#[test]
fn write_to_a_child_that_does_not_read_ends_at_its_deadline() {
    watchdog!();
    let mut server = Server::start();
    let child = server.play(&parts("sleep"), json!({ "stdin": true }));
    let data = "x".repeat(500_000);
    let partly = json!({ "op": "write", "child": child, "data": data, "timeout_ms": 20 });
    let written = server.request(partly)["written"].as_u64().expect("a number");
    assert!(written < 500_000, "{written}");
    // A write that waits is ended by the end of the child, with an error.
    let pending = server.send(json!({ "op": "write", "child": child, "data": data }));
    server.stop(child);
    let answer = server.answer(pending);
    let error = answer["error"].as_str().expect("an error");
    assert!(error.starts_with("cannot serve `write`: "), "{error}");
}

#[test]
fn bytes_that_are_not_utf_8_are_exact_in_both_directions() {
    watchdog!();
    let mut server = Server::start();
    let child = server.play(&parts("echo"), json!({ "stdin": true }));
    let hex = "00ff80c328f09f98800a";
    let write = json!({ "op": "write", "child": child, "data": { "hex": hex.to_uppercase() } });
    assert_eq!(server.request(write)["written"], hex.len() / 2);
    let chunk = server.read(child, json!({ "bytes": hex.len() / 2 }));
    let expected = "\0\u{fffd}\u{fffd}\u{fffd}(\u{1f600}\n";
    assert_eq!(chunk["output"], json!([{ "stream": "stdout", "text": expected, "hex": hex }]));
    // Text needs no second form, and a read that ends within a character has its bytes.
    server.write(child, "\u{e4}\u{1f600}\n");
    assert_eq!(server.read(child, json!({ "bytes": 2 }))["output"], stdout("\u{e4}"));
    let cut = server.read(child, json!({ "bytes": 3 }));
    assert_eq!(cut["output"][0]["hex"], "f09f98", "{cut}");
    assert_eq!(server.read(child, json!({ "line": true }))["output"][0]["hex"], "800a");
    let pattern = json!({ "op": "write", "child": child, "data": { "hex": "61fe62ff0a" } });
    server.request(pattern);
    let chunk = server.read(child, json!({ "pattern": { "hex": "fe62" } }));
    assert_eq!(chunk["output"][0]["hex"], "61fe62", "{chunk}");
}

#[test]
fn wrong_requests_are_answered_with_the_operation_and_the_remedy() {
    watchdog!();
    let mut server = Server::start();
    let silent = server.play(&parts("read"), json!({}));
    for (line, id, error) in [
        ("nonsense", json!(null), "cannot serve the request: it is not JSON ("),
        ("{\"id\":1,\"op\":\"list\"", json!(null), "send one JSON object per line"),
        ("[1]", json!(null), "cannot serve the request: it is not an object; "),
        ("\"\u{1f600}\"", json!(null), "it is not an object"),
        ("{\"id\":\"a\"}", json!("a"), "`op` is no operation; use one of start, read, "),
        ("{\"id\":[2],\"op\":\"run\"}", json!([2]), "`op` is no operation; use one of start"),
        ("{\"op\":7}", json!(null), "`op` is no operation"),
        (
            "{\"id\":3,\"op\":\"list\",\"child\":1}",
            json!(3),
            "cannot serve `list`: there is no field `child`",
        ),
    ] {
        server.send_line(line);
        let answer = server.next();
        assert_eq!(answer["id"], id, "{answer}");
        assert!(answer["error"].as_str().expect("an error").contains(error), "{answer}");
    }
    let unknown = silent + 1;
    for (request, error) in [
        (json!({ "op": "start" }), "cannot serve `start`: `command` is missing; use a line"),
        (json!({ "op": "start", "command": [] }), "`command` is invalid; use a line"),
        (json!({ "op": "start", "command": ["a", 1] }), "`command` is invalid; use a line"),
        (json!({ "op": "start", "command": "a\0b" }), "; check `command` and `directory`"),
        (json!({ "op": "start", "command": "exit", "environment": [] }), "use an object of texts"),
        (
            json!({ "op": "start", "command": "exit", "limit": 1_u64 << 40 }),
            "use a whole number, at",
        ),
        (json!({ "op": "start", "command": "exit", "stdin": "yes" }), "use true or false"),
        (
            json!({ "op": "start", "command": "exit", "timeout": 1 }),
            "there is no field `timeout`; use no fields but id, op, command, ",
        ),
        (json!({ "op": "read" }), "cannot serve `read`: `child` is missing; use the number"),
        (json!({ "op": "read", "child": unknown }), "; `list` returns the children"),
        (json!({ "op": "read", "child": "1" }), "`child` is invalid; use the number"),
        (json!({ "op": "read", "child": silent, "timeout_ms": -1 }), "use milliseconds, at most"),
        (json!({ "op": "read", "child": silent, "quiet_ms": 1e12 }), "use milliseconds, at most"),
        (json!({ "op": "read", "child": silent, "pattern": 1 }), "use a text, {\"hex\""),
        (json!({ "op": "read", "child": silent, "stream": "both" }), "use stdout or stderr"),
        (json!({ "op": "write", "child": silent }), "`data` is missing; use a text"),
        (json!({ "op": "write", "child": silent, "data": { "hex": "0" } }), "`data` is invalid"),
        (json!({ "op": "write", "child": silent, "data": { "hex": "\u{e4}" } }), "`data` is inv"),
        (json!({ "op": "write", "child": silent, "data": "x" }), "start it with \"stdin\":true"),
        (json!({ "op": "close_stdin", "child": silent }), "start it with \"stdin\":true"),
        (json!({ "op": "signal", "child": silent }), "cannot serve `signal`: `signal` is missing"),
        (json!({ "op": "signal", "child": silent, "signal": "NONE" }), "use a name or a number"),
        (json!({ "op": "signal", "child": silent, "signal": 4711 }), "; use another signal"),
        (json!({ "op": "stop", "child": unknown }), "cannot serve `stop`: there is no child"),
    ] {
        let answer = server.error(request.clone());
        assert!(
            answer.starts_with("cannot serve `") && answer.contains(error),
            "{request}: {answer}"
        );
    }
    // Bytes that are not UTF-8, a request that is too long, and lines without a request.
    server.capture.write(b"{\"id\":\"\xff\"}\n").expect("to write");
    assert!(server.next()["error"].as_str().expect("an error").contains("it is not JSON"));
    server.send_line(&format!("\"{}\"", "x".repeat(3 << 20)));
    assert!(server.next()["error"].as_str().expect("an error").contains("longer than 1048576"));
    server.send_line("\n  \n");
    // The server still works.
    let listed = server.request(json!({ "op": "list" }));
    assert_eq!(listed["children"].as_array().expect("a list").len(), 1);
    server.capture.close_stdin();
    server.ends(0);
}

#[test]
fn command_that_cannot_be_run_is_answered() {
    watchdog!();
    let mut server = Server::start();
    for request in [
        json!({ "op": "start", "command": ["/no/such/program"] }),
        json!({ "op": "start", "command": ["/"] }),
        json!({ "op": "start", "command": "exit", "directory": "/no/such" }),
    ] {
        let error = server.error(request);
        assert!(error.starts_with("cannot serve `start`: "), "{error}");
        assert!(error.ends_with("; check `command` and `directory`"), "{error}");
    }
    assert_eq!(server.request(json!({ "op": "list" })), json!({ "children": [] }));
}

#[test]
fn pending_requests_and_children_are_bounded() {
    watchdog!();
    let mut server = Server::start();
    let child = server.play(&parts("read"), json!({ "stdin": true }));
    let sent: Vec<u64> =
        (0..64).map(|_| server.send(json!({ "op": "read", "child": child }))).collect();
    let refused = server.error(json!({ "op": "list" }));
    assert!(refused.contains("64 requests are pending; await their answers"), "{refused}");
    // A start needs no thread. Without the background, its command needs none either.
    for _ in 1..64 {
        server.request(json!({ "op": "start", "command": ["true"], "background": false }));
    }
    let refused = server.error(json!({ "op": "start", "command": ["true"] }));
    assert!(refused.contains("there are 64 children; stop one first"), "{refused}");
    server.capture.close_stdin();
    for id in sent {
        assert_eq!(server.result(id)["reached"], "end");
    }
    server.ends(0);
}

#[test]
fn list_shows_the_children_until_they_are_stopped() {
    watchdog!();
    let mut server = Server::start();
    assert_eq!(server.request(json!({ "op": "list" })), json!({ "children": [] }));
    let ended = server.request(json!({ "op": "start", "command": "echo out; exit 3" }));
    let end = server.read(1, json!({}));
    assert_eq!((&end["output"], &end["status"]["code"]), (&stdout("out\n"), &json!(3)));
    let runs = server.play(&parts("pid read"), json!({ "stdin": true }));
    server.hear_pids(runs, 1);
    let pid = server.helpers.0[0];
    let listed = server.request(json!({ "op": "list" }));
    let processes = |pids: &[u32]| if LISTS { json!(pids) } else { json!(null) };
    assert_eq!(
        listed["children"][0],
        json!({
            "child": 1, "pid": ended["pid"], "command": "echo out; exit 3", "running": false,
            "status": { "code": 3, "signal": null, "text": "exit status: 3" },
            "processes": processes(&[]), "stdin": false, "unread": 0,
        })
    );
    assert_eq!(
        listed["children"][1],
        json!({
            "child": 2, "pid": pid, "command": [HELPER, "pid", "read"], "running": true,
            "status": null, "processes": processes(&[pid]), "stdin": true, "unread": 0,
        })
    );
    // A stop returns what no read has returned, and the child is not listed any more.
    server.write(runs, "x\n");
    let end = server.request(json!({ "op": "stop", "child": runs, "grace_ms": 60_000 }));
    assert_eq!((&end["reached"], &end["status"]["signal"]), (&json!("end"), &json!(libc::SIGTERM)));
    assert!(server.error(json!({ "op": "stop", "child": runs })).contains("there is no child 2"));
    server.stop(1);
    assert_eq!(server.request(json!({ "op": "list" })), json!({ "children": [] }));
}

#[test]
fn stop_ends_all_processes_and_the_reads_of_a_child() {
    watchdog!();
    let mut server = Server::start();
    let child = server.play_stubborn();
    let read = server.send(json!({ "op": "read", "child": child }));
    // A stop with a shorter grace counts, so the first does not take its time.
    let first = server.send(json!({ "op": "stop", "child": child, "grace_ms": 86_400_000 }));
    server.stop(child);
    until("no process is left", || server.helpers.alive().is_empty());
    for id in [read, first] {
        assert_eq!(server.result(id)["reached"], "end");
    }
}

#[test]
fn processes_that_a_command_has_left_run_until_it_is_stopped() {
    watchdog!();
    let mut server = Server::start();
    let scratch = Scratch::new("shell");
    let _input = unix::fifo(&scratch.0.join("input"));
    // The daemon does not hold the output open.
    let command =
        format!("'{HELPER}' {STUBBORN} <'{0}' >'{0}.out' & exit 7", scratch.path("input"));
    let child = server.request(json!({ "op": "start", "command": command }))["child"].clone();
    let child = child.as_u64().expect("a number");
    let end = server.read(child, json!({}));
    assert_eq!((&end["reached"], &end["status"]["code"]), (&json!("end"), &json!(7)));
    until("it has written its process ID", || {
        let said = std::fs::read_to_string(scratch.path("input.out")).unwrap_or_default();
        let pid = said.strip_prefix("pid ").and_then(|rest| rest.strip_suffix('\n'));
        server.helpers.0.extend(pid.map(|pid| pid.parse::<u32>().expect("a process ID")));
        pid.is_some()
    });
    assert_eq!(server.helpers.alive().len(), 1);
    let stopped = server.stop(child);
    assert_eq!(stopped["status"]["code"], 7, "{stopped}");
    until("no process is left", || server.helpers.alive().is_empty());
}

#[test]
fn no_process_survives_the_end_of_the_input() {
    watchdog!();
    let mut server = Server::with(&["--grace=50ms"]);
    let child = server.play_stubborn();
    let pending = server.send(json!({ "op": "read", "child": child }));
    server.capture.close_stdin();
    // A pending request is answered.
    assert_eq!(server.result(pending)["reached"], "end");
    server.ends(0);
}

#[test]
fn no_process_survives_a_signal() {
    watchdog!();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let mut server = Server::with(&["--grace=50ms"]);
        server.play_stubborn();
        server.capture.child().send_signal(signal).expect("to signal");
        server.ends(128 + signal);
    }
}

#[test]
fn second_signal_ends_the_server_and_kills_at_once() {
    watchdog!();
    let mut server = Server::with(&["--grace=1000h"]);
    let parts = [findable_daemon(STUBBORN), parts("report TERM pid read")].concat();
    let child = server.play(&parts, json!({ "stdin": true }));
    server.hear_pids(child, 2);
    let reported = server.send(json!({ "op": "read", "child": child, "pattern": "signal TERM" }));
    server.capture.child().send_signal(libc::SIGTERM).expect("to signal");
    assert_eq!(server.result(reported)["reached"], "pattern");
    server.capture.child().send_signal(libc::SIGINT).expect("to signal");
    server.ends(128 + libc::SIGINT);
}

#[test]
fn no_process_survives_a_killed_server() {
    watchdog!();
    let mut server = Server::start();
    server.play_stubborn();
    server.capture.child().kill().expect("to kill");
    wait(server.capture.child());
    until("no process is left", || server.helpers.alive().is_empty());
}

/// The reader of the answers closes the pipe.
#[test]
fn closed_output_ends_the_server() {
    watchdog!();
    let mut command = Command::new("sh");
    command.env("OURS", example("shell"));
    command.args(["-c", "{ \"$OURS\" --grace 0; echo \"$?\" >&2; } | :"]);
    let request = json!({ "op": "start", "command": [HELPER, "sleep"] });
    let list = json!({ "op": "list" });
    let mut capture = CaptureOptions::new();
    capture.stdin_open().timeout(LONG);
    let mut options = SpawnOptions::new();
    options.tree(true).kill_on_drop(true);
    let capture = options.begin_capture(&mut command, &mut capture).expect("to spawn");
    capture.write(format!("{request}\n").as_bytes()).expect("to write");
    // The input stays open, and an answer fails once the reader has ended.
    until("it has ended", || capture.write(format!("{list}\n").as_bytes()).is_err());
    let captured = capture.finish();
    assert!(captured.stderr.text().contains("shell: cannot write an answer: "), "{captured:?}");
    assert!(captured.stderr.text().ends_with("\n1\n"), "{captured:?}");
    let tree = capture.child().tree().expect("a tree");
    if LISTS {
        until("no process is left", || tree.processes().expect("a list").is_empty());
    }
}

#[test]
fn invalid_options_are_refused() {
    watchdog!();
    for arguments in [&["--bogus"][..], &["--grace"], &["--grace=soon"], &["operand"]] {
        let mut server = Server::with(arguments);
        let captured = server.ends(2);
        assert!(captured.stderr.text().ends_with("; try --help\n"), "{captured:?}");
        assert_eq!(captured.stdout.text(), "");
    }
    let captured = Server::with(&["--help"]).ends(0);
    assert!(captured.stdout.text().starts_with("Usage: shell "), "{captured:?}");
}
