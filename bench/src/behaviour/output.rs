//! What a command writes.

use super::contender::{Contender, Result, offered};
use super::system;
use std::io;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const MUCH: usize = 64 * MIB;
const SECOND: Duration = Duration::from_secs(1);

/// It ends at once, and leaves somebody behind.
const HOLDS: [&str; 3] = ["sh", "-c", "echo output; sleep 5 & exit 0"];

/// It writes, and then nothing more.
const ENDLESS: [&str; 3] = ["sh", "-c", "echo output; exec sleep 1001"];

pub(crate) fn held<C: Contender>() -> Result<String> {
    let output = offered(C::OUTPUT)?;
    Ok(timed(|| output(&HOLDS)))
}

pub(crate) fn held_timeout<C: Contender>() -> Result<String> {
    let output = offered(C::OUTPUT_TIMEOUT)?;
    Ok(timed(|| output(&HOLDS, SECOND)))
}

pub(crate) fn endless<C: Contender>() -> Result<String> {
    let output = offered(C::OUTPUT_TIMEOUT)?;
    let said = timed(|| output(&ENDLESS, SECOND));
    // One that is killed when a handle is dropped takes a moment to die.
    std::thread::sleep(Duration::from_millis(200));
    Ok(if system::runs("sleep 1001")? { format!("{said}, and the command runs on") } else { said })
}

fn timed(output: impl FnOnce() -> io::Result<Vec<u8>>) -> String {
    let start = Instant::now();
    let output = output();
    let took = start.elapsed();
    let what = match output {
        Ok(output) if output == b"output\n" => "there",
        _ => "lost",
    };
    if took < SECOND {
        format!("{what} within 1 s")
    } else {
        format!("{what} after {} s", took.as_secs_f64().round())
    }
}

pub(crate) fn flood<C: Contender>() -> Result<String> {
    let feed = offered(C::FEED)?;
    let input: Vec<u8> = (0..MUCH).map(|at| (at % 251) as u8).collect();
    let [stdout, stderr] = feed(&["tee", "/dev/stderr"], input.clone())?;
    Ok(if stdout == input && stderr == input { "works" } else { "not all is there" }.into())
}

pub(crate) fn limit<C: Contender>() -> Result<String> {
    let output = offered(C::OUTPUT_LIMIT)?;
    let before = system::peak_memory()?;
    let output = output(&["head", "-c", &MUCH.to_string(), "/dev/zero"], MIB)?;
    let took = (system::peak_memory()? - before) / 1024;
    Ok(match output.len() {
        MIB => format!("{took} MiB"),
        kept => format!("{took} MiB, but of {kept} bytes"),
    })
}
