//! A line over a pipe in memory, with time that passes only when everybody waits.

use std::cell::RefCell;
use std::collections::VecDeque;

use super::*;
use proptest::prelude::*;
use tokio::io::{DuplexStream, duplex};
use tokio::time::sleep;

const MS: Duration = Duration::from_millis(1);
const WAIT: Duration = Duration::from_millis(200);

fn timing() -> Timing {
    Timing::of(&Serial { device: "/dev/null".into(), baud: 9600, parity: Parity::None, stop_bits: 1 })
}

fn pair() -> (Rtu<DuplexStream>, DuplexStream) {
    let (near, far) = duplex(4096);
    (Rtu::new(near, timing(), Duration::ZERO), far)
}

fn request(address: u16, count: u16) -> Request {
    Request { function: Function::Input, address, count, registers: 0..1 }
}

/// Registers hold their address, and the number of the unit in the upper byte.
fn words(unit: u8, address: u16, count: u16) -> Vec<u16> {
    (address..address + count).map(|at| u16::from(unit) << 8 | at).collect()
}

fn answer(unit: u8, function: u8, words: &[u16]) -> Vec<u8> {
    let values: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    frame::with_sum(&[&[unit, function, u8::try_from(values.len()).unwrap()], &values[..]].concat())
}

fn right(asked: &[u8; REQUEST]) -> Vec<u8> {
    let [unit, function, a1, a0, c1, c0, ..] = *asked;
    answer(unit, function, &words(unit, u16::from_be_bytes([a1, a0]), u16::from_be_bytes([c1, c0])))
}

async fn asked(far: &mut DuplexStream) -> [u8; REQUEST] {
    let mut asked = [0; REQUEST];
    far.read_exact(&mut asked).await.unwrap();
    asked
}

/// What a read of unit 1, registers 5 and 6, gives when `act` makes of the request what comes back.
async fn told(act: impl Fn([u8; REQUEST]) -> Vec<u8>) -> (Result<Vec<u16>, Trouble>, usize, u64) {
    let (mut rtu, mut far) = pair();
    let mut requests = 0;
    let device = async {
        loop {
            let request = asked(&mut far).await;
            requests += 1;
            far.write_all(&act(request)).await.unwrap();
        }
    };
    let wanted = request(5, 2);
    let read = tokio::select! {
        read = rtu.read(1, &wanted, WAIT) => read,
        () = device => unreachable!(),
    };
    (read, requests, rtu.damaged())
}

