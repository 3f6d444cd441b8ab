//! Linux: releases the program's memory and name in the child of a fork.
//!
//! The child shares the program's pages until the parent writes to one. From then on the page exists twice, while the child
//! has it mapped. So the child unmaps all memory that system calls do not need: anonymous private memory, which is the heap
//! and the stacks of other threads, and shared memory. It keeps privately mapped files (code, constants, variables) and the
//! mapping right behind each, which holds variables too; its stack; and the thread's own variables, where `errno` is.

use super::calls::{Orders, unmap};
use super::table::hash;
use crate::sys::linux::proc_file::{Text, each_line, in_base, number, open, read_once, words};
use crate::sys::linux::procfs::fields;
use std::ffi::CStr;
use std::ptr;

const PAGE: usize = 64 << 10;
/// The stack that this process needs below the present frame. It needs nothing above.
const STACK: usize = 256 << 10;
/// Smaller memory is not worth a system call.
const SMALL: usize = 64 << 10;

pub(super) fn settle(orders: &Orders, scratch: &mut [u8]) {
    // The functions of the C library do not block its two internal signals.
    let all = [!0_u64; 2];
    let size = if cfg!(any(target_arch = "mips", target_arch = "mips64")) { 16 } else { 8 };
    // SAFETY: system calls with integers, and bytes that outlive them.
    unsafe {
        let none = ptr::null_mut::<u64>();
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, all.as_ptr(), none, size);
        libc::prctl(libc::PR_SET_NAME, c"child-guardian".as_ptr());
    }
    rename(orders.parent, scratch);
    drop_memory(orders, scratch);
}

struct Mapping {
    start: usize,
    end: usize,
    is_readable: bool,
    is_writable: bool,
    is_shared: bool,
    is_anonymous: bool,
    /// The hash of the device and the number of the file.
    file: (u32, u64),
}

impl Mapping {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut words = words(line);
        let range = words.next()?;
        let dash = range.iter().position(|byte| *byte == b'-')?;
        let end = in_base(16, range.get(dash.wrapping_add(1)..)?)?;
        let access = words.next()?;
        // This skips the offset.
        let file = (hash(words.nth(1)?), number(words.next()?)?);
        let name = words.next().unwrap_or(b"");
        let is_of_none = name.is_empty() || name == b"[heap]" || name.starts_with(b"[anon:");
        Some(Self {
            start: usize::try_from(in_base(16, range.get(..dash)?)?).ok()?,
            end: usize::try_from(end).ok()?,
            is_readable: access.contains(&b'r'),
            is_writable: access.contains(&b'w'),
            is_shared: access.contains(&b's'),
            is_anonymous: file.1 == 0 && is_of_none,
            file,
        })
    }

    fn is_heap(&self) -> bool {
        self.is_anonymous && self.is_writable && !self.is_shared
    }

    fn size(&self) -> usize {
        self.end.wrapping_sub(self.start)
    }

    fn has(&self, start: usize, end: usize) -> bool {
        self.start <= start && start <= end && end <= self.end
    }
}

fn each_mapping(path: &CStr, scratch: &mut [u8], call: &mut dyn FnMut(Mapping) -> bool) {
    let Ok(file) = open(None, path, 0) else { return };
    each_line(&file, scratch, &mut |line| Mapping::parse(line).is_none_or(&mut *call));
}

fn drop_memory(orders: &Orders, scratch: &mut [u8]) {
    let here = &raw const *orders as usize;
    let around = |at: usize, below: usize, above: usize| {
        let start = at.saturating_sub(below) / PAGE * PAGE;
        let end = (at.saturating_add(above) / PAGE * PAGE).saturating_add(PAGE);
        (start, end)
    };
    // SAFETY: neither takes anything.
    let (errno, thread) =
        unsafe { (libc::__errno_location() as usize, libc::pthread_self() as usize) };
    let kept = [
        around(here, STACK, PAGE),
        around(errno, PAGE, PAGE),
        around(thread, PAGE, PAGE),
        orders.scratch.range(),
        orders.shared.range(),
    ];
    // An instrumented program (AddressSanitizer, for example) reserves an eighth of the address space or more, and its
    // code may touch any part of that. The stack is near the end of the address space, so its address shows the size.
    let giant = here / 32;
    let mut is_instrumented = false;
    each_mapping(c"/proc/self/maps", scratch, &mut |mapping| {
        is_instrumented |= mapping.is_heap() && mapping.size() >= giant;
        true
    });
    if is_instrumented && cfg!(target_pointer_width = "64") {
        return;
    }
    // The end of the last mapping that is no heap: an object file's. Its variables may follow it.
    let mut object_end = 0;
    each_mapping(c"/proc/self/maps", scratch, &mut |mapping| {
        let is_variables = mapping.start == object_end;
        if mapping.is_shared || (mapping.is_heap() && !is_variables) {
            if mapping.size() >= SMALL {
                each_piece((mapping.start, mapping.end), &kept, unmap);
            }
        } else if mapping.is_readable {
            object_end = mapping.end;
        }
        true
    });
}

