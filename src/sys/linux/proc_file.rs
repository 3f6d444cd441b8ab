//! Linux and Android: reads files and directories, in particular those of `/proc`, without an allocator.
//!
//! The guardian uses these functions in the child of a fork (`tree/guardian/after_fork.rs`). So they make only system
//! calls, touch only their stack and the caller's buffer, and do not panic: slices are read by `get`, and numbers wrap.
//!
//! Sources: proc(5), getdents64(2).

use std::ffi::{CStr, c_int};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Opens a file to read. A relative path begins at the directory.
pub(crate) fn open(directory: Option<&OwnedFd>, path: &CStr, flags: c_int) -> io::Result<OwnedFd> {
    let directory = directory.map_or(libc::AT_FDCWD, AsRawFd::as_raw_fd);
    // SAFETY: the path ends with a zero and outlives the call.
    let fd = unsafe { libc::openat(directory, path.as_ptr(), flags | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has returned a new descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn read(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the buffer outlives the call.
        let read = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        match usize::try_from(read) {
            Ok(read) => return Ok(read),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.raw_os_error() != Some(libc::EINTR) {
                    return Err(error);
                }
            }
        }
    }
}

/// Reads a file of `/proc` that fits in the buffer, in one system call: between two calls the process may execute
/// another program, whose file differs.
pub(crate) fn read_once<'a>(path: &CStr, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let length = read(&open(None, path, 0)?, buffer)?;
    Ok(buffer.get(..length).unwrap_or(&[]))
}

/// Calls the function for each line of a file, until it returns `false`. A line that is longer than the buffer is cut
/// off. Skips an empty last line.
pub(crate) fn each_line(fd: &OwnedFd, buffer: &mut [u8], call: &mut dyn FnMut(&[u8]) -> bool) {
    // After an error, the rest of the file counts as empty.
    let _ = each_part(fd, b'\n', usize::MAX, buffer, call);
}

/// Does the same for parts that end with any separator. Returns the number of bytes that it has read, at most about
/// `limit`.
pub(super) fn each_part(
    fd: &OwnedFd,
    separator: u8,
    limit: usize,
    buffer: &mut [u8],
    call: &mut dyn FnMut(&[u8]) -> bool,
) -> io::Result<usize> {
    let mut total: usize = 0;
    // The beginning of a part, at the start of the buffer.
    let mut length: usize = 0;
    // The beginning of the present part has filled the buffer, and was passed on.
    let mut is_cut = false;
    while total < limit {
        let Some(room) = buffer.get_mut(length..) else { break };
        let more = read(fd, room)?;
        if more == 0 {
            break;
        }
        total = total.wrapping_add(more);
        length = length.wrapping_add(more);
        let mut rest = buffer.get(..length).unwrap_or(&[]);
        while let Some(end) = rest.iter().position(|byte| *byte == separator) {
            let part = rest.get(..end).unwrap_or(&[]);
            if !mem::take(&mut is_cut) && !call(part) {
                return Ok(total);
            }
            rest = rest.get(end.wrapping_add(1)..).unwrap_or(&[]);
        }
        if rest.len() == buffer.len() {
            if !is_cut && !call(rest) {
                return Ok(total);
            }
            is_cut = true;
            length = 0;
        } else {
            let left = rest.len();
            buffer.copy_within(length.wrapping_sub(left)..length, 0);
            length = left;
        }
    }
    if length > 0 && !is_cut {
        call(buffer.get(..length).unwrap_or(&[]));
    }
    Ok(total)
}

/// Calls the function for each name in a directory, until it returns `false`.
pub(crate) fn each_name(
    directory: &OwnedFd,
    call: &mut dyn FnMut(&CStr) -> bool,
) -> io::Result<()> {
    /// Offsets in `struct linux_dirent64`: of its length, and of its name.
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    // Threads of this library, and therefore guardians, have small stacks.
    let mut buffer = [0_u8; 2048];
    loop {
        let (fd, room) = (directory.as_raw_fd(), buffer.as_mut_ptr());
        // SAFETY: the buffer outlives the call.
        let read = unsafe { libc::syscall(libc::SYS_getdents64, fd, room, buffer.len()) };
        let Ok(read) = usize::try_from(read) else { return Err(io::Error::last_os_error()) };
        let mut entries = buffer.get(..read).unwrap_or(&[]);
        if entries.is_empty() {
            return Ok(());
        }
        while let Some([one, other]) = entries.get(LENGTH..).and_then(|length| length.get(..2)) {
            let length = usize::from(u16::from_ne_bytes([*one, *other])).max(NAME);
            let name = CStr::from_bytes_until_nul(entries.get(NAME..length).unwrap_or(&[]));
            if !name.is_ok_and(&mut *call) {
                return Ok(());
            }
            entries = entries.get(length..).unwrap_or(&[]);
        }
    }
}

