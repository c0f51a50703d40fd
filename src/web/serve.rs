//! The HTTP server: connections with limits, in the clear or under TLS, each in a task that ends with the server.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Response, StatusCode, Uri, header};
use futures_util::future::BoxFuture;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::host::Hosts;
use super::source::Source;
use super::stall::Watched;
use super::visitors::Visitors;

/// Connections of others at once; a further one is closed. This machine has places of its own: whoever fills these leaves
/// a tunnel its way in.
const CONNECTIONS: usize = 512;
/// TLS handshakes at once; further ones wait, for [`HANDSHAKE`] in all. More than one source may have connections.
const HANDSHAKES: usize = 128;
/// A handshake, or the first byte of a request in the clear, must be there in this time.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A request's head must be complete in this time, and an idle connection is closed after it.
const HEAD_TIME: Duration = Duration::from_secs(20);
/// Bytes of a request's head.
const HEAD_SIZE: usize = 16 * 1024;
const HEADERS: usize = 64;
/// Bytes that wait for a slow reader before its answer is made no further.
const BUFFER: usize = 32 * 1024;
/// A peer that takes or acknowledges nothing for this long is gone (half-open, or no longer reading).
const SILENCE: Duration = Duration::from_secs(30);
/// The pause after the system refused a connection (no file descriptors left, as a rule).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What connections are served with.
#[derive(Clone)]
pub struct House {
    pub router: Router,
    /// What to show, for TLS.
    pub tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    pub hosts: Hosts,
    pub visitors: Visitors,
    /// As [`SILENCE`].
    pub silence: Duration,
    pub stop: CancellationToken,
}

impl House {
    pub fn new(router: Router, hosts: Hosts, visitors: Visitors, stop: CancellationToken) -> Self {
        Self { router, tls: None, hosts, visitors, silence: SILENCE, stop }
    }
}

/// The other side of a connection; each request has it among its extensions.
#[derive(Clone)]
pub struct Peer {
    pub source: Source,
    /// Whether it came by TLS.
    pub is_secure: bool,
    next: Arc<Mutex<Option<BoxFuture<'static, ()>>>>,
}

impl Peer {
    fn new(source: Source, is_secure: bool) -> Self {
        Self { source, is_secure, next: Arc::default() }
    }

    /// What the connection does once its answer 101 is sent, in the connection's own task: it keeps its place, and it is
    /// to end when the server is stopped.
    pub fn after_upgrade(&self, next: impl Future<Output = ()> + Send + 'static) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::pin(next));
    }

