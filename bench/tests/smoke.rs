//! Runs the real program, for a moment, on one processor, without the project's own server.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

fn compare(arguments: &[&str]) -> Output {
    let common =
        ["--skip-anyport", "--rounds", "1", "--slice-ms", "20", "--server-cpu", "0", "--loader-cpu", "0"];
    Command::new(env!("CARGO_BIN_EXE_compare")).args(common).args(arguments).output().expect("it starts")
}

/// Small and large messages, short and long lives; every byte is compared by the loader.
#[test]
fn all_servers_echo_rightly() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (json, svg) = (folder.join("smoke.json"), folder.join("smoke.svg"));
    let workloads = [
        "echo:8:4",
        "echo:4:1:1048576",
        "echo:300:16:100",
        "stream:2",
        "churn:8",
        "idle:100",
        "fanout:20:4",
        "open:20:2000",
        "open:20:50%",
    ];
    let mut arguments: Vec<&str> = workloads.iter().flat_map(|workload| ["--workload", workload]).collect();
    arguments.extend(["--json", json.to_str().expect("UTF-8"), "--svg", svg.to_str().expect("UTF-8")]);
    let output = compare(&arguments);
    let page = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{page}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(page.contains("| workload | bare-uring | bare-epoll | tokio | tokio broadcast |"), "{page}");
    // Asio only where its headers and a compiler are; then it says so.
    let asio = page.contains(" Asio |");
    assert!(asio || page.contains("Asio is left out: "), "{page}");

    let json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(json).expect("a file")).expect("valid JSON");
    assert_eq!(json["workloads"].as_array().map(Vec::len), Some(workloads.len()));
    for workload in json["workloads"].as_array().into_iter().flatten() {
        let kind = workload["workload"].as_str().and_then(|text| text.split(':').next());
        // The bare loops, and either four peers that echo, or the four ways of tokio to fan out.
        let servers = 6 + usize::from(asio);
        assert_eq!(workload["servers"].as_array().map(Vec::len), Some(servers), "{workload}");
        assert_eq!(workload["left_out"].as_array().map(Vec::len), Some(0), "{workload}");
        for server in workload["servers"].as_array().into_iter().flatten() {
            match kind {
                Some("idle") => assert!(server["idle_cpu"].is_f64(), "{server}"),
                Some("open") => {
                    let of = |name: &str| server["latency"][name]["median"].as_f64().expect("a figure");
                    assert!(
                        of("p50_us") > 0.0 && of("p50_us") <= of("p99_us") && of("p99_us") <= of("p999_us"),
                        "{server}"
                    );
                    assert!(workload["offered_per_s"].as_f64().expect("a figure") > 0.0, "{workload}");
                }
                _ => assert!(server["busy"]["median"].as_f64().expect("a figure") > 0.0, "{server}"),
            }
        }
    }
    assert!(fs::read_to_string(svg).expect("a file").ends_with("</svg>\n"));
}

