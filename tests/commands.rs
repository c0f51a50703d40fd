//! The command line from outside: exit codes, texts and help.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Output, Stdio};

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
    for command in ["init", "run", "demo", "check", "read", "scan", "simulate", "completions", "man"] {
        let help = stdout(&meterseal(&[command, "--help"]));
        assert!(help.contains("Example:\n  ") && help.contains(&format!("meterseal {command}")), "{command}: {help}");
    }
    let help = stdout(&meterseal(&["--help"]));
    assert!(help.contains("Example:\n  meterseal demo"), "{help}");
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

#[test]
fn a_config_that_is_not_there_is_said_plainly() {
    let output = meterseal(&["read", "x", "-c", "/nowhere/m.toml"]);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.starts_with("/nowhere/m.toml: cannot be read: No such file"), "{said}");
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
        "StateDirectory=meterseal meterseal-mark",
    ] {
        assert!(unit.lines().any(|other| other == line), "{line}");
    }
    // It would take adjtimex away, by which the program sees whether the clock is synchronised.
    assert!(!unit.contains("\nProtectClock=yes"));
    assert!(unit.contains("\nSystemCallFilter=adjtimex clock_adjtime\n"));
}
