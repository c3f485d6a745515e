//! What Windows says of the machine.

use std::{
    ffi::{CStr, c_char},
    io,
    time::Duration,
};

use windows_sys::{
    Wdk::System::SystemServices::RtlGetVersion,
    Win32::System::{
        LibraryLoader::{GetModuleHandleA, GetProcAddress},
        SystemInformation::{GetSystemTimeAdjustment, OSVERSIONINFOEXW},
        Threading::{GetCurrentProcess, GetCurrentThread, GetProcessAffinityMask, SetThreadAffinityMask},
    },
};

/// `wProductType` of a Windows that is no server.
const WORKSTATION: u8 = 1;

/// Name, version and build. Asked of the kernel: `GetVersionEx` tells a program without a manifest what it was
/// built for.
pub(crate) fn version() -> String {
    // SAFETY: the structure is integers, for which zeros are valid.
    let mut info: OSVERSIONINFOEXW = unsafe { std::mem::zeroed() };
    info.dwOSVersionInfoSize = size_of::<OSVERSIONINFOEXW>() as u32;
    // SAFETY: the structure is ours, says how large it is, and begins as the smaller one of the declaration.
    unsafe { RtlGetVersion((&raw mut info).cast()) };
    let OSVERSIONINFOEXW { dwMajorVersion: major, dwMinorVersion: minor, dwBuildNumber: build, .. } = info;
    let name = name(build, info.wProductType != WORKSTATION);
    format!("{name} (version {major}.{minor}, build {build})")
}

/// What people call the Windows of a build; the version has said 10.0 since 2015. A build between two releases
/// is a preview of the later one, and is called as the earlier.
fn name(build: u32, server: bool) -> &'static str {
    const CLIENTS: [(u32, &str); 22] = [
        (7600, "Windows 7"),
        (9200, "Windows 8"),
        (9600, "Windows 8.1"),
        (10_240, "Windows 10 1507"),
        (10_586, "Windows 10 1511"),
        (14_393, "Windows 10 1607"),
        (15_063, "Windows 10 1703"),
        (16_299, "Windows 10 1709"),
        (17_134, "Windows 10 1803"),
        (17_763, "Windows 10 1809"),
        (18_362, "Windows 10 1903"),
        (18_363, "Windows 10 1909"),
        (19_041, "Windows 10 2004"),
        (19_042, "Windows 10 20H2"),
        (19_043, "Windows 10 21H1"),
        (19_044, "Windows 10 21H2"),
        (19_045, "Windows 10 22H2"),
        (22_000, "Windows 11 21H2"),
        (22_621, "Windows 11 22H2"),
        (22_631, "Windows 11 23H2"),
        (26_100, "Windows 11 24H2"),
        (26_200, "Windows 11 25H2 or later"),
    ];
    const SERVERS: [(u32, &str); 7] = [
        (7600, "Windows Server 2008 R2"),
        (9200, "Windows Server 2012"),
        (9600, "Windows Server 2012 R2"),
        (14_393, "Windows Server 2016"),
        (17_763, "Windows Server 2019"),
        (20_348, "Windows Server 2022"),
        (26_100, "Windows Server 2025 or later"),
    ];
    let names = if server { &SERVERS[..] } else { &CLIENTS };
    names.iter().rev().find(|&&(from, _)| from <= build).map_or("Windows", |&(_, name)| name)
}

/// The version of Wine, if this is not Windows but Wine.
pub(crate) fn wine() -> Option<String> {
    // SAFETY: both are names that end with a zero; every process has this library for its whole life.
    let library = unsafe { GetModuleHandleA(c"ntdll.dll".as_ptr().cast()) };
    if library.is_null() {
        return None;
    }
    // SAFETY: the handle is valid, and the name ends with a zero.
    let found = unsafe { GetProcAddress(library, c"wine_get_version".as_ptr().cast()) }?;
    // SAFETY: under this name Wine has exported a function of this type since 2008, and Windows has none.
    let version: unsafe extern "C" fn() -> *const c_char = unsafe { std::mem::transmute(found) };
    // SAFETY: the function takes nothing, and gives a constant of the library.
    let text = unsafe { version() };
    if text.is_null() {
        return None;
    }
    // SAFETY: it is a text that ends with a zero, and is there as long as the library.
    let text = unsafe { CStr::from_ptr(text) };
    Some(text.to_string_lossy().into_owned())
}

/// The time between two ticks of the clock: time-outs end at one of them. `None` if Windows does not say.
pub(crate) fn tick() -> Option<Duration> {
    let (mut adjustment, mut increment, mut disabled) = (0, 0, 0);
    // SAFETY: all three are variables of ours.
    let done = unsafe { GetSystemTimeAdjustment(&raw mut adjustment, &raw mut increment, &raw mut disabled) };
    // In units of 100 ns.
    (done != 0 && increment > 0).then(|| Duration::from_nanos(u64::from(increment) * 100))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_have_the_names_that_people_use() {
        for (build, server, expected) in [
            (7601, false, "Windows 7"),
            (9600, true, "Windows Server 2012 R2"),
            (19_045, false, "Windows 10 22H2"),
            (22_000, false, "Windows 11 21H2"),
            (22_635, false, "Windows 11 23H2"),
            (99_999, false, "Windows 11 25H2 or later"),
            (17_763, true, "Windows Server 2019"),
            (20_348, true, "Windows Server 2022"),
            (2600, false, "Windows"),
        ] {
            assert_eq!(name(build, server), expected);
        }
        let version = version();
        assert!(version.starts_with("Windows") && version.contains(", build "), "{version}");
    }

    #[test]
    fn a_tick_is_between_half_a_millisecond_and_sixteen() {
        let tick = tick().expect("Windows says it");
        assert!(tick >= Duration::from_micros(500) && tick <= Duration::from_millis(16), "{tick:?}");
    }
}
