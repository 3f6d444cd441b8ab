//! Promise: a stream that exceeds its limit is whole in a file, and the file fails neither the command nor a deadline.

use crate::common::captures::{bounded, run};
use crate::common::executor::{WakeCounter, poll};
use crate::common::*;
use shared_child::seam::Backend;
use shared_child::{CaptureOptions, Captured, Limit, SpawnOptions, Spilled, Stream, Until};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Instant;

const MIB: usize = 1 << 20;
const ALL: u64 = u64::MAX;

/// A directory that is removed with its files.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let name = format!("{}-{}", test.replace("::", "-"), std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a new directory");
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("output")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The bytes that the part "write" writes.
fn written(count: usize) -> Vec<u8> {
    let mut all = Vec::from_iter(0..251).repeat(count.div_ceil(251));
    all.truncate(count);
    all
}

fn limited<'a>(limit: Limit) -> CaptureOptions<'a> {
    let mut capture = bounded();
    capture.limit(limit);
    capture
}

fn spilled(captured: &Captured) -> &Spilled {
    captured.stdout.spilled.as_ref().expect("the limit was exceeded")
}

fn error_kind(captured: &Captured) -> Option<ErrorKind> {
    spilled(captured).error.as_ref().map(|error| error.kind())
}

#[test]
fn stream_within_its_limit_creates_no_file() {
    watchdog!();
    let directory = Directory::new(function_name!());
    on_every_backend(|backend| {
        let mut capture = limited(Limit::head(1000));
        capture.spill(Stream::Stdout, directory.file(), ALL);
        let captured = run(backend, &["write", "1000"], &mut capture);
        assert!(captured.success() && captured.stdout.spilled.is_none(), "{captured:?}");
        // The other stream has no file.
        let captured = run(backend, &["write-err", "5000"], &mut capture);
        assert!(captured.stderr.spilled.is_none() && captured.stderr.omitted == 4000);
        assert!(!directory.file().exists());
    });
}

#[test]
fn stream_beyond_its_limit_is_whole_in_the_file() {
    watchdog!();
    let directory = Directory::new(function_name!());
    on_every_backend(|backend| {
        for (head, tail) in [(0, 0), (5, 0), (0, 5), (MIB, 0), (0, MIB), (MIB, 3)] {
            let limit = Limit::head_and_tail(head, tail);
            let mut capture = limited(limit);
            let paths = ["out", "err"].map(|name| directory.0.join(name));
            capture.spill(Stream::Stdout, &paths[0], ALL).spill(Stream::Stderr, &paths[1], ALL);
            let count = (4 * MIB + 7).to_string();
            let captured = run(backend, &["write", &count, "write-err", &count], &mut capture);
            assert!(captured.success() && captured.error.is_none(), "{captured:?}");
            for (stream, path) in [&captured.stdout, &captured.stderr].into_iter().zip(&paths) {
                let spilled = stream.spilled.as_ref().expect("the limit was exceeded");
                assert_eq!(spilled.path.as_ref(), Some(path));
                assert_eq!((spilled.start, spilled.bytes), (0, stream.total));
                assert!(spilled.error.is_none(), "{spilled:?}");
                let all = written(4 * MIB + 7);
                assert!(fs::read(path).unwrap() == all, "{limit:?}");
                assert!(stream.bytes == [&all[..head], &all[all.len() - tail..]].concat());
                fs::remove_file(path).unwrap();
            }
        }
    });
}

#[test]
fn file_ends_at_its_cap() {
    watchdog!();
    let directory = Directory::new(function_name!());
    for cap in [0, 3, 10, 11, 70_000, 999_999, 1_000_000] {
        let mut capture = limited(Limit::head(10));
        capture.spill(Stream::Stdout, directory.file(), cap);
        let captured = run(Backend::Best, &["write", "1000000"], &mut capture);
        assert_eq!((spilled(&captured).bytes, captured.stdout.total), (cap, 1_000_000));
        assert!(spilled(&captured).error.is_none(), "{captured:?}");
        assert!(fs::read(directory.file()).unwrap() == written(cap as usize), "{cap}");
        fs::remove_file(directory.file()).unwrap();
    }
}

