//! Linux: reads `/proc` in the child of a fork (see [`after_fork`](super::after_fork)), into the buffers of the caller.
//!
//! Sources: proc_pid_stat(5), proc_pid_environ(5), proc_pid_maps(5), getdents64(2).

use std::ffi::{CStr, c_int};
use std::mem::MaybeUninit;

/// The type of the file system (statfs(2)). In `libc` its type differs between systems.
const PROC: u32 = 0x9fa0;

/// Opens a file. Returns a negative number after an error.
pub(super) fn open(directory: c_int, path: &CStr, flags: c_int) -> c_int {
    // SAFETY: the path ends with a zero and outlives the call.
    unsafe { libc::openat(directory, path.as_ptr(), flags | libc::O_RDONLY | libc::O_CLOEXEC) }
}

pub(super) fn close(fd: c_int) {
    if fd >= 0 {
        // SAFETY: the callers close a descriptor that they have opened, or that nothing in this process uses.
        unsafe { libc::close(fd) };
    }
}

/// Seeks to the beginning of a list.
pub(super) fn rewind(fd: c_int) {
    // SAFETY: integers.
    unsafe { libc::lseek(fd, 0, libc::SEEK_SET) };
}

/// Reads at most as many bytes as the buffer holds. Returns 0 at the end and after an error.
pub(super) fn read(fd: c_int, buffer: &mut [u8]) -> usize {
    // SAFETY: the buffer outlives the call.
    let read = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(read).unwrap_or(0)
}

/// Reads a short file to its end.
pub(super) fn read_all<'a>(directory: c_int, path: &CStr, buffer: &'a mut [u8]) -> &'a [u8] {
    let fd = open(directory, path, 0);
    let mut length: usize = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| fd >= 0 && !rest.is_empty()) {
        match read(fd, rest) {
            0 => break,
            more => length = length.wrapping_add(more),
        }
    }
    close(fd);
    buffer.get(..length).unwrap_or(&[])
}

/// A text of limited length.
pub(super) struct Text<const SIZE: usize> {
    bytes: [u8; SIZE],
    length: usize,
}

impl<const SIZE: usize> Text<SIZE> {
    pub(super) fn new() -> Self {
        Self { bytes: [0; SIZE], length: 0 }
    }

    /// Appends a text. After a text that does not fit, nothing is appended any more.
    pub(super) fn push(mut self, text: &[u8]) -> Self {
        let end = self.length.wrapping_add(text.len());
        // The last byte stays zero.
        let room = self.bytes.get_mut(self.length..end).filter(|_| end < SIZE);
        match room {
            Some(room) => {
                for (to, from) in room.iter_mut().zip(text) {
                    *to = *from;
                }
                self.length = end;
            }
            None => self.length = SIZE,
        }
        self
    }

    pub(super) fn number(self, number: i32) -> Self {
        let mut digits = [0; 10];
        let mut left = number.unsigned_abs();
        let mut length: usize = 0;
        for digit in digits.iter_mut().rev() {
            *digit = b'0'.wrapping_add((left % 10) as u8);
            left /= 10;
            length = length.wrapping_add(1);
            if left == 0 {
                break;
            }
        }
        self.push(digits.get(digits.len().wrapping_sub(length)..).unwrap_or(&[]))
    }

    #[cfg(target_os = "linux")]
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }

    /// Returns the path, or an empty one if it did not fit.
    pub(super) fn path(&self) -> &CStr {
        let fits = self.length < SIZE;
        CStr::from_bytes_until_nul(&self.bytes).ok().filter(|_| fits).unwrap_or(c"")
    }
}

/// Parses a decimal number.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    in_base(10, text)
}

pub(super) fn in_base(base: u32, text: &[u8]) -> Option<u64> {
    let digit = |number: u64, byte: &u8| {
        let digit = (*byte as char).to_digit(base)?;
        number.checked_mul(u64::from(base))?.checked_add(u64::from(digit))
    };
    text.iter().try_fold(0, digit).filter(|_| !text.is_empty())
}

/// Returns the words of a line.
pub(super) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| matches!(byte, b' ' | b'\t' | b'\n')).filter(|word| !word.is_empty())
}

