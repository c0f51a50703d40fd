//! A receiver that does what docs/upstream-openapi.yaml asks of one, with SQLite behind it; it can be killed, started again,
//! and told to do worse. It runs in a thread of its own.

#![allow(dead_code, reason = "each test uses some of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Extension, Path as Segments, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use meterseal::model::note::{SignedCheckpoint, VerifierKey};
use meterseal::model::{Digest, merkle};
use rusqlite::{Connection, OptionalExtension as _, params};
use rustix::net::sockopt;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// What a record is known by: gateway, epoch, stream, seq.
pub type Key = (String, String, String, u64);

/// Streams that are taken by POST.
const STREAMS: [&str; 6] = ["blocks", "anchors", "datasets", "alerts", "readings", "notices"];
/// Bytes of a body before it is unpacked, and after.
const PACKED: usize = 8 << 20;
const UNPACKED: usize = 64 << 20;

pub struct Receiver {
    /// What a gateway's config names.
    pub url: String,
    pub port: u16,
    folder: PathBuf,
    options: Options,
    house: Arc<House>,
    /// None when it was killed.
    runs: Option<(CancellationToken, thread::JoinHandle<()>)>,
}

/// Whom it lets in, and how.
#[derive(Clone, Default)]
pub struct Options {
    pub token: Option<String>,
    pub tls: Option<ServerTls>,
}

/// PEM.
#[derive(Clone)]
pub struct ServerTls {
    pub chain: Vec<u8>,
    pub key: Vec<u8>,
    /// Clients show a certificate by this authority, or are sent away.
    pub clients: Option<Vec<u8>>,
}

/// What it does worse than it should.
#[derive(Clone, Default)]
pub struct Faults {
    /// 413 for bodies of more bytes.
    pub too_large: Option<usize>,
    /// This for every request.
    pub answer: Option<Said>,
    /// 422 for a body with any of these in it.
    pub refuse: BTreeSet<u64>,
    /// `invalid` for these.
    pub reject: BTreeSet<u64>,
    /// Reads a batch, and never answers.
    pub hang: bool,
    /// Breaks the connection off instead of answering a batch.
    pub cut: Option<Cut>,
}

#[derive(Clone, Default)]
pub struct Said {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    BeforeCommit,
    AfterCommit,
}

/// What outlives a kill in memory: what the test told and asks.
#[derive(Default)]
struct House {
    faults: Mutex<Faults>,
    /// Of TCP, in both directions.
    bytes: AtomicU64,
    connections: AtomicU64,
    /// `Idempotency-Key` of each batch that came whole.
    batches: Mutex<Vec<String>>,
}

impl Receiver {
    pub fn start(folder: &Path) -> Self {
        Self::start_with(folder, Options::default())
    }

    pub fn start_with(folder: &Path, options: Options) -> Self {
        Store::open(folder);
        let mut receiver =
            Self { url: String::new(), port: 0, folder: folder.to_owned(), options, house: Arc::default(), runs: None };
        receiver.restart();
        receiver
    }

    /// Takes what this gateway's key signs, under whichever site and epoch. A receiver is given the key by hand, as
    /// `meterseal key show` prints it.
    pub fn know(&self, key: &VerifierKey) {
        let gateway = key.name().split('/').nth(1).expect("the name is an origin");
        let insert = "INSERT OR IGNORE INTO keys (gateway, public) VALUES (?1, ?2)";
        Store::open(&self.folder).0.execute(insert, params![gateway, key.public()]).unwrap();
    }

    /// Ends at once: connections are reset, and nothing answers any more.
    pub fn kill(&mut self) {
        if let Some((stop, thread)) = self.runs.take() {
            stop.cancel();
            thread.join().unwrap();
        }
    }

