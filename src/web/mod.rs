//! REST, live feed and the page. Holds a `Reader`, which has no write method.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::model::{Meter, MeterId, OpenBlock, SourcesStatus};
use crate::store::Reader;

/// Part `[web]` of the config.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Loopback only until sign-in exists.
    pub listen: SocketAddr,
}

/// What the page says of the site, and the local day.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    pub id: String,
    pub name: String,
    pub organization: String,
    pub timezone: String,
    pub block_minutes: u8,
    /// Local minutes since midnight; Monday first.
    pub peaks: Vec<([bool; 7], u16, u16)>,
    pub simulated: bool,
}

/// All that the web looks at.
#[derive(Clone)]
pub struct Views {
    pub reader: Reader,
    pub clock: Clock,
    pub site: watch::Receiver<Arc<Site>>,
    pub meters: watch::Receiver<Arc<Vec<Meter>>>,
    pub open: watch::Receiver<Arc<BTreeMap<MeterId, OpenBlock>>>,
    pub sources: watch::Receiver<Arc<SourcesStatus>>,
    /// Parts that are turned off or wrong, for a person; empty when all is well.
    pub problems: watch::Receiver<Arc<Vec<String>>>,
}

/// Binds the address; port 0 takes a free one.
pub async fn bind(config: &Config) -> io::Result<TcpListener> {
    TcpListener::bind(config.listen).await
}

/// Serves until stopped; then lets answers under way finish.
pub async fn run(listener: TcpListener, views: Views, stop: CancellationToken) -> io::Result<()> {
    let _ = (listener, views, stop);
    todo!()
}
