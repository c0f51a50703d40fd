//! TLS of the page: which certificate is shown, and when another takes its place. Connections that are open go on with the
//! one they began with.
//!
//! A certificate of one's own is looked at again while the program runs. One that cannot be used never takes the page
//! away: the former one goes on, or at the start the self-signed one, and a problem says so.

mod pair;
mod self_signed;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::model::{ClockState, Timestamp};
use pair::Pair;

/// `web.tls` of the config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// On loopback only.
    #[default]
    Off,
    /// Made at the first start, and kept.
    SelfSigned,
    /// PEM: the certificate with those between it and its authority, and its key without password.
    Own { cert: PathBuf, key: PathBuf },
}

/// What others see of the certificate in use; the default where there is no TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateStatus {
    /// SHA-256 of it, as browsers show it.
    pub fingerprint: Option<String>,
    pub self_signed: bool,
    /// The names that it is for, without addresses.
    pub names: Vec<String>,
    pub until: Option<Timestamp>,
    /// What a person must see to.
    pub problem: Option<String>,
}

/// The certificate in use, for those who show it. Cheap to clone.
#[derive(Clone, Default)]
pub struct Certificate(Arc<Inner>);

#[derive(Default)]
struct Inner {
    status: watch::Sender<CertificateStatus>,
    look: Notify,
}

impl Certificate {
    pub fn status(&self) -> watch::Receiver<CertificateStatus> {
        self.0.status.subscribe()
    }

    /// There is no TLS any more.
    pub fn none(&self) {
        self.0.status.send_replace(CertificateStatus::default());
    }

    /// Has the files looked at now.
    pub fn look(&self) {
        self.0.look.notify_one();
    }
}

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(30);
/// Two files are never replaced at one instant: a pair that does not fit is read again so often, with this pause.
const TRIES: u32 = 4;
const SETTLE: Duration = Duration::from_millis(500);
/// An end is told so long before it comes.
const NOTICE: Duration = Duration::from_secs(21 * 86_400);

/// Keeps the certificate that the server shows.
pub struct Keeper {
    tls: Tls,
    folder: PathBuf,
    clock: Clock,
    certificate: Certificate,
    shown: watch::Sender<Arc<ServerConfig>>,
    pair: Pair,
    self_signed: bool,
    /// The files as they were when they were last read.
    seen: Seen,
    /// Why the files are not what is shown.
    trouble: Option<String>,
}

impl Keeper {
    /// Reads or makes what is to be shown. Fails only where the system has no random numbers.
    pub async fn open(tls: Tls, folder: PathBuf, clock: Clock, certificate: Certificate) -> io::Result<Self> {
        let before = seen(&tls, &folder);
        let own = match &tls {
            Tls::Own { cert, key } => Some(read(cert, key, 1).await),
            Tls::Off | Tls::SelfSigned => None,
        };
        let (pair, self_signed, trouble) = match own {
            Some(Ok(pair)) => (pair, false, None),
            Some(Err(why)) => {
                let (pair, _) = self_signed(&folder, &clock).await?;
                (pair, true, Some(format!("{why}; the self-signed certificate is shown in its stead")))
            }
            None => {
                let (pair, trouble) = self_signed(&folder, &clock).await?;
                (pair, true, trouble)
            }
        };
        let shown = watch::Sender::new(pair.server.clone());
        // A file that is replaced while it is read is read again; one that was made just now is known.
        let seen = if matches!(tls, Tls::Own { .. }) { before } else { seen(&tls, &folder) };
        let keeper = Self { tls, folder, clock, certificate, shown, pair, self_signed, seen, trouble };
        keeper.tell();
        info!(fingerprint = keeper.pair.fingerprint, self_signed = keeper.self_signed, "TLS certificate (SHA-256)");
        Ok(keeper)
    }

    /// What the server shows to whoever connects next.
    pub fn shown(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.shown.subscribe()
    }

