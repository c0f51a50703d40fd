//! Into PostgreSQL: rows and the cursor that tells how far they go in one transaction, so that the database itself knows
//! what it has. docs/upstream.md has its tables and rights, packaging/postgres/schema.sql the tables themselves.

mod config;
mod fault;
mod open;
mod rows;
mod schema;
mod sql;
mod transfer;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{Client, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use self::schema::Months;
use super::receiver::{self, Answer, Batch, Fault, Opened, Witness};
use super::record::LineWriter;
use super::tls;
use crate::model::note::SignedCheckpoint;
use crate::model::{Position, Stream};
use crate::store::Identity;

pub use config::Config;

/// A line on which nothing is acknowledged for so long is gone (tcp(7), TCP_USER_TIMEOUT).
const GONE_AFTER: Duration = Duration::from_secs(30);
/// Beyond the time that the server gives itself, for the way there and back.
const MARGIN: Duration = Duration::from_secs(15);

pub struct Receiver {
    /// The upstream's own, under which its cursors are kept.
    name: String,
    config: Config,
    tls: Option<ClientConfig>,
    session: Option<Session>,
    lines: LineWriter,
    /// Cursors that the database had or was given, by epoch: one that is gone was taken away with what it told of.
    seen: BTreeSet<(String, Stream)>,
}

/// A connection, and what is known by it.
struct Session {
    client: Client,
    /// The task that reads and writes it ends with this.
    _connection: JoinSet<()>,
    months: Months,
    /// The numbers of epochs.
    gateways: HashMap<String, i32>,
    /// The cursors as they were read or written last, by epoch; none for one that cannot be read. What another one says
    /// was written by somebody else, who knew what we do not.
    cursors: HashMap<(i32, Stream), Option<Position>>,
}

impl Receiver {
    pub fn new(config: &Config, name: &str) -> Result<Self, String> {
        let tls = config.tls.as_ref().map(tls::client).transpose()?;
        Ok(Self {
            name: name.to_owned(),
            config: config.clone(),
            tls,
            session: None,
            lines: LineWriter::default(),
            seen: BTreeSet::new(),
        })
    }

    async fn connect(&self) -> Result<Session, Fault> {
        let config = &self.config;
        let mut dial = tokio_postgres::Config::new();
        for (host, port) in &config.hosts {
            dial.host(host).port(*port);
        }
        dial.dbname(&config.database).user(&config.user).application_name("meterseal");
        dial.connect_timeout(config.connect_timeout).tcp_user_timeout(GONE_AFTER);
        dial.keepalives_idle(Duration::from_secs(15)).keepalives_interval(Duration::from_secs(5)).keepalives_retries(3);
        if let Some(password) = &config.password {
            dial.password(password.as_bytes());
        }
        if config.hosts.len() > 1 {
            dial.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let mut connection = JoinSet::new();
        let client = match &self.tls {
            None => {
                dial.ssl_mode(tokio_postgres::config::SslMode::Disable);
                let (client, task) = self.dialled(dial.connect(NoTls)).await?;
                connection.spawn(async move { drop(task.await) });
                client
            }
            Some(tls) => {
                dial.ssl_mode(tokio_postgres::config::SslMode::Require);
                let (client, task) = self.dialled(dial.connect(MakeRustlsConnect::new(tls.clone()))).await?;
                connection.spawn(async move { drop(task.await) });
                client
            }
        };
        Ok(Session {
            client,
            _connection: connection,
            months: Months::default(),
            gateways: HashMap::new(),
            cursors: HashMap::new(),
        })
    }

    async fn dialled<T>(&self, dial: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Fault> {
        // Each of several hosts and addresses may take its time; TLS and sign-in come on top.
        match timeout(self.config.connect_timeout * 3, dial).await {
            Ok(done) => done.map_err(|error| self.failed(&Failed::Told(error), 1)),
            Err(_) => Err(Fault::Away(format!("{} does not answer", self.config.to()))),
        }
    }

    fn unopened(&self) -> Fault {
        Fault::Away(format!("{} is to be connected to anew", self.config.to()))
    }

    /// Waits for the server no longer than it may take.
    async fn within<T, E: Into<Failed>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, Failed> {
        match timeout(self.config.statement_timeout + MARGIN, work).await {
            Ok(done) => done.map_err(Into::into),
            Err(_) => Err(Failed::Silent),
        }
    }

    fn failed(&self, failed: &Failed, records: usize) -> Fault {
        match failed {
            Failed::Told(error) => fault::fault(error, &self.config.to(), self.config.password.as_slice(), records),
            Failed::Silent => Fault::Away(format!("{} does not answer any more", self.config.to())),
            Failed::Changed => Fault::Away(format!(
                "somebody else has changed the cursor of `{}` at {}, which is read anew: if this goes on, see who else \
                 writes there under this gateway's name",
                self.name,
                self.config.to()
            )),
        }
    }
}

/// Why a transaction did not come to its end.
enum Failed {
    Told(tokio_postgres::Error),
    Silent,
    /// The cursor is not as we left it.
    Changed,
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Told(error)
    }
}

impl receiver::Receiver for Receiver {
    async fn open(&mut self, identity: &Identity) -> Result<Opened, Fault> {
        self.session = None;
        let mut session = self.connect().await?;
        let opened = self.within(self.look(&mut session, identity)).await.map_err(|failed| self.failed(&failed, 1))?;
        self.seen.extend(opened.positions.keys().map(|stream| (identity.epoch.clone(), *stream)));
        self.session = Some(session);
        Ok(opened)
    }