#[tokio::test(start_paused = true)]
async fn the_one_right_answer_is_found_in_whatever_comes() {
    let wanted = Ok(words(1, 5, 2));
    let after = |first: &'static [u8]| move |asked: [u8; REQUEST]| [first, &right(&asked)].concat();
    for noise in [&[][..], &[0], &[1, 4], &[1, 4, 4, 0], &[0xFF; 40], &[1, 0x84, 2, 0, 0]] {
        assert_eq!(told(after(noise)).await, (wanted.clone(), 1, 0), "{noise:02x?} before it");
    }
    let echoed = told(|asked| [&asked[..], &right(&asked)].concat()).await;
    assert_eq!(echoed, (wanted.clone(), 1, 0));
    let merged = told(|asked| [answer(1, 4, &[9]), answer(7, 4, &[1, 2]), right(&asked)].concat()).await;
    assert_eq!(merged.0, Err(Trouble::Wrong("1 registers came where 2 were asked for".to_owned())));
    let merged = told(|asked| [answer(7, 4, &[1, 2]), right(&asked), vec![0, 1, 4]].concat()).await;
    assert_eq!(merged, (wanted, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_answer_is_told_and_what_is_damaged_is_asked_once_more() {
    let wrong = |why: &str| Err(Trouble::Wrong(why.to_owned()));
    let half = told(|asked| right(&asked)[..6].to_vec()).await;
    assert_eq!(half, (wrong("the answer broke off after 6 of 9 bytes"), 2, 2));
    let bent = told(|asked| {
        let mut answer = right(&asked);
        answer[4] ^= 4;
        answer
    });
    assert_eq!(bent.await, (wrong("the answer came damaged: its check sum is wrong"), 2, 2));
    let noise = told(|_| vec![0xFE, 0x80, 0x55]).await;
    let why = "what came is no answer (3 bytes: fe 80 55): are baud rate and parity right?";
    assert_eq!(noise, (Err(Trouble::Noise(why.to_owned())), 1, 0));
    let hit = told(|asked| [&[0xFF, 0xFF][..], &right(&asked)[2..]].concat()).await;
    assert!(matches!(hit, (Err(Trouble::Noise(_)), 2, 2)), "{hit:?}");
    assert_eq!(told(|_| answer(7, 4, &[1, 2])).await.0, wrong("unit 7 answered in the place of unit 1"));
    assert_eq!(told(|_| answer(1, 3, &[1, 2])).await.0, wrong("the answer is to another function"));
    assert_eq!(told(|_| frame::with_sum(&[1, 0x84, 6])).await.0, Err(Trouble::Exception(6)));
    let twice = told(|asked| [answer(1, 4, &[8, 9]), right(&asked)].concat()).await;
    assert_eq!(twice, (wrong("two answers came to one request"), 2, 2));
    assert_eq!(told(|_| Vec::new()).await, (Err(Trouble::Silent(WAIT)), 1, 0));
    assert_eq!(told(|asked| asked.to_vec()).await, (Err(Trouble::Silent(WAIT)), 1, 0), "its own echo alone");
    assert_eq!(told(|_| vec![0]).await, (Err(Trouble::Silent(WAIT)), 1, 0));
    let other = Ask { function: Function::Holding, address: 1, count: 2 };
    let others = told(move |asked| [&other.frame(1)[..], &right(&asked)].concat()).await;
    assert_eq!(others.0, wrong("another master asks on this line (unit 1), and only one may"));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_outlives_its_connection_is_not_taken_for_another() {
    let (mut rtu, mut far) = pair();
    assert_eq!(rtu.read(1, &request(5, 4), WAIT).await, Err(Trouble::Silent(WAIT)));
    let withheld = right(&asked(&mut far).await);
    let owed = rtu.owed();
    let (mut rtu, mut far) = pair();
    rtu.expect(owed);
    let device = async {
        let mut withheld = Some(withheld);
        loop {
            let request = asked(&mut far).await;
            if let Some(withheld) = withheld.take() {
                far.write_all(&withheld).await.unwrap();
                sleep(20 * MS).await;
            }
            far.write_all(&right(&request)).await.unwrap();
        }
    };
    let wanted = request(25, 4);
    let read = tokio::select! {
        read = rtu.read(1, &wanted, WAIT) => read,
        () = device => unreachable!(),
    };
    assert_eq!(read, Ok(words(1, 25, 4)));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_answer_costs_one_more_request() {
    let (mut rtu, mut far) = pair();
    let device = async {
        let first = asked(&mut far).await;
        far.write_all(&right(&first)[..7]).await.unwrap();
        let second = asked(&mut far).await;
        far.write_all(&right(&second)).await.unwrap();
        assert_eq!(first, second);
    };
    let wanted = request(5, 2);
    let from = Instant::now();
    let (read, ()) = tokio::join!(rtu.read(1, &wanted, WAIT), device);
    assert_eq!((read, rtu.damaged()), (Ok(words(1, 5, 2)), 1));
    assert!(from.elapsed() < WAIT, "half an answer is given up before its time: {:?}", from.elapsed());
}

#[tokio::test(start_paused = true)]
async fn bytes_in_lumps_are_one_answer_and_a_slow_beginning_is_waited_for() {
    for (lump, pause) in [(1, 12 * MS), (3, 40 * MS), (8, 90 * MS)] {
        let (mut rtu, mut far) = pair();
        let device = async {
            let request = asked(&mut far).await;
            sleep(WAIT - MS).await;
            for part in right(&request).chunks(lump) {
                far.write_all(part).await.unwrap();
                sleep(pause).await;
            }
        };
        let wanted = request(5, 9);
        let (read, ()) = tokio::join!(rtu.read(1, &wanted, WAIT), device);
        assert_eq!(read, Ok(words(1, 5, 9)), "{lump} bytes at a time");
    }
}

#[tokio::test(start_paused = true)]
async fn frames_keep_their_silence() {
    let (mut rtu, mut far) = pair();
    let device = async {
        let mut times = Vec::new();
        for _ in 0..3 {
            let request = asked(&mut far).await;
            let came = Instant::now();
            sleep(10 * MS).await;
            far.write_all(&right(&request)).await.unwrap();
            times.push((came, Instant::now()));
        }
        times
    };
    let wanted = request(0, 1);
    let reads = async {
        for _ in 0..3 {
            rtu.read(1, &wanted, WAIT).await.unwrap();
        }
    };
    let (times, ()) = tokio::join!(device, reads);
    for pair in times.windows(2) {
        let silence = pair[1].0 - pair[0].1;
        // 3.5 characters of 10 bits at 9600 Bd are 3.65 ms; a timer rounds up to whole milliseconds.
        assert!(silence >= Duration::from_micros(3645) && silence < 6 * MS, "{silence:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_never_quiet_is_told() {
    let (mut rtu, mut far) = pair();
    let other = Ask { function: Function::Holding, address: 1, count: 2 };
    let babble = async {
        loop {
            far.write_all(&[0x55, 0]).await.unwrap();
            sleep(10 * MS).await;
        }
    };
    let wanted = request(0, 1);
    let read = tokio::select! {
        read = rtu.read(1, &wanted, WAIT) => read,
        () = babble => unreachable!(),
    };
    assert!(matches!(read, Err(Trouble::Wrong(why)) if why.starts_with("the line is never quiet")));
    let master = async {
        loop {
            far.write_all(&other.frame(9)).await.unwrap();
            sleep(30 * MS).await;
        }
    };
    let read = tokio::select! {
        read = rtu.read(1, &wanted, WAIT) => read,
        () = master => unreachable!(),
    };
    let why = "another master asks on this line (unit 9), and only one may";
    assert_eq!(read, Err(Trouble::Wrong(why.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_closed_line_is_broken() {
    let (mut rtu, far) = pair();
    drop(far);
    assert!(matches!(rtu.read(1, &request(0, 1), WAIT).await, Err(Trouble::Broken(_))));
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_known_for_what_it_is() {
    let (mut rtu, mut far) = pair();
    let (one, two) = (request(5, 2), request(7, 2));
    assert_eq!(rtu.read(1, &one, WAIT).await, Err(Trouble::Silent(WAIT)));
    let first = asked(&mut far).await;
    // It comes while another unit is asked, and when nobody is.
    let device = async {
        let other = asked(&mut far).await;
        far.write_all(&right(&first)).await.unwrap();
        sleep(20 * MS).await;
        far.write_all(&right(&other)).await.unwrap();
    };
    let (read, ()) = tokio::join!(rtu.read(2, &two, WAIT), device);
    assert_eq!(read, Ok(words(2, 7, 2)));
    let late = rtu.late();
    assert_eq!(late.iter().map(|late| late.unit).collect::<Vec<_>>(), [1]);
    assert!(late[0].after >= WAIT);
    assert_eq!(rtu.read(1, &one, WAIT).await, Err(Trouble::Silent(WAIT)));
    let first = asked(&mut far).await;
    far.write_all(&right(&first)).await.unwrap();
    let device = async {
        let asked = asked(&mut far).await;
        far.write_all(&right(&asked)).await.unwrap();
        asked
    };
    let (read, asked) = tokio::join!(rtu.read(1, &two, WAIT), device);
    assert_eq!((read, rtu.late().len()), (Ok(words(1, 7, 2)), 1));
    assert_eq!(asked[..4], [1, 4, 0, 7], "no canary is needed");
}

#[tokio::test(start_paused = true)]
async fn a_unit_whose_older_answer_is_missing_is_asked_for_a_proof() {
    let (mut rtu, mut far) = pair();
    let (one, two, longer) = (request(5, 4), request(50, 4), request(50, 5));
    assert_eq!(rtu.read(1, &one, WAIT).await, Err(Trouble::Silent(WAIT)));
    let first = asked(&mut far).await;
    // An answer of another length is a proof by itself, and so is a second one to the same request.
    let device = async {
        let own = asked(&mut far).await;
        far.write_all(&right(&own)).await.unwrap();
    };
    let (read, ()) = tokio::join!(rtu.read(1, &longer, WAIT), device);
    assert_eq!(read, Ok(words(1, 50, 5)));
    assert_eq!(rtu.read(1, &one, WAIT).await, Err(Trouble::Silent(WAIT)));
    assert_eq!(asked(&mut far).await, first);
    let device = async {
        let canary = asked(&mut far).await;
        // The missing answer comes now, and then those to the canary and to the request itself.
        far.write_all(&right(&first)).await.unwrap();
        sleep(30 * MS).await;
        far.write_all(&right(&canary)).await.unwrap();
        let own = asked(&mut far).await;
        far.write_all(&right(&own)).await.unwrap();
        (canary, own)
    };
    let (read, (canary, own)) = tokio::join!(rtu.read(1, &two, WAIT), device);
    assert_eq!(read, Ok(words(1, 50, 4)));
    assert_eq!((canary[5], own[5]), (2, 4));
    assert_eq!(rtu.late().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_keeps_silent_about_canaries_is_left_alone_for_a_while() {
    let (mut rtu, mut far) = pair();
    let (one, two) = (request(5, 4), request(50, 4));
    let device = async {
        let mut lost = false;
        loop {
            let request = asked(&mut far).await;
            let is_canary = request[5] != 4 || request[1] != 4;
            if !is_canary && lost {
                far.write_all(&right(&request)).await.unwrap();
            }
            lost |= !is_canary;
        }
    };
    let reads = async {
        assert_eq!(rtu.read(1, &one, WAIT).await, Err(Trouble::Silent(WAIT)));
        for _ in 0..3 {
            assert_eq!(rtu.read(1, &two, WAIT).await, Err(Trouble::Silent(WAIT)), "a canary");
        }
        assert_eq!(rtu.read(1, &two, WAIT).await, Err(Trouble::Held));
        sleep(REST).await;
        assert_eq!(rtu.read(1, &two, WAIT).await, Ok(words(1, 50, 4)));
    };
    tokio::select! {
        () = reads => {}
        () = device => unreachable!(),
    }
}

/// What a unit does with requests for fewer than four registers, or of another function.
#[derive(Clone, Copy, Debug)]
enum Odd {
    Answers,
    Refuses,
    KeepsSilent,
}

/// A unit that gives its answers in order, each once at most and as late as `delays` say, and quickly when none is left.
async fn slow_unit(mut far: DuplexStream, delays: &RefCell<VecDeque<Option<u64>>>, odd: Odd) {
    let mut queue: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    loop {
        let mut request = [0; REQUEST];
        let next = queue.front().map_or_else(|| Instant::now() + Duration::from_secs(3600), |(at, _)| *at);
        // Requests are written at once, so that none is cut in two here.
        match timeout_at(next, far.read_exact(&mut request)).await {
            Ok(Err(_)) => return,
            Ok(Ok(_)) => {
                let Some(delay) = delays.borrow_mut().pop_front().unwrap_or(Some(5)) else { continue };
                let given = match (request[1] != 4 || request[5] < 4, odd) {
                    (true, Odd::Refuses) => frame::with_sum(&[request[0], request[1] | 0x80, 3]),
                    (true, Odd::KeepsSilent) => continue,
                    _ => right(&request),
                };
                let soonest = queue.back().map_or_else(Instant::now, |(at, _)| *at);
                queue.push_back((soonest.max(Instant::now() + Duration::from_millis(delay)), given));
            }
            Err(_) => {
                if let Some((_, given)) = queue.pop_front() {
                    far.write_all(&given).await.ok();
                }
            }
        }
    }
}

/// Up to what a unit is let alone for, which keeps silent about canaries.
fn delays() -> impl Strategy<Value = Vec<Option<u64>>> {
    let delay = prop_oneof![
        4 => (1..150_u64).prop_map(Some),
        3 => (150..900_u64).prop_map(Some),
        1 => (900..4_800_u64).prop_map(Some),
        1 => Just(None),
    ];
    prop::collection::vec(delay, 0..60)
}

proptest! {
    #[test]
    fn however_late_answers_come_none_is_taken_for_another(
        delays in delays(),
        odd in prop_oneof![Just(Odd::Answers), Just(Odd::Refuses), Just(Odd::KeepsSilent)],
        asks in prop::collection::vec((0..6_u16, 0..400_u64), 60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let (mut rtu, far) = pair();
            let delays = RefCell::new(VecDeque::from(delays));
            let reads = async {
                let mut turns_left = 30;
                for (which, pause) in asks.iter().cycle() {
                    // Ranges of equal length at several addresses, and one of another length.
                    let (address, count) = (which * 20, if *which == 5 { 5 } else { 4 });
                    let is_heard = match rtu.read(1, &request(address, count), WAIT).await {
                        Ok(read) => {
                            assert_eq!(read, words(1, address, count));
                            true
                        }
                        Err(Trouble::Silent(_) | Trouble::Held) => false,
                        Err(other) => panic!("{other:?}"),
                    };
                    // When the unit has been quick for a while, it is always heard.
                    if delays.borrow().is_empty() {
                        turns_left -= 1;
                        assert!(turns_left > 10 || is_heard, "not heard");
                        sleep(Duration::from_secs(1)).await;
                    }
                    if turns_left == 0 {
                        break;
                    }
                    sleep(Duration::from_millis(*pause)).await;
                }
            };
            tokio::select! {
                () = reads => {}
                () = slow_unit(far, &delays, odd) => {}
            }
        });
    }
}
