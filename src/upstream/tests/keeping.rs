//! Several upstreams, those that come and go, those that refuse us, and what a person wants of them.

use super::far::{Memory, Trouble};
use super::*;
use crate::model::{UpstreamOrder, UpstreamState};

#[tokio::test]
async fn a_dead_one_holds_up_nobody() {
    let mut house = House::new();
    house.readings(300).await;
    house.blocks(5).await;
    let (dead, alive) = (Far::new(Memory::Keys), Far::new(Memory::Keys));
    dead.state().is_away = true;
    let both = vec![upstream("a", "", &ALL[..2]), upstream("b", "", &[Stream::Readings])];
    let agent = Agent::new(&house, &[("a", &dead), ("b", &alive)], both);
    house.until_delivered("b").await;
    house.readings(40).await;
    house.until_delivered("b").await;
    assert_eq!(alive.records(), house.records(&[Stream::Readings]).await);
    let status = house.status("a");
    assert_eq!((status.state, status.problem.as_deref()), (UpstreamState::Away, Some("no route")));
    assert_eq!(status.streams[1].1.depth, 5);
    // When it comes back it has all of it, blocks only under its checkpoint.
    dead.state().is_away = false;
    house.until_delivered("a").await;
    assert_eq!(dead.records(), house.records(&[Stream::Blocks]).await);
    agent.stop().await;
}

#[tokio::test]
async fn what_is_added_changed_removed_and_added_again_goes_on_where_it_was() {
    let mut house = House::new();
    house.readings(120).await;
    house.blocks(1).await;
    let (a, b) = (Far::new(Memory::Keys), Far::new(Memory::Keys));
    let one = upstream("a", "", &ALL);
    let agent = Agent::new(&house, &[("a", &a), ("b", &b)], vec![one.clone()]);
    house.until_delivered("a").await;
    let opened = a.state().opened;
    let new = Upstream { start: Start::Now, ..upstream("b", "", &[Stream::Readings]) };
    agent.reconfigure(vec![one.clone(), new.clone()]);
    house.until("b is there", || house.status("b").state == UpstreamState::Connected).await;
    house.readings(30).await;
    house.until_delivered("a").await;
    house.until_delivered("b").await;
    assert_eq!(a.state().opened, opened, "the other one was left alone");
    assert_eq!(b.seqs(Stream::Readings).len(), 30, "it began with what came from then on");

    agent.reconfigure(vec![new.clone()]);
    house.until("a is gone", || !house.status.borrow().contains_key("a")).await;
    house.readings(20).await;
    house.until_delivered("b").await;
    let changed = upstream("b", "elsewhere", &[Stream::Readings]);
    agent.reconfigure(vec![changed, one]);
    house.until_delivered("a").await;
    house.until_delivered("b").await;
    assert_eq!((a.state().twice, b.state().twice), (0, 0), "nothing was sent again");
    assert_eq!((a.seqs(Stream::Readings).len(), b.seqs(Stream::Readings).len()), (170, 50));
    assert_eq!(house.status("b").to, "elsewhere");
    agent.stop().await;
}

#[tokio::test]
async fn one_that_refuses_us_is_told_once_and_asked_again() {
    let house = House::new();
    house.readings(10).await;
    let far = Far::new(Memory::Keys);
    far.state().stopped = Some("the token is wrong".to_owned());
    let agent = Agent::new(&house, &[("a", &far)], vec![upstream("a", "", &[Stream::Readings])]);
    house.until("it is stopped", || house.status("a").state == UpstreamState::Stopped).await;
    house.until_by(Duration::from_secs(3), "it was asked again", || far.state().opened == 3).await;
    let alerts = house.alerts_of(AlertKind::UpstreamStopped).await;
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    assert!(alerts[0].text.contains("the token is wrong") && alerts[0].cleared.is_none());
    far.state().stopped = None;
    house.order(&agent, UpstreamOrder::Flush { upstream: "a".to_owned() }).await.unwrap();
    let flushed = house.clock.now();
    house.until_delivered("a").await;
    assert!(house.clock.now().millis_since(flushed) < 60_000, "it did not wait for its time");
    agent.stop().await;
    assert!(house.alerts_of(AlertKind::UpstreamStopped).await[0].cleared.is_some());
}

