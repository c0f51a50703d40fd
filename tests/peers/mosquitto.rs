//! A real broker, with TLS, a password and a session store, that can be killed and started again.

#![allow(dead_code, reason = "each test uses some of it")]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub const USERNAME: &str = "edge";
pub const PASSWORD: &str = "not-a-default";

/// Longer than a broker ever needs to start.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Mosquitto {
    pub port: u16,
    folder: tempfile::TempDir,
    tls: bool,
    settings: String,
    process: Option<Child>,
}

impl Mosquitto {
    /// Anybody may come.
    pub fn start(settings: &str) -> Self {
        Self::start_with(settings, false)
    }

    /// With TLS, a certificate for `localhost` and the one user [`USERNAME`].
    pub fn start_with_tls(settings: &str) -> Self {
        Self::start_with(settings, true)
    }

    /// Anybody may come, and a file of this name and text is in its folder.
    pub fn start_with_file(settings: &str, name: &str, text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(name), text).unwrap();
        Self::start_in(folder, settings, false)
    }

    fn start_with(settings: &str, tls: bool) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), settings, tls)
    }

    fn start_in(folder: tempfile::TempDir, settings: &str, tls: bool) -> Self {
        if tls {
            certificates(folder.path());
            let passwords = folder.path().join("passwd");
            run(Command::new("mosquitto_passwd").args(["-c", "-b"]).arg(passwords).args([USERNAME, PASSWORD]));
        }
        let mut broker = Self { port: 0, folder, tls, settings: settings.to_owned(), process: None };
        // A port that is free now may be taken a moment later: then another one is tried.
        for _ in 0..10 {
            broker.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if broker.run() {
                return broker;
            }
        }
        panic!("mosquitto does not start");
    }

    /// As it was, with all that its session store holds.
    pub fn start_again(&mut self) {
        // The port may still be held by connections of the one before.
        let began = Instant::now();
        while !self.run() {
            assert!(began.elapsed() < PATIENCE, "mosquitto does not start again");
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// SIGTERM: it writes its session store and ends.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            run(Command::new("kill").arg(process.id().to_string()));
            process.wait().unwrap();
        }
    }

    /// Loses what it knew of sessions and queued messages.
    pub fn forget(&self) {
        fs::remove_file(self.folder.path().join("mosquitto.db")).ok();
    }

    /// A certificate of our own and its key, for a broker that asks for one: `require_certificate true`, and
    /// `cafile {folder}/ca.pem`.
    pub fn client_certificate(&self) -> (Vec<u8>, Vec<u8>) {
        let read = |name: &str| fs::read(self.folder.path().join(name)).unwrap();
        (read("client.pem"), read("client.key"))
    }

    /// PEM of the authority by which a client knows it; none without TLS.
    pub fn ca(&self) -> Option<Vec<u8>> {
        self.tls.then(|| fs::read(self.ca_file()).unwrap())
    }

    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Whether it asks for [`USERNAME`] and [`PASSWORD`], and speaks TLS only.
    pub fn is_secured(&self) -> bool {
        self.tls
    }

    fn run(&mut self) -> bool {
        let folder = self.folder.path();
        let mut text = format!(
            "listener {} 127.0.0.1\npersistence true\npersistence_location {}/\nautosave_interval 1\n\
             autosave_on_changes false\nmax_queued_messages 0\n{}\n",
            self.port,
            folder.display(),
            self.settings.replace("{folder}", &folder.display().to_string())
        );
        let secured = format!(
            "certfile {0}/server.pem\nkeyfile {0}/server.key\nallow_anonymous false\npassword_file {0}/passwd\n",
            folder.display()
        );
        text += if self.tls { &secured } else { "allow_anonymous true\n" };
        if nix_root() {
            text += "user root\n";
        }
        fs::write(folder.join("mosquitto.conf"), text).unwrap();
        let mut process = Command::new("mosquitto")
            .arg("-c")
            .arg(folder.join("mosquitto.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is missing: run tests/setup");
        let began = Instant::now();
        loop {
            if process.try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                self.process = Some(process);
                return true;
            }
            assert!(began.elapsed() < PATIENCE, "mosquitto does not listen");
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A broker that root starts becomes another user, who may not read the test's files.
fn nix_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

fn run(command: &mut Command) {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.unwrap().success(), "{command:?}");
}

/// An authority, a certificate for `localhost` and one for a client, by openssl.
fn certificates(folder: &Path) {
    let openssl = |arguments: &[&str]| run(Command::new("openssl").args(arguments).current_dir(folder));
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let authority =
        ["req", "-x509", "-days", "2", "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(&[&authority[..], &key[..]].concat());
    for (name, whom, usage) in [
        ("server", "/CN=localhost", "subjectAltName=DNS:localhost,IP:127.0.0.1\n"),
        ("client", "/CN=edge", "extendedKeyUsage=clientAuth\n"),
    ] {
        let [key_file, request, certificate] = ["key", "csr", "pem"].map(|end| format!("{name}.{end}"));
        openssl(&[&["req", "-subj", whom, "-keyout", &key_file, "-out", &request], &key[..]].concat());
        fs::write(folder.join("usage"), usage).unwrap();
        let sign = ["x509", "-req", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"];
        openssl(&[&sign[..], &["-in", &request, "-extfile", "usage", "-out", &certificate]].concat());
    }
}
