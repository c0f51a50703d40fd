//! SunSpec devices that change while they are polled, that share a unit, and that are none.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meterseal::clock::Clock;
use meterseal::model::{Category, Condition, MeterStatus, PollReport, StoredReading};
use meterseal::sources::template::{self, Template};
use meterseal::sources::{MeterConfig, PollFailed, poll_once};

use crate::cases::registers;
use crate::device::{Act, Asked, Device, Manner};
use crate::plant::{Plant, line, meter, ten};

const OFTEN: Duration = Duration::from_millis(100);

/// Where the models of the images begin: behind `SunS`, and behind that and a model 1.
const FIRST: u16 = 40_002;
const SECOND: u16 = FIRST + 68;

pub type Words = BTreeMap<u16, u16>;

/// What a device holds; a test may change it at any time.
#[derive(Clone)]
struct Memory(Arc<Mutex<Words>>);

impl Memory {
    /// The registers of a case folder of `tests/meters/`.
    fn of_case(case: &str) -> Self {
        Self(Arc::new(Mutex::new(words_of(case))))
    }

    /// Puts words from an address on, all at once.
    fn put(&self, address: u16, words: &[u16]) {
        self.0.lock().unwrap().extend((address..).zip(words.iter().copied()));
    }

    fn act(&self, asked: &Asked) -> Act {
        let memory = self.0.lock().unwrap();
        let wanted = asked.address..asked.address + asked.count;
        let words: Option<Vec<u16>> = wanted.map(|at| memory.get(&at).copied()).collect();
        words.filter(|_| asked.function == 3).map_or(Act::Exception(2), Act::Words)
    }

    async fn device(&self) -> Device {
        let memory = self.clone();
        Device::start(move |asked: &Asked| memory.act(asked)).await
    }
}

pub fn words_of(case: &str) -> Words {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/meters").join(case).join("registers.txt");
    registers(&fs::read_to_string(file).unwrap()).0.into_iter().map(|((_, at), word)| (at, word)).collect()
}

/// The models of an image one after the other, each with its header: `(id, words)`.
fn models(words: &Words) -> Vec<Vec<u16>> {
    let (mut at, mut models) = (FIRST, Vec::new());
    while words[&at] != 0xFFFF {
        let end = at + 2 + words[&(at + 1)];
        models.push((at..end).map(|at| words[&at]).collect());
        at = end;
    }
    models
}

/// An image of these models, with the block that ends it.
fn image(models: &[Vec<u16>]) -> Words {
    let all = [0x5375, 0x6E53].into_iter().chain(models.concat()).chain([0xFFFF, 0]);
    (FIRST - 2..).zip(all).collect()
}

pub fn shipped(name: &str) -> Arc<Template> {
    let text = template::shipped().iter().find(|(shipped, _)| *shipped == name).unwrap().1;
    Arc::new(template::parse(name, text).unwrap())
}

fn inverter(interval: Duration) -> MeterConfig {
    MeterConfig { category: Category::Prod, ..meter("roof", 1, &shipped("sunspec"), interval) }
}

async fn read_once(device: &Device, meter: &MeterConfig) -> Result<PollReport, PollFailed> {
    poll_once(&line("x", &device.address, vec![meter.clone()]), meter, &Clock::system()).await
}

/// What a reading says of a quantity, in its unit.
fn said(reading: &StoredReading, quantity: &str) -> Option<f64> {
    let place = reading.layout.slot_named(quantity)?;
    Some(reading.layout.slots[usize::from(place)].scale.display(reading.at(place)?))
}

/// The first reading that says this of a quantity; gives what the others on the way said of it.
async fn until_said(plant: &mut Plant, ready: &mut Vec<StoredReading>, quantity: &str, value: f64) -> Vec<f64> {
    let mut others = Vec::new();
    for _ in 0..300 {
        match said(&plant.reading(ready).await, quantity) {
            Some(said) if said.to_bits() == value.to_bits() => return others,
            Some(said) => others.push(said),
            None => {}
        }
    }
    panic!("{quantity} does not become {value}: {others:?}");
}

