//! Reads the result of `waitid` (whether a child has exited, and its status) by offsets of this library.
//!
//! The accessor `si_status` of the `libc` crate is right on Linux. Elsewhere it has been wrong: on OpenBSD it reads
//! offset 152 of a struct of 136 bytes (0.2.183 to 0.2.191), on NetBSD it read offset 40 instead of 24 (before
//! 0.2.179), and on illumos it reads through a pointer that is not aligned. So [`System::layout`] has the offsets of
//! each system's own header. Its arguments are the width of a pointer and the alignment of a 64-bit integer, so that
//! the tests check every system on any system. All fields are `int`s.
//!
//! `si_signo` is the first field everywhere. About half of the systems have `si_code` before `si_errno`, the others
//! after it.
//!
//! Sources: `sys/signal.h` of XNU and FreeBSD, `sys/_siginfo.h` of DragonFly, `sys/siginfo.h` of NetBSD, OpenBSD (1.14)
//! and illumos, `posix/signal.h` of Haiku; `sys/wait.h` of each for the `wait` status.

use super::system::System;
use crate::sys::{Observed, PLATFORM};
use std::ffi::c_int;
use std::mem::offset_of;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// The offsets of the fields in a `siginfo_t`, and its size, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    code: usize,
    status: usize,
    size: usize,
}