/// A page with its pictures, the short table in the README above it; and all of it once more from what was recorded.
#[test]
fn a_page_is_written_and_written_again_without_measuring() {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
    let (docs, again) = (root.join("docs"), root.join("again"));
    fs::create_dir_all(&docs).expect("a folder");
    fs::write(root.join("README.md"), "a\n<!-- benchmarks:begin -->\nold\n<!-- benchmarks:end -->\nz\n")
        .expect("a file");
    let page = format!("--page={}", docs.display());
    let output = compare(&[&page, "--workload", "echo:8:4", "--workload", "idle:20"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("1/2 echo 64 B") && errors.contains("2/2 idle"), "progress is shown: {errors}");
    let read = |file: &Path| fs::read_to_string(file).unwrap_or_else(|_| panic!("{}", file.display()));
    let readme = read(&root.join("README.md"));
    assert!(readme.starts_with("a\n") && readme.ends_with("\nz\n") && !readme.contains("old"), "{readme}");

    let record = docs.join("benchmarks/result.json");
    let page = format!("--page={}", again.display());
    let output = compare(&[&page, "--from", record.to_str().expect("UTF-8")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for file in
        ["benchmarks.md", "benchmarks/headline.svg", "benchmarks/memory.svg", "benchmarks/result.json"]
    {
        assert_eq!(read(&docs.join(file)), read(&again.join(file)), "{file}");
    }
}

/// Every contender answers, and threads that block are replaced.
#[test]
fn work_on_other_threads_is_compared() {
    let arguments = ["pool", "--rounds", "1", "--operations", "200"];
    let output = Command::new(env!("CARGO_BIN_EXE_compare")).args(arguments).output().expect("it starts");
    let page = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{page}\n{}", String::from_utf8_lossy(&output.stderr));
    for part in [
        "| post |",
        "| CompletionPort, 1 thread |",
        "| tokio, spawn_blocking |",
        "| says nothing |",
        "the watcher looks",
    ] {
        assert!(page.contains(part), "`{part}` is missing: {page}");
    }
}

#[test]
fn a_port_in_use_is_named_and_fails_the_run() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let output = compare(&["--workload", "echo:1", "--servers", "bare-uring", "--port", &port]);
    assert!(!output.status.success());
    let page = String::from_utf8_lossy(&output.stdout);
    assert!(page.contains("port in use") && page.contains(&port), "{page}");
}

/// More sessions than a process may open descriptors are for servers alone that do without.
#[test]
fn a_server_that_cannot_hold_so_many_is_left_out() {
    let arguments = ["--skip-anyport", "--workload", "echo:200", "--rounds", "1", "--slice-ms", "20"];
    let cpus = ["--server-cpu", "0", "--loader-cpu", "0"];
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 200; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_compare")])
        .args(arguments)
        .args(cpus)
        .output()
        .expect("it starts");
    let page = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{page}\n{}", String::from_utf8_lossy(&output.stderr));
    for server in ["bare-epoll", "tokio"] {
        assert!(page.contains(&format!("{server} is left out of echo 64 B")), "{page}");
    }
    assert!(!page.contains("bare-uring is left out"), "{page}");
}

#[test]
fn an_unknown_server_is_refused() {
    let output = compare(&["--servers", "nonesuch"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("there are: bare-uring"));
}

/// With one connection nothing can be gathered: a server by readiness waits, receives and sends, once for each
/// message. Where we may not count, the program must say what to do.
#[test]
fn system_calls_of_one_echo_are_exact() {
    let arguments = ["system-calls", "--servers", "bare-epoll", "--workload", "echo:1", "--rounds", "2"];
    let cpus = ["--slice-ms", "20", "--waves", "20", "--server-cpu", "0", "--loader-cpu", "0"];
    let output = Command::new(env!("CARGO_BIN_EXE_compare")).args(arguments).args(cpus).output();
    let output = output.expect("it starts");
    let page = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        let cell = "| **3.00**: epoll_wait 1.00, recvfrom 1.00, sendto 1.00 |";
        assert_eq!(page.matches(cell).count(), 2, "steady and in waves:\n{page}");
    } else {
        assert!(errors.contains("run as root") || page.contains("run as root"), "{page}\n{errors}");
    }
}

#[test]
fn system_calls_are_counted_for_an_echo_only() {
    let output = Command::new(env!("CARGO_BIN_EXE_compare"))
        .args(["system-calls", "--skip-anyport", "--workload", "churn"])
        .output()
        .expect("it starts");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("for an echo only"));
}

/// Where we cannot count, the program must say what to do.
#[test]
fn instructions_of_an_echo_are_counted() {
    let arguments =
        ["instructions", "--servers", "bare-epoll", "--workload", "echo:8", "--waves", "3", "--functions"];
    let output = Command::new(env!("CARGO_BIN_EXE_compare")).args(arguments).output().expect("it starts");
    let page = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        let row = "| echo 64 B, depth 1, 8 connections | message | ";
        let cell = page.split_once(row).and_then(|(_, rest)| rest.split_once(" |"));
        let count: f64 = cell.and_then(|(count, _)| count.parse().ok()).expect("a number in the table");
        // Two system calls cost some; a loop that does nothing else needs no thousands, though it be a debug build.
        assert!((10.0..5_000.0).contains(&count), "{page}");
        assert!(page.contains("| instructions | function |") && page.contains("bare_epoll"), "{page}");
    } else {
        let told = ["apt-get install valgrind", "ptrace"];
        assert!(told.iter().any(|what| errors.contains(what) || page.contains(what)), "{page}\n{errors}");
    }
}

#[test]
fn instructions_are_counted_for_what_comes_in_waves_only() {
    let arguments = ["instructions", "--servers", "bare-epoll", "--workload", "idle"];
    let output = Command::new(env!("CARGO_BIN_EXE_compare")).args(arguments).output().expect("it starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(errors.contains("echo, fanout and churn only") || errors.contains("apt-get"), "{errors}");
}
