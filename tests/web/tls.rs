//! The web under TLS: certificates made and given, replaced while connections are open, and what is no TLS.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use meterseal::model::Actor;
use meterseal::store::AccessChange;
use meterseal::web::{self, CertificateStatus, Tls, totp};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificates::{Authority, Certificate};
use crate::plant::{NOW, Plant, at};

const PATIENCE: Duration = Duration::from_secs(20);

/// Where a pair lies, and how it is replaced.
struct Files(tempfile::TempDir);

impl Files {
    fn with(pair: &Certificate) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write(pair);
        files
    }

    fn write(&self, pair: &Certificate) {
        for (name, text) in [("cert.pem", &pair.chain), ("key.pem", &pair.key)] {
            let beside = self.0.path().join(format!("{name}.new"));
            fs::write(&beside, text).unwrap();
            fs::rename(beside, self.path(name)).unwrap();
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn tls(&self) -> Tls {
        Tls::Own { cert: self.path("cert.pem"), key: self.path("key.pem") }
    }
}

async fn start(tls: Tls) -> Plant {
    Plant::start_at("127.0.0.1:0".parse().unwrap(), tls).await
}

/// Waits until the certificate in use is as wanted.
async fn shown(plant: &Plant, wanted: impl FnMut(&CertificateStatus) -> bool) -> CertificateStatus {
    let mut status = plant.certificate().status();
    timeout(PATIENCE, status.wait_for(wanted)).await.expect("the certificate comes").unwrap().clone()
}

fn trusting(ca: &[u8]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth()).into()
}

async fn connect(address: SocketAddr, name: &str, ca: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    trusting(ca).connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), path: &str, headers: &str) {
    let ask = format!("GET {path} HTTP/1.1\r\n{headers}\r\n");
    stream.write_all(ask.as_bytes()).await.unwrap();
}

/// What comes until `end` is in it.
async fn heard(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut all = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&all).contains(end) {
            let mut part = [0; 4_096];
            match stream.read(&mut part).await.unwrap() {
                0 => break,
                read => all.extend_from_slice(&part[..read]),
            }
        }
    };
    timeout(PATIENCE, reading).await.expect("an answer comes");
    String::from_utf8(all).unwrap()
}