#[tokio::test]
async fn dead_letters_are_sent_again_or_discarded() {
    let house = House::new();
    house.readings(60).await;
    let far = Far::new(Memory::Keys);
    let bad = |seqs: &[u64]| seqs.iter().map(|seq| (Stream::Readings, *seq)).collect();
    far.state().bad = bad(&[3, 20, 21]);
    let agent = Agent::new(&house, &[("a", &far)], vec![upstream("a", "", &[Stream::Readings])]);
    house.until_delivered("a").await;
    house.until("they are shown", || house.status("a").dead_letters == 3).await;
    far.state().bad = bad(&[20]);
    let upstream = || "a".to_owned();
    let none = house.order(&agent, UpstreamOrder::Replay { upstream: upstream(), ids: Some(vec![9]) }).await;
    assert_eq!(none, Err(UpstreamRefused::NoDeadLetter(9)));
    let unknown = house.order(&agent, UpstreamOrder::Flush { upstream: "z".to_owned() }).await;
    assert_eq!(unknown, Err(UpstreamRefused::Unknown("z".to_owned())));
    house.order(&agent, UpstreamOrder::Replay { upstream: upstream(), ids: None }).await.unwrap();
    house.until("two were taken", || house.status("a").dead_letters == 1).await;
    let letters = house.store().reader().dead_letters("a", None, 9).await.unwrap();
    assert_eq!((letters[0].seq, letters[0].attempts), (20, 2));
    house.order(&agent, UpstreamOrder::Discard { upstream: upstream(), ids: Some(vec![letters[0].id]) }).await.unwrap();
    house.until("none is left", || house.status("a").dead_letters == 0).await;
    agent.stop().await;
    let mut expected = house.records(&[Stream::Readings]).await;
    expected.retain(|(.., seq), _| *seq != 20);
    assert_eq!(far.records(), expected, "as they were the first time");
}

#[tokio::test]
async fn one_that_knows_no_keys_is_sent_again_only_what_is_in_doubt() {
    let house = House::new();
    house.readings(200).await;
    let far = Far::new(Memory::None);
    far.state().script = [Trouble::Fine, Trouble::Fine, Trouble::Half, Trouble::Fine, Trouble::After].into();
    let agent = Agent::new(&house, &[("a", &far)], vec![upstream("a", "", &[Stream::Readings])]);
    house.until("a batch is in doubt", || far.state().script.is_empty()).await;
    agent.die().await;
    let agent = Agent::new(&house, &[("a", &far)], vec![upstream("a", "", &[Stream::Readings])]);
    house.until_delivered("a").await;
    agent.stop().await;
    assert_eq!(far.records(), house.records(&[Stream::Readings]).await);
    let twice = far.state().twice;
    assert!(twice > 0 && twice <= 50, "one batch was cut after it was taken: {twice}");
}

#[tokio::test]
async fn what_went_out_without_a_key_and_was_not_answered_is_in_doubt() {
    let house = House::new();
    house.readings(30).await;
    let far = Far::new(Memory::None);
    far.state().script = [Trouble::Fine, Trouble::After].into();
    let agent = Agent::new(&house, &[("a", &far)], vec![upstream("a", "", &[Stream::Readings])]);
    let in_doubt = || {
        let status = house.status("a");
        status.streams.iter().find(|(stream, _)| *stream == Stream::Readings).map(|(_, readings)| readings.in_doubt)
    };
    house.until_delivered("a").await;
    assert_eq!((in_doubt(), far.state().twice), (Some(30), 30), "it died when it had them");
    // It hangs, and nobody waits for its answer any more.
    far.state().hangs = true;
    let batches = far.state().calls;
    house.readings(20).await;
    house.until("it is asked", || far.state().calls > batches).await;
    agent.stop().await;
    assert_eq!(in_doubt(), Some(50));
}

#[tokio::test]
async fn the_newest_go_first_and_the_backlog_gets_its_turn() {
    let mut house = House::new();
    house.readings(5_000).await;
    house.blocks(400).await;
    let far = Far::new(Memory::Keys);
    let agent = Agent::new(&house, &[("a", &far)], vec![upstream("a", "", &ALL)]);
    house
        .until("the newest are there", || {
            let state = far.state();
            let at = |wanted| state.came.iter().position(|came| *came == wanted);
            at((Stream::Blocks, 400)).is_some_and(|at| at < 64)
                && at((Stream::Readings, 5_000)).is_some_and(|at| at < 250)
        })
        .await;
    // Something new with every look, and yet the old ones go.
    for _ in 0..400 {
        house.readings(1).await;
        house.pass(Duration::from_secs(1)).await;
        if far.seqs(Stream::Readings).len() > 5_000 {
            break;
        }
    }
    house.until_delivered("a").await;
    assert_eq!(far.state().twice, 0);
    assert_eq!(far.records(), house.records(&ALL).await);
    agent.stop().await;
}