    /// Starts again on the same port and folder.
    pub fn restart(&mut self) {
        self.kill();
        let (stop, (ready, bound)) = (CancellationToken::new(), mpsc::channel());
        let (house, token, port) = (Arc::clone(&self.house), self.options.token.clone(), self.port);
        let state = Arc::new(App { store: Mutex::new(Store::open(&self.folder)), house, token });
        let acceptor = self.options.tls.as_ref().map(|tls| TlsAcceptor::from(Arc::new(server(tls))));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await.unwrap();
                ready.send(listener.local_addr().unwrap().port()).unwrap();
                serve(listener, acceptor, state, stopped).await;
            });
        });
        self.port = bound.recv().expect("the port is free");
        let scheme = if self.options.tls.is_some() { "https" } else { "http" };
        self.url = format!("{scheme}://localhost:{}/v1/sync", self.port);
        self.runs = Some((stop, thread));
    }

    /// From now on, until it is told otherwise; a restart changes nothing of it.
    pub fn set(&self, faults: Faults) {
        *self.house.faults.lock().unwrap() = faults;
    }

    /// All that it holds: the SHA-256 of each line.
    pub fn records(&self) -> BTreeMap<Key, Digest> {
        let store = Store::open(&self.folder);
        let mut all = store.0.prepare("SELECT gateway, epoch, stream, seq, sha256 FROM records").unwrap();
        let rows = all.query_map([], |row| {
            let key = (row.get(0)?, row.get(1)?, row.get(2)?, row.get::<_, i64>(3)?.cast_unsigned());
            Ok((key, Digest::from_bytes(row.get(4)?)))
        });
        rows.unwrap().map(Result::unwrap).collect()
    }

    /// The lines of one stream, by gateway, epoch and seq.
    pub fn lines(&self, stream: &str) -> Vec<String> {
        let store = Store::open(&self.folder);
        let of = "SELECT line FROM records WHERE stream = ?1 ORDER BY gateway, epoch, seq";
        let mut all = store.0.prepare(of).unwrap();
        let rows = all.query_map([stream], |row| row.get::<_, Vec<u8>>(0)).unwrap();
        rows.map(|line| String::from_utf8(line.unwrap()).unwrap()).collect()
    }

    /// The highest checkpoint of each origin.
    pub fn checkpoints(&self) -> BTreeMap<String, SignedCheckpoint> {
        let store = Store::open(&self.folder);
        let mut all = store.0.prepare("SELECT origin, note FROM checkpoints").unwrap();
        let rows = all.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?.parse().unwrap())));
        rows.unwrap().map(Result::unwrap).collect()
    }

    /// `Idempotency-Key` of each batch that came whole since the start, whatever became of it.
    pub fn batches(&self) -> Vec<String> {
        self.house.batches.lock().unwrap().clone()
    }

    /// Connections that were made since the start.
    pub fn connections(&self) -> u64 {
        self.house.connections.load(Ordering::Relaxed)
    }

    /// Bytes of TCP in both directions since the start, with those of TLS.
    pub fn bytes(&self) -> u64 {
        self.house.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.kill();
    }
}

struct App {
    store: Mutex<Store>,
    house: Arc<House>,
    token: Option<String>,
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, app: Arc<App>, stop: CancellationToken) {
    let router = Router::new()
        .route("/v1/sync/{gateway}/checkpoints", get(held))
        .route("/v1/sync/{gateway}/checkpoint", put(witness))
        .route("/v1/sync/{gateway}/{epoch}/{stream}", post(take))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), gate))
        .layer(DefaultBodyLimit::max(PACKED))
        .with_state(Arc::clone(&app));
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            Ok((stream, _)) = listener.accept() => stream,
        };
        app.house.connections.fetch_add(1, Ordering::Relaxed);
        let (router, tls, stop, house) = (router.clone(), tls.clone(), stop.clone(), Arc::clone(&app.house));
        connections.spawn(async move { converse(stream, router, tls, stop, house).await.ok() });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn converse(
    stream: TcpStream,
    router: Router,
    tls: Option<TlsAcceptor>,
    stop: CancellationToken,
    house: Arc<House>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // The same socket once more, so that it can be reset while somebody else has the stream.
    let socket = std::os::fd::AsFd::as_fd(&stream).try_clone_to_owned()?;
    let cut = stop.child_token();
    let service = TowerToHyperService::new(router.layer(Extension(cut.clone())));
    let stream = Counted(stream, house);
    let talk = async {
        let connection = http1::Builder::new();
        match tls {
            None => connection.serve_connection(TokioIo::new(stream), service).await.ok(),
            Some(tls) => match tls.accept(stream).await {
                Ok(stream) => connection.serve_connection(TokioIo::new(stream), service).await.ok(),
                Err(_) => None,
            },
        }
    };
    tokio::select! {
        _ = talk => {}
        () = cut.cancelled() => sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?,
    }
    Ok(())
}