/// Calls the function for each name in a directory, with the unused part of the buffer.
pub(super) fn each_name(fd: c_int, buffer: &mut [u8], call: &mut dyn FnMut(&[u8], &mut [u8])) {
    /// Offsets in `struct linux_dirent64`: of its length, and of its name.
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    const LIST: usize = 8 << 10;
    let Some((list, rest)) = buffer.split_at_mut_checked(LIST) else { return };
    loop {
        // SAFETY: the buffer outlives the call.
        let read =
            unsafe { libc::syscall(libc::SYS_getdents64, fd, list.as_mut_ptr(), list.len()) };
        let read = usize::try_from(read).unwrap_or(0);
        let Some(mut entries) = list.get(..read).filter(|entries| !entries.is_empty()) else {
            return;
        };
        while let Some([one, other]) = entries.get(LENGTH..).and_then(|length| length.get(..2)) {
            let length = usize::from(u16::from_ne_bytes([*one, *other]));
            let name = entries.get(NAME..length).unwrap_or(&[]);
            if let Ok(name) = CStr::from_bytes_until_nul(name) {
                call(name.to_bytes(), rest);
            }
            entries = match entries.get(length..) {
                Some(next) if length > 0 => next,
                _ => return,
            };
        }
    }
}

/// Calls the function for each line of a file, until it returns `false`. A line that is longer than the buffer counts
/// as several.
pub(super) fn each_line(fd: c_int, buffer: &mut [u8], call: &mut dyn FnMut(&[u8]) -> bool) {
    let mut length: usize = 0;
    loop {
        let Some(room) = buffer.get_mut(length..) else { return };
        let more = read(fd, room);
        if more == 0 {
            call(buffer.get(..length).unwrap_or(&[]));
            return;
        }
        length = length.wrapping_add(more);
        let mut rest = buffer.get(..length).unwrap_or(&[]);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            if !call(rest.get(..end).unwrap_or(&[])) {
                return;
            }
            rest = rest.get(end.wrapping_add(1)..).unwrap_or(&[]);
        }
        if rest.len() == buffer.len() && !call(rest) {
            return;
        }
        let left = if rest.len() == buffer.len() { 0 } else { rest.len() };
        let start = length.wrapping_sub(left);
        if start <= length && length <= buffer.len() {
            buffer.copy_within(start..length, 0);
        }
        length = left;
    }
}

/// Opens `/proc` if it is that of this process's PID namespace. The IDs of another namespace mean other processes.
pub(super) fn genuine(buffer: &mut [u8]) -> Option<c_int> {
    let fd = open(libc::AT_FDCWD, c"/proc", libc::O_DIRECTORY);
    let is_genuine = is_a(fd, PROC) && numbers_this_process(fd, buffer);
    if is_genuine {
        return Some(fd);
    }
    close(fd);
    None
}

