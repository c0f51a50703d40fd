//! One client, from its arrival to its end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesOrdered;
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::client::{Outbox, Registered};
use super::message::Said;
use super::{Arrival, SimulatorNow, message, say};
use crate::model::{Introduction, Simulated, SimulatedReading, Simulator, SimulatorRefused};
use crate::store::Scope;
use crate::web::{Web, guard};

/// A client is asked this often whether it lives, and one that said nothing since the last time is dropped. So is one
/// that takes nothing for as long.
const PERIOD: Duration = Duration::from_secs(25);
/// Bytes of a frame, and of a message in several.
const LONGEST: usize = 64 * 1024;
/// Buffers of one client. What it is told is held once for all, and written as it is.
const READ_BUFFER: usize = 4 * 1024;
const WRITE_BUFFER: usize = 4 * 1024;
/// Bytes that may lie unwritten. The longest message is what a dashboard begins with.
const UNWRITTEN: usize = 1024 * 1024;
/// Readings of one client on their way to the store. With as many under way it is not read.
const UNDER_WAY: usize = 32;
/// What a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(500);

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// How it ended.
enum Ended {
    /// It went, or there is nobody to say anything to.
    Gone,
    Close(CloseCode, String),
}

pub async fn converse(web: Web, arrival: Arrival) {
    let Arrival { upgrade, scope, watch, _place } = arrival;
    let Ok(Ok(upgraded)) = timeout(PERIOD, upgrade).await else { return };
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(UNWRITTEN)
        .max_message_size(Some(LONGEST))
        .max_frame_size(Some(LONGEST));
    let mut socket = Socket::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let (me, outbox) = web.hub.clients.enter();
    let mut client = Client { web: web.clone(), me, outbox, scope };
    let ended = client.talk(&mut socket, watch).await.err().unwrap_or(Ended::Gone);
    let (was_dashboard, was_simulator) = web.hub.clients.leave(me);
    if was_simulator.is_some() {
        client.tell_simulators_changed();
    }
    if was_dashboard {
        client.tell_simulators("dashboard-left");
    }
    let is_broken = matches!(ended, Ended::Close(CloseCode::Size | CloseCode::Protocol | CloseCode::Invalid, _));
    let goodbye = async {
        if let Ended::Close(code, reason) = ended {
            socket.close(Some(CloseFrame { code, reason: reason.into() })).await.ok();
        } else {
            socket.close(None).await.ok();
        }
        while let Some(Ok(_)) = socket.next().await {}
        if is_broken {
            // The rest of what could not be read is passed over: the connection would be reset before the goodbye is read.
            while !matches!(socket.get_mut().read(&mut [0; 1_024]).await, Ok(0) | Err(_)) {}
        }
    };
    timeout(GOODBYE, goodbye).await.ok();
}

struct Client {
    web: Web,
    me: u64,
    outbox: Arc<Outbox>,
    scope: Scope,
}

/// A reading and what became of it.
struct Done {
    reading: SimulatedReading,
    echo: Value,
    outcome: Result<Simulated, SimulatorRefused>,
}