#[test]
fn merged_streams_are_in_one_file() {
    watchdog!();
    let directory = Directory::new(function_name!());
    let mut capture = limited(Limit::head(0));
    capture.merge_stderr(true).spill(Stream::Stdout, directory.file(), ALL);
    run(Backend::Best, &["say", "1", "complain", "2", "say", "3"], &mut capture);
    let text = fs::read_to_string(directory.file()).unwrap();
    assert_eq!(text.lines().collect::<Vec<_>>(), ["1", "2", "3"]);
}

#[test]
fn open_file_is_written_from_its_position() {
    watchdog!();
    let directory = Directory::new(function_name!());
    let file = File::create(directory.file()).unwrap();
    std::io::Write::write_all(&mut &file, b"before ").unwrap();
    let mut capture = limited(Limit::head(1));
    capture.spill_to(Stream::Stdout, file, ALL);
    for _ in 0..2 {
        let captured = run(Backend::Best, &["say", "text"], &mut capture);
        assert_eq!((&spilled(&captured).path, error_kind(&captured)), (&None, None));
    }
    let text = fs::read_to_string(directory.file()).unwrap();
    assert_eq!(text.lines().collect::<Vec<_>>(), ["before text", "text"]);
}

/// Creates what a path can name besides a file.
fn others_that_exist(directory: &Directory) -> Vec<PathBuf> {
    let path = |name: &str| directory.0.join(name);
    fs::create_dir(path("directory")).unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(directory.file(), path("link")).unwrap();
        std::os::unix::fs::symlink(path("nothing"), path("dangling")).unwrap();
        drop(unix::fifo(&path("fifo")));
    }
    let names =
        if cfg!(unix) { &["directory", "link", "dangling", "fifo"][..] } else { &["directory"] };
    names.iter().map(|name| path(name)).collect()
}