fn numbers_this_process(proc: c_int, buffer: &mut [u8]) -> bool {
    // SAFETY: it takes nothing.
    let me = u64::from(unsafe { libc::getpid() }.unsigned_abs());
    // SAFETY: the path ends with a zero, and the buffer outlives the call.
    let length = unsafe {
        libc::readlinkat(proc, c"self".as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
    };
    let link = usize::try_from(length).ok().and_then(|length| buffer.get(..length));
    if link.and_then(number) != Some(me) {
        return false;
    }
    // The ID may be the same in two namespaces by chance. This line has one ID for each namespace from that of `/proc`
    // to that of this process.
    let status = read_all(proc, c"self/status", buffer);
    let mut lines = status.split(|byte| *byte == b'\n');
    let Some(line) = lines.find_map(|line| line.strip_prefix(b"NSpid:")) else { return true };
    let mut numbers = words(line);
    numbers.next().and_then(number) == Some(me) && numbers.next().is_none()
}

/// Returns whether a descriptor is on a file system of this type.
pub(super) fn is_a(fd: c_int, magic: u32) -> bool {
    let mut found = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the struct is one of integers, and outlives the call.
    let (result, found) = unsafe {
        let result = libc::fstatfs(fd, found.as_mut_ptr());
        (result, found.assume_init())
    };
    #[allow(clippy::unnecessary_cast, reason = "the type differs between systems")]
    let found = found.f_type as u32;
    fd >= 0 && result == 0 && found == magic
}

#[derive(Clone, Copy)]
pub(super) struct Stat {
    /// The process is neither a zombie nor a thread of the kernel.
    pub(super) lives: bool,
    /// The process, or its first thread, is exiting.
    pub(super) is_exiting: bool,
    pub(super) threads: u64,
    pub(super) parent: i32,
    pub(super) group: i32,
    pub(super) start: u64,
    /// The process is in the middle of an exec, and shows no environment.
    pub(super) is_unsettled: bool,
}

pub(super) fn stat(proc: c_int, id: i32) -> Option<Stat> {
    let mut buffer = [0; 1024];
    let path = Text::<32>::new().number(id).push(b"/stat");
    parse(read_all(proc, path.path(), &mut buffer))
}

/// Returns the fields of a `stat` after the name, which may contain anything. The first is the state, number 3 in the manual.
pub(super) fn fields(stat: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    Some(words(stat.get(end.wrapping_add(1)..)?))
}

fn parse(stat: &[u8]) -> Option<Stat> {
    const PF_EXITING: u64 = 0x4;
    const PF_KTHREAD: u64 = 0x0020_0000;
    let mut fields = fields(stat)?;
    let state = fields.next()?;
    let parent = i32::try_from(number(fields.next()?)?).ok()?;
    // A group from outside the namespace is 0. An emulated `/proc` may report any value.
    let group = number(fields.next()?).and_then(|group| i32::try_from(group).ok()).unwrap_or(0);
    // The numbers are those of the manual. The next is 6.
    let flags = number(fields.nth(9 - 6)?)?;
    let threads = number(fields.nth(20 - 10)?)?;
    let start = number(fields.nth(22 - 21)?)?;
    let code = number(fields.nth(26 - 23)?)?;
    let from = fields.nth(50 - 27)?;
    let to = fields.next()?;
    let is_dead = matches!(state, b"Z" | b"X") && threads <= 1;
    let is_exiting = flags & PF_EXITING != 0;
    // An exec sets the start and the end of the environment to the same place, then the end, then the start of the code.
    let is_unsettled = !is_exiting && (code == 0 || from != to);
    let lives = !is_dead && flags & PF_KTHREAD == 0;
    Some(Stat { lives, is_exiting, threads, parent, group, start, is_unsettled })
}

/// The result of reading an environment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Environment {
    Marked,
    Unmarked,
    /// There is no environment, at the moment or at all.
    Empty,
    /// This process lacks permission, or the process has ended.
    Unreadable,
}

/// Searches an environment for a marker for which `is_marker` is true.
pub(super) fn environment(
    proc: c_int,
    path: &CStr,
    buffer: &mut [u8],
    is_marker: impl Fn(&[u8]) -> bool,
) -> Environment {
    let fd = open(proc, path, 0);
    let mut search = Search::new();
    let mut found = if fd >= 0 { Environment::Empty } else { Environment::Unreadable };
    while fd >= 0 && found != Environment::Marked {
        let read = read(fd, buffer);
        let Some(part) = buffer.get(..read).filter(|part| !part.is_empty()) else { break };
        found = Environment::Unmarked;
        if part.iter().any(|byte| search.takes(*byte, &is_marker)) {
            found = Environment::Marked;
        }
    }
    if found == Environment::Unmarked && search.takes(0, &is_marker) {
        found = Environment::Marked;
    }
    close(fd);
    found
}

const VARIABLE: &[u8] = b"SHARED_CHILD_TREE=";

/// Searches an environment of any length byte by byte.
struct Search {
    at: At,
    element: [u8; 128],
    length: usize,
}

#[derive(Clone, Copy)]
enum At {
    /// This many bytes of the name have matched.
    Name(usize),
    Value,
    /// The rest of another variable.
    Rest,
}

impl Search {
    fn new() -> Self {
        Self { at: At::Name(0), element: [0; 128], length: 0 }
    }