/// Counts what goes over it.
struct Counted(TcpStream, Arc<House>);

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.0).poll_read(cx, into);
        let read = into.filled().len() - before;
        self.1.bytes.fetch_add(read as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.0).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = &polled {
            self.1.bytes.fetch_add(*written as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

fn server(tls: &ServerTls) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificates = |pem: &[u8]| CertificateDer::pem_slice_iter(pem).map(Result::unwrap).collect::<Vec<_>>();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = match &tls.clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(authority));
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    builder.with_single_cert(certificates(&tls.chain), PrivateKeyDer::from_pem_slice(&tls.key).unwrap()).unwrap()
}

/// Faults that are asked for, and who may come in.
async fn gate(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let faults = app.house.faults.lock().unwrap().clone();
    if let Some(Said { status, headers, body }) = faults.answer {
        let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
        for (name, value) in headers {
            response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_str(&value).unwrap());
        }
        // As servers do that answer before they were told all: what is still to come is read first.
        axum::body::to_bytes(request.into_body(), usize::MAX).await.ok();
        return response;
    }
    let wanted = app.token.as_ref().map(|token| format!("Bearer {token}"));
    let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if wanted.is_some() && wanted.as_deref() != shown {
        axum::body::to_bytes(request.into_body(), usize::MAX).await.ok();
        return told(StatusCode::UNAUTHORIZED, "this token is not known here");
    }
    next.run(request).await
}

fn told(status: StatusCode, detail: &str) -> Response {
    answer(status, &json!({ "detail": detail }))
}

fn answer(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], Body::from(body.to_string())).into_response()
}

async fn held(State(app): State<Arc<App>>, Segments(gateway): Segments<String>) -> Response {
    let store = app.store.lock().unwrap();
    if store.keys(&gateway).is_empty() {
        return told(StatusCode::FORBIDDEN, "this gateway is not known here");
    }
    answer(StatusCode::OK, &json!({ "held": store.held(&gateway) }))
}

/// A body that did not come whole is no fault of what is in it: it is to come once more. One that is too long is not.
fn torn(rejection: &BytesRejection) -> Response {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => told(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"),
        _ => told(StatusCode::SERVICE_UNAVAILABLE, "the body broke off"),
    }
}

async fn witness(
    State(app): State<Arc<App>>,
    Segments(gateway): Segments<String>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return torn(&rejection),
    };
    let store = app.store.lock().unwrap();
    let keys = store.keys(&gateway);
    if keys.is_empty() {
        return told(StatusCode::FORBIDDEN, "this gateway is not known here");
    }
    let Some((note, old, proof)) = asked(&body) else {
        return told(StatusCode::BAD_REQUEST, "the body is not {note, old, consistency}");
    };
    let signed: SignedCheckpoint = match note.parse() {
        Ok(signed) => signed,
        Err(error) => return told(StatusCode::UNPROCESSABLE_ENTITY, &format!("{error}")),
    };
    let new = &signed.checkpoint;
    if new.origin.split('/').nth(1) != Some(gateway.as_str()) {
        return told(StatusCode::UNPROCESSABLE_ENTITY, "the checkpoint is of another gateway");
    }
    let is_by = |public: &[u8; 32]| signed.verify_known(&[&VerifierKey::new(&*new.origin, *public)]).is_ok();
    if !keys.iter().any(is_by) {
        return told(StatusCode::UNPROCESSABLE_ENTITY, "the signature is by no key that is known of this gateway");
    }
    let known = store.note(&new.origin);
    let size = known.as_ref().map_or(0, |held| held.checkpoint.size);
    if old != size {
        return answer(StatusCode::CONFLICT, &json!({ "held": known.map(|held| held.note()) }));
    }
    let follows = match &known {
        None => proof.is_empty() && new.size > 0,
        Some(held) => {
            let (of_old, of_new) = ((size, &held.checkpoint.root), (new.size, &new.root));
            merkle::verify_consistency(of_old, of_new, &proof).is_ok()
        }
    };
    if !follows {
        return told(StatusCode::UNPROCESSABLE_ENTITY, "the checkpoint does not go on from the one that is held");
    }
    store.keep(&gateway, &signed);
    answer(StatusCode::OK, &json!({ "held": signed.note() }))
}