    /// Looks at the files now and then, and when it is told to, until stopped.
    pub async fn keep(mut self, stop: CancellationToken) {
        let certificate = self.certificate.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
                () = certificate.0.look.notified() => {}
            }
            if let Err(error) = self.look().await {
                warn!(%error, "the certificate goes on as it is");
            }
            self.tell();
        }
    }

    async fn look(&mut self) -> io::Result<()> {
        let now = seen(&self.tls, &self.folder);
        let changed = now != self.seen;
        match &self.tls {
            Tls::Own { cert, key } if changed => match read(cert, key, TRIES).await {
                Ok(pair) => {
                    (self.trouble, self.self_signed) = (None, false);
                    self.show(pair);
                }
                Err(why) => {
                    let stays = if self.self_signed { "the self-signed certificate" } else { "the former one" };
                    let why = format!("{why}; {stays} is shown meanwhile");
                    warn!("{why}");
                    self.trouble = Some(why);
                }
            },
            // Somebody took the files away, or the end is near.
            Tls::SelfSigned if changed || self_signed::is_due(&self.pair, believed(&self.clock)) => {
                let (pair, trouble) = self_signed(&self.folder, &self.clock).await?;
                self.trouble = trouble;
                self.show(pair);
                self.seen = seen(&self.tls, &self.folder);
                return Ok(());
            }
            _ => {}
        }
        self.seen = now;
        Ok(())
    }

    fn show(&mut self, pair: Pair) {
        if pair.fingerprint != self.pair.fingerprint {
            info!(fingerprint = pair.fingerprint, self_signed = self.self_signed, "another TLS certificate (SHA-256)");
            self.shown.send_replace(pair.server.clone());
            self.pair = pair;
        }
    }

    fn tell(&self) {
        let status = CertificateStatus {
            fingerprint: Some(self.pair.fingerprint.clone()),
            self_signed: self.self_signed,
            names: self.pair.names.clone(),
            until: Some(self.pair.until),
            problem: self.trouble.clone().or_else(|| ending(&self.pair, self.clock.now())),
        };
        self.certificate.0.status.send_if_modified(|known| {
            let differs = *known != status;
            if differs {
                *known = status;
            }
            differs
        });
    }
}

/// What is to be said of its end. A clock that is behind says nothing, and is told of elsewhere.
fn ending(pair: &Pair, now: Timestamp) -> Option<String> {
    let day = &pair.until.to_string()[..10];
    if now >= pair.until {
        Some(format!("the TLS certificate of the page expired on {day}, and browsers refuse it: renew it"))
    } else if now.plus(NOTICE) >= pair.until {
        Some(format!("the TLS certificate of the page ends on {day}: renew it"))
    } else {
        None
    }
}

/// What changes when a file is written, replaced, or given to somebody else.
type Seen = [Option<(u64, u64, [i64; 4])>; 2];

fn seen(tls: &Tls, folder: &Path) -> Seen {
    let [cert, key] = match tls {
        Tls::Own { cert, key } => [cert.clone(), key.clone()],
        Tls::SelfSigned | Tls::Off => self_signed::files(folder),
    };
    let look = |path: &Path| {
        let times = |it: &fs::Metadata| [it.mtime(), it.mtime_nsec(), it.ctime(), it.ctime_nsec()];
        fs::metadata(path).ok().map(|it| (it.ino(), it.size(), times(&it)))
    };
    [look(&cert), look(&key)]
}

async fn read(cert: &Path, key: &Path, tries: u32) -> Result<Pair, String> {
    let mut last = String::new();
    for attempt in 0..tries {
        if attempt > 0 {
            tokio::time::sleep(SETTLE).await;
        }
        let (cert, key) = (cert.to_owned(), key.to_owned());
        match tokio::task::spawn_blocking(move || Pair::read(&cert, &key)).await {
            Ok(Ok(pair)) => return Ok(pair),
            Ok(Err(why)) => last = why,
            Err(gone) => last = gone.to_string(),
        }
    }
    Err(last)
}

/// The one that is kept in the folder, or a new one; what is wrong with keeping it.
async fn self_signed(folder: &Path, clock: &Clock) -> io::Result<(Pair, Option<String>)> {
    let (now, folder) = (believed(clock), folder.to_owned());
    tokio::task::spawn_blocking(move || self_signed::open(&folder, now)).await.map_err(io::Error::other)?
}

fn believed(clock: &Clock) -> Option<Timestamp> {
    Some(clock.now()).filter(|_| clock.state() == ClockState::Synchronised)
}

/// The fingerprint of the certificate that would be shown, and what is wrong with it; for commands, which make none.
pub fn look_at(tls: &Tls, folder: &Path, now: Timestamp) -> (Option<String>, Option<String>) {
    let read = match tls {
        Tls::Off => return (None, None),
        // Its absence is no fault: it is made when the program first runs.
        Tls::SelfSigned => return (self_signed::kept(folder).ok().map(|pair| pair.fingerprint), None),
        Tls::Own { cert, key } => Pair::read(cert, key),
    };
    match read {
        Ok(pair) => (Some(pair.fingerprint.clone()), ending(&pair, now)),
        Err(why) => (None, Some(why)),
    }
}