#[tokio::test]
async fn every_model_of_a_family_is_read_like_the_one_of_its_case() {
    for (case, ids) in [
        ("sunspec-inverter", 101..=103),
        ("sunspec-inverter-float-at-50000", 111..=113),
        ("sunspec-meter", 201..=204),
        ("sunspec-meter-float", 211..=214),
    ] {
        let memory = Memory::of_case(case);
        let header = memory.0.lock().unwrap().keys().next().unwrap() + 2 + 68;
        let device = memory.device().await;
        let mut reports = Vec::new();
        for id in ids {
            memory.put(header, &[id]);
            let report = read_once(&device, &inverter(OFTEN)).await.unwrap();
            assert!(report.values.len() >= 23, "{id}");
            reports.push(report.values.into_iter().map(|polled| (polled.quantity, polled.value, polled.register)));
        }
        let mut reports = reports.into_iter().map(Vec::from_iter);
        let first = reports.next().unwrap();
        assert!(reports.all(|other| other == first), "{case}");
    }
}

#[tokio::test]
async fn a_scale_factor_that_changes_between_polls_changes_no_layout_and_no_value() {
    let memory = Memory::of_case("sunspec-inverter");
    let device = memory.device().await;
    let mut plant = Plant::start(vec![line("msb", &device.address, vec![inverter(OFTEN)])]).await;
    let (w, mut ready) = (SECOND + 14, Vec::new());
    until_said(&mut plant, &mut ready, "power_kw", 12.34).await;
    let layout = plant.reading(&mut ready).await.layout;
    // W and W_SF lie side by side: 1235 × 10^1, 9999 × 10^0, 1 × 10^4.
    for (words, kw) in [([1235, 1], 12.35), ([9999, 0], 9.999), ([1, 4], 10.0), ([0xFFFF, 0], -0.001)] {
        memory.put(w, &words);
        until_said(&mut plant, &mut ready, "power_kw", kw).await;
    }
    memory.put(w, &[1, 0x8000]);
    plant.until_meter("roof", "more polls", |meter| meter.answers > 0).await;
    memory.put(w, &[2, 0]);
    let between = until_said(&mut plant, &mut ready, "power_kw", 0.002).await;
    assert!(between.iter().all(|kw| kw.to_bits() == (-0.001_f64).to_bits()), "{between:?}");
    assert_eq!(plant.reading(&mut ready).await.layout, layout);
    plant.end().await;
}

#[tokio::test]
async fn an_accumulator_that_reads_0_at_night_is_no_value() {
    let memory = Memory::of_case("sunspec-inverter");
    let device = memory.device().await;
    let mut plant = Plant::start(vec![line("msb", &device.address, vec![inverter(OFTEN)])]).await;
    let (wh, mut ready) = (SECOND + 24, Vec::new());
    memory.put(wh, &[0, 5000]);
    until_said(&mut plant, &mut ready, "energy_export_kwh", 5.0).await;
    memory.put(wh, &[0, 0]);
    let mut night = 0;
    while night < 3 {
        let reading = plant.reading(&mut ready).await;
        let has_power = said(&reading, "power_kw").is_some();
        night += u32::from(has_power && said(&reading, "energy_export_kwh").is_none());
    }
    memory.put(wh, &[0, 5001]);
    let between = until_said(&mut plant, &mut ready, "energy_export_kwh", 5.001).await;
    assert!(between.iter().all(|kwh| *kwh >= 5.0), "{between:?}");
    let reading = plant.reading(&mut ready).await;
    let ends: Vec<_> = reading.layout.slots.iter().filter_map(|slot| slot.rolls_over_at).collect();
    // 2^32 Wh for the inverter; its three inputs count in steps of 100 Wh.
    assert_eq!(ends[0], (1 << 32) * 1_000_000);
    assert_eq!(ends[1..], [(1 << 32) * 100_000_000; 3]);
    plant.end().await;
}

#[tokio::test]
async fn models_that_move_are_not_believed_and_found_again() {
    let old = words_of("sunspec-inverter");
    let memory = Memory::of_case("sunspec-inverter");
    let device = memory.device().await;
    let mut plant = Plant::start(vec![line("msb", &device.address, vec![inverter(OFTEN)])]).await;
    let mut ready = Vec::new();
    until_said(&mut plant, &mut ready, "power_kw", 12.34).await;
    // New firmware: model 120 comes before 103, so that other words lie where W was; and W is another.
    let mut models = models(&old);
    models.swap(1, 2);
    models[1][2..].fill(3);
    models[2][14] = 1500;
    let new = image(&models);
    memory.put(FIRST - 2, &new.values().copied().collect::<Vec<_>>());
    let between = until_said(&mut plant, &mut ready, "power_kw", 15.0).await;
    assert!(between.iter().all(|kw| kw.to_bits() == 12.34_f64.to_bits()), "{between:?}");
    let moved = |meter: &MeterStatus| {
        let identity = meter.identity.as_ref();
        identity.is_some_and(|identity| identity.sunspec_models == [1, 120, 103, 160]) && meter.problem.is_none()
    };
    plant.until_meter("roof", "models in another order", moved).await;
    let readings = plant.end().await;
    for reading in &readings {
        let kw = said(reading, "power_kw").unwrap_or(15.0);
        assert!([12.34, 15.0].map(f64::to_bits).contains(&kw.to_bits()), "{reading:?}");
    }
    let report = read_once(&device, &inverter(OFTEN)).await.unwrap();
    let power = report.values.iter().find(|polled| polled.quantity.as_str() == "power_kw").unwrap();
    assert_eq!((power.register, &power.words[..], power.scale_factor), (SECOND + 28 + 14, &[1500][..], Some(1)));
}