fn asked(body: &[u8]) -> Option<(String, u64, Vec<Digest>)> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let proof = value.get("consistency")?.as_array()?.iter();
    let proof = proof.map(|hash| hash.as_str()?.parse().ok()).collect::<Option<Vec<_>>>()?;
    Some((value.get("note")?.as_str()?.to_owned(), value.get("old")?.as_u64()?, proof))
}

async fn take(
    State(app): State<Arc<App>>,
    Extension(cut): Extension<CancellationToken>,
    Segments((gateway, epoch, stream)): Segments<(String, String, String)>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return torn(&rejection),
    };
    let faults = app.house.faults.lock().unwrap().clone();
    if faults.hang {
        return std::future::pending().await;
    }
    if faults.too_large.is_some_and(|most| body.len() > most) {
        return told(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large");
    }
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if (header("content-type"), header("content-encoding")) != ("application/x-ndjson", "zstd") {
        return told(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not NDJSON in zstd");
    }
    if !STREAMS.contains(&stream.as_str()) {
        return told(StatusCode::NOT_FOUND, "there is no such stream");
    }
    let Some(range) = header("idempotency-key").strip_prefix(&format!("{gateway}/{epoch}/{stream}/")) else {
        return told(StatusCode::BAD_REQUEST, "Idempotency-Key does not agree with the path");
    };
    // Damage on the way is no fault of the records: they are to come once more.
    let is_whole = |lines: &Vec<u8>| range.ends_with(&format!("/{}", Digest::of(lines)));
    let Some(lines) = zstd::bulk::decompress(&body, UNPACKED).ok().filter(is_whole) else {
        return told(StatusCode::SERVICE_UNAVAILABLE, "the body is not what Idempotency-Key says");
    };
    app.house.batches.lock().unwrap().push(header("idempotency-key").to_owned());
    let records = match records(&lines) {
        Ok(records) => records,
        Err(detail) => return told(StatusCode::BAD_REQUEST, detail),
    };
    let ends = [records.first(), records.last()].map(|record| record.map_or(0, |record| record.0));
    if !range.starts_with(&format!("{}-{}/", ends[0], ends[1])) {
        return told(StatusCode::BAD_REQUEST, "Idempotency-Key does not agree with the records");
    }
    if let Some((seq, ..)) = records.iter().find(|record| faults.refuse.contains(&record.0)) {
        return told(StatusCode::UNPROCESSABLE_ENTITY, &format!("record {seq} is poison"));
    }
    if faults.cut == Some(Cut::BeforeCommit) {
        cut.cancel();
        return std::future::pending().await;
    }
    let settled = {
        let mut store = app.store.lock().unwrap();
        if store.keys(&gateway).is_empty() {
            return told(StatusCode::FORBIDDEN, "this gateway is not known here");
        }
        store.take((&gateway, &epoch, &stream), &records, &faults.reject)
    };
    if faults.cut == Some(Cut::AfterCommit) {
        cut.cancel();
        return std::future::pending().await;
    }
    answer(StatusCode::OK, &settled)
}

/// Each line with its seq, and whether it is an object as it must be; or why none can be taken.
fn records(lines: &[u8]) -> Result<Vec<(u64, &[u8])>, &'static str> {
    let text = lines.strip_suffix(b"\n").ok_or("the last line does not end")?;
    let mut records: Vec<(u64, &[u8])> = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let value: serde_json::Map<String, Value> = serde_json::from_slice(line).map_err(|_| "a line is no object")?;
        let seq = value.get("seq").and_then(Value::as_u64).ok_or("a line has no seq")?;
        if records.last().is_some_and(|(before, _)| *before >= seq) {
            return Err("the records are not in order of seq");
        }
        records.push((seq, line));
    }
    Ok(records)
}

