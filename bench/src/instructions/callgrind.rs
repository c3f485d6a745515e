//! A server under callgrind, and what it has counted so far.

use std::{
    ffi::OsString,
    fs, io,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::Profile;
use crate::{
    error::{Context, Error, Result},
    process::{Programs, Running, Server},
    workload::Workload,
};

/// A server falls asleep within this time, and a dump is written.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often that is looked at.
const LOOK: Duration = Duration::from_micros(300);
const INSTALL: &str =
    "instructions are counted by valgrind: `apt-get install valgrind`, or your system's way";

/// A server that runs under callgrind. Dropping it ends it and takes its files away.
pub struct Callgrind {
    pub running: Running,
    folder: PathBuf,
    dumps: u32,
}

/// Which valgrind there is.
///
/// # Errors
/// If there is none, or not the part of it that talks to a program that runs (`vgdb`).
pub fn version() -> Result<String> {
    let version = |program: &str| {
        let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
        let missing = |reason: String| Error::Start { program: program.into(), reason };
        output.map_err(|error| missing(format!("{error}; {INSTALL}")))
    };
    version("vgdb")?;
    let output = version("valgrind")?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(Error::Start { program: "valgrind".into(), reason: format!("{}; {INSTALL}", output.status) })
    }
}

impl Callgrind {
    /// Starts a server and waits until it accepts connections and sleeps.
    pub fn start(server: &Server, workload: Workload, programs: &Programs) -> Result<Self> {
        let unique = format!("compare-instructions-{}-{}", std::process::id(), server.name.replace(' ', "-"));
        let folder = std::env::temp_dir().join(unique);
        fs::create_dir_all(&folder).context("a folder for what callgrind writes")?;
        let mut out = OsString::from("--callgrind-out-file=");
        out.push(folder.join("out"));
        let options = ["--tool=callgrind", "--compress-strings=no", "--compress-pos=no"];
        let mut under = vec![OsString::from("valgrind")];
        under.extend(options.map(OsString::from));
        under.push(out);
        match Running::start_under(&under, server, workload, 0, programs) {
            Ok(running) => {
                let mut callgrind = Self { running, folder, dumps: 0 };
                callgrind.await_sleep()?;
                Ok(callgrind)
            }
            Err(error) => {
                // What is left in a folder for temporary files is a nuisance, not a fault.
                let _ = fs::remove_dir_all(&folder);
                Err(error)
            }
        }
    }

    /// Waits until every thread of the server sleeps.
    pub fn await_sleep(&mut self) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            // Until then it had no chance to run: the processor is ours.
            thread::sleep(LOOK);
            if self.sleeps().context("state of the server's threads")? {
                return self.running.check_alive();
            }
        }
        Err(Error::Usage(format!(
            "{} did not fall asleep within {} s",
            self.running.name,
            PATIENCE.as_secs()
        )))
    }

    fn sleeps(&self) -> io::Result<bool> {
        for thread in fs::read_dir(format!("/proc/{}/task", self.running.pid()))? {
            let stat = fs::read_to_string(thread?.path().join("stat"))?;
            // The state stands behind the name, which is in brackets and may hold anything.
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            if state != Some('S') {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What was counted since the last dump.
    pub fn dump(&mut self) -> Result<Profile> {
        self.dumps += 1;
        let failed = |reason: String| Error::Start { program: "vgdb".into(), reason };
        let mut vgdb = Command::new("vgdb")
            .args([&format!("--pid={}", self.running.pid()), "dump"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed(format!("{error}; {INSTALL}")))?;
        let start = Instant::now();
        let status = loop {
            match vgdb.try_wait().context("waiting for vgdb")? {
                Some(status) => break status,
                None if start.elapsed() < PATIENCE => thread::sleep(LOOK),
                None => {
                    // Both fail only if it has ended after all.
                    let _ = vgdb.kill();
                    let _ = vgdb.wait();
                    let reason =
                        "no answer: it talks by ptrace, which may be forbidden here, as in some containers";
                    return Err(failed(reason.into()));
                }
            }
        };
        if !status.success() {
            self.running.check_alive()?;
            return Err(failed(format!("{status} when it asked {} for its counts", self.running.name)));
        }
        // To be asked woke it up.
        self.await_sleep()?;
        let file = self.folder.join(format!("out.{}", self.dumps));
        let text = fs::read_to_string(&file).context("reading what callgrind wrote")?;
        fs::remove_file(&file).context("removing what callgrind wrote")?;
        Ok(Profile::parse(&text))
    }
}

impl Drop for Callgrind {
    fn drop(&mut self) {
        // What is left in a folder for temporary files is a nuisance, not a fault.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
