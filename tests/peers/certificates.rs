//! Certificates of an authority made for one test, by openssl.

#![allow(dead_code, reason = "each test uses some of it")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// PEM.
pub struct Certificate {
    pub chain: Vec<u8>,
    pub key: Vec<u8>,
}

pub struct Authority {
    folder: tempfile::TempDir,
}

/// For openssl's own little authority, which alone can date a certificate back.
const CONFIG: &str = "[ca]\ndefault_ca=own\n[own]\ndatabase=index.txt\nrand_serial=yes\ndefault_md=sha256\npolicy=any\n\
    new_certs_dir=.\nunique_subject=no\n[any]\ncommonName=supplied\n[req]\ndistinguished_name=none\n[none]\n";
const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

impl Authority {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.cnf"), CONFIG).unwrap();
        fs::write(folder.path().join("index.txt"), "").unwrap();
        let own = ["req", "-x509", "-days", "2", "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem"];
        openssl(folder.path(), &[&own[..], &KEY].concat());
        Self { folder }
    }

    /// PEM of the authority itself.
    pub fn pem(&self) -> Vec<u8> {
        fs::read(self.folder.path().join("ca.pem")).unwrap()
    }

    /// The authority itself, in the place of a server that it would vouch for.
    pub fn as_server(&self) -> Certificate {
        let read = |name: &str| fs::read(self.folder.path().join(name)).unwrap();
        Certificate { chain: read("ca.pem"), key: read("ca.key") }
    }

    /// Of a server that is known by this name.
    pub fn server(&self, name: &str) -> Certificate {
        self.sign(&format!("subjectAltName=DNS:{name}\n"), "20250101000000Z", "20991231235959Z")
    }

    pub fn expired_server(&self, name: &str) -> Certificate {
        self.sign(&format!("subjectAltName=DNS:{name}\n"), "20250101000000Z", "20250201000000Z")
    }

    pub fn client(&self) -> Certificate {
        self.sign("extendedKeyUsage=clientAuth\n", "20250101000000Z", "20991231235959Z")
    }

    pub fn expired_client(&self) -> Certificate {
        self.sign("extendedKeyUsage=clientAuth\n", "20250101000000Z", "20250201000000Z")
    }

    fn sign(&self, extensions: &str, from: &str, until: &str) -> Certificate {
        let folder = self.folder.path();
        fs::write(folder.join("extensions"), extensions).unwrap();
        let asked = ["req", "-config", "ca.cnf", "-subj", "/CN=edge", "-keyout", "new.key", "-out", "new.csr"];
        openssl(folder, &[&asked[..], &KEY].concat());
        let signed = ["ca", "-batch", "-config", "ca.cnf", "-cert", "ca.pem", "-keyfile", "ca.key", "-notext"];
        let dated =
            ["-startdate", from, "-enddate", until, "-extfile", "extensions", "-in", "new.csr", "-out", "new.pem"];
        openssl(folder, &[&signed[..], &dated].concat());
        let read = |name: &str| fs::read(folder.join(name)).unwrap();
        Certificate { chain: read("new.pem"), key: read("new.key") }
    }
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let mut command = Command::new("openssl");
    let ended = command.args(arguments).current_dir(folder).stdin(Stdio::null()).output().unwrap();
    assert!(ended.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ended.stderr));
}