/// What is durable.
struct Store(Connection);

impl Store {
    fn open(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let connection = Connection::open(folder.join("receiver.db")).unwrap();
        connection.busy_timeout(Duration::from_secs(30)).unwrap();
        let schema = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
            CREATE TABLE IF NOT EXISTS keys (gateway TEXT, public BLOB, PRIMARY KEY (gateway, public));
            CREATE TABLE IF NOT EXISTS checkpoints (origin TEXT PRIMARY KEY, gateway TEXT NOT NULL, note TEXT NOT NULL);
            CREATE TABLE IF NOT EXISTS records (gateway TEXT, epoch TEXT, stream TEXT, seq INTEGER, sha256 BLOB NOT NULL,
                line BLOB NOT NULL, PRIMARY KEY (gateway, epoch, stream, seq)) WITHOUT ROWID;";
        connection.execute_batch(schema).unwrap();
        Self(connection)
    }

    fn keys(&self, gateway: &str) -> Vec<[u8; 32]> {
        let mut all = self.0.prepare_cached("SELECT public FROM keys WHERE gateway = ?1").unwrap();
        all.query_map([gateway], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    fn held(&self, gateway: &str) -> Vec<String> {
        let mut all = self.0.prepare("SELECT note FROM checkpoints WHERE gateway = ?1 ORDER BY origin").unwrap();
        all.query_map([gateway], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    fn note(&self, origin: &str) -> Option<SignedCheckpoint> {
        let note = "SELECT note FROM checkpoints WHERE origin = ?1";
        let note: Option<String> = self.0.query_row(note, [origin], |row| row.get(0)).optional().unwrap();
        note.map(|note| note.parse().unwrap())
    }

    fn keep(&self, gateway: &str, signed: &SignedCheckpoint) {
        let keep = "INSERT OR REPLACE INTO checkpoints (origin, gateway, note) VALUES (?1, ?2, ?3)";
        self.0.execute(keep, params![signed.checkpoint.origin, gateway, signed.note()]).unwrap();
    }

    /// Takes what is new, and says what became of each, all in one transaction.
    fn take(
        &mut self,
        (gateway, epoch, stream): (&str, &str, &str),
        records: &[(u64, &[u8])],
        reject: &BTreeSet<u64>,
    ) -> Value {
        let (mut accepted, mut repeated, mut rejected) = (0, 0, Vec::new());
        let transaction = self.0.transaction().unwrap();
        {
            let add = "INSERT INTO records (gateway, epoch, stream, seq, sha256, line) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                ON CONFLICT DO NOTHING";
            let mut add = transaction.prepare_cached(add).unwrap();
            let known = "SELECT sha256 FROM records WHERE gateway = ?1 AND epoch = ?2 AND stream = ?3 AND seq = ?4";
            let mut known = transaction.prepare_cached(known).unwrap();
            for (seq, line) in records {
                if reject.contains(seq) {
                    rejected.push(json!({ "seq": seq, "error": "invalid", "detail": "it is not as it must be" }));
                    continue;
                }
                let (key, hash) = (seq.cast_signed(), Digest::of(line));
                if add.execute(params![gateway, epoch, stream, key, hash.as_bytes(), line]).unwrap() == 1 {
                    accepted += 1;
                } else if known.query_row(params![gateway, epoch, stream, key], |row| row.get(0))
                    == Ok(*hash.as_bytes())
                {
                    repeated += 1;
                } else {
                    rejected.push(json!({ "seq": seq, "error": "conflict", "detail": "another record has this key" }));
                }
            }
        }
        transaction.commit().unwrap();
        json!({ "accepted": accepted, "repeated": repeated, "rejected": rejected })
    }
}
