//! The command line from outside: exit codes, texts and help.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::process::{Command, Output};

fn meterseal(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_meterseal")).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn every_command_shows_an_example() {
    for command in ["init", "run", "demo", "check", "read", "simulate", "completions", "man"] {
        let help = stdout(&meterseal(&[command, "--help"]));
        assert!(help.contains("Example:\n  ") && help.contains(&format!("meterseal {command}")), "{command}: {help}");
    }
    let help = stdout(&meterseal(&["--help"]));
    assert!(help.contains("Example:\n  meterseal demo"), "{help}");
}

#[test]
fn check_tells_all_and_its_exit_code_says_whether_it_is_good() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.toml");
    let path = path.to_str().unwrap();
    std::fs::write(
        path,
        "[site]\nid = \"x\"\ntimezone = \"UTC\"\n[[modbus]]\nname = \"a\"\ntcp = \"a:502\"\n\
        [[modbus.meter]]\nid = \"m\"\ntemplate = \"eastron-sdm630\"\ncategory = \"CONS\"\n",
    )
    .unwrap();
    let good = meterseal(&["check", "-c", path]);
    assert_eq!(good.status.code(), Some(0));
    let expected = format!(
        "m: template eastron-sdm630 is unverified: no recording from elsewhere backs it\n{path}: good, 1 meter on 1 line\n"
    );
    assert_eq!((stdout(&good), stderr(&good)), (expected, String::new()));
    let json: serde_json::Value = serde_json::from_slice(&meterseal(&["check", "--json", "-c", path]).stdout).unwrap();
    assert_eq!((&json["good"], &json["unverified"][0]["meter"]), (&true.into(), &"m".into()));

    std::fs::write(path, "[site]\nid = \"X\"\n").unwrap();
    let bad = meterseal(&["check", "-c", path]);
    assert_eq!(bad.status.code(), Some(2));
    let said = stderr(&bad);
    assert_eq!(said.lines().count(), 3, "{said}");
    assert!(said.starts_with(&format!("{path}:1: site.timezone: is missing; ")), "{said}");
    assert!(said.ends_with(&format!("{path}: 2 faults\n")), "{said}");
    let output = meterseal(&["check", "--json", "-c", path]);
    assert_eq!(output.status.code(), Some(2));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&json["good"], &json["faults"][1]["line"], &json["faults"][1]["key"]),
        (&false.into(), &2.into(), &"site.id".into())
    );
}

#[test]
fn a_credential_is_what_systemd_put_into_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.toml");
    let webhook = "[alerts]\nwebhook = { url = { credential = \"hook\" } }\n";
    std::fs::write(&path, format!("[site]\nid = \"x\"\ntimezone = \"UTC\"\n{webhook}")).unwrap();
    let check = |credentials: Option<&std::path::Path>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meterseal"));
        command.args(["check", "-c"]).arg(&path).env_remove("CREDENTIALS_DIRECTORY");
        credentials.map(|folder| command.env("CREDENTIALS_DIRECTORY", folder));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let off = "alerts.webhook.url: the webhook of the alerts is off: ";
    assert!(
        check(None).contains(&format!("{off}credential hook cannot be seen outside the service\n")),
        "{}",
        check(None)
    );
    assert!(check(Some(folder.path())).contains(&format!("{off}{}/hook cannot be read: ", folder.path().display())));
    std::fs::write(folder.path().join("hook"), "https://hooks.example/t0ken\n").unwrap();
    assert_eq!(check(Some(folder.path())), format!("{}: good, 0 meters on 0 lines\n", path.display()));
}

#[test]
fn a_config_that_is_not_there_is_said_plainly() {
    let output = meterseal(&["read", "x", "-c", "/nowhere/m.toml"]);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.starts_with("/nowhere/m.toml: cannot be read: No such file"), "{said}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_meterseal"))
        .arg("man")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", stderr(&output));
}

#[test]
fn completions_and_manual_pages_are_made() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(stdout(&meterseal(&["completions", shell])).contains("meterseal"), "{shell}");
    }
    assert!(stdout(&meterseal(&["man"])).contains(".TH meterseal 1"));
    let folder = tempfile::tempdir().unwrap();
    let output = meterseal(&["man", "--output", folder.path().to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(folder.path().join("meterseal-run.1").exists());
}

#[test]
fn the_unit_names_what_this_program_does() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let unit = std::fs::read_to_string(root.join("systemd/meterseal.service")).unwrap();
    for line in ["Type=notify", "RestartPreventExitStatus=78", "RuntimeDirectory=meterseal", "StateDirectory=meterseal"]
    {
        assert!(unit.lines().any(|other| other == line), "{line}");
    }
    // It would take adjtimex away, by which the program sees whether the clock is synchronised.
    assert!(!unit.contains("\nProtectClock=yes"));
    assert!(unit.contains("\nSystemCallFilter=adjtimex clock_adjtime\n"));
}