#[allow(dead_code, reason = "a system is built for itself, the tests for all")]
impl System {
    /// Returns the layout, where `word` is the size of a pointer and of a `long`, and `align` the alignment of a 64-bit
    /// integer.
    const fn layout(self, word: usize, align: usize) -> Layout {
        match self {
            // Twelve bytes; si_pid, si_uid and si_status; si_addr, si_value, si_band and seven longs.
            Self::Apple => Layout { code: 8, status: 20, size: 24 + 10 * word },
            // The same start; then si_addr, si_value, and a union of one long and seven ints.
            Self::FreeBsd | Self::DragonFly => {
                Layout { code: 8, status: 20, size: (24 + 3 * word + 28).next_multiple_of(word) }
            }
            // A union follows the first three ints, and has 64-bit integers in another variant. The variant for
            // SIGCHLD: si_pid, si_uid, si_status.
            Self::NetBsd => {
                let data = if word == 8 { 16 } else { 12_usize.next_multiple_of(align) };
                Layout { code: 4, status: data + 8, size: 128 }
            }
            // A union of 29 ints. The variant for SIGCHLD: si_pid, si_uid, two clock_t of 64 bits everywhere,
            // si_status.
            Self::OpenBsd => {
                let align = if word == 8 { 8 } else { align };
                let data = 12_usize.next_multiple_of(align);
                Layout { code: 4, status: data + 24, size: (data + 116).next_multiple_of(align) }
            }
            // A union follows. The variant for SIGCHLD: si_pid, and a union: a clock_t (a long), si_status, another
            // clock_t.
            Self::Solarish if word == 8 => Layout { code: 4, status: 32, size: 256 },
            Self::Solarish => Layout { code: 4, status: 20, size: 128 },
            // si_pid, si_uid, si_addr, si_status, si_band, si_value.
            Self::Haiku => {
                let status = 20_usize.next_multiple_of(word) + word;
                let band = (status + 4).next_multiple_of(word);
                Layout { code: 4, status, size: band + 2 * word }
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fields {
    signal: c_int,
    code: c_int,
    status: c_int,
}

impl Fields {
    /// Returns the state of a child. An exit lacks its status if the fields do not show the signal that ended the child.
    fn observed(self, system: Option<System>) -> Observed {
        // POSIX leaves `si_signo` zero if there is no child to report. Check `si_code` as well: macOS was observed to
        // report stopped children to a caller that wanted exits alone.
        if self.signal != libc::SIGCHLD {
            return Observed::Running;
        }
        // The bits by which a `wait` status shifts an exit code, and a signal, and the bit of a core dump.
        let (code_shift, signal_shift, core) =
            if system == Some(System::Haiku) { (0, 8, 0x1_0000) } else { (8, 0, 0x80) };
        let signal = (self.status & 0x7f) << signal_shift;
        let status = match self.code {
            libc::CLD_EXITED => Some((self.status & 0xff) << code_shift),
            // macOS 10.12 to 10.15 write an exit code here, which is 0 after a death by signal.
            libc::CLD_KILLED | libc::CLD_DUMPED if self.status == 0 => None,
            libc::CLD_KILLED => Some(signal),
            libc::CLD_DUMPED => Some(signal | core),
            _ => return Observed::Running,
        };
        Observed::Exited(status.map(ExitStatus::from_raw))
    }
}

impl Layout {
    /// Panics if the bytes are fewer than a `siginfo_t` has here.
    fn fields(self, bytes: &[u8]) -> Fields {
        let int = |offset: usize| {
            let bytes = bytes[..self.size][offset..].first_chunk().expect("a field lies within");
            c_int::from_ne_bytes(*bytes)
        };
        Fields { signal: int(0), code: int(self.code), status: int(self.status) }
    }
}

/// Room for one `siginfo_t`: larger than that of any system, because `libc` has some of them too small.
#[repr(C, align(16))]
pub(crate) struct Room([u8; 256]);

const _: () = assert!(size_of::<libc::siginfo_t>() <= size_of::<Room>());
const _: () = assert!(align_of::<libc::siginfo_t>() <= align_of::<Room>());

impl Room {
    pub(crate) const fn new() -> Self {
        Self([0; 256])
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut libc::siginfo_t {
        self.0.as_mut_ptr().cast()
    }

    /// Returns the state of the child that `waitid` has reported.
    pub(crate) fn observed(&self) -> Observed {
        self.fields().observed(SYSTEM)
    }
}

/// `None` on Linux, Android, and systems on which this library is not checked: there the `libc` crate decides.
const SYSTEM: Option<System> = PLATFORM.system;

// `libc` agrees in the offset of `si_code` and in the size. (On 32-bit systems it aligns every union to 4 bytes, which is
// wrong where 64-bit integers are aligned to 8.)
const _: () = if let Some(system) = SYSTEM {
    let layout = system.layout(size_of::<usize>(), align_of::<u64>());
    assert!(layout.size <= size_of::<Room>());
    assert!(layout.status + 4 <= layout.size);
    assert!(size_of::<usize>() < 8 || layout.size == size_of::<libc::siginfo_t>());
    assert!(offset_of!(libc::siginfo_t, si_signo) == 0);
    assert!(offset_of!(libc::siginfo_t, si_code) == layout.code);
};

impl Room {
    fn fields(&self) -> Fields {
        if let Some(system) = SYSTEM {
            return system.layout(size_of::<usize>(), align_of::<u64>()).fields(&self.0);
        }
        // SAFETY: the room is large enough and aligned (asserted above). It was zeroed, and a `siginfo_t` consists of
        // integers and pointers, for which any bytes are valid.
        let info = unsafe { self.0.as_ptr().cast::<libc::siginfo_t>().read() };
        // SAFETY: the room is initialised, so the field is too. It is used only if the other fields show that it was
        // written.
        let status = unsafe { info.si_status() };
        Fields { signal: info.si_signo, code: info.si_code, status }
    }
}

/// Transcribes each system's `siginfo_t` from its header, independently of the offsets above, and fills it as its
/// kernel does. The transcriptions have the C layout of the machine that runs the tests: 64-bit pointers and `long`s.
#[cfg(all(test, not(loom), target_pointer_width = "64"))]
mod tests {
    use super::Layout;
    use crate::sys::Observed;
    use crate::sys::unix::system::System;
    use libc::{CLD_DUMPED, CLD_EXITED, CLD_KILLED, SIGCHLD};
    use std::ffi::{c_int, c_long, c_void};
    use std::mem::{MaybeUninit, offset_of};
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    /// XNU's `sys/signal.h`, and FreeBSD's and DragonFly's, whose tails differ.
    #[repr(C)]
    struct Sequential<Tail> {
        si_signo: c_int,
        si_errno: c_int,
        si_code: c_int,
        si_pid: i32,
        si_uid: u32,
        si_status: c_int,
        si_addr: *mut c_void,
        si_value: *mut c_void,
        tail: Tail,
    }

    #[repr(C)]
    struct AppleTail {
        si_band: c_long,
        pad: [std::ffi::c_ulong; 7],
    }

    #[repr(C)]
    struct FreeBsdTail {
        spare1: c_long,
        spare2: [c_int; 7],
    }

    /// NetBSD's `struct _ksiginfo`, the variant `_child` of its union, and the `si_pad` that gives the size.
    #[repr(C)]
    union NetBsd {
        si_pad: [u8; 128],
        info: NetBsdInfo,
    }

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct NetBsdInfo {
        signo: c_int,
        code: c_int,
        errno: c_int,
        pad: c_int,
        reason: NetBsdReason,
    }

    #[repr(C)]
    #[derive(Clone, Copy)]
    union NetBsdReason {
        child: NetBsdChild,
        syscall: NetBsdSyscall,
    }

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct NetBsdChild {
        pid: i32,
        uid: u32,
        status: c_int,
        utime: u32,
        stime: u32,
    }

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct NetBsdSyscall {
        sysnum: c_int,
        retval: [c_int; 2],
        error: c_int,
        args: [u64; 8],
    }

    /// OpenBSD's: a union of 29 ints and of `_proc`, whose `_pdata` has the variant `_cld`.
    #[repr(C)]
    struct OpenBsd<Data> {
        si_signo: c_int,
        si_code: c_int,
        si_errno: c_int,
        data: Data,
    }

    #[repr(C)]
    union OpenBsdData {
        pad: [c_int; 128 / 4 - 3],
        process: OpenBsdProcess,
    }

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct OpenBsdProcess {
        pid: i32,
        uid: u32,
        utime: i64,
        stime: i64,
        status: c_int,
    }

    /// The same where 64-bit integers are aligned to 4 bytes (i386).
    #[repr(C, packed(4))]
    #[derive(Clone, Copy)]
    struct OpenBsdProcessOfI386 {
        pid: i32,
        uid: u32,
        utime: i64,
        stime: i64,
        status: c_int,
    }

    #[repr(C)]
    union OpenBsdDataOfI386 {
        pad: [c_int; 128 / 4 - 3],
        process: OpenBsdProcessOfI386,
    }

    /// illumos: `si_pad` exists where pointers have 64 bits.
    #[repr(C)]
    struct Solarish {
        si_signo: c_int,
        si_code: c_int,
        si_errno: c_int,
        si_pad: c_int,
        data: SolarishData,
    }

    #[repr(C)]
    union SolarishData {
        pad: [c_int; 256 / 4 - 4],
        process: SolarishProcess,
    }

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct SolarishProcess {
        pid: i32,
        cld: SolarishChild,
        ctid: i32,
        zoneid: i32,
    }

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct SolarishChild {
        utime: c_long,
        status: c_int,
        stime: c_long,
    }

    #[repr(C)]
    struct Haiku {
        si_signo: c_int,
        si_code: c_int,
        si_errno: c_int,
        si_pid: i32,
        si_uid: u32,
        si_addr: *mut c_void,
        si_status: c_int,
        si_band: c_long,
        si_value: *mut c_void,
    }

    /// Returns the bytes of a struct that a kernel fills: first all bytes get a value that no field has, then the
    /// fields are written.
    fn bytes<T>(fill: impl FnOnce(&mut T)) -> Vec<u8> {
        let mut info = MaybeUninit::<T>::uninit();
        // SAFETY: this writes as many bytes as the struct has. It consists of integers, of pointers that are not
        // followed, and of padding, and this initialises all of them.
        unsafe {
            info.as_mut_ptr().cast::<u8>().write_bytes(0xa5, size_of::<T>());
            fill(info.assume_init_mut());
            std::slice::from_raw_parts(info.as_ptr().cast::<u8>(), size_of::<T>()).to_vec()
        }
    }

    fn sequential<Tail>(signal: c_int, code: c_int, status: c_int) -> Vec<u8> {
        bytes(|info: &mut Sequential<Tail>| {
            (info.si_signo, info.si_errno, info.si_code) = (signal, 0, code);
            (info.si_pid, info.si_uid, info.si_status) = (4711, 1000, status);
        })
    }

    /// Returns the bytes as the kernel of the system writes them.
    fn written(system: System, signal: c_int, code: c_int, status: c_int) -> Vec<u8> {
        match system {
            System::Apple => sequential::<AppleTail>(signal, code, status),
            System::FreeBsd | System::DragonFly => sequential::<FreeBsdTail>(signal, code, status),
            System::NetBsd => bytes(|info: &mut NetBsd| {
                let child = NetBsdChild { pid: 4711, uid: 1000, status, utime: 7, stime: 8 };
                let reason = NetBsdReason { child };
                info.info = NetBsdInfo { signo: signal, code, errno: 0, pad: 0, reason };
            }),
            System::OpenBsd => bytes(|info: &mut OpenBsd<OpenBsdData>| {
                (info.si_signo, info.si_code, info.si_errno) = (signal, code, 0);
                info.data.process =
                    OpenBsdProcess { pid: 4711, uid: 1000, utime: 7, stime: 8, status };
            }),
            System::Solarish => bytes(|info: &mut Solarish| {
                (info.si_signo, info.si_code, info.si_errno) = (signal, code, 0);
                let cld = SolarishChild { utime: 7, status, stime: 8 };
                info.data.process = SolarishProcess { pid: 4711, cld, ctid: 9, zoneid: 0 };
            }),
            System::Haiku => bytes(|info: &mut Haiku| {
                (info.si_signo, info.si_code, info.si_errno) = (signal, code, 0);
                (info.si_pid, info.si_uid, info.si_status) = (4711, 1000, status);
            }),
        }
    }

    const ALL: [System; 7] = [
        System::Apple,
        System::FreeBsd,
        System::DragonFly,
        System::NetBsd,
        System::OpenBsd,
        System::Solarish,
        System::Haiku,
    ];

    fn report(system: System, signal: c_int, code: c_int, status: c_int) -> Observed {
        let bytes = written(system, signal, code, status);
        let layout = system.layout(8, 8);
        assert_eq!(layout.size, bytes.len(), "{system:?}");
        layout.fields(&bytes).observed(Some(system))
    }

    fn exited(status: c_int) -> Observed {
        Observed::Exited(Some(ExitStatus::from_raw(status)))
    }

    #[test]
    fn the_status_of_every_system_is_read_where_its_header_has_it() {
        for system in ALL {
            let read = |code, status| report(system, SIGCHLD, code, status);
            let is_haiku = system == System::Haiku;
            let (code, signal, core) =
                if is_haiku { (7, 15 << 8, 6 << 8 | 0x1_0000) } else { (7 << 8, 15, 6 | 0x80) };
            assert_eq!(read(CLD_EXITED, 0), exited(0), "{system:?}");
            assert_eq!(read(CLD_EXITED, 7), exited(code), "{system:?}");
            assert_eq!(read(CLD_KILLED, 15), exited(signal), "{system:?}");
            assert_eq!(read(CLD_DUMPED, 6), exited(core), "{system:?}");
        }
    }

    #[test]
    fn a_report_without_a_child_or_of_a_stop_is_no_exit() {
        for system in ALL {
            assert_eq!(report(system, 0, 0, 0), Observed::Running, "{system:?}");
            // CLD_TRAPPED, CLD_STOPPED and CLD_CONTINUED follow CLD_DUMPED everywhere.
            for code in CLD_DUMPED + 1..=CLD_DUMPED + 3 {
                assert_eq!(report(system, SIGCHLD, code, 17), Observed::Running, "{system:?}");
            }
        }
    }

    /// macOS 10.12 to 10.15.
    #[test]
    fn a_death_by_signal_without_its_number_has_no_status() {
        for code in [CLD_KILLED, CLD_DUMPED] {
            assert_eq!(report(System::Apple, SIGCHLD, code, 0), Observed::Exited(None));
        }
    }

    #[test]
    fn layouts_of_32_bits_follow_the_alignment_of_64_bit_integers() {
        let layout = |system: System, align| {
            let Layout { status, size, .. } = system.layout(4, align);
            (status, size)
        };
        for align in [4, 8] {
            assert_eq!(layout(System::FreeBsd, align), (20, 64));
            assert_eq!(layout(System::Haiku, align), (24, 36));
        }
        assert_eq!(layout(System::NetBsd, 4), (20, 128));
        assert_eq!(layout(System::NetBsd, 8), (24, 128));

        type OfI386 = OpenBsd<OpenBsdDataOfI386>;
        let status = offset_of!(OfI386, data) + offset_of!(OpenBsdProcessOfI386, status);
        assert_eq!(layout(System::OpenBsd, 4), (status, size_of::<OfI386>()));
        // The union consists of 64-bit integers and of ints, so its alignment decides, and not the width of a pointer.
        assert_eq!(layout(System::OpenBsd, 8), (40, 136));
    }
}
