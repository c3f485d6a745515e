//! A system that refuses `io_uring`, as containers do: a filter is put on a thread, and what it starts inherits it.

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

use crate::process::{Process, Server, command, run};

/// `io_uring_setup` has this number on every architecture.
const IO_URING_SETUP: i64 = 425;
const EPERM: u32 = 1;

/// Runs `work` on a thread that may not set up an `io_uring`, nor may what it starts.
fn without_io_uring(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        let arch: TargetArch = std::env::consts::ARCH.try_into().expect("an architecture with filters");
        let rules = [(IO_URING_SETUP, Vec::new())].into();
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(EPERM), arch);
        let program: BpfProgram = filter.expect("a filter").try_into().expect("a program");
        apply_filter(&program).expect("a thread may restrict itself");
        work();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn auto_falls_back_and_says_why() {
    without_io_uring(|| {
        let server = Server::spawn(command("serve echo --listen 127.0.0.1:0"));
        let parts = ["driver readiness: io_uring is refused", "seccomp"];
        assert!(parts.iter().all(|part| server.driver.contains(part)), "{}", server.driver);
        let address = &server.address;
        let load = format!("bench echo --addr {address} --connections 4 --duration 0.1 --warmup 0 --json");
        assert_eq!(run(&load).expect(0).json()["driver"], "readiness");
        server.terminate().expect(0);
        let doctor = run("doctor").expect(0).output;
        assert!(doctor.contains("driver readiness: io_uring is refused"), "{doctor}");
    });
}

#[test]
fn asked_for_by_name_it_fails_and_says_why() {
    without_io_uring(|| {
        let server = Process::start("serve echo --listen 127.0.0.1:0 --driver io-uring").end();
        let ended = server.expect_error(1, &["io_uring is refused", "seccomp"]);
        assert_eq!((ended.errors.lines().count(), ended.output.as_str()), (1, ""), "{ended:#?}");
        let load = "bench echo --spawn --driver io-uring --duration 0.1";
        Process::start(load).end().expect(1);
    });
}
