//! Listening at a path: the file of a Unix socket, from the bind until just before the close. (After it, the file would
//! look like that of a dead server, and another one might take its place in the moment in which it is removed.)
//!
//! A server that dies leaves its file behind, and the next one must neither fail because of it nor take the file of a
//! server that lives. So a file that is there is knocked at: whoever answers keeps it, and only a socket at which
//! nobody listens is removed. A file that is no socket is never touched. On macOS and the BSDs a server whose backlog is
//! full refuses as a dead one does, which cannot be told apart: there, do not start a second one at the path of a busy one.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::FlockOperation,
    io::Errno,
    net::{self, AddressFamily, SocketAddrUnix},
};

use super::socket::{Mode, open_family};
use crate::options::{ListenOptions, PortSharing};

/// How long another server that starts in the same folder at this moment is waited for.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The file of a listener. Dropping it removes the file, if it is still the same one.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode: which file it is.
    identity: (u64, u64),
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let data = fs::symlink_metadata(path)?;
    Ok((data.dev(), data.ino()))
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have put another in its place.
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A path in the system's form.
pub(crate) fn address(path: &Path) -> io::Result<SocketAddrUnix> {
    SocketAddrUnix::new(path).map_err(|errno| match errno {
        Errno::NAMETOOLONG => {
            let text =
                format!("the path has {} bytes, more than a Unix socket may have", path.as_os_str().len());
            io::Error::new(io::ErrorKind::InvalidInput, text)
        }
        errno => errno.into(),
    })
}

/// A listening socket at `path`, closed on exec, and its file.
pub(crate) fn listen(path: &Path, options: &ListenOptions, mode: Mode) -> io::Result<(OwnedFd, SocketFile)> {
    if options.port != PortSharing::Alone {
        let text = "listeners cannot share the path of a Unix socket: listen once and hand connections over";
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    let address = address(path)?;
    let socket = open_family(AddressFamily::UNIX, None, mode)?;
    super::socket::set_buffers(&socket, &options.socket)?;
    // Between bind and listen a server looks as if it were dead: nobody else may look then.
    let lock = lock_folder(path);
    match net::bind(&socket, &address) {
        Err(Errno::ADDRINUSE) => {
            remove_dead(path, &address)?;
            net::bind(&socket, &address)?;
        }
        bound => bound?,
    }
    let file = SocketFile::at(path)?;
    if let Some(mode) = options.unix_mode {
        // Before listen: nobody connects by permissions that were not meant.
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    net::listen(&socket, i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    drop(lock);
    Ok((socket, file))
}

/// Keeps other servers from looking at files of this folder; gives up after a second. `None` where the folder cannot
/// be opened: then two servers that start at one path in the same instant may take it from each other.
fn lock_folder(path: &Path) -> Option<fs::File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = fs::File::open(folder).ok()?;
    for _ in 0..LOCK_TRIES {
        match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(folder),
            Err(Errno::WOULDBLOCK | Errno::INTR) => std::thread::sleep(LOCK_PAUSE),
            Err(_) => return None,
        }
    }
    None
}

/// Removes the socket of a server that is gone; an error for everything else that may be there.
fn remove_dead(path: &Path, address: &SocketAddrUnix) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        let text = "there is a file that is no socket: remove it yourself, or choose another path";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    let knock = open_family(AddressFamily::UNIX, None, Mode::NonBlocking)?;
    match net::connect(&knock, address) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path),
        // It went by itself.
        Err(Errno::NOENT) => Ok(()),
        // Somebody listens, or has a full backlog, or uses it for something else.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(Errno::ADDRINUSE.into()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    /// A folder of its own, which goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("anyport-{}-{name}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn path(&self) -> PathBuf {
            self.0.join("s.sock")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn listen_at(path: &Path, options: &ListenOptions) -> io::Result<(OwnedFd, SocketFile)> {
        listen(path, options, Mode::NonBlocking)
    }

    #[test]
    fn the_file_comes_with_the_listener_and_goes_with_it() {
        let folder = Folder::new("comes");
        let options = ListenOptions { unix_mode: Some(0o600), ..ListenOptions::default() };
        let (listener, file) = listen_at(&folder.path(), &options).unwrap();
        assert_eq!(fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(folder.path()).unwrap();
        drop((listener, file));
        assert!(!folder.path().exists());
    }

    #[test]
    fn the_socket_of_a_dead_server_is_replaced_and_of_a_live_one_is_not() {
        let folder = Folder::new("dead");
        let options = ListenOptions::default();
        let live = UnixListener::bind(folder.path()).unwrap();
        let error = listen_at(&folder.path(), &options).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(folder.path().exists());
        drop(live);
        let (_listener, _file) = listen_at(&folder.path(), &options).unwrap();
        UnixStream::connect(folder.path()).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_stays() {
        let folder = Folder::new("file");
        fs::write(folder.path(), "precious").unwrap();
        let error = listen_at(&folder.path(), &ListenOptions::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(folder.path()).unwrap(), "precious");
    }

    #[test]
    fn what_somebody_else_put_there_stays() {
        let folder = Folder::new("else");
        let (listener, file) = listen_at(&folder.path(), &ListenOptions::default()).unwrap();
        fs::remove_file(folder.path()).unwrap();
        fs::write(folder.path(), "another").unwrap();
        drop((listener, file));
        assert!(folder.path().exists());
    }

    #[test]
    fn a_path_that_is_too_long_is_told() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(200)));
        let error = listen_at(&path, &ListenOptions::default()).unwrap_err().to_string();
        assert!(error.contains("205 bytes"), "{error}");
    }
}