/// Calls this with the start and the size of each part of a range outside the kept ranges.
fn each_piece(range: (usize, usize), kept: &[(usize, usize)], mut call: impl FnMut(usize, usize)) {
    let (mut start, end) = range;
    while start < end {
        let next = kept.iter().filter(|(from, to)| *from < end && *to > start).min();
        let (from, to) = next.copied().unwrap_or((end, end));
        if from > start {
            call(start, from.wrapping_sub(start));
        }
        start = to;
    }
}

/// Overwrites the program's arguments with a name, and clears its environment: a list of processes shows the arguments, and a
/// search for members of an outer tree reads the environment.
fn rename(parent: i32, scratch: &mut [u8]) {
    let mut stat = [0; 1024];
    let stat = read_once(c"/proc/self/stat", &mut stat).unwrap_or(&[]);
    let Some(fields) = fields(stat) else { return };
    // The numbers of the manual from 48 on. The first field is number 3.
    let mut places =
        fields.skip(48 - 3).map(|field| number(field).and_then(|at| usize::try_from(at).ok()));
    let mut next = || places.next().flatten().unwrap_or(0);
    let (arguments, environment) = ((next(), next()), (next(), next()));
    // The name may extend into the environment if that follows.
    let runs_on = arguments.1 == environment.0;
    let whole = (arguments.0, if runs_on { environment.1 } else { arguments.1 });
    let mut is_ours = [false; 2];
    each_mapping(c"/proc/self/maps", scratch, &mut |mapping| {
        is_ours = [
            is_ours[0] || (mapping.is_writable && mapping.has(whole.0, whole.1)),
            is_ours[1] || (mapping.is_writable && mapping.has(environment.0, environment.1)),
        ];
        true
    });
    let clear = |(start, end): (usize, usize), text: &[u8]| {
        let text = text.iter().copied().chain(std::iter::repeat(0));
        for (at, byte) in (start..end).zip(text) {
            // SAFETY: the memory is mapped and writable, and this process does not use its contents.
            unsafe { ptr::without_provenance_mut::<u8>(at).write_volatile(byte) };
        }
    };
    if is_ours[1] {
        clear(environment, b"");
    }
    if is_ours[0] {
        let name = Text::<48>::of(b"shared_child-guardian ").number(parent);
        let room = whole.1.wrapping_sub(whole.0).saturating_sub(1);
        clear(whole, name.bytes().get(..room).unwrap_or(name.bytes()));
    }
}

/// Returns whether another process has the same shared memory at the same address.
pub(super) fn is_mapped_in(id: i32, (start, _): (usize, usize), scratch: &mut [u8]) -> bool {
    let mut file_in = |path: &CStr| {
        let mut file = None;
        each_mapping(path, scratch, &mut |mapping| {
            if mapping.start == start && mapping.is_shared {
                file = Some((mapping.file, mapping.end));
            }
            mapping.start < start
        });
        file
    };
    let own = file_in(c"/proc/self/maps");
    let path = Text::<32>::of(b"/proc/").number(id).push(b"/maps");
    own.is_some() && own == file_in(path.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_parsed() {
        let parse = |line: &str| Mapping::parse(line.as_bytes()).unwrap();
        let heap = parse("55d0c000-55d0e000 rw-p 00000000 00:00 0                  [heap]");
        assert!(heap.is_heap() && !heap.is_shared);
        assert_eq!((heap.start, heap.end), (0x55d0_c000, 0x55d0_e000));
        assert!(parse("7f000000-7f021000 rw-p 00000000 00:00 0 ").is_heap());
        assert!(parse("7f000000-7f021000 rw-p 00000000 00:00 0 [anon:scudo]").is_heap());
        let stack = parse("7ffc0000-7ffc2000 rw-p 00000000 00:00 0 [stack]");
        assert!(!stack.is_heap() && stack.is_writable);
        assert!(!parse("7f000000-7f021000 rw-p 00001000 fd:01 77 /lib/a b").is_heap());
        assert!(!parse("7f000000-7f021000 ---p 00000000 00:00 0").is_heap());
        let shared = parse("7f000000-7f021000 rw-s 00000000 00:01 9 /dev/zero (deleted)");
        assert!(shared.is_shared && !shared.is_heap());
        assert!(Mapping::parse(b"no mapping").is_none());
    }

    #[test]
    fn what_is_kept_is_not_unmapped() {
        let pieces = |start, end| {
            let mut pieces = Vec::new();
            let kept = [(30, 40), (0, 12), (35, 50), (70, 99)];
            each_piece((start, end), &kept, |start, size| pieces.push((start, size)));
            pieces
        };
        assert_eq!(pieces(10, 80), [(12, 18), (50, 20)]);
        assert_eq!(pieces(12, 30), [(12, 18)]);
        assert_eq!(pieces(0, 12), []);
        assert_eq!(pieces(100, 101), [(100, 1)]);
    }

    #[test]
    fn shared_memory_is_recognised_in_another_process() {
        let shared = crate::tree::guardian::table::Table::new().unwrap().shared();
        let mut scratch = vec![0; 1 << 16];
        assert!(is_mapped_in(std::process::id() as i32, shared.range(), &mut scratch));
        let parent = std::os::unix::process::parent_id() as i32;
        assert!(!is_mapped_in(parent, shared.range(), &mut scratch));
    }
}