#[test]
fn path_that_exists_is_refused_and_the_command_succeeds() {
    watchdog!();
    let directory = Directory::new(function_name!());
    let path = directory.file();
    fs::write(&path, "precious").unwrap();
    let mut refused = others_that_exist(&directory);
    refused.push(path.clone());
    for path in refused {
        let mut capture = limited(Limit::head(10));
        capture.spill(Stream::Stdout, &path, ALL);
        let captured = run(Backend::Best, &["write", "1000000"], &mut capture).check().unwrap();
        assert_eq!(error_kind(&captured), Some(ErrorKind::AlreadyExists), "{captured:?}");
        assert_eq!((spilled(&captured).bytes, captured.stdout.total), (0, 1_000_000));
        let text = spilled(&captured).error.as_ref().unwrap().to_string();
        assert!(text.contains(&path.display().to_string()), "{text}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    assert!(!directory.0.join("nothing").exists());
}

#[test]
fn one_path_for_both_streams_is_refused_for_the_second() {
    watchdog!();
    let directory = Directory::new(function_name!());
    let mut capture = limited(Limit::head(10));
    for stream in [Stream::Stdout, Stream::Stderr] {
        capture.spill(stream, directory.file(), ALL);
    }
    let captured = run(Backend::Best, &["write", "5000", "write-err", "5000"], &mut capture);
    let streams = [&captured.stdout, &captured.stderr];
    let spilled = streams.map(|stream| stream.spilled.as_ref().unwrap());
    let bytes = spilled.map(|spilled| spilled.bytes);
    assert!(bytes == [0, 5000] || bytes == [5000, 0], "{captured:?}");
    let refused = spilled[usize::from(bytes[0] > 0)].error.as_ref().unwrap();
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
    assert!(fs::read(directory.file()).unwrap() == written(5000));
}

#[test]
fn directory_that_is_missing_is_reported() {
    watchdog!();
    let directory = Directory::new(function_name!());
    let mut capture = limited(Limit::head(10));
    capture.spill(Stream::Stdout, directory.0.join("missing/output"), ALL);
    let captured = run(Backend::Best, &["write", "1000000"], &mut capture);
    assert!(captured.success() && captured.error.is_none(), "{captured:?}");
    assert_eq!(error_kind(&captured), Some(ErrorKind::NotFound));
}

#[test]
fn reads_of_a_capture_that_goes_on_leave_no_gap_in_the_file() {
    watchdog!();
    let directory = Directory::new(function_name!());
    let mut command = helper(&["say", "first", "hear", "write", "100000", "say", "last"]);
    let mut capture = limited(Limit::tail(10));
    capture.stdin_open().spill(Stream::Stdout, directory.file(), ALL);
    let capture = SpawnOptions::new().begin_capture(&mut command, &mut capture).unwrap();
    let line = capture.read(Until::line());
    assert!(line.stdout.spilled.is_none(), "{line:?}");
    let start = line.stdout.total;
    assert_eq!(capture.write_deadline(b"\n", Instant::now() + LONG).unwrap(), 1);
    let captured = capture.finish();
    assert_eq!(
        (spilled(&captured).start, spilled(&captured).bytes),
        (start, captured.stdout.total)
    );
    let file = fs::read(directory.file()).unwrap();
    assert!(file[..100_000] == written(100_000) && file[100_000..].starts_with(b"last"));
}

#[test]
fn stream_that_is_read_in_the_background_is_whole_in_the_file() {
    watchdog!();
    let directory = Directory::new(function_name!());
    on_every_backend(|backend| {
        let mut command = helper(&["write", &(4 * MIB).to_string()]);
        let mut capture = limited(Limit::tail(10));
        capture.spill(Stream::Stdout, directory.file(), ALL);
        let capture =
            backend.begin_capture(&SpawnOptions::new(), &mut command, &mut capture).unwrap();
        capture.read_in_background().unwrap();
        assert!(wait(capture.child()).success());
        let captured = capture.finish();
        assert_eq!((spilled(&captured).bytes, error_kind(&captured)), (4 * MIB as u64, None));
        assert!(fs::read(directory.file()).unwrap() == written(4 * MIB));
        fs::remove_file(directory.file()).unwrap();
    });
}

#[test]
fn bytes_that_a_dropped_read_has_received_are_in_the_file_once() {
    watchdog!();
    let directory = Directory::new(function_name!());
    let (show, shown) = mpsc::channel();
    let mut capture = limited(Limit::head(10));
    capture.stdin_open().spill(Stream::Stdout, directory.file(), ALL).on_output(|_, bytes| {
        let _ = show.send(bytes.len());
        ControlFlow::Continue(())
    });
    let mut command = helper(&["write", "100", "echo"]);
    let capture = SpawnOptions::new().begin_capture(&mut command, &mut capture).unwrap();
    let soon = |until: Until| until.or(Until::timeout(LONG));
    assert!(capture.read(soon(Until::bytes(100))).stdout.spilled.is_some());
    capture.write(b"x\ny\n").unwrap();
    let mut count: usize = shown.try_iter().sum();
    let mut read = Box::pin(capture.read_async(soon(Until::pattern("never"))));
    let counter = Arc::new(WakeCounter::default());
    until("the read has received the lines", || {
        assert!(poll(&mut read, &counter).is_pending());
        count += shown.try_iter().sum::<usize>();
        count == 104
    });
    drop(read);
    assert_eq!(capture.read(soon(Until::line())).stdout.text(), "x\n");
    assert_eq!(capture.finish().stdout.text(), "y\n");
    let file = fs::read(directory.file()).unwrap();
    assert_eq!(file, [&written(100)[..], b"x\ny\n"].concat());
}

#[cfg(unix)]
mod unix_only {
    use super::*;
    use crate::common::executor::block_on;
    use crate::common::unix::fifo;
    use shared_child::StoppedBy;
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    /// A FIFO that no process reads, and that this process keeps open.
    fn stuck(directory: &Directory) -> File {
        fifo(&directory.0.join("fifo"))
    }

    #[test]
    fn file_that_accepts_nothing_is_given_up_and_the_output_is_read_on() {
        watchdog!();
        let directory = Directory::new(function_name!());
        on_every_backend(|backend| {
            let _ = fs::remove_file(directory.0.join("fifo"));
            let mut capture = limited(Limit::head(10));
            capture.spill_to(Stream::Stdout, stuck(&directory), ALL);
            let captured = run(backend, &["write", "4000000"], &mut capture);
            assert!(captured.success() && captured.error.is_none(), "{captured:?}");
            assert_eq!(captured.stdout.total, 4_000_000);
            assert_eq!(error_kind(&captured), Some(ErrorKind::TimedOut), "{captured:?}");
            assert!(spilled(&captured).bytes < 4_000_000);
        });
    }

    #[test]
    fn child_that_waits_for_the_file_is_not_idle() {
        watchdog!();
        let directory = Directory::new(function_name!());
        let mut capture = limited(Limit::head(10));
        // Shorter than the time after which the file is given up.
        capture.idle_timeout(Duration::from_secs(1));
        capture.spill_to(Stream::Stdout, stuck(&directory), ALL);
        let captured = run(Backend::Best, &["write", "4000000"], &mut capture);
        assert!(captured.success() && captured.stopped_by.is_none(), "{captured:?}");
        assert_eq!(error_kind(&captured), Some(ErrorKind::TimedOut), "{captured:?}");
    }

    #[test]
    fn deadline_is_kept_while_the_file_accepts_nothing() {
        watchdog!();
        let directory = Directory::new(function_name!());
        let file = stuck(&directory);
        let mut capture = CaptureOptions::new();
        capture.limit(10).timeout(Duration::from_millis(100));
        capture.spill_to(Stream::Stdout, file.try_clone().unwrap(), ALL);
        let captured = run(Backend::Best, &["flood"], &mut capture);
        assert_eq!(captured.stopped_by, Some(StoppedBy::Deadline));
        assert!(captured.elapsed < LONG / 4, "{captured:?}");
        assert_eq!(error_kind(&captured), Some(ErrorKind::TimedOut), "{captured:?}");
    }

    /// The child waits for the file system, and no byte is lost.
    #[test]
    fn slow_file_receives_every_byte() {
        watchdog!();
        for in_task in [false, true] {
            let directory = Directory::new(function_name!());
            let mut file = stuck(&directory);
            let mut capture = limited(Limit::head_and_tail(300_000, 300_000));
            capture.spill_to(Stream::Stdout, file.try_clone().unwrap(), ALL);
            let reader = std::thread::spawn(move || {
                let mut all = vec![0; 3 * MIB];
                for part in all.chunks_mut(100_000) {
                    std::thread::sleep(Duration::from_millis(2));
                    file.read_exact(part).unwrap();
                }
                all
            });
            let mut command = helper(&["write", &(3 * MIB).to_string()]);
            let options = SpawnOptions::new();
            let captured = match in_task {
                true => block_on(options.capture_async(&mut command, &mut capture)),
                false => options.capture(&mut command, &mut capture),
            };
            let captured = captured.unwrap();
            assert_eq!(spilled(&captured).bytes, 3 * MIB as u64, "{captured:?}");
            assert_eq!((error_kind(&captured), captured.stdout.bytes.len()), (None, 600_000));
            assert!(reader.join().unwrap() == written(3 * MIB));
        }
    }

    #[test]
    fn sigpipe_and_sigxfsz_are_errors_of_the_file() {
        alone!();
        watchdog!();
        let directory = Directory::new(function_name!());
        let limit = libc::rlimit { rlim_cur: MIB as _, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: the calls receive integers, or a struct that outlives them.
        unsafe {
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            libc::signal(libc::SIGXFSZ, libc::SIG_DFL);
            assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
        }
        let mut capture = limited(Limit::head(10));
        capture.spill(Stream::Stdout, directory.file(), ALL);
        let captured = run(Backend::Best, &["write", "8000000"], &mut capture);
        assert!(captured.success() && captured.stdout.total == 8_000_000, "{captured:?}");
        assert_eq!(error_kind(&captured), Some(ErrorKind::FileTooLarge), "{captured:?}");
        assert_eq!(spilled(&captured).bytes, MIB as u64);
        assert!(fs::read(directory.file()).unwrap() == written(MIB));

        let (closed, file) = std::os::unix::net::UnixStream::pair().unwrap();
        drop(closed);
        capture.spill_to(Stream::Stdout, File::from(OwnedFd::from(file)), ALL);
        let captured = run(Backend::Best, &["write", "8000000"], &mut capture);
        assert!(captured.success(), "{captured:?}");
        assert_eq!(error_kind(&captured), Some(ErrorKind::BrokenPipe), "{captured:?}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn full_device_is_reported() {
        watchdog!();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut capture = limited(Limit::head(10));
        capture.spill_to(Stream::Stdout, full, ALL);
        let captured = run(Backend::Best, &["write", "8000000"], &mut capture);
        assert!(captured.success() && captured.error.is_none(), "{captured:?}");
        assert_eq!(error_kind(&captured), Some(ErrorKind::StorageFull));
        assert_eq!((spilled(&captured).bytes, captured.stdout.total), (0, 8_000_000));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn full_and_read_only_file_systems_are_reported() {
        alone!();
        watchdog!();
        if !unix::is_root() {
            eprintln!("skipped: only root mounts a file system");
            return;
        }
        let directory = Directory::new(function_name!());
        let path = std::ffi::CString::new(directory.0.to_str().unwrap()).unwrap();
        // The mounts are this thread's and its children's, and end with them.
        let mount = |flags, data: *const libc::c_char| {
            let (none, tmpfs) = (c"none".as_ptr(), c"tmpfs".as_ptr());
            // SAFETY: the strings outlive the call.
            unsafe { libc::mount(none, path.as_ptr(), tmpfs, flags, data.cast()) }
        };
        // SAFETY: the call receives an integer, or strings that outlive it.
        unsafe {
            assert_eq!(libc::unshare(libc::CLONE_NEWNS), 0);
            let (root, none) = (c"/".as_ptr(), std::ptr::null());
            assert_eq!(
                libc::mount(none, root, none, libc::MS_REC | libc::MS_PRIVATE, none.cast()),
                0
            );
        }
        assert_eq!(mount(0, c"size=1m".as_ptr()), 0);
        let mut capture = limited(Limit::head(10));
        capture.spill(Stream::Stdout, directory.file(), ALL);
        let captured = run(Backend::Best, &["write", "8000000"], &mut capture);
        assert!(captured.success() && captured.stdout.total == 8_000_000, "{captured:?}");
        assert_eq!(error_kind(&captured), Some(ErrorKind::StorageFull), "{captured:?}");
        assert_eq!(spilled(&captured).bytes, MIB as u64);
        assert!(fs::read(directory.file()).unwrap() == written(MIB));

        assert_eq!(mount(libc::MS_RDONLY, std::ptr::null()), 0);
        let captured = run(Backend::Best, &["write", "8000000"], &mut capture);
        assert!(captured.success() && captured.error.is_none(), "{captured:?}");
        assert_eq!(error_kind(&captured), Some(ErrorKind::ReadOnlyFilesystem), "{captured:?}");
        // SAFETY: the string outlives the calls.
        unsafe {
            libc::umount(path.as_ptr());
            libc::umount(path.as_ptr());
        }
    }
}