#[tokio::test]
async fn a_unit_of_three_devices_is_three_meters() {
    let device = Memory::of_case("solaredge-inverter").device().await;
    let meters: Vec<_> = (1..=4_u8)
        .map(|at| MeterConfig { device: at, ..meter(&format!("m{at}"), 1, &shipped("solaredge"), OFTEN) })
        .collect();
    let mut plant = Plant::start(vec![line("msb", &device.address, meters.clone())]).await;
    for (id, serial, models) in [("m1", "7E000001", [1, 103]), ("m2", "606A8C52", [1, 203]), ("m3", "2222", [1, 204])] {
        let known = plant.until_meter(id, "an identity", |meter| meter.identity.is_some() && meter.answers > 0).await;
        let identity = known.identity.unwrap();
        assert_eq!((identity.serial_number.as_deref(), &identity.sunspec_models[..]), (Some(serial), &models[..]));
        assert_eq!((known.condition, known.problem), (Condition::Answering, None));
    }
    let known = plant.until_meter("m4", "a problem", |meter| meter.problem.is_some()).await;
    let why = "the unit is 3 SunSpec devices, and `device = 4` is asked for";
    assert_eq!((known.problem.as_deref(), known.condition), (Some(why), Condition::Refusing));
    let failed = plant.poll("m4").await.unwrap_err();
    assert_eq!(failed.to_string(), format!("meter m4 cannot be read: {why}"));
    let report = plant.poll("m2").await.unwrap();
    // -1500 W of a meter whose W is positive for export: import.
    let power = report.values.iter().find(|polled| polled.quantity.as_str() == "power_kw").unwrap();
    assert_eq!(power.value, Some(1.5));
    plant.end().await;
    assert!(read_once(&device, &meters[3]).await.unwrap_err().to_string().ends_with(why));
}

#[tokio::test]
async fn a_unit_that_is_no_sunspec_device_says_so_and_is_hardly_asked() {
    let device = Device::start(|_: &Asked| Act::Exception(2)).await;
    let mut plant = Plant::start(vec![line("msb", &device.address, vec![inverter(OFTEN)])]).await;
    let known = plant.until_meter("roof", "many polls", |meter| meter.polls > 10).await;
    let why = "no SunSpec device: no `SunS` at registers 40000, 0 or 50000";
    assert_eq!((known.problem.as_deref(), known.condition), (Some(why), Condition::Refusing));
    assert_eq!(plant.poll("roof").await.unwrap_err().to_string(), format!("meter roof cannot be read: {why}"));
    plant.end().await;
    let asked: Vec<_> = device.asked().iter().map(|asked| (asked.function, asked.address, asked.count)).collect();
    assert_eq!(asked, [(3, 40_000, 2), (3, 0, 2), (3, 50_000, 2)]);
}

#[tokio::test]
async fn a_unit_that_keeps_silent_about_what_it_does_not_have_is_found() {
    let memory = Memory::of_case("sunspec-inverter-float-at-50000");
    let device = Device::start(move |asked: &Asked| match memory.act(asked) {
        Act::Exception(_) => Act::Silence,
        act => act,
    })
    .await;
    assert_eq!(read_once(&device, &inverter(OFTEN)).await.unwrap().values.len(), 23);
    let mut plant = Plant::start(vec![line("msb", &device.address, vec![inverter(OFTEN)])]).await;
    plant.until_meter("roof", "answers", |meter| meter.answers > 3).await;
    plant.end().await;
}

