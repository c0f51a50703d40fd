//! The network between us and a server, at its worst: it cuts, delays and truncates, says again what was said earlier, and
//! goes dark. What befalls which connection follows from a seed, which is printed when a test fails.

#![allow(dead_code, reason = "each test that takes it in uses a part of it")]

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// What is remembered of what a client said on one connection; only the beginning of a longer one is said again.
const HEARD: usize = 1 << 20;
/// Earlier streams that are remembered.
const STREAMS: usize = 8;
/// What is said again waits so long for more answers before it hangs up.
const PATIENCE: Duration = Duration::from_millis(500);

/// A seeded row of numbers (splitmix64).
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below.max(1)
    }

    /// True once in so many; never for 0.
    pub fn once_in(&mut self, times: u64) -> bool {
        times > 0 && self.roll(times) == 0
    }

    /// From 1 to `most`, each order of magnitude alike.
    pub fn magnitude(&mut self, most: u64) -> u64 {
        let bits = u64::from(most.max(1).ilog2()) + 1;
        let ceiling = 1 << self.roll(bits);
        (ceiling + self.roll(ceiling)).min(most.max(1))
    }
}

/// What goes wrong, and how often. Zeros are never.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// One connection in so many ends early, in the midst of either direction or of silence.
    pub end_one_in: u64,
    /// It ends at the latest after so many bytes …
    pub within_bytes: u64,
    /// … or so long.
    pub within: Duration,
    /// One chunk in so many waits, at the most `delay`.
    pub delay_one_in: u64,
    pub delay: Duration,
    /// After one connection in so many, an earlier client's words are said again on a connection of their own.
    pub replay_one_in: u64,
}

/// The line as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line {
    Up,
    /// Whoever is connected is reset, and whoever comes as well.
    Down,
    /// Connections stay, and are made, but nothing passes. They are reset when the line is up again.
    Dark,
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub connections: u64,
    pub cut: u64,
    pub truncated: u64,
    pub delayed: u64,
    pub replayed: u64,
}

/// The network to one server.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    seed: u64,
    target: Mutex<SocketAddr>,
    faults: Mutex<Faults>,
    line: watch::Sender<Line>,
    heard: Mutex<VecDeque<Vec<u8>>>,
    connections: AtomicU64,
    cut: AtomicU64,
    truncated: AtomicU64,
    delayed: AtomicU64,
    replayed: AtomicU64,
}

impl Proxy {
    pub fn start(target: SocketAddr, faults: Faults, seed: u64) -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into(), target, faults, seed)
    }

    /// In the network namespace of the calling thread.
    pub fn start_on(own: IpAddr, target: SocketAddr, faults: Faults, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            seed,
            target: Mutex::new(target),
            faults: Mutex::new(faults),
            line: watch::Sender::new(Line::Up),
            heard: Mutex::default(),
            connections: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            truncated: AtomicU64::new(0),
            delayed: AtomicU64::new(0),
            replayed: AtomicU64::new(0),
        });
        let listener = std::net::TcpListener::bind((own, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let (theirs, until) = (shared.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { until.run_until_cancelled(serve(listener, theirs)).await });
        });
        Self { address, shared, stop, thread: Some(thread) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// From the next connection on.
    pub fn set(&self, faults: Faults) {
        *self.shared.faults.lock().unwrap() = faults;
    }

    /// From the next connection on, it leads elsewhere.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap() = target;
    }

    pub fn line(&self, line: Line) {
        self.shared.line.send_replace(line);
    }

    pub fn tally(&self) -> Tally {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Shared { connections, cut, truncated, delayed, replayed, .. } = &*self.shared;
        Tally {
            connections: of(connections),
            cut: of(cut),
            truncated: of(truncated),
            delayed: of(delayed),
            replayed: of(replayed),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the network's seed is {}; it did {:?}", self.shared.seed, self.tally());
        }
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic of its own was printed already.
            thread.join().ok();
        }
    }
}

