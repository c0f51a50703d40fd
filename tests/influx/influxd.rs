//! A real InfluxDB on a free port, with a folder of its own: that of the `influxd` on the PATH, 1 or 2.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use meterseal::evidence::influx::{Connection, Login, PATIENCE, Secret, Server};
use meterseal::model::{FieldValue, Row};

pub const USERNAME: &str = "edge";
pub const PASSWORD: &str = "not a \"default\"";
pub const TOKEN: &str = "a-token-of-this-test";
pub const DATABASE: &str = "plant";

/// Longer than a server ever needs to start.
const STARTING: Duration = Duration::from_secs(60);

pub struct Influxd {
    port: u16,
    folder: tempfile::TempDir,
    version: u8,
    auth: bool,
    tls: bool,
    process: Option<Child>,
}

/// Which InfluxDB is installed.
pub fn installed() -> u8 {
    let told = Command::new("influxd").arg("version").output().expect("influxd is missing: run tests/setup");
    let told = String::from_utf8(told.stdout).unwrap();
    if told.contains(" v2.") || told.contains(" 2.") { 2 } else { 1 }
}

impl Influxd {
    /// Anybody may come, if it is version 1.
    pub fn start() -> Self {
        Self::start_with(false, false)
    }

    /// With TLS, and with the one user [`USERNAME`], who may do all.
    pub fn start_secured() -> Self {
        Self::start_with(true, true)
    }

    /// With the one user, without TLS.
    pub fn start_guarded() -> Self {
        Self::start_with(true, false)
    }

    fn start_with(auth: bool, tls: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        if tls {
            certificate(folder.path());
        }
        let mut server = Self { port: 0, folder, version: installed(), auth, tls, process: None };
        // A port that is free now may be taken a moment later: then another one is tried.
        for _ in 0..10 {
            server.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if server.run() {
                server.furnish();
                return server;
            }
        }
        panic!("influxd does not start");
    }

    fn run(&mut self) -> bool {
        let folder = self.folder.path().display();
        let mut command = Command::new("influxd");
        if self.version == 2 {
            command.args(["run", "--reporting-disabled", "--http-bind-address", &format!("127.0.0.1:{}", self.port)]);
            command.args([format!("--bolt-path={folder}/bolt"), format!("--sqlite-path={folder}/sqlite")]);
            command.arg(format!("--engine-path={folder}/engine"));
            if self.tls {
                command.args([format!("--tls-cert={folder}/server.pem"), format!("--tls-key={folder}/server.key")]);
            }
        } else {
            let config = self.folder.path().join("influxdb.conf");
            let text = format!(
                "reporting-disabled = true\nbind-address = \"127.0.0.1:0\"\n[meta]\ndir = \"{folder}/meta\"\n\
                 [data]\ndir = \"{folder}/data\"\nwal-dir = \"{folder}/wal\"\nmax-series-per-database = 0\n\
                 [http]\nbind-address = \"127.0.0.1:{}\"\nlog-enabled = false\nauth-enabled = {}\n\
                 https-enabled = {}\nhttps-certificate = \"{folder}/server.pem\"\nhttps-private-key = \"{folder}/server.key\"\n",
                self.port, self.auth, self.tls
            );
            fs::write(&config, text).unwrap();
            command.arg("-config").arg(config);
        }
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut process = process.expect("influxd is missing: run tests/setup");
        let began = Instant::now();
        loop {
            if process.try_wait().unwrap().is_some() {
                return false;
            }
            if self.curl(&["--max-time", "2", "/ping"]).status.success() {
                self.process = Some(process);
                return true;
            }
            assert!(began.elapsed() < STARTING, "influxd does not answer");
            sleep(Duration::from_millis(20));
        }
    }

    /// The user, the database or bucket.
    fn furnish(&self) {
        if self.version == 2 {
            let body = format!(
                r#"{{"username":"{USERNAME}","password":"a-long-password","org":"plant","bucket":"{DATABASE}","token":"{TOKEN}"}}"#
            );
            self.succeed(&["-X", "POST", "-d", &body, "/api/v2/setup"]);
            return;
        }
        if self.auth {
            let quoted = PASSWORD.replace('\'', "\\'");
            // The first user may be made by anybody.
            self.succeed(&[
                "-d",
                &format!("q=CREATE USER {USERNAME} WITH PASSWORD '{quoted}' WITH ALL PRIVILEGES"),
                "/query",
            ]);
        }
        self.query(&format!("CREATE DATABASE {DATABASE}"));
    }