#[tokio::test]
async fn a_unit_that_never_answers_is_silent_and_no_unit_without_models() {
    let device = Device::start(|_: &Asked| Act::Silence).await;
    let failed = read_once(&device, &inverter(OFTEN)).await.unwrap_err();
    assert!(failed.to_string().contains("no answer within 200ms"), "{failed}");
    let mut plant = Plant::start(vec![line("msb", &device.address, vec![inverter(OFTEN)])]).await;
    let known = plant.until_meter("roof", "five polls", |meter| meter.polls >= 5).await;
    assert_eq!(known.condition, Condition::Silent);
    assert!(known.problem.unwrap().contains("no answer"), "told as it is");
    assert!(plant.poll("roof").await.unwrap_err().to_string().contains("did not answer"));
    plant.end().await;
}

#[tokio::test]
async fn what_a_model_refuses_is_found_out_and_the_rest_is_read() {
    let memory = Memory::of_case("sunspec-inverter");
    let missing = SECOND + 27..SECOND + 33;
    let device = Device::start(move |asked: &Asked| {
        let touches = missing.clone().any(|at| (asked.address..asked.address + asked.count).contains(&at));
        // The walk asks for single registers of the model, and a poll for all of it.
        if touches && asked.count > 2 { Act::Exception(2) } else { memory.act(asked) }
    })
    .await;
    let report = read_once(&device, &inverter(OFTEN)).await.unwrap();
    let absent: Vec<_> = report
        .values
        .iter()
        .filter(|polled| polled.value.is_none() && polled.register < SECOND + 52)
        .map(|polled| (polled.quantity.as_str(), polled.absent.as_deref().unwrap()))
        .collect();
    let refused = "exception 2 (illegal data address)";
    // The temperatures lie behind it, and cannot be read in one request with the header.
    let names = [
        "dc_current_a",
        "dc_voltage_v",
        "dc_power_kw",
        "cabinet_temperature_c",
        "heat_sink_temperature_c",
        "transformer_temperature_c",
        "other_temperature_c",
    ];
    assert_eq!(absent, names.map(|name| (name, refused)));
}

#[tokio::test]
async fn a_walk_does_not_hold_up_the_other_units_of_the_line() {
    let mut models = models(&words_of("sunspec-inverter"));
    models.splice(1..1, (0..60).map(|at| vec![64_000 + at, 1, 0]));
    let memory = Memory(Arc::new(Mutex::new(image(&models))));
    let behaviour = move |asked: &Asked| if asked.unit == 1 { memory.act(asked) } else { Act::Answer };
    let bus = Manner { bus: Some(Duration::from_millis(20)), ..Manner::default() };
    let device = Device::start_at("127.0.0.1:0", bus, behaviour).await;
    let meters = vec![inverter(Duration::from_secs(1)), meter("main", 2, &ten(), OFTEN)];
    let mut plant = Plant::start(vec![line("msb", &device.address, meters)]).await;
    plant.until_meter("roof", "an answer", |meter| meter.answers > 0).await;
    plant.end().await;
    let asked = device.asked();
    let first = asked.iter().position(|asked| asked.unit == 2).unwrap();
    let waits = asked[first..].split(|asked| asked.unit == 2).map(<[Asked]>::len).max();
    // Eight reads of 20 ms are longer than the other's interval, so it is due after each poll that walks.
    assert!(waits <= Some(8), "{waits:?} requests between two polls of the other unit");
    assert!(asked.len() > 64);
}

#[tokio::test]
async fn a_unit_that_comes_back_is_walked_anew_and_values_come_first() {
    let memory = Memory::of_case("sunspec-inverter");
    let away = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (is_away, inside) = (away.clone(), memory.clone());
    let device = Device::start(move |asked: &Asked| {
        if is_away.load(std::sync::atomic::Ordering::Relaxed) { Act::Silence } else { inside.act(asked) }
    })
    .await;
    let mut plant = Plant::start(vec![line("msb", &device.address, vec![inverter(OFTEN)])]).await;
    let serial = |meter: &MeterStatus| meter.identity.as_ref()?.serial_number.clone();
    plant.until_meter("roof", "its serial number", |meter| serial(meter).as_deref() == Some("A-100")).await;
    away.store(true, std::sync::atomic::Ordering::Relaxed);
    plant.until_meter("roof", "two misses", |meter| meter.timeouts >= 3).await;
    let before = device.asked().len();
    memory.put(FIRST + 50, &[0x5858]);
    away.store(false, std::sync::atomic::Ordering::Relaxed);
    plant.until_meter("roof", "another serial number", |meter| serial(meter).as_deref() == Some("XX100")).await;
    plant.end().await;
    let asked = device.asked();
    let back = asked[before..].iter().map(|asked| asked.address).find(|at| *at == SECOND || *at == FIRST - 2);
    assert_eq!(back, Some(SECOND), "values first");
}
