//! The gateway as a process that may be killed at any time. It says what is acknowledged as soon as that is, and does
//! what the line on its standard input says.

use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use meterseal::clock::Clock;
use meterseal::model::{Reading, Stream, StreamStatus, UpstreamOrder};
use meterseal::upstream::Config;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::gateway::{Gateway, Plant, hashes, seal};
use crate::proxy::Dice;

/// Who hands in readings at the same time, each of its own meters.
const SOURCES: usize = 4;
const METERS: usize = 3;

/// What the one who started it says: nothing, to go on; `drain`, to take no more and say when all is delivered; the
/// end of what it says, to end in order.
#[derive(Clone, Copy, PartialEq)]
enum Wish {
    GoOn,
    Drain,
    End,
}

pub async fn run(folder: &Path, config: Config, seed: u64) {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let names: Vec<String> = config.upstreams.iter().map(|upstream| upstream.name.clone()).collect();
    let clock = Clock::trusted();
    let gateway = Gateway::open(folder, clock.clone(), config).await;
    say([format!("opened {}", gateway.store.identity().epoch)]);
    let wish = listen();
    let done = Arc::new(AtomicBool::new(false));
    let mut works = JoinSet::new();
    for source in 0..SOURCES {
        let (ingest, clock, done) = (gateway.store.ingest(), clock.clone(), done.clone());
        let mut dice = Dice(seed ^ (source as u64 + 1) << 32);
        works.spawn(async move {
            let mut plant = Plant::new(source * METERS..(source + 1) * METERS, &clock);
            while !done.load(Ordering::Relaxed) {
                let answers = usize::try_from(dice.magnitude(8)).unwrap();
                let readings: Vec<Reading> = (0..answers).flat_map(|_| plant.answers(&clock)).collect();
                let receipt = ingest.store(readings.clone()).await.unwrap();
                say(hashes(&readings, receipt, &clock).into_iter().map(|(seq, hash)| format!("reading {seq} {hash}")));
                sleep(Duration::from_millis(dice.roll(60))).await;
            }
        });
    }
    let mut wanted = wish.clone();
    let mut dice = Dice(seed);
    while *wish.borrow() == Wish::GoOn {
        let sealed = seal(&gateway.store, &gateway.plant).await;
        let blocks = sealed.blocks.iter().map(|(meter, start)| format!("block {meter} {}", start.as_millis()));
        say(blocks.chain([format!("alert {}", sealed.alert)]));
        gateway.publisher.publish().await.unwrap();
        say(names.iter().map(|name| sent(&gateway, name)));
        tokio::select! {
            _ = wanted.changed() => {}
            () = sleep(Duration::from_millis(dice.roll(800))) => {}
        }
    }
    done.store(true, Ordering::Relaxed);
    while let Some(ended) = works.join_next().await {
        ended.unwrap();
    }
    gateway.publisher.publish().await.unwrap();
    let mut told = false;
    while *wish.borrow() == Wish::Drain {
        let mut through = true;
        for name in &names {
            through &= gateway.is_through(name).await;
            // A pause that began in worse times is cut short.
            gateway.order(UpstreamOrder::Flush { upstream: name.clone() }).await.unwrap();
        }
        say(names.iter().map(|name| sent(&gateway, name)));
        if through && !std::mem::replace(&mut told, true) {
            say(["through".to_owned()]);
        }
        sleep(Duration::from_millis(200)).await;
    }
    gateway.close().await;
}

/// What was acknowledged since the start.
fn sent(gateway: &Gateway, name: &str) -> String {
    let status = gateway.status(name);
    let sum = |(sent, repeated), (_, it): &(Stream, StreamStatus)| (sent + it.sent, repeated + it.repeated);
    let (sent, repeated) = status.streams.iter().fold((0, 0), sum);
    format!("sent {name} {sent} {repeated}")
}

/// One write for each acknowledgement: a line without its end does not count.
fn say(lines: impl IntoIterator<Item = String>) {
    let text: String = lines.into_iter().map(|line| line + "\n").collect();
    std::io::stdout().lock().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()).unwrap();
}

fn listen() -> watch::Receiver<Wish> {
    let (wish, wanted) = watch::channel(Wish::GoOn);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if line.is_ok_and(|line| line == "drain") {
                wish.send_replace(Wish::Drain);
            }
        }
        wish.send_replace(Wish::End);
    });
    wanted
}