    /// Carries out a statement of version 1.
    pub fn query(&self, statement: &str) {
        self.succeed(&[
            "--data-urlencode",
            &format!("q={statement}"),
            "--data-urlencode",
            &format!("db={DATABASE}"),
            "/query",
        ]);
    }

    /// Writes lines of the line protocol, with times in ns.
    pub fn write(&self, lines: &[u8]) {
        let file = self.folder.path().join("lines");
        fs::write(&file, lines).unwrap();
        let body = format!("@{}", file.display());
        let path = match self.version {
            2 => format!("/api/v2/write?org=plant&bucket={DATABASE}&precision=ns"),
            _ => format!("/write?db={DATABASE}&precision=n"),
        };
        self.succeed(&["-X", "POST", "--data-binary", &body, &path]);
    }

    fn succeed(&self, args: &[&str]) {
        let done = self.curl(args);
        let told = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && !told.contains("\"error\""), "{args:?}: {told}");
    }

    /// `curl` with the path as last argument.
    fn curl(&self, args: &[&str]) -> Output {
        let (path, options) = args.split_last().unwrap();
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail-with-body", "--insecure"]);
        match (self.version, self.auth) {
            (2, _) => command.args(["-H", &format!("Authorization: Token {TOKEN}")]),
            (_, true) => command.args(["-u", &format!("{USERNAME}:{PASSWORD}")]),
            _ => &mut command,
        };
        command.args(options).arg(format!("{}{path}", self.url())).output().expect("curl is missing: run tests/setup")
    }

    fn url(&self) -> String {
        format!("{}://localhost:{}", if self.tls { "https" } else { "http" }, self.port)
    }

    /// How a client knows it.
    pub fn connection(&self) -> Connection {
        let server = match self.version {
            2 => Server::Two { org: "plant".into(), bucket: DATABASE.into(), token: Secret(TOKEN.into()) },
            _ => {
                let login = Login { username: USERNAME.to_owned(), password: Secret(PASSWORD.to_owned()) };
                Server::One { database: DATABASE.to_owned(), retention_policy: None, login: self.auth.then_some(login) }
            }
        };
        let ca = self.tls.then(|| fs::read(self.folder.path().join("server.pem")).unwrap());
        Connection { name: "historian".to_owned(), url: self.url(), server, ca, patience: PATIENCE }
    }
}

impl Drop for Influxd {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

/// A certificate for `localhost` that is its own authority.
fn certificate(folder: &Path) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", "server.key", "-out", "server.pem"])
        .current_dir(folder)
        .output()
        .expect("openssl is missing: run tests/setup");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Rows as lines of the line protocol, one value each.
pub fn line_protocol(rows: &[Row]) -> Vec<u8> {
    let escaped = |text: &str, marks: &[char]| {
        text.chars().flat_map(|c| marks.contains(&c).then_some('\\').into_iter().chain([c])).collect::<String>()
    };
    let name = [',', '=', ' '];
    let line = |row: &Row| {
        let tag = |(tag, value): &(Box<str>, Box<str>)| format!(",{}={}", escaped(tag, &name), escaped(value, &name));
        let tags: String = row.tags.iter().map(tag).collect();
        let value = match &row.value {
            FieldValue::F64(number) => format!("{number:?}"),
            FieldValue::I64(number) => format!("{number}i"),
            FieldValue::U64(number) => format!("{number}u"),
            FieldValue::Bool(value) => value.to_string(),
            FieldValue::Str(text) => format!("\"{}\"", escaped(text, &['"', '\\'])),
        };
        let measurement = escaped(&row.measurement, &[',', ' ']);
        format!("{measurement}{tags} {}={value} {}\n", escaped(&row.field, &name), row.time_ns)
    };
    rows.iter().map(line).collect::<String>().into_bytes()
}