    /// Takes the next byte. Returns whether a marker ends here.
    fn takes(&mut self, byte: u8, is_marker: impl Fn(&[u8]) -> bool) -> bool {
        match self.at {
            At::Value if matches!(byte, 0 | b',') => {
                let found = self.element.get(..self.length).is_some_and(is_marker);
                self.length = 0;
                self.at = if byte == 0 { At::Name(0) } else { At::Value };
                return found;
            }
            At::Value => {
                if let Some(to) = self.element.get_mut(self.length) {
                    *to = byte;
                }
                // An element that is too long is no marker.
                self.length = self.length.saturating_add(1);
            }
            _ if byte == 0 => self.at = At::Name(0),
            At::Name(matched) if VARIABLE.get(matched) == Some(&byte) => {
                let matched = matched.wrapping_add(1);
                self.at = if matched == VARIABLE.len() { At::Value } else { At::Name(matched) };
            }
            At::Name(_) | At::Rest => self.at = At::Rest,
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::io::Write;

    fn search(environment: &[u8], marker: &[u8]) -> bool {
        let mut search = Search::new();
        environment.iter().chain(&[0]).any(|byte| search.takes(*byte, |found| found == marker))
    }

    #[test]
    fn a_marker_is_an_element_of_the_variables_list() {
        for (environment, found) in [
            (&b"SHARED_CHILD_TREE=m"[..], true),
            (b"A=1\0SHARED_CHILD_TREE=m\0Z=", true),
            (b"SHARED_CHILD_TREE=1,m,2", true),
            (b"SHARED_CHILD_TREE=1,2,m\0", true),
            (b"SHARED_CHILD_TREE=\0SHARED_CHILD_TREE=m", true),
            (b"SHARED_CHILD_TREE=mm", false),
            (b"SHARED_CHILD_TREE=1m,m2", false),
            (b"XSHARED_CHILD_TREE=m", false),
            (b"SHARED_CHILD_TREE\0=m", false),
            (b"A=SHARED_CHILD_TREE=m", false),
            (b"A=m,m,m\0m", false),
            (b"", false),
            (b"SHARED_CHILD_TREE=m=", false),
        ] {
            assert_eq!(search(environment, b"m"), found, "{}", environment.escape_ascii());
        }
        let long = [b"SHARED_CHILD_TREE=", &[b'm'; 300][..], b",m"].concat();
        assert!(search(&long, b"m"));
        assert!(!search(&long, &[b'm'; 128]));
    }

    #[test]
    fn an_environment_larger_than_the_buffer_is_read_to_its_end() {
        let path = std::env::temp_dir().join(format!("environment-{}", std::process::id()));
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(&[b'x'; 100_003]).unwrap();
        file.write_all(b"\0SHARED_CHILD_TREE=1,m\0").unwrap();
        let path = CString::new(path.to_str().unwrap()).unwrap();
        let read = |size: usize, marker: &[u8]| {
            let mut buffer = vec![0; size];
            environment(libc::AT_FDCWD, &path, &mut buffer, |found| found == marker)
        };
        for size in [1, 7, 4096, 1 << 20] {
            assert!(read(size, b"m") == Environment::Marked, "{size}");
            assert!(read(size, b"n") == Environment::Unmarked, "{size}");
        }
        std::fs::remove_file(path.to_str().unwrap()).unwrap();
        assert!(read(10, b"m") == Environment::Unreadable);
    }

    #[test]
    fn lines_are_the_files_own_though_the_buffer_is_small() {
        let path = std::env::temp_dir().join(format!("lines-{}", std::process::id()));
        std::fs::write(&path, "one\ntwo and more\n\nlast").unwrap();
        let path = CString::new(path.to_str().unwrap()).unwrap();
        for size in [13, 14, 20, 4096] {
            let fd = open(libc::AT_FDCWD, &path, 0);
            let mut lines = Vec::new();
            each_line(fd, &mut vec![0; size], &mut |line| {
                lines.push(String::from_utf8(line.to_vec()).unwrap());
                true
            });
            close(fd);
            assert_eq!(lines, ["one", "two and more", "", "last"], "{size}");
        }
        std::fs::remove_file(path.to_str().unwrap()).unwrap();
    }

    #[test]
    fn a_text_that_does_not_fit_is_no_path() {
        assert_eq!(Text::<16>::new().number(1_234_567_890).push(b"/s").path(), c"1234567890/s");
        assert_eq!(Text::<16>::new().number(0).path(), c"0");
        assert_eq!(Text::<4>::new().push(b"abc").path(), c"abc");
        assert_eq!(Text::<4>::new().push(b"abcd").path(), c"");
        assert_eq!(Text::<4>::new().push(b"abcd").push(b"").path(), c"");
    }

    #[test]
    fn this_process_is_parsed() {
        let mut buffer = vec![0; 1 << 16];
        let Some(proc) = genuine(&mut buffer) else { return };
        let me = std::process::id() as i32;
        let stat = stat(proc, me).unwrap();
        assert!(stat.lives && !stat.is_exiting);
        assert_eq!(stat.parent, std::os::unix::process::parent_id() as i32);
        let mut names = 0;
        each_name(proc, &mut buffer, &mut |name, _| {
            names += i32::from(number(name) == Some(me as u64))
        });
        assert_eq!(names, 1);
        close(proc);
    }
}
