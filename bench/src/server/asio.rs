//! C++ Asio lives in `peers/asio`, and is compiled here when somebody compares it.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{self, Command, Output},
    time::SystemTime,
};

use crate::error::{Context, Error, Result};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/asio");
const MAIN: &str = "main.cpp";
/// Beside this program.
const PROGRAM: &str = "compare-asio";
const OPTIONS: [&str; 7] =
    ["-std=c++17", "-O3", "-DNDEBUG", "-DASIO_STANDALONE", "-DASIO_NO_DEPRECATED", "-pthread", "-Wall"];
const HOW: &str = "on Debian: apt-get install g++ libasio-dev";

/// Compiles it, unless that has been done since its source last changed; returns the path of the program.
///
/// # Errors
///
/// If the compiler or Asio's headers are missing, and then says how to get them.
pub fn build() -> Result<PathBuf> {
    let program = env::current_exe().context("path of this program")?.with_file_name(PROGRAM);
    let sources = Path::new(SOURCES);
    if is_current(&program, sources).context("looking at the source of Asio's server")? {
        return Ok(program);
    }
    eprintln!("compiling {}", sources.join(MAIN).display());
    // Whoever compiles it at the same time puts the same program there.
    let unfinished = program.with_file_name(format!("{PROGRAM}-{}", process::id()));
    let mut command = Command::new("g++");
    command.args(OPTIONS).arg(sources.join(MAIN)).arg("-o").arg(&unfinished);
    let failed = |reason: String| Error::Start { program: "g++ (for C++ Asio)".into(), reason };
    let output = command.output().map_err(|error| failed(format!("{error}; {HOW}")))?;
    if !output.status.success() {
        return Err(failed(reason(&output)));
    }
    fs::rename(&unfinished, &program).context("putting Asio's server in its place")?;
    Ok(program)
}

fn is_current(program: &Path, sources: &Path) -> io::Result<bool> {
    let Ok(built) = fs::metadata(program).and_then(|metadata| metadata.modified()) else {
        return Ok(false);
    };
    let mut changed = SystemTime::UNIX_EPOCH;
    for file in fs::read_dir(sources)? {
        changed = changed.max(file?.metadata()?.modified()?);
    }
    Ok(changed < built)
}

/// Why the compiler failed: the headers are missing, or its first words.
fn reason(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("asio.hpp: No such file") {
        return format!("Asio's headers are missing; {HOW}");
    }
    let first: Vec<&str> = errors.lines().take(5).collect();
    format!("{}: {}", output.status, first.join("\n"))
}

/// The versions of Asio and of the compiler; none if one of them is not there.
pub fn versions() -> Option<String> {
    let text = |command: &mut Command| {
        let output = command.output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok()
    };
    let compiler = text(Command::new("g++").arg("-dumpfullversion"))?;
    // Prints the macros of the header.
    let arguments = ["-E", "-dM", "-x", "c++", "-include", "asio/version.hpp", "/dev/null"];
    let macros = text(Command::new("g++").args(arguments))?;
    let number = macros.lines().find_map(|line| line.strip_prefix("#define ASIO_VERSION "))?;
    let number = number.split_whitespace().next()?.parse::<u32>().ok()?;
    let (major, minor, patch) = (number / 100_000, number / 100 % 1000, number % 100);
    Some(format!("{major}.{minor}.{patch} (g++ {} -O3)", compiler.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_built_again_when_its_source_has_changed() {
        let folder = env::temp_dir().join(format!("compare-asio-test-{}", process::id()));
        let sources = folder.join("sources");
        fs::create_dir_all(&sources).expect("a folder");
        fs::write(sources.join("main.cpp"), "").expect("a file");
        let program = folder.join("program");
        assert!(!is_current(&program, &sources).expect("readable"), "it does not exist");
        fs::write(&program, "").expect("a file");
        let set = |file: &Path, seconds| {
            let file = fs::File::options().write(true).open(file).expect("a file");
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            file.set_modified(time).expect("a time");
        };
        set(&program, 2000);
        set(&sources.join("main.cpp"), 1000);
        assert!(is_current(&program, &sources).expect("readable"));
        set(&sources.join("main.cpp"), 3000);
        assert!(!is_current(&program, &sources).expect("readable"));
        fs::remove_dir_all(folder).expect("removed");
    }
}
