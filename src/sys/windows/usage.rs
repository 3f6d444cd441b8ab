//! Windows: the process handle, which keeps what the process has used.
//!
//! Sources: GetProcessTimes, GetProcessMemoryInfo and PROCESS_MEMORY_COUNTERS of the Win32 documentation.

use crate::usage::Usage;
use std::os::windows::io::{AsRawHandle, BorrowedHandle};
use std::time::Duration;
use windows_sys::Win32::Foundation::FILETIME;
use windows_sys::Win32::System::ProcessStatus::{K32GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS};
use windows_sys::Win32::System::Threading::GetProcessTimes;

pub(crate) fn of(process: BorrowedHandle<'_>) -> Option<Usage> {
    let [mut created, mut exited, mut kernel, mut user] = [FILETIME::default(); 4];
    // SAFETY: the handle is open for as long as it is borrowed, and all four outlive the call.
    let told = unsafe {
        GetProcessTimes(
            process.as_raw_handle(),
            &raw mut created,
            &raw mut exited,
            &raw mut kernel,
            &raw mut user,
        )
    };
    (told != 0).then(|| Usage {
        user: time(user),
        system: time(kernel),
        peak_memory: peak_memory(process),
    })
}

/// In units of 100 ns.
fn time(time: FILETIME) -> Duration {
    let units = u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime);
    Duration::from_nanos(units.saturating_mul(100))
}

/// Zero means that it is not counted, as under wine.
fn peak_memory(process: BorrowedHandle<'_>) -> Option<u64> {
    let mut counters = PROCESS_MEMORY_COUNTERS::default();
    let size = size_of_val(&counters) as u32;
    // SAFETY: the handle is open for as long as it is borrowed. The struct is of this size, and outlives the call.
    let told = unsafe { K32GetProcessMemoryInfo(process.as_raw_handle(), &raw mut counters, size) };
    (told != 0).then_some(counters.PeakWorkingSetSize as u64).filter(|peak| *peak > 0)
}