    async fn witness(&mut self, checkpoint: &Witness) -> Result<Option<SignedCheckpoint>, Fault> {
        let origin = &checkpoint.checkpoint.checkpoint.origin;
        let identity = identity(origin).ok_or_else(|| Fault::Refused(format!("{origin} is no origin of a log")))?;
        let mut session = self.session.take().ok_or_else(|| self.unopened())?;
        let held = self.within(self.hand_over(&mut session, &identity, checkpoint)).await;
        let held = held.map_err(|failed| self.failed(&failed, 1))?;
        self.session = Some(session);
        Ok(held)
    }

    async fn deliver(&mut self, batch: &Batch) -> Answer {
        let Some(table) = rows::table(batch.stream) else {
            // A stream that has no table is not offered to it.
            let all = batch.records.len();
            return Answer { taken: all, skipped: all as u64, ..Answer::default() };
        };
        // Given back when the connection is known to be at rest: whoever drops this half-way drops it too.
        let Some(mut session) = self.session.take() else {
            return Answer { fault: Some(self.unopened()), ..Answer::default() };
        };
        let (answer, is_at_rest) = self.transfer(&mut session, &table, batch).await;
        if is_at_rest {
            self.session = Some(session);
        }
        if answer.taken > 0 {
            self.seen.insert((batch.identity.epoch.clone(), batch.stream));
        }
        answer
    }

    fn most(&self, stream: Stream) -> usize {
        match stream {
            Stream::Readings => 20_000,
            _ => 1_000,
        }
    }

    fn knows_keys(&self) -> bool {
        true
    }
}

/// Whose log it is: `<site>/<gateway>/<epoch>`.
fn identity(origin: &str) -> Option<Identity> {
    let (rest, epoch) = origin.rsplit_once('/')?;
    let (site, gateway) = rest.rsplit_once('/')?;
    Some(Identity { site: site.parse().ok()?, gateway: gateway.to_owned(), epoch: epoch.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_tells_whose_log_it_is() {
        let whose = identity("plant-7/00ff/e1").unwrap();
        assert_eq!((whose.site.as_str(), whose.gateway.as_str(), whose.epoch.as_str()), ("plant-7", "00ff", "e1"));
        assert_eq!(whose.origin(), "plant-7/00ff/e1");
        assert!(identity("plant-7").is_none() && identity("No site/a/b").is_none());
    }
}
