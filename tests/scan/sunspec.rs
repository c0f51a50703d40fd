//! SunSpec units among other meters.

use std::collections::BTreeMap;
use std::path::Path;

use meterseal::model::RecognisedBy;
use serde_json::json;

use crate::device::{Act, Asked, Device};
use crate::{pasted, search};

type Image = BTreeMap<u16, u16>;

/// The holding registers of a case folder.
fn image(case: &str) -> Image {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/meters").join(case).join("registers.txt");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("holding 0x"));
    rows.flat_map(|row| {
        let (address, words) = row.split('#').next().unwrap().split_once(':').unwrap();
        let address = u16::from_str_radix(address, 16).unwrap();
        let words = words.split_whitespace().map(|word| u16::from_str_radix(word, 16).unwrap());
        (address..).zip(words.collect::<Vec<_>>())
    })
    .collect()
}

/// An inverter and its meter, each with a model 1, behind one unit at 40000.
fn inverter_with_meter() -> Image {
    let common = |model: &str| {
        let mut bytes = [0; 132];
        bytes[..9].copy_from_slice(b"SolarEdge");
        bytes[32..32 + model.len()].copy_from_slice(model.as_bytes());
        let words = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
        [1, 66].into_iter().chain(words).collect::<Vec<_>>()
    };
    let model = |id: u16, length: u16| [vec![id, length], vec![0; length.into()]].concat();
    let words = [
        vec![0x5375, 0x6E53],
        common("SE10K"),
        model(103, 50),
        common("WND-3Y-400-MB"),
        model(203, 105),
        vec![0xFFFF, 0],
    ];
    (40_000..).zip(words.concat()).collect()
}

fn answer(image: &Image, asked: &Asked) -> Act {
    let addresses = (0..asked.count).map(|at| asked.address.wrapping_add(at));
    let words: Option<Vec<u16>> = addresses.map(|address| image.get(&address).copied()).collect();
    words.filter(|_| asked.function == 3).map_or(Act::Exception(2), Act::Words)
}

#[tokio::test]
async fn sunspec_devices_are_found_at_each_base_and_told_apart_behind_one_unit() {
    let cases = ["sunspec-inverter", "sunspec-at-0-without-end", "sunspec-inverter-float-at-50000", "sunspec-battery"];
    let images: Vec<Image> = cases.map(image).into_iter().chain([inverter_with_meter()]).collect();
    let device = Device::start(move |asked| match images.get(usize::from(asked.unit) - 1) {
        Some(image) => answer(image, asked),
        None => Act::Exception(11),
    })
    .await;
    let told = search(json!({ "tcp": device.address, "units": "1-6" })).await;
    let found: Vec<_> = told.units.iter().map(|unit| (unit.unit, unit.device)).collect();
    assert_eq!(found, [(1, None), (2, None), (3, None), (4, None), (5, Some(1)), (5, Some(2))], "{told:#?}");
    assert!(told.units.iter().all(|unit| unit.candidates.len() == 1 && !unit.under_any_unit));
    assert!(told.units.iter().all(|unit| unit.candidates[0].by == RecognisedBy::Sunspec));
    assert_eq!(told.unit(1).identity.sunspec_models, [1, 103, 120, 160]);
    assert_eq!(told.unit(1).identity.serial_number.as_deref(), Some("A-100"));
    assert!(told.unit(1).candidates[0].reason.ends_with("models 1, 103, 120, 160"), "{:?}", told.unit(1));
    let templates: Vec<_> = pasted(&told).into_iter().map(|(_, template)| template).collect();
    assert_eq!(templates, ["sunspec", "sunspec", "sunspec", "sunspec", "solaredge", "solaredge"]);
    let config = told.config.as_ref().unwrap();
    let categories: Vec<_> = config.lines().filter_map(|line| line.strip_prefix("category = ")).collect();
    assert_eq!(categories[0], "\"PROD\"");
    assert_eq!(categories[3..], ["\"STOR\"", "\"PROD\"", "\"CONS\""], "{config}");
    assert!(config.contains("-5-2\"\nname = \"SolarEdge WND-3Y-400-MB\"\nunit = 5\ndevice = 2\n"), "{config}");
}
