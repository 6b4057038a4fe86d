//! The program as a person uses it: its output, its exit codes, its refusals.
#![allow(clippy::unwrap_used)]

#[path = "support/process.rs"]
mod process;

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use process::{Http, Server, free_port};

const PROGRAM: &str = env!("CARGO_BIN_EXE_coracle");

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn check(arguments: &[&str], code: i32, stdout: &str, stderr: &str) {
    let output = run(arguments);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {out} {err}");
    assert!(out.contains(stdout), "{arguments:?}: {stdout:?} in {out:?}");
    assert!(err.contains(stderr), "{arguments:?}: {stderr:?} in {err:?}");
    assert!(!err.contains("panicked"), "{err}");
}

#[test]
fn configurations_are_set_read_watched_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut server = Server::start(PROGRAM, &dir.path().join("data"), port, &["--standalone"]);
    let at = format!("127.0.0.1:{port}");
    let config = |arguments: &[&str]| -> Vec<String> {
        ["config"].iter().chain(arguments).chain(&["--server", &at]).map(|it| (*it).to_owned()).collect()
    };
    let check = |arguments: &[&str], code, stdout: &str, stderr: &str| {
        let arguments = config(arguments);
        check(&arguments.iter().map(|it| &**it).collect::<Vec<_>>(), code, stdout, stderr);
    };
    check(&["set", "app.yaml", "greeting: hello"], 0, "", "published app.yaml: 15 bytes");
    let exact = run(&config(&["get", "app.yaml"]).iter().map(|it| &**it).collect::<Vec<_>>());
    assert_eq!(text(&exact.stdout), "greeting: hello", "the exact bytes, and no more");
    check(&["get", "nothing"], 3, "", "there is no configuration");
    check(&["get", "dev/g1/app.yaml"], 3, "", "hint:");
    check(&["set", "dev/g1/app.yaml", "-x: 1"], 0, "", "");
    check(&["get", "app.yaml", "-n", "dev", "-g", "g1"], 0, "-x: 1", "");
    check(&["set", "app.yaml", "new", "--if-md5", "0123"], 5, "", "--if-md5");
    check(&["set", "a b", "x"], 2, "", "illegal");
    check(&["set", "app.yaml", ""], 2, "", "blank");
    check(&["set", "app.yaml", "@/no/such/file"], 2, "", "cannot read /no/such/file");

    let watch = Command::new(PROGRAM)
        .args(config(&["watch", "app.yaml", "--once"]))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(400));
    let mut set = Command::new(PROGRAM).args(config(&["set", "app.yaml", "-"])).stdin(Stdio::piped()).spawn().unwrap();
    set.stdin.take().unwrap().write_all(b"greeting: hi\n").unwrap();
    assert!(set.wait().unwrap().success());
    assert_eq!(text(&watch.wait_with_output().unwrap().stdout), "greeting: hello\ngreeting: hi\n");

    check(&["delete", "app.yaml"], 0, "", "");
    check(&["get", "app.yaml"], 3, "", "");
    self::check(&["cluster", "status", "--server", &at], 0, "mode standalone", "");
    self::check(&["cluster", "add", "2=127.0.0.1:1", "--server", &at], 2, "", "this server is standalone");
    let (code, took) = server.terminate();
    assert_eq!(code, Some(0), "SIGTERM is no failure");
    assert!(took < Duration::from_secs(2), "{took:?}");
    check(&["get", "app.yaml"], 6, "", "no server answers");
}

#[test]
fn what_cannot_start_says_why_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (port, data) = (free_port(), dir.path().join("data"));
    let server = Server::start(PROGRAM, &data, port, &["--standalone"]);
    let (taken, free) = (port.to_string(), free_port().to_string());
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (data, other) = (path(&data), path(&dir.path().join("other")));
    let file = dir.path().join("file");
    std::fs::write(&file, "prot = 1\n").unwrap();
    let file = path(&file);
    let pid = format!("in use by coracle pid {}", server.pid());
    let cases: &[(&[&str], i32, &str)] = &[
        (&["server", "--standalone", "--data", &other, "--port", &taken], 1, "is in use by pid"),
        (&["server", "--standalone", "--data", &data, "--port", &free], 1, &pid),
        (&["server", "--standalone", "--data", &file, "--port", &free], 1, "is not a directory"),
        (&["server", "--standalone", "--config", &file], 1, "did you mean \"port\"?"),
        (&["server", "--standalone", "--config", "/no/such"], 1, "cannot read the settings file"),
        (&["server", "--data", &other], 1, "say how to run"),
        (&["server", "--standalone", "--port", "x"], 1, "port is \"x\" (flag), but must be a port"),
        (&["server", "--standalone", "--prot", "1"], 2, "--port"),
        (&["server", "--standalone", "--log-level", "=="], 1, "log-level"),
        (&["conf"], 2, ""),
        (&["nonsense"], 2, "nonsense"),
    ];
    for (arguments, code, stderr) in cases {
        check(arguments, *code, "", stderr);
    }
    check(&["server", "--standalone", "--port", "9000", "--print-settings"], 0, "port               9000", "");
    assert!(Http::connect(port).unwrap().get("/livez").is_ok_and(|it| it.0 == 200), "the first one goes on");
}

#[test]
fn a_cluster_directory_is_not_opened_with_the_wrong_flags() {
    let dir = tempfile::tempdir().unwrap();
    let (port, data) = (free_port(), dir.path().join("data"));
    let member = format!("1=127.0.0.1:{}", port - 1000);
    let mut server = Server::start(PROGRAM, &data, port, &["--node-id", "1", "--members", &member]);
    assert_eq!(Http::connect(port).unwrap().publish("a", "1").unwrap().0, 200);
    server.kill();
    let (data, port_text) = (data.to_str().unwrap().to_owned(), port.to_string());
    let flags = ["server", "--data", &data, "--port", &port_text];
    check(&[&flags[..], &["--standalone"]].concat(), 1, "", "belongs to node 1 of a cluster");
    let other = member.replace("1=", "2=");
    check(&[&flags[..], &["--node-id", "2", "--members", &other]].concat(), 1, "", "belongs to node 1, not 2");
    let mut server = Server::start(PROGRAM, Path::new(&data), port, &["--node-id", "1", "--members", &member]);
    assert_eq!(Http::connect(server.port).unwrap().query("a").unwrap().as_deref(), Some("1"));
    // The state is written behind; then the log is lost.
    std::thread::sleep(Duration::from_secs(1));
    server.kill();
    std::fs::remove_dir_all(Path::new(&data).join("log")).unwrap();
    check(&[&flags[..], &["--node-id", "1", "--members", &member]].concat(), 1, "", "the log was lost or is older");
}

#[test]
fn environment_and_flags_in_their_order() {
    let output = Command::new(PROGRAM)
        .args(["server", "--standalone", "--print-settings", "--port", "3"])
        .env("CORACLE_PORT", "2")
        .env("CORACLE_DATA", "elsewhere")
        .output()
        .unwrap();
    let out = text(&output.stdout);
    for line in
        ["port               3                        flag", "elsewhere                environment CORACLE_DATA"]
    {
        assert!(out.contains(line), "{line:?} in\n{out}");
    }
}
