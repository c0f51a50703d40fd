//! Whatever the line does and whenever the gateway dies: all arrives, and once.

use proptest::prelude::*;

use super::far::{Memory, Refusing, Trouble};
use super::*;

const NAME: &str = "cloud";

/// Runs until all is delivered; each time that the gateway dies it is started again.
async fn run_out(house: &House, far: &Far, streams: &[Stream]) {
    let heads = house.store().reader().heads().await.unwrap();
    for _ in 0..200 {
        far.state().is_dead = false;
        let agent = Agent::new(house, &[(NAME, far)], vec![upstream(NAME, "", streams)]);
        let is_dead = || far.state().is_dead;
        let is_done = || house.is_delivered(NAME, &heads);
        house.status.send_replace(Arc::default());
        let step = Duration::from_secs(3);
        house.until_by(step, "all is delivered, or it is dead", || is_dead() || is_done()).await;
        if is_dead() {
            agent.die().await;
        } else {
            return agent.stop().await;
        }
    }
    panic!("it died 200 times");
}

/// What may befall a call.
fn trouble() -> impl Strategy<Value = Trouble> {
    use Trouble::{After, Before, Busy, DeathAfter, DeathBefore, Fine, Half, TooLarge};
    prop_oneof![
        6 => Just(Fine),
        2 => prop_oneof![Just(Before), Just(After), Just(Half)],
        1 => prop_oneof![Just(Busy), Just(TooLarge)],
        1 => prop_oneof![Just(DeathBefore), Just(DeathAfter)],
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn all_arrives_once_whatever_happens(
        script in prop::collection::vec(trouble(), 0..60),
        (has_positions, refusing) in (any::<bool>(), 0..3_u8),
        (most, largest) in (1_usize..90, 1_usize..90),
        bad in prop::collection::btree_set(1_u64..230, 0..5),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let house = plant(230).await;
            let far = Far::new(if has_positions { Memory::Positions } else { Memory::Keys });
            {
                let mut state = far.state();
                state.script = script.into();
                (state.most, state.largest) = (most, largest);
                state.refusing = match refusing {
                    0 if !has_positions => Refusing::Listed,
                    1 => Refusing::Aside,
                    _ => Refusing::Whole,
                };
                state.bad = bad.into_iter().map(|seq| (Stream::Readings, seq)).collect();
            }
            run_out(&house, &far, &ALL).await;
            assert_complete(&house, &far, &ALL).await;
        });
    }
}

/// What is with the other side and in the dead letters is all that there is.
async fn assert_complete(house: &House, far: &Far, streams: &[Stream]) {
    let mut expected = house.records(streams).await;
    let letters = house.store().reader().dead_letters(NAME, None, 1_000).await.unwrap();
    let bad = far.state().bad.clone();
    for letter in &letters {
        let line = expected.remove(&(letter.epoch.clone(), letter.stream, letter.seq));
        assert_eq!(line.as_ref(), Some(&letter.line));
        assert!(bad.contains(&(letter.stream, letter.seq)), "{letter:?}");
    }
    assert_eq!(letters.len(), bad.len(), "{letters:?}");
    let state = far.state();
    assert!(state.records.keys().eq(expected.keys()), "{} of {}", state.records.len(), expected.len());
    assert_eq!(state.records, expected);
}

async fn plant(readings: i64) -> House {
    let mut house = House::new();
    house.readings(readings).await;
    house.blocks(7).await;
    house.alerts(5).await;
    house
}

#[tokio::test]
async fn all_arrives_once() {
    let house = plant(230).await;
    let far = Far::new(Memory::Keys);
    run_out(&house, &far, &ALL).await;
    assert_complete(&house, &far, &ALL).await;
    assert_eq!(far.state().twice, 0, "nothing was sent twice without need");
    let status = house.status(NAME);
    let sent: Vec<u64> = status.streams.iter().map(|(_, stream)| stream.sent).collect();
    let names: Vec<Stream> = status.streams.iter().map(|(stream, _)| *stream).collect();
    let order = [Stream::Checkpoints, Stream::Blocks, Stream::Alerts, Stream::Notices, Stream::Readings];
    assert_eq!((names.as_slice(), sent.as_slice()), (&order[..], &[1, 7, 5, 0, 230][..]));
}
