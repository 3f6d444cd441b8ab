//! Windows: the handles of this process.

use super::{on_every_backend, rounds};
use shared_child::seam::Backend;
use windows_sys::Win32::Foundation::CloseHandle;
use windows_sys::Win32::System::Threading::CreateEventW;

/// The value of a new handle, which is the lowest free one.
fn lowest_free_handle() -> usize {
    // SAFETY: there are no attributes and no name; the handle is owned here alone.
    unsafe {
        let event = CreateEventW(std::ptr::null(), 0, 0, std::ptr::null());
        assert!(!event.is_null());
        CloseHandle(event);
        event.addr()
    }
}

/// Checks that repeated rounds on every backend leave no handle open.
pub(crate) fn leaks_no_handle_on_any_backend(round: impl Fn(Backend)) {
    on_every_backend(|backend| leaks_no_handle(|| round(backend)));
}

/// Checks that repeated rounds leave no handle open.
pub(crate) fn leaks_no_handle(round: impl Fn()) {
    round();
    let before = lowest_free_handle();
    for _ in 0..rounds(100) {
        round();
    }
    // Handle values are multiples of 4.
    let more = lowest_free_handle().saturating_sub(before) / 4;
    assert!(more < rounds(100) / 2, "{more} more handles than before");
}