fn openssl(arguments: &[&str]) -> String {
    let ended = Command::new("openssl").args(arguments).stdin(Stdio::null()).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_certificate_is_made_once_and_shown_by_its_fingerprint() {
    let plant = start(Tls::SelfSigned).await;
    let status = shown(&plant, |status| status.fingerprint.is_some()).await;
    assert!(status.self_signed && status.problem.is_none(), "{status:?}");
    let kept = plant.tls_folder().join("cert.pem");
    let by_others = openssl(&[
        "x509",
        "-in",
        kept.to_str().unwrap(),
        "-noout",
        "-fingerprint",
        "-sha256",
        "-ext",
        "subjectAltName",
    ]);
    assert!(by_others.contains(status.fingerprint.as_deref().unwrap()), "{by_others}");
    assert!(by_others.contains("DNS:localhost") && by_others.contains("IP Address:127.0.0.1"), "{by_others}");

    let ca = fs::read(&kept).unwrap();
    for name in ["localhost", "127.0.0.1"] {
        let mut stream = connect(plant.address, name, &ca).await.unwrap();
        say(&mut stream, "/api/health", &format!("Host: {name}\r\n")).await;
        assert!(heard(&mut stream, "}\n").await.starts_with("HTTP/1.1 200"), "{name}");
    }
    assert!(connect(plant.address, "elsewhere.example", &ca).await.is_err());

    let plant = plant.restart_web().await;
    let again = shown(&plant, |status| status.fingerprint.is_some()).await;
    assert_eq!(again.fingerprint, status.fingerprint);
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_are_spoken_and_a_session_is_taken_up_again() {
    let plant = start(Tls::SelfSigned).await;
    shown(&plant, |status| status.fingerprint.is_some()).await;
    let (address, folder) = (plant.address.to_string(), tempfile::tempdir().unwrap());
    for version in ["-tls1_2", "-tls1_3"] {
        let (address, session) = (address.clone(), folder.path().join(version).to_str().unwrap().to_owned());
        let said = tokio::task::spawn_blocking(move || {
            let common = ["s_client", "-connect", &address, version, "-alpn", "h2,http/1.1"];
            // A ticket of TLS 1.3 comes after the handshake, with the first answer.
            let ask = |more: &[&str]| {
                let mut child = Command::new("openssl")
                    .args([&common[..], more, &["-ign_eof"]].concat())
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                let request = b"GET /api/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
                std::io::Write::write_all(child.stdin.as_mut().unwrap(), request).unwrap();
                String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
            };
            [ask(&["-sess_out", &session]), ask(&["-sess_in", &session])]
        });
        let [first, second] = said.await.unwrap();
        assert!(first.contains("ALPN protocol: http/1.1") && first.contains("HTTP/1.1 200 OK"), "{version}: {first}");
        assert!(first.contains("New, TLSv1") && second.contains("Reused, TLSv1"), "{version}: {second}");
    }
    let old = tokio::task::spawn_blocking(move || openssl(&["s_client", "-connect", &address, "-tls1_1"]));
    assert!(!old.await.unwrap().contains("New, TLSv1"), "TLS 1.1 was spoken");
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_while_connections_go_on() {
    let authority = Authority::new();
    let (first, second) = (authority.server("one.plant.example"), authority.server("two.plant.example"));
    let files = Files::with(&first);
    let plant = start(files.tls()).await;
    let status = shown(&plant, |status| status.fingerprint.is_some()).await;
    assert_eq!(
        (status.self_signed, &status.problem, &status.names),
        (false, &None, &vec!["one.plant.example".to_owned()])
    );
    let until = status.until.unwrap().to_string();
    assert_eq!(until, "2099-12-31T23:59:59.000Z");

    let ca = authority.pem();
    let mut feed = connect(plant.address, "one.plant.example", &ca).await.unwrap();
    let bearer = format!("Authorization: Bearer {}\r\n", plant.token);
    say(&mut feed, "/api/events", &format!("Host: one.plant.example:3001\r\n{bearer}")).await;
    heard(&mut feed, "event: hello").await;
    let mut idle = connect(plant.address, "one.plant.example", &ca).await.unwrap();
    say(&mut idle, "/api/health", "Host: two.plant.example\r\n").await;
    assert!(heard(&mut idle, "}\n").await.starts_with("HTTP/1.1 421"), "a name of no certificate in use");

    files.write(&second);
    plant.certificate().look();
    let status = shown(&plant, |status| status.names == ["two.plant.example"]).await;
    assert_eq!(status.problem, None);
    let mut new = connect(plant.address, "two.plant.example", &ca).await.unwrap();
    say(&mut new, "/api/health", "Host: two.plant.example\r\n").await;
    assert!(heard(&mut new, "}\n").await.starts_with("HTTP/1.1 200"));
    assert!(connect(plant.address, "one.plant.example", &ca).await.is_err());

    // What was open before goes on under the former one.
    plant.read(at(NOW), 1_500.0, 10).await;
    assert!(heard(&mut feed, "\"power_kw\":1.5").await.contains("event: readings"));
    say(&mut idle, "/api/health", "Host: two.plant.example\r\n").await;
    assert!(heard(&mut idle, "}\n").await.starts_with("HTTP/1.1 200"));
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_cannot_be_used_leaves_the_former_one_and_is_told() {
    let authority = Authority::new();
    let good = authority.server("one.plant.example");
    let files = Files::with(&good);
    let plant = start(files.tls()).await;
    let fingerprint = shown(&plant, |status| status.fingerprint.is_some()).await.fingerprint;
    let another = authority.server("one.plant.example");
    for (pair, told) in [
        (Certificate { chain: good.chain.clone(), key: another.key.clone() }, "not the key of this certificate"),
        (Certificate { chain: b"nothing".to_vec(), key: good.key.clone() }, "cert.pem holds no certificate in PEM"),
        (Certificate { chain: good.chain.clone(), key: b"secret".to_vec() }, "key.pem holds no private key in PEM"),
    ] {
        files.write(&pair);
        plant.certificate().look();
        let is_told = |status: &CertificateStatus| status.problem.as_deref().is_some_and(|why| why.contains(told));
        let status = shown(&plant, is_told).await;
        let problem = status.problem.unwrap();
        assert!(problem.contains("the former one is shown meanwhile") && !problem.contains("secret"), "{problem}");
        assert_eq!(status.fingerprint, fingerprint);
        assert!(connect(plant.address, "one.plant.example", &authority.pem()).await.is_ok());
    }
    files.write(&another);
    plant.certificate().look();
    let status = shown(&plant, |status| status.fingerprint != fingerprint).await;
    assert_eq!(status.problem, None);
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_usable_pair_at_the_start_the_self_signed_one_is_shown() {
    let authority = Authority::new();
    let (one, other) = (authority.server("one.plant.example"), authority.server("one.plant.example"));
    let files = Files::with(&Certificate { chain: one.chain.clone(), key: other.key });
    let plant = start(files.tls()).await;
    let status = shown(&plant, |status| status.fingerprint.is_some()).await;
    let problem = status.problem.unwrap();
    assert!(status.self_signed && problem.contains("not the key") && problem.contains("self-signed"), "{problem}");
    files.write(&one);
    plant.certificate().look();
    let status = shown(&plant, |status| !status.self_signed).await;
    assert_eq!(status.problem, None);
    assert!(connect(plant.address, "one.plant.example", &authority.pem()).await.is_ok());
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_told_and_shown_all_the_same() {
    let authority = Authority::new();
    let files = Files::with(&authority.expired_server("one.plant.example"));
    let plant = start(files.tls()).await;
    let status = shown(&plant, |status| status.fingerprint.is_some()).await;
    let problem = status.problem.unwrap();
    assert!(problem.contains("expired on 2025-02-01") && !status.self_signed, "{problem}");
    let refused = connect(plant.address, "one.plant.example", &authority.pem()).await.unwrap_err().to_string();
    assert!(refused.contains("xpired"), "{refused}");
    // Who does not ask for its dates is served.
    let address = plant.address.to_string();
    let said = tokio::task::spawn_blocking(move || openssl(&["s_client", "-connect", &address])).await.unwrap();
    assert!(said.contains("New, TLSv1.3"), "{said}");
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_the_clear_is_told_to_use_tls() {
    let plant = start(Tls::SelfSigned).await;
    shown(&plant, |status| status.fingerprint.is_some()).await;
    let ask = async |request: &str| {
        let mut stream = TcpStream::connect(plant.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        heard(&mut stream, "\u{0}").await // until it is closed
    };
    let host = plant.address.to_string();
    let led = ask(&format!("GET /?a=b HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    assert!(led.starts_with("HTTP/1.1 308") && led.contains(&format!("location: https://{host}/?a=b\r\n")), "{led}");
    assert!(led.ends_with("use https:// here\n"), "{led}");
    for refused in [
        "GET / HTTP/1.1\r\nHost: plant.example\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        format!("POST /api/scan HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\n\r\n{{}}"),
        format!("GET /api/meters HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\n\r\n", plant.token),
        format!("GET / HTTP/1.1\r\nHost: {host}\r\nCookie: meterseal_session=x\r\n\r\n"),
    ] {
        let told = ask(&refused).await;
        assert!(told.starts_with("HTTP/1.1 400") && told.contains("use https:// here"), "{refused}: {told}");
        assert!(!told.contains("location:"), "{refused}: {told}");
        let bears_secret = refused.contains("Bearer") || refused.contains("Cookie");
        assert_eq!(told.contains("replace that token"), bears_secret, "{refused}: {told}");
    }
    assert_eq!(ask("\u{0}\u{1}nonsense\r\n\r\n").await.split(' ').nth(1), Some("400"));
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_begins_no_handshake_is_let_go() {
    let plant = start(Tls::SelfSigned).await;
    shown(&plant, |status| status.fingerprint.is_some()).await;
    let mut silent = TcpStream::connect(plant.address).await.unwrap();
    let mut halfway = TcpStream::connect(plant.address).await.unwrap();
    halfway.write_all(&[22, 3, 1]).await.unwrap();
    for stream in [&mut silent, &mut halfway] {
        let ended = timeout(PATIENCE, stream.read_u8()).await.expect("it is closed");
        assert!(ended.is_err(), "{ended:?}");
    }
    plant.end().await;
}

#[tokio::test]
async fn an_address_that_others_can_reach_needs_tls() {
    let config = |listen: &str, tls| web::Config {
        listen: listen.parse().unwrap(),
        tls,
        folder: PathBuf::new(),
        names: Vec::new(),
        session_idle: web::SESSION_IDLE,
    };
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:3001", "[::ffff:192.0.2.1]:3001"] {
        let told = web::bind(&config(listen, Tls::Off)).await.err().unwrap().to_string();
        assert!(told.contains("web.tls"), "{told}");
    }
    for listen in ["127.0.0.1:0", "[::1]:0", "127.3.2.1:0"] {
        web::bind(&config(listen, Tls::Off)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unspecified_address_of_ipv6_listens_on_both_families() {
    let plant = Plant::start_at("[::]:0".parse().unwrap(), Tls::SelfSigned).await;
    shown(&plant, |status| status.fingerprint.is_some()).await;
    let ca = fs::read(plant.tls_folder().join("cert.pem")).unwrap();
    for (address, host) in [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")] {
        let at = SocketAddr::new(address.parse().unwrap(), plant.address.port());
        let mut stream = connect(at, address, &ca).await.unwrap();
        say(&mut stream, "/api/health", &format!("Host: {host}\r\n")).await;
        assert!(heard(&mut stream, "}\n").await.starts_with("HTTP/1.1 200"), "{address}");
    }
    plant.end().await;
}

/// Addresses of this machine that are not loopback, by which it is another machine to itself. Nothing is sent.
fn addresses() -> Vec<IpAddr> {
    let way = |from: &str, to: &str| {
        let socket = std::net::UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let found = [way("0.0.0.0:0", "192.0.2.1:9"), way("[::]:0", "[2001:db8::1]:9")];
    found.into_iter().flatten().filter(|address| !address.is_loopback() && !address.is_unspecified()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn before_there_is_a_pin_another_machine_is_shown_the_set_up_alone() {
    const UPGRADE: &str = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let others = addresses();
    if others.is_empty() {
        return println!("left out, as this machine has no address but loopback");
    }
    let plant = Plant::start_at("[::]:0".parse().unwrap(), Tls::SelfSigned).await;
    shown(&plant, |status| status.fingerprint.is_some()).await;
    let ca = fs::read(plant.tls_folder().join("cert.pem")).unwrap();
    let bearer = format!("Authorization: Bearer {}\r\n", plant.token);
    let ask = async |at: IpAddr, what: &str, headers: &str, body: &str| {
        let mut stream = connect(SocketAddr::new(at, plant.address.port()), "localhost", &ca).await.unwrap();
        let length = body.len();
        let ask = format!("{what} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{headers}\r\n{body}");
        stream.write_all(ask.as_bytes()).await.unwrap();
        heard(&mut stream, "\r\n\r\n").await
    };
    let status = async |at: IpAddr, what: &str, headers: &str| {
        let told = ask(at, what, headers, "").await;
        told.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    let upgrade = format!("{bearer}{UPGRADE}");

    for at in &others {
        for what in ["GET /", "GET /page.css", "GET /api/health", "GET /api/setup"] {
            assert_eq!(status(*at, what, "").await, 200, "{at}: {what}");
        }
        // Not even with a token that may do all; and whether there is such a route is not told.
        for what in [
            "GET /api/meters",
            "GET /api/dashboard/snapshot",
            "GET /api/events",
            "GET /api/openapi.json",
            "GET /api/about",
            "GET /api/nothing",
            "GET /metrics",
            "GET /log/",
            "GET /api/session",
            "POST /api/session",
            "POST /api/tokens",
            "PUT /api/access/pin",
            "POST /api/bulk",
        ] {
            assert_eq!(status(*at, what, &bearer).await, 403, "{at}: {what}");
        }
        for path in ["/", "/ws", "/socket", "/websocket"] {
            assert_eq!(status(*at, &format!("GET {path}"), &upgrade).await, 403, "{at}: {path}");
        }
    }
    // The machine itself is not kept waiting.
    for own in ["127.0.0.1", "::1"].map(|own| own.parse().unwrap()) {
        assert_eq!(status(own, "GET /api/meters", &bearer).await, 200, "{own}");
        assert_eq!(status(own, "GET /log/", "").await, 200, "{own}");
    }

    // Whoever has the code of the journal sets the PIN from there, and nobody else.
    let code = totp::random_code().unwrap();
    let change = AccessChange::SetupCode { code: totp::digest_of(&code).unwrap() };
    let actor = Actor { name: "test".into(), source: None };
    plant.store.ledger().change_access(change, actor).await.unwrap().unwrap();
    for (code, answer) in [("AAAAA-AAAAA", "HTTP/1.1 401 "), (code.as_str(), "HTTP/1.1 200 ")] {
        let body = format!(r#"{{"code":"{code}","pin":"482915"}}"#);
        let told = ask(others[0], "POST /api/setup", "", &body).await;
        assert!(told.starts_with(answer), "{told}");
    }
    for at in others {
        assert_eq!(status(at, "GET /api/meters", &bearer).await, 200, "{at}");
        assert_eq!(status(at, "GET /api/meters", "").await, 401, "{at}");
        assert_eq!(status(at, "GET /ws", &upgrade).await, 101, "{at}");
    }
    plant.end().await;
}
