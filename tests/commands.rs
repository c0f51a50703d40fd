//! The command line from outside: exit codes, texts and help.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

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
    for command in
        ["init", "run", "demo", "check", "health", "read", "scan", "pin", "token", "simulate", "completions", "man"]
    {
        let help = stdout(&meterseal(&[command, "--help"]));
        assert!(help.contains("Example:\n  ") && help.contains(&format!("meterseal {command}")), "{command}: {help}");
    }
    let help = stdout(&meterseal(&["--help"]));
    assert!(help.contains("Example:\n  meterseal demo"), "{help}");
}

/// As [`meterseal`], with this on stdin.
fn meterseal_told(arguments: &[&str], typed: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meterseal"));
    let command = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // One that refuses at once reads nothing.
    child.stdin.take().unwrap().write_all(typed.as_bytes()).ok();
    child.wait_with_output().unwrap()
}

/// A store with its config, in a folder.
fn with_store() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.toml");
    let store = folder.path().join("store");
    let text = format!(
        "[site]\nid = \"x\"\ntimezone = \"UTC\"\n[web]\nlisten = \"127.0.0.1:0\"\n[store]\npath = {store:?}\nreserve = \"1MB\"\n"
    );
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    let init = meterseal(&["init", "-c", &path]);
    assert!(init.status.success(), "{}", stderr(&init));
    (folder, path)
}