    fn next(&self) -> Option<BoxFuture<'static, ()>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Serves until stopped, then lets the answers under way finish.
pub async fn serve(listener: &TcpListener, house: House) {
    let (places, handshakes) = (Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(Semaphore::new(HANDSHAKES)));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = house.stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(listener) => accepted,
        };
        match accepted {
            Ok((stream, source)) => {
                // Of its own it has as many as `visitors` say.
                let place = if source == Source::Here { None } else { Some(Arc::clone(&places).try_acquire_owned()) };
                let own_place = house.visitors.enter(source, Instant::now());
                let (Ok(place), Some(own_place)) = (place.transpose(), own_place) else {
                    debug!(%source, "a connection more than there are places for was closed");
                    continue;
                };
                let (house, handshakes) = (house.clone(), handshakes.clone());
                connections.spawn(async move {
                    converse(stream, source, house, &handshakes).await;
                    drop((place, own_place));
                });
            }
            Err(cause) => {
                warn!(error = &cause as &dyn std::error::Error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, Source)> {
    let (stream, peer) = listener.accept().await?;
    let source = Source::of(peer.ip(), stream.local_addr()?.ip());
    Ok((stream, source))
}

async fn converse(stream: TcpStream, source: Source, house: House, handshakes: &Semaphore) {
    if let Err(cause) = tune(&stream, house.silence) {
        debug!(error = &cause as &dyn std::error::Error, "a connection's options could not be set");
    }
    let Some(tls) = &house.tls else {
        let service = TowerToHyperService::new(house.router.clone());
        return talk(stream, Peer::new(source, false), &house, move |request| service.call(request)).await;
    };
    let opened = async {
        tokio::time::sleep(house.visitors.handshake(source, HANDSHAKE, Instant::now())).await;
        open(stream, tls, handshakes).await
    };
    let opened = tokio::select! {
        opened = timeout(HANDSHAKE, opened) => opened,
        () = house.stop.cancelled() => return,
    };
    match opened {
        Ok(Ok(Opened::Secure(stream))) => {
            let service = TowerToHyperService::new(house.router.clone());
            talk(*stream, Peer::new(source, true), &house, move |request| service.call(request)).await;
        }
        Ok(Ok(Opened::Clear(stream))) => {
            let hosts = house.hosts.clone();
            let answer = move |request| std::future::ready(Ok::<_, std::convert::Infallible>(to_tls(&hosts, &request)));
            talk(stream, Peer::new(source, false), &house, answer).await;
        }
        Ok(Err(cause)) => debug!(error = &cause as &dyn std::error::Error, %source, "a TLS handshake failed"),
        Err(_) => debug!(%source, "a TLS handshake took too long"),
    }
}

enum Opened {
    Secure(Box<TlsStream<TcpStream>>),
    Clear(TcpStream),
}

/// A handshake begins with a byte that no request in the clear begins with.
async fn open(
    stream: TcpStream,
    tls: &watch::Receiver<Arc<ServerConfig>>,
    handshakes: &Semaphore,
) -> io::Result<Opened> {
    const HANDSHAKE_RECORD: u8 = 22;
    let mut first = [0];
    match stream.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ if first == [HANDSHAKE_RECORD] => {
            // Whoever says nothing takes no turn.
            let _turn = handshakes.acquire().await.map_err(io::Error::other)?;
            let acceptor = TlsAcceptor::from(tls.borrow().clone());
            let accepted = acceptor.accept_with(stream, |session| session.set_buffer_limit(Some(BUFFER)));
            Ok(Opened::Secure(Box::new(accepted.await?)))
        }
        _ => Ok(Opened::Clear(stream)),
    }
}

async fn talk<S, A, F, E>(stream: S, peer: Peer, house: &House, answer: A)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Result<Response<Body>, E>>,
    E: std::error::Error + Send + Sync + 'static,
{
    let asker = peer.clone();
    let has_asked = AtomicBool::new(false);
    let service = service_fn(|mut request: Request<Incoming>| {
        has_asked.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(asker.clone());
        answer(request)
    });
    let outcome = {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_header_size(HEAD_SIZE)
            .max_headers(HEADERS)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(Watched::new(stream, house.silence)), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        tokio::select! {
            outcome = connection.as_mut() => outcome,
            // Whoever has not even asked, or is at half of a request's head, is not waited for.
            () = house.stop.cancelled() => {
                if !has_asked.load(Ordering::Relaxed) {
                    return;
                }
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    // A client that goes away in the middle is its own affair.
    match outcome {
        Err(cause) => debug!(error = &cause as &dyn std::error::Error, "a connection ended early"),
        Ok(()) => {
            if let Some(next) = peer.next() {
                next.await;
            }
        }
    }
}

/// The answer to a request in the clear at a port of TLS. One that bears a secret has just shown it to the whole network:
/// it is told so, and not led on as if nothing had happened.
fn to_tls(hosts: &Hosts, request: &Request<Incoming>) -> Response<Body> {
    let bears_secret = [header::AUTHORIZATION, header::COOKIE].iter().any(|name| request.headers().contains_key(name));
    let is_plain = matches!(*request.method(), Method::GET | Method::HEAD) && !bears_secret;
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let address = hosts.of(request).ok().filter(|_| is_plain).map(|host| format!("https://{host}{path}"));
    let address = address.filter(|address| address.parse::<Uri>().is_ok());
    let told = if bears_secret {
        "use https:// here; what came in the clear may have been read on the way: replace that token\n"
    } else {
        "use https:// here\n"
    };
    let mut response = Response::new(Body::from(told));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    if let Some(Ok(address)) = address.map(HeaderValue::try_from) {
        headers.insert(header::LOCATION, address);
        *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    }
    response
}

/// Small events go out at once, and a dead peer is noticed.
fn tune(stream: &TcpStream, silence: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, silence.max(Duration::from_secs(1)))?;
    sockopt::set_tcp_user_timeout(stream, u32::try_from(silence.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::body::Bytes;
    use axum::extract::{Request, State};
    use axum::response::IntoResponse;
    use axum::routing::get;
    use futures_util::stream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::web::tls::Certificate;

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn serving(router: Router, silence: Duration) -> (SocketAddr, House, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hosts = Hosts::new(Certificate::default().status(), &[]);
        let house = House { silence, ..House::new(router, hosts, Visitors::default(), CancellationToken::new()) };
        let (address, mut tasks, own) = (listener.local_addr().unwrap(), JoinSet::new(), house.clone());
        tasks.spawn(async move { serve(&listener, own).await });
        (address, house, tasks)
    }

    /// Gives back what it gets, until it is stopped.
    async fn echo(State(stop): State<CancellationToken>, request: Request) -> impl IntoResponse {
        let peer = request.extensions().get::<Peer>().cloned().unwrap();
        assert!(!peer.is_secure && peer.source == Source::Here);
        let upgrade = hyper::upgrade::on(request);
        peer.after_upgrade(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut byte = [0];
            while let Some(Ok(1)) = stop.run_until_cancelled(stream.read(&mut byte)).await {
                stream.write_all(&byte).await.unwrap();
            }
        });
        (StatusCode::SWITCHING_PROTOCOLS, [(header::CONNECTION, "upgrade"), (header::UPGRADE, "echo")])
    }

    #[tokio::test]
    async fn an_upgraded_connection_keeps_its_place_until_it_is_stopped() {
        let stop = CancellationToken::new();
        let router = Router::new().route("/echo", get(echo)).with_state(stop.clone());
        let (address, house, mut tasks) = serving(router, SILENCE).await;
        let free =
            || std::iter::from_fn(|| house.visitors.enter(Source::Here, Instant::now())).collect::<Vec<_>>().len();
        let all = free();

        let mut stream = TcpStream::connect(address).await.unwrap();
        let ask = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
        stream.write_all(ask).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        stream.write_all(b"x").await.unwrap();
        assert_eq!(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap(), b'x');
        assert_eq!(free(), all - 1);

        house.stop.cancel();
        stop.cancel();
        timeout(PATIENCE, tasks.join_next()).await.expect("the server ends").unwrap().unwrap();
        assert!(stream.read_u8().await.is_err());
        assert_eq!(free(), all);
    }

    /// Passes on the beginning of what comes, and then holds both connections without a word.
    async fn vanishing_proxy(server: SocketAddr) -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, mut tasks) = (listener.local_addr().unwrap(), JoinSet::new());
        tasks.spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut upstream = TcpStream::connect(server).await.unwrap();
            let mut part = [0; 1_024];
            let read = client.read(&mut part).await.unwrap();
            upstream.write_all(&part[..read]).await.unwrap();
            let read = upstream.read(&mut part).await.unwrap();
            client.write_all(&part[..read]).await.unwrap();
            std::future::pending::<()>().await;
        });
        (address, tasks)
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_ends_also_behind_a_proxy() {
        for behind_proxy in [false, true] {
            let (ended, guard) = (CancellationToken::new(), Arc::new(Mutex::new(None)));
            *guard.lock().unwrap() = Some(ended.clone().drop_guard());
            let endless = move || async move {
                let guard = guard.lock().unwrap().take().unwrap();
                let parts = stream::unfold(guard, |guard| async {
                    tokio::task::yield_now().await;
                    Some((Ok::<_, io::Error>(Bytes::from_static(&[b'x'; 65_536])), guard))
                });
                Body::from_stream(parts).into_response()
            };
            let (server, house, mut tasks) =
                serving(Router::new().route("/endless", get(endless)), Duration::from_millis(400)).await;
            let (address, proxy) = if behind_proxy { vanishing_proxy(server).await } else { (server, JoinSet::new()) };
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
            let mut first = [0; 15];
            timeout(PATIENCE, stream.read_exact(&mut first)).await.unwrap().unwrap();
            assert_eq!(&first, b"HTTP/1.1 200 OK");
            timeout(PATIENCE, ended.cancelled()).await.expect("the answer is given up");
            house.stop.cancel();
            timeout(PATIENCE, tasks.join_next()).await.expect("nothing holds the server").unwrap().unwrap();
            drop((stream, proxy));
        }
    }
}
