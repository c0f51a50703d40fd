//! Whatever becomes of the daemon, of its node and of the power between the wish for an anchor and its finality, the
//! chain has one transaction for each checkpoint.
//!
//! Without arguments: at some of the events, spread over all of them from a chance beginning; `from N` begins at the
//! N-th, `all` takes every one. An event is a write to `evidence.db` or its log, a flush, or a message to the node;
//! `events.c` counts them within the daemon over all of its threads, which strace does for each thread alone, and the
//! store's work goes from thread to thread.

// A program of its own to the lints, but a test all the same.
#![allow(clippy::unwrap_used)]

#[path = "../prove/chain.rs"]
#[allow(dead_code, reason = "the tests of proofs use it")]
mod chain;
mod events;
#[path = "../chain/harness/mod.rs"]
mod harness;
#[path = "../kill/mod.rs"]
#[allow(dead_code, reason = "other tests kill by strace")]
mod kill;
#[path = "../prove/plant.rs"]
#[allow(dead_code, reason = "the tests of proofs use more of it")]
mod plant;
mod scene;

use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use events::Events;
use kill::Which;
use scene::{Beginning, Dice, Ended, FOLLOWS, PAUSE, Scene, Weather};

/// What `cargo test` takes of each beginning: kills and power cuts; and beside them storms, in which the node comes and
/// goes.
const KILLS: usize = 16;
const CUTS: usize = 4;
const STORMS: usize = 2;
/// A life in a storm ends before one of so many events, or by itself.
const EVENTS: u64 = 120;
/// With `all`, unless STORMS in the environment says otherwise.
const ALL_STORMS: usize = 40;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let Some(which) = Which::by_arguments("anchor_daemon", &words) else { return ExitCode::SUCCESS };
    let library = events::build();
    let library: &Path = &library;
    let outcomes = thread::scope(|scope| {
        let matrices = [
            scope.spawn(|| matrix(library, which, Beginning::Fresh)),
            scope.spawn(|| matrix(library, which, Beginning::Second)),
            scope.spawn(|| storms(library, which)),
        ];
        matrices.map(|matrix| matrix.join().unwrap_or_else(|_| Err("it panicked".to_owned())))
    });
    if let Which::From(first) = which {
        println!("anchor_daemon: from {first}");
    }
    let mut code = ExitCode::SUCCESS;
    for outcome in outcomes {
        match outcome {
            Ok(told) => println!("{told}"),
            Err(wrong) => {
                println!("{wrong}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

fn took(began: Instant) -> String {
    format!("in {} s", began.elapsed().as_secs())
}

fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok().map(|number| number.parse().unwrap())
}

/// Kills the daemon before its events, and cuts the power after each flush boundary behind the sending.
fn matrix(library: &Path, which: Which, beginning: Beginning) -> Result<String, String> {
    let (began, scene) = (Instant::now(), Scene::new(library, beginning));
    let place = |wrong: String| format!("{beginning:?}: {wrong}");
    // Once to its end, to learn its events.
    scene.lay();
    scene.live(None, PAUSE).map_err(place)?;
    let recorded = scene.events();
    // Opening the store empties its write-ahead log into its file.
    let after = scene.keep("after");
    if !scene.is_final() {
        return Err(place(format!("it does not become final by itself: {recorded:#?}")));
    }
    scene.judge().map_err(place)?;
    let cuts = cuts(&scene, &after, &recorded, which).map_err(place)?;

    let count = recorded.count();
    let (first, stride) = which.of(count, KILLS);
    let (mut tried, mut kills) = (0, 0);
    for at in (1..=count).skip(first).step_by(stride) {
        scene.lay();
        let ended = scene.live(Some(at), PAUSE).map_err(place)?;
        kills += usize::from(ended == Ended::Killed);
        tried += 1;
        scene.settle().and_then(|()| scene.judge()).map_err(|wrong| {
            format!("{beginning:?}, killed before event {at} of {count}, {:?}: {wrong}", recorded.line(at))
        })?;
    }
    // How many events there are is a matter of how the threads fall together, but for a few.
    if kills * 10 < tried * 8 {
        return Err(place(format!("{kills} of {tried} daemons were killed: the others had come to their end")));
    }
    Ok(format!("{beginning:?}: {kills} kills at {tried} of {count} events, and {cuts} power cuts, {}", took(began)))
}

/// The power goes at some time after the transaction was sent, and it is mined nevertheless: whatever was not flushed
/// when it was sent may be lost.
fn cuts(scene: &Scene, after: &Path, recorded: &Events, which: Which) -> Result<usize, String> {
    let durable = recorded.durable_when_sent()?;
    let ends: Vec<u64> = recorded.frames().into_iter().filter(|end| *end >= durable).collect();
    let (first, stride) = which.of(ends.len(), CUTS);
    // The shortest one has the least of what happened.
    let taken = ends.iter().enumerate().filter(|(at, _)| *at == 0 || at % stride == first);
    let mut done = 0;
    for (_, end) in taken {
        scene.lay_cut(after, *end);
        scene.settle().and_then(|()| scene.judge()).map_err(|wrong| {
            format!("the write-ahead log is cut to {end}, and {durable} were flushed when it was sent: {wrong}")
        })?;
        done += 1;
    }
    Ok(done)
}

/// The node stops and starts between the steps of the daemon; and the daemon is killed beside.
fn storms(library: &Path, which: Which) -> Result<String, String> {
    let (count, seed) = match which {
        Which::All => (ALL_STORMS, number("SEED").unwrap_or(0)),
        Which::From(seed) => (STORMS, seed),
    };
    let count = number("STORMS").unwrap_or(count);
    let began = Instant::now();
    for storm in 0..count {
        let seed = seed.wrapping_add(storm) as u64;
        let beginning = if storm % 4 < 2 { Beginning::Second } else { Beginning::Fresh };
        let is_calm = storm % 2 == 0;
        let mut dice = Dice(seed);
        let scene = Scene::new(library, beginning);
        scene.set_weather(Weather::stormy(seed));
        let lived = if is_calm {
            scene.live_on()
        } else {
            (0..8).try_for_each(|_| {
                if dice.roll(2) == 0 {
                    scene.end_absence();
                }
                let at = usize::try_from(1 + dice.roll(EVENTS)).unwrap();
                scene.live(Some(at), FOLLOWS).map(drop)
            })
        };
        scene.set_weather(Weather::fair());
        lived.and_then(|()| scene.settle()).and_then(|()| scene.judge()).map_err(|wrong| {
            format!("storm {storm} of seed {seed} at {beginning:?}, the daemon killed: {}: {wrong}", !is_calm)
        })?;
    }
    Ok(format!("{count} storms, {}", took(began)))
}
