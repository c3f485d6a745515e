//! What Windows says of the machine.

use std::io;

use windows_sys::{
    Wdk::System::SystemServices::RtlGetVersion,
    Win32::System::{
        SystemInformation::OSVERSIONINFOW,
        Threading::{GetCurrentProcess, GetCurrentThread, GetProcessAffinityMask, SetThreadAffinityMask},
    },
};

/// Name, version and build. Asked of the kernel: `GetVersionEx` tells a program without a manifest what it was
/// built for.
pub(crate) fn version() -> String {
    // SAFETY: the structure is integers, for which zeros are valid.
    let mut info: OSVERSIONINFOW = unsafe { std::mem::zeroed() };
    info.dwOSVersionInfoSize = size_of::<OSVERSIONINFOW>() as u32;
    // SAFETY: the structure is ours, and says how large it is.
    unsafe { RtlGetVersion(&raw mut info) };
    format!("Windows {}.{}.{}", info.dwMajorVersion, info.dwMinorVersion, info.dwBuildNumber)
}

/// The processors, of the first 64, that this process may use; `None` if Windows does not say.
pub(crate) fn processors() -> Option<Vec<usize>> {
    let (mut process, mut system) = (0, 0);
    // SAFETY: the pseudo handle of this process is always valid.
    let this = unsafe { GetCurrentProcess() };
    // SAFETY: both masks are written to variables of ours.
    let done = unsafe { GetProcessAffinityMask(this, &raw mut process, &raw mut system) };
    // A process in several groups of processors gets zeros.
    (done != 0 && process != 0)
        .then(|| (0..usize::BITS as usize).filter(|at| process >> at & 1 == 1).collect())
}

/// Binds the calling thread to one processor, of the first 64.
pub(crate) fn pin_thread(processor: usize) -> io::Result<()> {
    let Some(mask) = u32::try_from(processor).ok().and_then(|processor| 1_usize.checked_shl(processor))
    else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no such processor among the first 64"));
    };
    // SAFETY: the pseudo handle of this thread is always valid.
    let this = unsafe { GetCurrentThread() };
    // SAFETY: the call changes nothing but this thread's mask.
    if unsafe { SetThreadAffinityMask(this, mask) } == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
