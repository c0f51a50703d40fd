//! A real PostgreSQL of its own for one test, on a free port and a socket, that can be killed and started again.

#![allow(dead_code, reason = "each test uses some of it")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Who may come by TCP, with [`PASSWORD`] alone, and owns [`DATABASE`].
pub const USER: &str = "edge";
pub const PASSWORD: &str = "not-a-default";
pub const DATABASE: &str = "plant";

/// Longer than a server ever needs to start, also after it was killed.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Postgres {
    pub port: u16,
    folder: tempfile::TempDir,
    /// User and group that it runs as; none: ours.
    user: Option<(u32, u32)>,
    settings: String,
    process: Option<Child>,
}

impl Postgres {
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// With TLS, by a certificate for `localhost` of [`Self::ca`]; without TLS nobody is let in.
    pub fn start_with_tls() -> Self {
        let mut server = Self::made();
        let folder = server.folder.path().to_owned();
        certificates(&folder);
        for name in ["server.pem", "server.key"] {
            server.give(&folder.join(name), 0o600);
        }
        server.settings =
            format!("ssl=on\nssl_cert_file='{0}/server.pem'\nssl_key_file='{0}/server.key'\n", folder.display());
        let rules = "local all all trust\nhostssl all all all scram-sha-256\n";
        fs::write(server.data().join("pg_hba.conf"), rules).unwrap();
        server.begin()
    }

    /// With lines for its postgresql.conf.
    pub fn start_with(settings: &str) -> Self {
        let mut server = Self::made();
        server.settings = settings.to_owned();
        server.begin()
    }

    /// A folder with an empty cluster in it.
    fn made() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
        let server = Self { port: 0, user: is_root.then(postgres), folder, settings: String::new(), process: None };
        server.give(server.folder.path(), 0o755);
        let options = ["--no-sync", "--no-instructions", "-A", "scram-sha-256", "-U", "postgres", "-E", "UTF8"];
        let password = server.folder.path().join("password");
        fs::write(&password, PASSWORD).unwrap();
        server.give(&password, 0o600);
        let mut initdb = server.command("initdb");
        done(initdb.arg("-D").arg(server.data()).args(options).arg("--pwfile").arg(password));
        let rules = "local all all trust\nhost all all all scram-sha-256\n";
        fs::write(server.data().join("pg_hba.conf"), rules).unwrap();
        server
    }

    fn begin(mut self) -> Self {
        // A port that is free now may be taken a moment later: then another one is tried.
        for _ in 0..10 {
            self.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if self.run() {
                self.psql_in("postgres", &format!("CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'"));
                self.create(DATABASE);
                return self;
            }
        }
        panic!("PostgreSQL does not start");
    }

    /// A database of that name, owned by [`USER`].
    pub fn create(&self, database: &str) {
        self.psql_in("postgres", &format!("CREATE DATABASE \"{database}\" OWNER {USER}"));
    }

    /// Where [`USER`] finds [`DATABASE`]; the password is not in it.
    pub fn url(&self) -> String {
        self.url_of(DATABASE)
    }

    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://{USER}@localhost:{}/{database}", self.port)
    }

    /// The authority that signed its certificate, in PEM.
    pub fn ca(&self) -> Vec<u8> {
        fs::read(self.folder.path().join("ca.pem")).unwrap()
    }

    /// What a statement in [`DATABASE`] gives, by its superuser: a line for each row, columns parted by `|`.
    pub fn psql(&self, sql: &str) -> String {
        self.psql_in(DATABASE, sql)
    }

    pub fn psql_in(&self, database: &str, sql: &str) -> String {
        match self.try_psql(database, sql) {
            Ok(told) => told,
            Err(told) => panic!("{sql}: {told}"),
        }
    }

    /// Or what psql says against it.
    pub fn try_psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut psql = self.command("psql");
        psql.args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-p", &self.port.to_string(), "-d", database]);
        let done = psql.arg("-h").arg(self.folder.path()).args(["-c", sql]).output().unwrap();
        if !done.status.success() {
            return Err(String::from_utf8_lossy(&done.stderr).into_owned());
        }
        Ok(String::from_utf8(done.stdout).unwrap().trim_end().to_owned())
    }

    /// `kill -9`: the connections break off, and what was not committed is gone.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Of its process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, Child::id)
    }

    /// Ends it in order, without waiting for those who are connected.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            done(Command::new("kill").arg("-INT").arg(process.id().to_string()));
            process.wait().unwrap();
        }
    }

    /// On the same port, with all that was committed.
    pub fn restart(&mut self) {
        self.stop();
        // What is left of a killed one holds the port and its memory for a moment.
        let began = Instant::now();
        while !self.run() {
            assert!(began.elapsed() < PATIENCE, "PostgreSQL does not start again: {}", self.log());
        }
    }

    /// Its folder, which it may write to.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Makes this the server's own, as it demands of all that it keeps for itself.
    pub fn give(&self, path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        if let Some((user, group)) = self.user {
            chown(path, Some(user), Some(group)).unwrap();
        }
    }

    /// What it wrote of itself.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn run(&mut self) -> bool {
        let folder = self.folder.path().to_owned();
        // Nothing here outlives the machine, so nothing waits for its disk.
        let text = format!(
            "listen_addresses = 'localhost'\nport = {}\nunix_socket_directories = '{}'\nfsync = off\n\
             shared_buffers = 32MB\nmax_connections = 40\n{}\n",
            self.port,
            folder.display(),
            self.settings
        );
        fs::write(self.data().join("postgresql.auto.conf"), text).unwrap();
        let log = fs::File::create(folder.join("log")).unwrap();
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).stdout(Stdio::null()).stderr(log);
        let mut process = command.spawn().unwrap();
        let began = Instant::now();
        loop {
            if process.try_wait().unwrap().is_some() {
                return false;
            }
            if self.try_psql("postgres", "SELECT 1").is_ok() {
                self.process = Some(process);
                return true;
            }
            assert!(began.elapsed() < PATIENCE, "PostgreSQL does not answer: {}", self.log());
            sleep(Duration::from_millis(10));
        }
    }

    /// A program of PostgreSQL, run as the user that the server runs as: root is refused.
    fn command(&self, program: &str) -> Command {
        self.as_user(&programs().join(program))
    }

    /// Another program, run as that user.
    pub fn as_user(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command.current_dir("/").stdin(Stdio::null());
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where the newest version has its programs: on Debian not on the PATH.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max();
    let newest = newest.expect("PostgreSQL is missing: run tests/setup");
    PathBuf::from(format!("/usr/lib/postgresql/{newest}/bin"))
}

/// The user that Debian's package makes.
fn postgres() -> (u32, u32) {
    let number = |option| {
        let told = done(Command::new("id").args([option, "postgres"]));
        String::from_utf8(told.stdout).unwrap().trim().parse().unwrap()
    };
    (number("-u"), number("-g"))
}

fn done(command: &mut Command) -> Output {
    let told = command.output().unwrap();
    assert!(told.status.success(), "{command:?}: {told:?}");
    told
}

/// An authority and a certificate for `localhost`, by openssl.
fn certificates(folder: &Path) {
    let openssl = |arguments: &[&str]| done(Command::new("openssl").args(arguments).current_dir(folder));
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let authority =
        ["req", "-x509", "-days", "2", "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(&[&authority[..], &key[..]].concat());
    openssl(&[&["req", "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"], &key[..]].concat());
    fs::write(folder.join("usage"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    let sign = ["x509", "-req", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"];
    openssl(&[&sign[..], &["-in", "server.csr", "-extfile", "usage", "-out", "server.pem"]].concat());
}