#[test]
fn pins_and_tokens_are_looked_after_while_no_daemon_runs() {
    let (_folder, path) = with_store();
    let config = ["-c", &path];
    let run = |arguments: &[&str], typed: &str| meterseal_told(&[arguments, &config[..]].concat(), typed);
    for (pin, why) in
        [("12345\n", "6 to 12 digits"), ("123456\n", "counts up or down"), ("777777\n", "one digit"), ("", "digits")]
    {
        let refused = run(&["pin", "set"], pin);
        assert_eq!(refused.status.code(), Some(1));
        assert!(stderr(&refused).contains(why), "{pin}: {}", stderr(&refused));
    }
    assert!(run(&["pin", "set"], "482915\n").status.success());
    let same = run(&["pin", "set", "--role", "viewer"], "482915\n");
    assert!(stderr(&same).contains("the other role's PIN"), "{}", stderr(&same));
    assert!(run(&["pin", "set", "--role", "viewer"], "70931582").status.success());
    assert!(run(&["pin", "revoke", "--role", "viewer"], "").status.success());
    let none = run(&["pin", "revoke", "--role", "viewer"], "");
    assert!(stderr(&none).contains("the viewer has no PIN"), "{}", stderr(&none));
    let off = run(&["pin", "revoke", "--totp"], "");
    assert!(stderr(&off).contains("TOTP is off"), "{}", stderr(&off));
    let wrong = run(&["pin", "totp"], "000000\n");
    assert!(stdout(&wrong).contains("otpauth://totp/meterseal:x?secret=") && stdout(&wrong).contains('█'));
    assert!(stderr(&wrong).contains("not the code of now"), "{}", stderr(&wrong));

    let made = run(&["token", "create", "grafana", "--scope", "read", "--json"], "");
    let made: serde_json::Value = serde_json::from_str(&stdout(&made)).unwrap();
    assert_eq!((&made["scope"], made["token"].as_str().unwrap().len()), (&"read".into(), 43));
    let again = run(&["token", "create", "grafana", "--scope", "admin"], "");
    assert!(stderr(&again).contains("there is a token `grafana` already"), "{}", stderr(&again));
    let listed: serde_json::Value = serde_json::from_str(&stdout(&run(&["token", "list", "--json"], ""))).unwrap();
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|token| token["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["first", "grafana"]);
    assert!(listed[1]["token"].is_null() && listed[1]["by"].as_str().unwrap().starts_with("user "));
    assert!(stdout(&run(&["token", "list"], "")).contains("grafana  read"));
    assert!(run(&["token", "revoke", "grafana"], "").status.success());
    assert!(stderr(&run(&["token", "revoke", "grafana"], "")).contains("there is no token `grafana`"));
}

/// What `run` says on a stderr that is the journal's.
fn told_to_journal(config: &str) -> String {
    let said = tempfile::NamedTempFile::new().unwrap();
    let file = said.as_file().metadata().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_meterseal"));
    let command = command.args(["run", "-c", config]).stderr(said.reopen().unwrap());
    let status = command.env("JOURNAL_STREAM", format!("{}:{}", file.dev(), file.ino())).status().unwrap();
    assert!(!status.success());
    std::fs::read_to_string(said.path()).unwrap()
}

#[test]
fn what_ends_the_daemon_at_its_start_is_an_error_in_the_journal() {
    let (folder, path) = with_store();
    std::fs::remove_dir_all(folder.path().join("store")).unwrap();
    let said = told_to_journal(&path);
    assert!(said.lines().last().unwrap().starts_with("<3>meterseal: there is no store at "), "{said}");
    std::fs::write(&path, "[site]\nid = \"x\"\n").unwrap();
    let said = told_to_journal(&path);
    assert!(said.contains("\n<3>meterseal: ") && said.contains(" and there is no last good config"), "{said}");
    assert!(said.lines().all(|line| line.starts_with("<3>")), "{said}");
    assert!(!stderr(&meterseal(&["run", "-c", &path])).contains("<3>"));
}

fn curl(arguments: &[&str]) -> (String, String) {
    let output = Command::new("curl").args(["-sS", "-w", "\n%{http_code}"]).args(arguments).output().unwrap();
    let text = stdout(&output);
    let (body, code) = text.rsplit_once('\n').unwrap();
    (body.to_owned(), code.to_owned())
}

#[test]
fn the_daemon_tells_a_set_up_code_and_takes_pins_and_tokens_at_once() {
    let (_folder, path) = with_store();
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_meterseal"));
    let daemon = daemon.args(["run", "-c", &path]).env("METERSEAL_LOG", "info").stderr(Stdio::piped());
    let mut daemon = Running(daemon.spawn().unwrap());
    let lines = BufReader::new(daemon.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    let (mut code, mut page) = (None, None);
    for line in lines {
        code = code.or(line.rsplit_once("set-up code: ").map(|(_, code)| code.trim().to_owned()));
        page = page.or(line.split_once("page=").map(|(_, page)| page.split_whitespace().next().unwrap().to_owned()));
        if code.is_some() && page.is_some() {
            break;
        }
    }
    let (code, page) = (code.unwrap(), page.unwrap());
    let sign_in = |pin: &str| curl(&["-d", &format!(r#"{{"pin":"{pin}"}}"#), &format!("{page}api/session")]).1;
    assert_eq!(sign_in("482915"), "403");
    let body = format!(r#"{{"code":"{code}","pin":"482915"}}"#);
    assert_eq!(curl(&["-d", &body, &format!("{page}api/setup")]).1, "200");
    assert_eq!(sign_in("482915"), "200");

    let config = ["-c", &path];
    let made = meterseal(&[&["token", "create", "grafana", "--scope", "read"][..], &config].concat());
    let bearer = format!("Authorization: Bearer {}", stdout(&made).trim());
    let meters = || curl(&["-H", &bearer, &format!("{page}api/meters")]).1;
    assert_eq!(meters(), "200", "{}", stderr(&made));
    assert!(meterseal(&[&["token", "revoke", "grafana"][..], &config].concat()).status.success());
    assert_eq!(meters(), "401");
    assert!(meterseal_told(&["pin", "set", "-c", &path], "593817\n").status.success());
    assert_eq!((sign_in("593817"), sign_in("482915")), ("200".to_owned(), "401".to_owned()));
}

/// Runs until it is dropped.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn scan_finds_what_simulate_serves_and_prints_config_alone() {
    let templates = ["simulate", "--listen", "127.0.0.1:0", "--meters", "3", "--template", "abb-b23,eastron-sdm630"];
    let mut simulate = Command::new(env!("CARGO_BIN_EXE_meterseal"));
    let simulate = simulate.args(templates).args(["--template", "schneider-iem3000"]);
    let mut simulate = Running(simulate.stdout(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(simulate.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let address =
        lines.into_iter().find_map(|line| Some(line.strip_prefix("tcp = \"")?.trim_end_matches('"').to_owned()));
    let address = address.unwrap();

    let no_config = ["--config", "/no/such/config"];
    let found = meterseal(&[&["scan", &address, "--units", "1-5"][..], &no_config].concat());
    let (config, said) = (stdout(&found), stderr(&found));
    assert_eq!(found.status.code(), Some(0), "{said}");
    let table: toml::Table = config.parse().unwrap();
    let meters = table["modbus"][0]["meter"].as_array().unwrap();
    let templates: Vec<_> = meters.iter().map(|meter| meter["template"].as_str().unwrap()).collect();
    assert_eq!(templates, ["abb-b23", "eastron-sdm630", "schneider-iem3000"], "{config}");
    assert!(said.contains("unit 1: abb-b23 (it says so itself: model B23"), "{said}");
    assert!(said.contains("3 units found, "), "{said}");

    let events = stdout(&meterseal(&[&["scan", &address, "--units", "1-5", "--json"][..], &no_config].concat()));
    let events: Vec<serde_json::Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&events[0]["event"], &events[0]["units"]), (&"begun".into(), &"1-5".into()));
    assert_eq!((&events.last().unwrap()["event"], &events.last().unwrap()["found"]), (&"end".into(), &3.into()));

    let mut stopped = Command::new(env!("CARGO_BIN_EXE_meterseal"));
    let stopped = stopped.args(["scan", &address]).args(no_config).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut stopped = stopped.spawn().unwrap();
    let mut said = BufReader::new(stopped.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.starts_with("unit 2: ")));
    let pid = rustix::process::Pid::from_child(&stopped);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(said.any(|line| line == "stopped; so far:"));
    let stopped = stopped.wait_with_output().unwrap();
    let table: toml::Table = stdout(&stopped).parse().unwrap();
    assert!(stopped.status.success() && table["modbus"][0]["meter"].as_array().unwrap().len() >= 2);

    let nobody = meterseal(&[&["scan", &address, "--units", "9-12"][..], &no_config].concat());
    assert_eq!((nobody.status.code(), stdout(&nobody)), (Some(1), String::new()));
    assert!(stderr(&nobody).contains(&format!("meterseal: no unit of 9-12 answers on {address}\n")));
    drop(simulate);
    let gone = meterseal(&[&["scan", &address][..], &no_config].concat());
    assert_eq!(gone.status.code(), Some(1));
    let said = stderr(&gone);
    assert!(said.contains(&format!("meterseal: cannot connect to {address}: ")) && said.lines().count() == 3, "{said}");
}

#[test]
fn scan_refuses_what_it_cannot_do() {
    for (arguments, why) in [
        (&["scan"][..], "HOST[:PORT]"),
        (&["scan", "a b"], "no HOST or HOST:PORT"),
        (&["scan", "h", "--units", "0"], "units: "),
        (&["scan", "h", "--serial", "/dev/x"], "cannot be used with"),
        (&["scan", "--serial", "/dev/x", "--parity", "even"], "--baud"),
        (&["scan", "--serial", "/dev/x", "--baud", "9601"], "baud: "),
        (&["scan", "--serial", "/dev/x", "--rtu"], "cannot be used with"),
    ] {
        let output = meterseal(arguments);
        assert_ne!(output.status.code(), Some(0), "{arguments:?}");
        assert!(stderr(&output).contains(why), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn check_tells_all_and_its_exit_code_says_whether_it_is_good() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.toml");
    let path = path.to_str().unwrap();
    std::fs::write(
        path,
        "[site]\nid = \"x\"\ntimezone = \"UTC\"\n[[modbus]]\nname = \"a\"\ntcp = \"a:502\"\n\
        [[modbus.meter]]\nid = \"m\"\ntemplate = \"eastron-sdm630\"\ncategory = \"CONS\"\n\
        [[modbus.meter]]\nid = \"m2\"\nunit = 2\ntemplate = \"eastron-sdm630\"\ncategory = \"CONS\"\n\
        [[modbus.meter]]\nid = \"n\"\nunit = 3\ncategory = \"CONS\"\n\
        registers = { power_kw = { address = 0, type = \"i32\", function = \"input\" } }\n\
        [[sum]]\nid = \"both\"\nadd = [\"m\", \"m2\"]\ncategory = \"CONS\"\n",
    )
    .unwrap();
    let good = meterseal(&["check", "-c", path]);
    assert_eq!(good.status.code(), Some(0));
    let expected = format!(
        "template eastron-sdm630 is unverified: its register map rests on volkszaehler/mbmd, OpenEMS and evcc, after \
         the vendor's protocol sheet; no recording of a real meter has confirmed it, so compare its values with the \
         display\n\
         the register map of meter n is unverified: no recording of a real meter has confirmed it, so compare its \
         values with the display\n\
         {path}: good, 3 meters and 1 sum on 1 line\n"
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

/// What root reads is not always what the service reads. `nobody` is a user of every machine.
#[test]
fn root_is_told_what_the_service_may_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let [path, store, ca, token, key] =
        ["m.toml", "store", "ca.pem", "token", "key.pem"].map(|name| folder.path().join(name));
    let text = format!(
        "[site]\nid = \"x\"\ntimezone = \"UTC\"\n[store]\npath = {store:?}\n[web]\ntls = {{ cert = {ca:?}, key = {key:?} }}\n\
         [[upstream]]\nname = \"cloud\"\nkind = \"https\"\nurl = \"https://b.example/\"\nca = {ca:?}\ntoken = {{ file = {token:?} }}\n"
    );
    std::fs::create_dir(&store).unwrap();
    for (path, text) in [(&path, text.as_str()), (&ca, "none"), (&token, "t0ken"), (&key, "none")] {
        std::fs::write(path, text).unwrap();
    }
    let mode = |path: &std::path::Path, mode: u32| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(folder.path(), 0o755);
    for path in [&path, &ca, &token, &key] {
        mode(path, 0o644);
    }
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(&store, Some(65_534), Some(65_534)).unwrap();
    }
    let told = || -> Vec<String> {
        let said = stdout(&meterseal(&["check", "-c", path.to_str().unwrap()]));
        said.lines().filter(|line| line.contains("the daemon's user ")).map(str::to_owned).collect()
    };
    assert_eq!(told(), [""; 0]);
    mode(&path, 0o640);
    mode(&token, 0o600);
    mode(&key, 0o600);
    let file = path.display();
    let closed = |at: &str, path: &std::path::Path| {
        let path = path.canonicalize().unwrap();
        let (path, user) = (path.display(), "nobody");
        format!(
            "warning: {file}{at}: the daemon's user {user} may not read {path}; chgrp {user} {path} && chmod 640 {path}"
        )
    };
    let wanted = [closed("", &path), closed(":7: web.tls.key", &key), closed(":13: upstream[0].token", &token)];
    // Anybody else is no judge of it.
    assert_eq!(told(), if is_root { &wanted[..] } else { &[] });
    mode(folder.path(), 0o700);
    let told = told();
    assert_eq!(told.len(), if is_root { 5 } else { 0 }, "{told:?}");
    let folder = folder.path().canonicalize().unwrap();
    assert!(
        told.iter().all(|told| told.contains(&format!("the folder {} is closed to it", folder.display()))),
        "{told:?}"
    );
}

/// A store, and three upstreams of which one lacks its secret.
const UPSTREAMS: &str = r#"
    [site]
    id = "x"
    timezone = "UTC"

    [store]
    path = "STORE"

    [[upstream]]
    name = "cloud"
    kind = "https"
    url = "https://backend.example/v1/sync"
    token = { env = "METERSEAL_TEST_CLOUD" }

    [[upstream]]
    name = "broker"
    kind = "mqtt"
    url = "mqtts://broker.example:8883"
    username = "edge"
    password = { env = "METERSEAL_TEST_NOT_SET" }

    [[upstream]]
    name = "ingestion"
    kind = "telemetry"
    url = "https://backend.example/v1/telemetry"
"#;

#[test]
fn check_names_the_upstreams_and_what_goes_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.toml");
    std::fs::write(&path, UPSTREAMS.replace("STORE", folder.path().join("store").to_str().unwrap())).unwrap();
    let check = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meterseal"));
        command.args(["check", "-c"]).arg(&path).args(more);
        let output =
            command.env("METERSEAL_TEST_CLOUD", "s3cret").env_remove("METERSEAL_TEST_NOT_SET").output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(!stdout(&output).contains("s3cret"), "{}", stdout(&output));
        stdout(&output)
    };
    let said = check(&[]);
    let lines: Vec<_> = said.lines().filter(|line| !line.starts_with("warning: ")).collect();
    let all = "checkpoints, blocks, anchors, datasets, alerts, readings";
    assert_eq!(lines[0], format!("upstream cloud: https to https://backend.example/v1/sync: {all}"), "{said}");
    assert_eq!(lines[1], "upstream broker: mqtt to mqtts://broker.example:8883: off, as the warning says", "{said}");
    assert!(said.contains("upstream broker is off: the environment has no METERSEAL_TEST_NOT_SET"), "{said}");
    assert_eq!(lines[2], "upstream ingestion: telemetry to https://backend.example/v1/telemetry: blocks", "{said}");
    assert_eq!(lines[3..], [format!("{}: good, 0 meters on 0 lines, 3 upstreams", path.display())], "{said}");

    let json: serde_json::Value = serde_json::from_str(&check(&["--json"])).unwrap();
    let [cloud, broker, _] = &json["upstreams"].as_array().unwrap()[..] else { panic!("{json}") };
    assert_eq!((&cloud["kind"], &cloud["streams"][1], &cloud["off"]), (&"https".into(), &"blocks".into(), &().into()));
    assert!(broker["off"].as_str().unwrap().contains("METERSEAL_TEST_NOT_SET"), "{json}");
}

#[test]
fn the_config_of_upstream_may_stand_before_what_it_shall_do_and_after() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.toml");
    std::fs::write(&path, UPSTREAMS.replace("STORE", folder.path().join("store").to_str().unwrap())).unwrap();
    let path = path.to_str().unwrap();
    let init = meterseal(&["init", "-c", path]);
    assert!(init.status.success(), "{}", stderr(&init));
    let both = |arguments: &[&str]| {
        let [before, after] =
            [[&["upstream", "-c", path], arguments].concat(), [&["upstream"], arguments, &["--config", path]].concat()]
                .map(|arguments| meterseal(&arguments));
        assert_eq!((before.status.code(), stdout(&before)), (after.status.code(), stdout(&after)), "{arguments:?}");
        assert_eq!(stderr(&before), stderr(&after));
        (before.status.code(), stdout(&before), stderr(&before))
    };
    assert_eq!(both(&["dead-letters", "cloud"]), (Some(0), "there are none\n".to_owned(), String::new()));
    let none = "cloud has refused nothing: there is nothing to send again\n";
    assert_eq!(both(&["replay", "cloud"]), (Some(0), none.to_owned(), String::new()));
    let none = "cloud has refused nothing: there is nothing to discard\n";
    assert_eq!(both(&["discard", "cloud", "--all"]), (Some(0), none.to_owned(), String::new()));
    let (code, _, said) = both(&["replay", "other"]);
    assert!(code == Some(1) && said.contains("there is no upstream other"), "{said}");
    for order in [&["flush", "cloud"][..], &["replay", "cloud", "3"]] {
        let (code, _, said) = both(order);
        assert!(code == Some(1) && said.contains("while the daemon does not run"), "{said}");
    }
    assert!(stdout(&meterseal(&["upstream", "-c", path])).starts_with("no daemon runs"));
    assert!(stdout(&meterseal(&["upstream", "status", "-c", path])).starts_with("no daemon runs"));

    for json in [&["--json", "dead-letters", "cloud"][..], &["dead-letters", "cloud", "--json"]] {
        assert_eq!(both(json).1.trim(), "[]");
    }
    let (code, _, said) = both(&["--json", "flush", "cloud"]);
    assert!(code == Some(2) && said.starts_with("meterseal: --json is for "), "{said}");
    for command in ["status", "flush", "dead-letters", "replay", "discard"] {
        let help = stdout(&meterseal(&["upstream", command, "--help"]));
        assert!(help.contains("-c, --config <FILE>"), "{help}");
    }
}

#[test]
fn init_tells_what_is_missing_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let [path, store, mark] = ["m.toml", "store", "usb/mark"].map(|name| folder.path().join(name));
    let text = format!("[site]\nid = \"x\"\ntimezone = \"UTC\"\n[store]\npath = {store:?}\nmark = {mark:?}\n");
    std::fs::write(&path, text).unwrap();
    let init = meterseal(&["init", "-c", path.to_str().unwrap()]);
    assert!(init.status.success() && stdout(&init).starts_with("created the store"), "{}", stderr(&init));
    let told = format!("warning: {}:6: store.mark: {} is not there", path.display(), mark.parent().unwrap().display());
    assert!(stderr(&init).starts_with(&told), "{}", stderr(&init));
}

/// What `token list` says.
fn tokens(path: &str) -> serde_json::Value {
    serde_json::from_slice(&meterseal(&["token", "list", "--json", "-c", path]).stdout).unwrap()
}

#[test]
fn a_package_makes_the_store_once_and_without_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let [path, store, due] = ["m.toml", "store", "due"].map(|name| folder.path().join(name));
    let text = format!("[site]\nid = \"x\"\ntimezone = \"UTC\"\n[store]\npath = {store:?}\nreserve = \"1MB\"\n");
    std::fs::write(&path, text).unwrap();
    let [path, due] = [&path, &due].map(|path| path.to_str().unwrap());
    let init = || meterseal(&["init", "--no-token", "--due", due, "-c", path]);

    let idle = init();
    assert!(idle.status.success() && idle.stdout.is_empty() && !store.exists(), "{}", stderr(&idle));

    std::fs::write(due, "").unwrap();
    let made = init();
    assert!(made.status.success(), "{}", stderr(&made));
    assert!(stdout(&made).starts_with("created the store of site x") && !stdout(&made).contains("token"));
    assert!(!std::path::Path::new(due).exists());
    assert_eq!(tokens(path), serde_json::json!([]));
    let created = meterseal(&["token", "create", "cloud", "--scope", "read", "-c", path]);
    assert!(created.status.success(), "{}", stderr(&created));

    // A crash between the two, or a package that came back to its store.
    std::fs::write(due, "").unwrap();
    let again = init();
    assert!(again.status.success() && stdout(&again).starts_with("there is a store at "), "{}", stderr(&again));
    assert!(!std::path::Path::new(due).exists());
    assert_eq!(tokens(path)[0]["name"], "cloud");

    // Nothing is left to be done: a disk that is lost now is no first start.
    std::fs::remove_dir_all(&store).unwrap();
    assert!(init().status.success() && !store.exists());
}

#[test]
fn nothing_begins_anew_beside_the_mark_of_a_lost_store() {
    let folder = tempfile::tempdir().unwrap();
    let [path, store, due] = ["m.toml", "store", "due"].map(|name| folder.path().join(name));
    let mark = folder.path().join("store-mark/checkpoint");
    std::fs::create_dir(mark.parent().unwrap()).unwrap();
    let text = format!("[site]\nid = \"x\"\ntimezone = \"UTC\"\n[store]\npath = {store:?}\nreserve = \"1MB\"\n");
    std::fs::write(&path, text).unwrap();
    std::fs::write(&mark, "x/00/00\n").unwrap();
    std::fs::write(&due, "").unwrap();
    let [path, due] = [&path, &due].map(|path| path.to_str().unwrap());
    for how in [&["init", "--due", due, "-c", path][..], &["init", "-c", path]] {
        let refused = meterseal(how);
        assert_eq!(refused.status.code(), Some(1));
        let said = stderr(&refused);
        assert!(said.starts_with("meterseal: there was a store here, says its mark "), "{said}");
        let what = format!(
            "Mount the disk that holds it, or restore a backup (`meterseal restore FILE`). To begin anew, delete the mark {}.",
            mark.display()
        );
        assert!(said.contains(&what), "{said}");
        assert!(!store.exists() && std::path::Path::new(due).exists());
    }
    // Whoever deletes it has decided.
    std::fs::remove_file(&mark).unwrap();
    assert!(meterseal(&["init", "-c", path]).status.success());
    // What was begun is not begun again, and what is to be moved for that is told.
    let again = stderr(&meterseal(&["init", "-c", path]));
    assert!(again.contains(&format!("move that folder and its mark {} away first", mark.display())), "{again}");
}

#[test]
fn a_backup_takes_the_place_of_nothing_that_is_needed() {
    let (folder, path) = with_store();
    let store = folder.path().join("store");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&store, &link).unwrap();
    let evidence = store.join("evidence.db");
    let before = std::fs::read(&evidence).unwrap();
    let back_up = |to: &std::path::Path| meterseal(&["backup", "--force", to.to_str().unwrap(), "-c", &path]);
    for to in [&evidence, &link.join("evidence.db"), &store.join("raw/x.backup"), &store.join("new.backup")] {
        let refused = back_up(to);
        assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
        assert!(stderr(&refused).contains("lies in the store's own folder"), "{}", stderr(&refused));
        assert!(!store.join("new.backup").exists());
    }
    assert_eq!(std::fs::read(&evidence).unwrap(), before);
    // By root it would be replaced, as /dev/null.
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for to in [&socket, &folder.path().to_owned()] {
        let refused = back_up(to);
        assert!(stderr(&refused).contains(" is no file\n"), "{}", stderr(&refused));
        assert!(!to.metadata().unwrap().is_file());
    }
    let good = back_up(&folder.path().join("good.backup"));
    assert!(good.status.success(), "{}", stderr(&good));

    let refused = meterseal(&["restore", "--check", folder.path().to_str().unwrap()]);
    let said = stderr(&refused);
    assert!(said.contains(": it cannot be read: Is a directory") && !said.contains("damaged"), "{said}");
}

/// What is left of it may hold the private keys.
#[test]
fn a_backup_that_is_stopped_leaves_nothing() {
    let (folder, path) = with_store();
    // It takes a while, and no room.
    let raw = folder.path().join("store/raw/00000000000099999999.db");
    std::fs::create_dir_all(raw.parent().unwrap()).unwrap();
    std::fs::File::create(&raw).unwrap().set_len(8 << 30).unwrap();
    let file = folder.path().join("stopped.backup");
    let part = folder.path().join("stopped.backup.part");
    for signal in [Signal::TERM, Signal::INT] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meterseal"));
        let command = command.args(["backup", "--with-key", file.to_str().unwrap(), "-c", &path]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        while !part.metadata().is_ok_and(|part| part.len() > 0) {
            assert_eq!(child.try_wait().unwrap(), None, "it is over before it was stopped");
            std::thread::yield_now();
        }
        kill_process(Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains("stopped by a signal"), "{}", stderr(&output));
        assert!(!part.exists() && !file.exists());
    }
}

#[test]
fn health_without_a_daemon_is_none() {
    let (_folder, path) = with_store();
    let none = meterseal(&["health", "-c", &path]);
    assert_eq!(none.status.code(), Some(1));
    assert!(stderr(&none).starts_with("meterseal: no daemon runs\n"), "{}", stderr(&none));
}

#[test]
fn a_config_that_is_not_there_is_said_plainly() {
    let output = meterseal(&["read", "x", "-c", "/nowhere/m.toml"]);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    // Nothing is to be mended in it, and `check` says no more.
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(lines[0].starts_with("meterseal: /nowhere/m.toml cannot be read: No such file"), "{said}");
    assert!(lines[1].starts_with("Name the file with -c, and read it as root"), "{said}");
}

/// A device that answers every request by exception 4.
fn refusing_device() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = [0; 12];
        while stream.read_exact(&mut asked).is_ok() {
            let header = [asked[0], asked[1], 0, 0, 0, 3, asked[6]];
            stream.write_all(&[&header[..], &[asked[7] | 0x80, 4]].concat()).unwrap();
        }
    });
    address
}