#[tokio::test]
async fn a_stop_waits_for_nobody() {
    let house = House::new();
    house.readings(10).await;
    let far = Far::new(Memory::Keys);
    far.state().hangs = true;
    let agent = Agent::new(&house, &[("a", &far)], vec![upstream("a", "", &[Stream::Readings])]);
    house.until("it is asked", || far.state().calls > 0).await;
    let began = std::time::Instant::now();
    agent.stop().await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn readings_of_a_clock_that_is_not_right_wait_some_minutes() {
    let house = House::new();
    house.clock.set_state(ClockState::Unsynchronised);
    house.readings(10).await;
    let (taken, far) = (house.clock.since_boot_ms(), Far::new(Memory::Keys));
    let agent = Agent::new(&house, &[("a", &far)], vec![upstream("a", "", &[Stream::Readings])]);
    house.until("they are sent", || far.seqs(Stream::Readings).len() == 10).await;
    let waited = house.clock.since_boot_ms() - taken;
    assert!((300_000..330_000).contains(&waited), "{waited} ms");
    house.readings(10).await;
    house.pass(Duration::from_secs(2)).await;
    house.clock.set_state(ClockState::Synchronised);
    let right = house.clock.since_boot_ms();
    house.until("they are sent", || far.seqs(Stream::Readings).len() == 20).await;
    assert!(house.clock.since_boot_ms() - right < 60_000, "the clock is right: nothing is left to wait for");
    agent.stop().await;
}

#[tokio::test]
async fn what_waits_for_one_that_hangs_is_shown() {
    let house = House::new();
    house.readings(10).await;
    let far = Far::new(Memory::Keys);
    let agent = Agent::new(&house, &[("a", &far)], vec![upstream("a", "", &[Stream::Readings])]);
    house.until_delivered("a").await;
    far.state().hangs = true;
    house.readings(30).await;
    let waiting = |status: &UpstreamStatus| {
        let found = status.streams.iter().find(|(stream, _)| *stream == Stream::Readings);
        found.map(|(_, shown)| (shown.depth, shown.oldest.is_some()))
    };
    house.until("it is shown what waits", || waiting(&house.status("a")) == Some((30, true))).await;
    agent.stop().await;
}

#[tokio::test]
async fn minutes_are_sent_once_whatever_the_clock_does() {
    let house = House::new();
    let far = Far::new(Memory::None);
    let agent = Agent::new(&house, &[("a", &far)], vec![upstream("a", "", &[Stream::Minutes])]);
    for minute in 1..=5 {
        house.readings(3).await;
        house
            .until_by(Duration::from_secs(10), "it is there", || {
                let due = NOON + minute * 60_000 + 30_000;
                house.clock.now().as_millis() >= due
                    && i64::try_from(far.seqs(Stream::Minutes).len()).unwrap() == minute
            })
            .await;
    }
    let right = house.clock.now();
    // It boots without a clock, which is set some minutes later.
    house.clock.set_state(ClockState::Unsynchronised);
    house.clock.step_to(Timestamp::from_millis(0));
    for _ in 0..40 {
        house.pass(Duration::from_secs(10)).await;
    }
    house.clock.step_to(right.plus_millis(400_000));
    house.clock.set_state(ClockState::Synchronised);
    // And is a little ahead.
    for back in [3_000, 61_000] {
        for _ in 0..30 {
            house.pass(Duration::from_secs(5)).await;
        }
        house.clock.step_to(house.clock.now().plus_millis(-back));
    }
    // Beyond what it had gone over before.
    for _ in 0..30 {
        house.pass(Duration::from_secs(5)).await;
    }
    house.readings(3).await;
    house.until_by(Duration::from_secs(1), "the next one is there", || far.seqs(Stream::Minutes).len() >= 6).await;
    agent.stop().await;
    let twice = far.state().twice;
    assert_eq!((twice, far.seqs(Stream::Minutes).len()), (0, 6));
}