impl Client {
    /// Talks until there is a reason to end.
    async fn talk(&mut self, socket: &mut Socket, mut watch: super::Watch) -> Result<(), Ended> {
        let mut beat = interval_at(Instant::now() + PERIOD, PERIOD);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut lives, stop, outbox) = (true, self.web.stop.clone(), self.outbox.clone());
        let mut under_way = FuturesOrdered::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Err(Ended::Close(CloseCode::Away, "the gateway is stopping".into())),
                why = watch.ended() => return Err(Ended::Close(CloseCode::Policy, why.into())),
                Some(done) = under_way.next(), if !under_way.is_empty() => self.settle(socket, done).await?,
                text = outbox.next() => send(socket, Message::Text(text)).await?,
                _ = beat.tick() => {
                    // One that is not read cannot show that it lives.
                    if !std::mem::take(&mut lives) && under_way.len() < UNDER_WAY {
                        return Err(Ended::Gone);
                    }
                    send(socket, Message::Ping(Vec::new().into())).await?;
                }
                message = socket.next(), if under_way.len() < UNDER_WAY => {
                    lives = true;
                    let Some(text) = text_of(message)? else { continue };
                    match message::read(&text) {
                        Ok(Said::Reading { reading, echo }) if self.may_simulate() => {
                            let shows = self.web.hub.clients.dashboards() > 0;
                            let reading = SimulatedReading { shows, ..reading };
                            under_way.push_back(store(self.web.views.simulators.clone(), reading, echo));
                        }
                        Ok(said) => {
                            // Answers come in the order of what was said.
                            while let Some(done) = under_way.next().await {
                                self.settle(socket, done).await?;
                            }
                            self.answer(socket, said).await?;
                        }
                        Err(fault) => self.reply(socket, [fault.told()]).await?,
                    }
                }
            }
        }
    }

    /// Answers all but readings.
    async fn answer(&mut self, socket: &mut Socket, said: Said) -> Result<(), Ended> {
        let (web, now) = (self.web.clone(), self.web.views.clock.now());
        match said {
            Said::Nothing => Ok(()),
            Said::Register { .. } | Said::Reading { .. } if !self.may_simulate() => {
                let why = "this token may not simulate: it needs the scope `ingest` or `admin`";
                self.reply(socket, [say::fault(why)]).await
            }
            Said::Dashboard if !self.may_look() => {
                let why = "this token may not read: it needs the scope `read` or `admin`";
                self.reply(socket, [say::fault(why)]).await
            }
            Said::Register { introduction, called } => match self.register(introduction).await {
                Ok(simulator) => {
                    let registered = Registered { id: simulator.id, name: called, sequence: 0 };
                    web.hub.clients.is_simulator(self.me, registered.clone());
                    let dashboards = web.hub.clients.dashboards();
                    let told = [
                        say::registered(&registered, now),
                        say::handshake(Some(&registered), dashboards, "register", now),
                    ];
                    // Whoever knows that it is registered finds dashboards told of it.
                    self.tell_simulators_changed();
                    self.reply(socket, told).await?;
                    if dashboards > 0 {
                        self.tell_simulators("simulator-registered");
                    }
                    Ok(())
                }
                Err(refused) => self.reply(socket, [say::fault(&refused.to_string())]).await,
            },
            Said::Handshake { is_auto } => {
                let (simulator, dashboards) = (web.hub.clients.simulator(self.me), web.hub.clients.dashboards());
                let reason = if is_auto { "auto" } else { "manual" };
                self.reply(socket, [say::handshake(simulator.as_ref(), dashboards, reason, now)]).await
            }
            Said::Dashboard => {
                web.hub.clients.is_dashboard(self.me);
                match say::initial(&web).await {
                    Ok(told) => self.reply(socket, told).await?,
                    Err(error) => {
                        tracing::warn!(%error, "a dashboard could not be told what there is");
                        self.reply(socket, [say::fault("the store does not answer now")]).await?;
                    }
                }
                self.tell_simulators("dashboard-joined");
                Ok(())
            }
            // It is stored elsewhere.
            Said::Reading { .. } => Ok(()),
        }
    }

    async fn register(&self, introduction: Introduction) -> Result<Simulator, SimulatorRefused> {
        ask(&self.web.views.simulators, |reply| SimulatorNow::Register { introduction, reply }).await
    }

    /// A reading is durable: dashboards learn of it before its sender does.
    async fn settle(&mut self, socket: &mut Socket, done: Done) -> Result<(), Ended> {
        let (clients, now) = (&self.web.hub.clients, self.web.views.clock.now());
        let Done { reading, echo, outcome } = done;
        let told = match outcome {
            Ok(taken) => {
                if let Some(update) = say::update(&self.web, &reading, &taken) {
                    clients.tell_dashboards(&update);
                }
                let outcome = (clients.dashboards(), clients.count_reading(self.me));
                say::acknowledged((&reading.id, &echo), Ok(outcome), now)
            }
            Err(SimulatorRefused::IsMeter(id)) => say::fault(&SimulatorRefused::IsMeter(id).to_string()),
            Err(refused) => say::acknowledged((&reading.id, &echo), Err(&refused.to_string()), now),
        };
        self.reply(socket, [told]).await
    }

    /// Answers, after what others had it told before.
    async fn reply(&self, socket: &mut Socket, told: impl IntoIterator<Item = String>) -> Result<(), Ended> {
        let mut all: VecDeque<Utf8Bytes> = std::iter::from_fn(|| self.outbox.take()).collect();
        all.extend(told.into_iter().map(Utf8Bytes::from));
        for text in all {
            send(socket, Message::Text(text)).await?;
        }
        Ok(())
    }

    fn tell_simulators_changed(&self) {
        let roster = self.web.views.roster.borrow().clone();
        self.web.hub.clients.tell_dashboards(&say::simulators_updated(&self.web.hub.clients, &roster));
    }

    fn tell_simulators(&self, reason: &str) {
        let (clients, now) = (&self.web.hub.clients, self.web.views.clock.now());
        let dashboards = clients.dashboards();
        clients.tell_simulators(|simulator| say::handshake(Some(simulator), dashboards, reason, now));
    }

    fn may_simulate(&self) -> bool {
        matches!(self.scope, Scope::Ingest | Scope::Admin)
    }

    fn may_look(&self) -> bool {
        guard::reads(self.scope)
    }
}

async fn store(simulators: mpsc::Sender<SimulatorNow>, reading: SimulatedReading, echo: Value) -> Done {
    let asked = reading.clone();
    let outcome = ask(&simulators, |reply| SimulatorNow::Reading { reading: asked, reply }).await;
    Done { reading, echo, outcome }
}

async fn ask<T>(
    simulators: &mpsc::Sender<SimulatorNow>,
    order: impl FnOnce(oneshot::Sender<Result<T, SimulatorRefused>>) -> SimulatorNow,
) -> Result<T, SimulatorRefused> {
    let (reply, answer) = oneshot::channel();
    let gone = || SimulatorRefused::Store("the gateway is stopping".to_owned());
    simulators.send(order(reply)).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

/// Writes it, as long as the client takes anything.
async fn send(socket: &mut Socket, message: Message) -> Result<(), Ended> {
    match timeout(PERIOD, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(Ended::Gone),
    }
}

/// The text of a message; `None` for a sign of life.
fn text_of(message: Option<Result<Message, Error>>) -> Result<Option<Utf8Bytes>, Ended> {
    let close = |code, why: &str| Err(Ended::Close(code, why.to_owned()));
    match message {
        Some(Ok(Message::Text(text))) => Ok(Some(text)),
        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(None),
        Some(Ok(Message::Binary(_))) => close(CloseCode::Unsupported, "messages are text"),
        Some(Err(Error::Capacity(_))) => close(CloseCode::Size, "a message has at most 64 KiB"),
        Some(Err(Error::Utf8(_))) => close(CloseCode::Invalid, "the text is not UTF-8"),
        Some(Err(Error::Protocol(_))) => close(CloseCode::Protocol, "this is no WebSocket frame"),
        Some(Ok(Message::Close(_)) | Err(_)) | None => Err(Ended::Gone),
    }
}