#[test]
fn a_read_says_what_is_wrong_and_what_to_look_at() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.toml");
    let device = refusing_device().to_string();
    let text = format!(
        "[site]\nid = \"x\"\ntimezone = \"UTC\"\n[store]\npath = {:?}\n[[modbus]]\nname = \"a\"\ntcp = \"{}\"\n\
         [[modbus.meter]]\nid = \"incomer-1\"\nunit = 9\ntemplate = \"eastron-sdm630\"\ncategory = \"CONS\"\n\
         [[sum]]\nid = \"plant\"\nadd = [\"incomer-1\"]\ncategory = \"CONS\"\n",
        folder.path().join("store"),
        device,
    );
    std::fs::write(&path, &text).unwrap();
    let read = |meter: &str| {
        let output = meterseal(&["read", meter, "-c", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
        (stdout(&output), stderr(&output))
    };
    let (table, said) = read("incomer-1");
    assert!(table.contains("(exception 4 (server device failure))"), "{table}");
    let (first, hint) = said.split_once('\n').unwrap();
    assert_eq!(first, "meterseal: meter incomer-1 gave no value: exception 4 (server device failure)");
    assert!(hint.starts_with("Is the unit number 9 right? "), "{hint}");
    let (_, said) = read("plant");
    let of_its_own = "meterseal: plant is a sum of other meters and has no registers of its own\n";
    assert_eq!(said, format!("{of_its_own}Read its parts: incomer-1.\n"));
    let (_, said) = read("incomer-2");
    let unknown = "meterseal: no meter `incomer-2` in the config\n";
    assert_eq!(said, format!("{unknown}Did you mean incomer-1? Known meters: incomer-1, plant.\n"));
    std::fs::write(&path, text.replace(&format!("tcp = {:?}", device), "serial = \"/dev/serial/none\"")).unwrap();
    let (_, said) = read("incomer-1");
    let why = "no connection to /dev/serial/none (9600 8N1): there is no such port: is the adapter plugged in?\n";
    assert!(said.contains(why) && said.contains("baud rate and parity"), "{said}");
}

#[test]
fn a_demo_for_all_the_world_is_refused_by_its_argument() {
    let output = meterseal(&["demo", "--listen", "0.0.0.0:0"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.starts_with("meterseal: --listen 0.0.0.0:0 can be reached from outside, "), "{said}");
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
    for line in [
        "Type=notify",
        "RestartPreventExitStatus=78",
        "RuntimeDirectory=meterseal",
        "StateDirectory=meterseal-mark",
        "ReadWritePaths=-/var/lib/meterseal",
    ] {
        assert!(unit.lines().any(|other| other == line), "{line}");
    }
    // It would take adjtimex away, by which the program sees whether the clock is synchronised.
    assert!(!unit.contains("\nProtectClock=yes"));
    assert!(unit.contains("\nSystemCallFilter=adjtimex clock_adjtime\n"));
}