/// Returns whether the file system has this type (statfs(2)). In `libc` the type's type differs between systems.
pub(crate) fn is_on(fd: &OwnedFd, magic: u32) -> bool {
    // SAFETY: the struct is one of integers, and outlives the call.
    let (result, found) = unsafe {
        let mut found = mem::zeroed::<libc::statfs>();
        (libc::fstatfs(fd.as_raw_fd(), &raw mut found), found)
    };
    #[allow(clippy::unnecessary_cast, reason = "the type differs between systems")]
    let found = found.f_type as u32;
    result == 0 && found == magic
}

/// A text of limited length.
pub(crate) struct Text<const SIZE: usize> {
    bytes: [u8; SIZE],
    length: usize,
}

impl<const SIZE: usize> Text<SIZE> {
    /// Returns the text, or an empty one if it does not fit.
    pub(crate) fn of(text: &[u8]) -> Self {
        Self { bytes: [0; SIZE], length: 0 }.push(text)
    }

    /// Appends a text. After a text that does not fit, nothing is appended any more.
    pub(crate) fn push(mut self, text: &[u8]) -> Self {
        let end = self.length.wrapping_add(text.len());
        // The last byte stays zero.
        match self.bytes.get_mut(self.length..end).filter(|_| end < SIZE) {
            Some(room) => {
                room.copy_from_slice(text);
                self.length = end;
            }
            None => self.length = SIZE,
        }
        self
    }

    pub(crate) fn number(self, number: i32) -> Self {
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
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }

    /// Returns the path, or an empty one if it did not fit, or has a zero.
    pub(crate) fn path(&self) -> &CStr {
        let path = CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"");
        if path.count_bytes() == self.length { path } else { c"" }
    }
}

/// Parses a decimal number.
pub(crate) fn number(text: &[u8]) -> Option<u64> {
    in_base(10, text)
}

pub(crate) fn in_base(base: u32, text: &[u8]) -> Option<u64> {
    let mut number: u64 = 0;
    for byte in text {
        let digit = (*byte as char).to_digit(base)?;
        number = number.checked_mul(u64::from(base))?.checked_add(u64::from(digit))?;
    }
    Some(number).filter(|_| !text.is_empty())
}

/// Parses a process ID, which is positive.
pub(crate) fn process_id(text: &[u8]) -> Option<i32> {
    number(text).and_then(|id| i32::try_from(id).ok()).filter(|id| *id > 0)
}

/// Returns the words of a line.
pub(crate) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| matches!(byte, b' ' | b'\t' | b'\n')).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;

    #[test]
    fn lines_are_the_files_own_though_the_buffer_is_small() {
        let path = std::env::temp_dir().join(format!("lines-{}", std::process::id()));
        std::fs::write(&path, "one\ntwo and more\n\nlast").unwrap();
        let path = CString::new(path.to_str().unwrap()).unwrap();
        let read = |size: usize| {
            let mut lines = Vec::new();
            each_line(&open(None, &path, 0).unwrap(), &mut vec![0; size], &mut |line| {
                lines.push(String::from_utf8(line.to_vec()).unwrap());
                true
            });
            lines
        };
        for size in [13, 14, 20, 4096] {
            assert_eq!(read(size), ["one", "two and more", "", "last"], "{size}");
        }
        for size in [4, 5, 7] {
            assert_eq!(read(size), ["one", &"two and more"[..size], "", "last"], "{size}");
        }
        std::fs::remove_file(path.to_str().unwrap()).unwrap();
    }

    #[test]
    fn a_text_that_does_not_fit_is_no_path() {
        assert_eq!(Text::<16>::of(b"").number(1_234_567_890).push(b"/s").path(), c"1234567890/s");
        assert_eq!(Text::<16>::of(b"").number(0).path(), c"0");
        assert_eq!(Text::<4>::of(b"abc").path(), c"abc");
        assert_eq!(Text::<4>::of(b"abcd").path(), c"");
        assert_eq!(Text::<4>::of(b"abcd").push(b"").path(), c"");
    }

    #[test]
    fn number_is_one_of_digits_alone() {
        assert_eq!(process_id(b"4194304"), Some(1 << 22));
        assert_eq!(in_base(16, b"ff"), Some(255));
        for text in [&b""[..], b"0", b"-1", b"1a", b"self", b"2147483648"] {
            assert_eq!(process_id(text), None, "{}", text.escape_ascii());
        }
    }
}