async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).unwrap();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((near, _)) = listener.accept() => {
                let (nth, shared) = (shared.connections.fetch_add(1, Ordering::Relaxed), shared.clone());
                // Each has a row of its own, so that what befalls it does not hang on how others fare.
                let dice = Dice(Dice(shared.seed ^ nth).roll(u64::MAX));
                connections.spawn(async move { connection(near, &shared, dice).await });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// How one connection ends early.
#[derive(Clone, Copy)]
struct Ending {
    at: At,
    how: How,
}

#[derive(Clone, Copy)]
enum At {
    /// After so many bytes of the client, or of the server.
    Bytes {
        from_client: bool,
        count: u64,
    },
    Time(Duration),
}

#[derive(Clone, Copy, PartialEq)]
enum How {
    /// RST to both.
    Reset,
    /// FIN to both.
    Close,
    /// This direction ends as if its sender had said all; what more it says is swallowed, and the other direction goes on.
    Truncate,
}

async fn connection(mut near: TcpStream, shared: &Shared, mut dice: Dice) {
    let mut line = shared.line.subscribe();
    let state = *line.borrow_and_update();
    match state {
        Line::Down => return reset(&near),
        Line::Dark => return dark(&near, &mut line, dice.once_in(2)).await,
        Line::Up => {}
    }
    let target = *shared.target.lock().unwrap();
    let Ok(mut far) = TcpStream::connect(target).await else { return reset(&near) };
    near.set_nodelay(true).ok();
    far.set_nodelay(true).ok();
    let faults = shared.faults.lock().unwrap().clone();
    let ending = draw(&mut dice, &faults);
    let mut heard = Vec::new();
    let harm = passing(&mut near, &mut far, &mut heard, (shared, &faults, ending), &dice, &mut line).await;
    drop((near, far));
    match harm {
        Some(How::Truncate) => count(&shared.truncated),
        Some(_) => count(&shared.cut),
        None => {}
    }
    shared.remember(heard);
    if dice.once_in(faults.replay_one_in) {
        shared.say_again(&mut dice).await;
    }
}

/// Lets both directions pass until both have ended, or what is to befall them does, which is returned.
async fn passing(
    near: &mut TcpStream,
    far: &mut TcpStream,
    heard: &mut Vec<u8>,
    (shared, faults, ending): (&Shared, &Faults, Option<Ending>),
    dice: &Dice,
    line: &mut watch::Receiver<Line>,
) -> Option<How> {
    let stretch = |of_client: bool| Stretch {
        limit: match ending {
            Some(Ending { at: At::Bytes { from_client, count }, .. }) if from_client == of_client => count,
            _ => u64::MAX,
        },
        truncates: matches!(ending, Some(Ending { how: How::Truncate, .. })),
        dice: Dice(dice.0 ^ u64::from(of_client)),
    };
    let fuse = async {
        match ending {
            Some(Ending { at: At::Time(after), .. }) => sleep(after).await,
            _ => std::future::pending().await,
        }
    };
    let how = ending.map(|ending| ending.how);
    let befell = {
        let ((near_read, near_write), (far_read, far_write)) = (near.split(), far.split());
        let (mut up, mut down) = (None, None);
        let ups = pass(near_read, far_write, stretch(true), Some(heard), (shared, faults));
        let downs = pass(far_read, near_write, stretch(false), None, (shared, faults));
        tokio::pin!(ups, downs, fuse);
        loop {
            tokio::select! {
                flow = &mut ups, if up.is_none() => up = Some(flow),
                flow = &mut downs, if down.is_none() => down = Some(flow),
                () = &mut fuse => break how,
                _ = line.changed() => break Some(How::Reset),
            }
            let is_cut = up == Some(Flow::Cut) || down == Some(Flow::Cut);
            if is_cut && how != Some(How::Truncate) {
                break how;
            }
            if up.is_some() && down.is_some() {
                break how.filter(|_| is_cut);
            }
        }
    };
    if *line.borrow_and_update() == Line::Dark {
        dark(near, line, dice.clone().once_in(2)).await;
    }
    if befell == Some(How::Reset) {
        reset(near);
        reset(far);
    }
    befell
}

/// What passes in one direction.
struct Stretch {
    /// Bytes.
    limit: u64,
    truncates: bool,
    /// For its delays.
    dice: Dice,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// By one of the two sides.
    Ended,
    Cut,
}

async fn pass(
    from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut stretch: Stretch,
    mut heard: Option<&mut Vec<u8>>,
    (shared, faults): (&Shared, &Faults),
) -> Flow {
    let mut from = from;
    let mut chunk = vec![0; 16 * 1024];
    let mut left = stretch.limit;
    while left > 0 {
        let size = match from.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(size) => size,
        };
        let wait = shared.delay(&mut stretch.dice, faults);
        if !wait.is_zero() {
            sleep(wait).await;
        }
        let size = usize::try_from(left).unwrap_or(usize::MAX).min(size);
        if let Some(heard) = &mut heard {
            let room = HEARD.saturating_sub(heard.len()).min(size);
            heard.extend_from_slice(&chunk[..room]);
        }
        if to.write_all(&chunk[..size]).await.is_err() {
            break;
        }
        left -= size as u64;
    }
    if left > 0 {
        to.shutdown().await.ok();
        return Flow::Ended;
    }
    if stretch.truncates {
        to.shutdown().await.ok();
        // What else is said goes nowhere, and whoever says it may believe that it arrives.
        while from.read(&mut chunk).await.is_ok_and(|size| size > 0) {}
    }
    Flow::Cut
}

/// Nothing passes until the line is no longer dark. What comes is read, or not even that.
async fn dark(near: &TcpStream, line: &mut watch::Receiver<Line>, swallows: bool) {
    let swallow = async {
        let mut chunk = [0; 4_096];
        while swallows && near.readable().await.is_ok() {
            match near.try_read(&mut chunk) {
                Ok(1..) => {}
                Err(wait) if wait.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => break,
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = line.wait_for(|line| *line != Line::Dark) => {}
        () = swallow => {}
    }
    reset(near);
}

/// What is dropped then is reset and not closed.
fn reset(stream: &TcpStream) {
    stream.set_zero_linger().ok();
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Shared {
    fn delay(&self, dice: &mut Dice, faults: &Faults) -> Duration {
        if !dice.once_in(faults.delay_one_in) {
            return Duration::ZERO;
        }
        count(&self.delayed);
        millis(dice.magnitude(as_millis(faults.delay)))
    }

    fn remember(&self, stream: Vec<u8>) {
        let mut heard = self.heard.lock().unwrap();
        if stream.is_empty() {
            return;
        }
        if heard.len() == STREAMS {
            heard.pop_front();
        }
        heard.push_back(stream);
    }

    /// Says again what some client said, on a connection of its own, and lets the server answer as long as it does.
    async fn say_again(&self, dice: &mut Dice) {
        let stream = {
            let heard = self.heard.lock().unwrap();
            let which = usize::try_from(dice.roll(heard.len() as u64)).unwrap();
            heard.get(which).cloned()
        };
        let (Some(stream), target) = (stream, *self.target.lock().unwrap()) else { return };
        let said: io::Result<()> = async {
            let (mut answers, mut words) = TcpStream::connect(target).await?.into_split();
            let listen = async {
                let mut chunk = vec![0; 16 * 1024];
                while timeout(PATIENCE, answers.read(&mut chunk))
                    .await
                    .is_ok_and(|read| read.is_ok_and(|size| size > 0))
                {}
            };
            let (said, ()) = tokio::join!(words.write_all(&stream), listen);
            said
        }
        .await;
        if said.is_ok() {
            count(&self.replayed);
        }
    }
}

fn draw(dice: &mut Dice, faults: &Faults) -> Option<Ending> {
    if !dice.once_in(faults.end_one_in) {
        return None;
    }
    let at = match dice.roll(4) {
        0 => At::Time(millis(dice.magnitude(as_millis(faults.within)))),
        roll => At::Bytes { from_client: roll < 3, count: dice.magnitude(faults.within_bytes) },
    };
    let how = [How::Reset, How::Reset, How::Close, How::Truncate][usize::try_from(dice.roll(4)).unwrap()];
    Some(Ending { at, how })
}

fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}
