//! When a meter gets a new commissioning record, and which of them a person must hear of. Pure: time is an argument.

use crate::model::{Alert, AlertKind, Cause, Change, Commissioning, Identity, MeterId, Part, Setup, Timestamp};

/// A change stands as an alert for this long, unless it is taken back.
const STANDS_MS: i64 = 7 * 86_400_000;

/// A meter that says so often in a day that it is another one is several meters that answer in turn, as with one unit
/// number on all of them: the last change stands, so that neither records nor alerts pile up.
const MOST_A_DAY: usize = 12;
const DAY_MS: i64 = 86_400_000;

/// What a source tells of one meter.
pub struct Told<'a> {
    pub meter: &'a MeterId,
    pub setup: &'a Setup,
    /// It has answered since the source began.
    pub heard: bool,
    pub identity: Option<&'a Identity>,
}

/// The next record of a meter, if what is told of it differs from its records so far, the oldest first.
pub fn next(records: &[Commissioning], told: &Told<'_>, now: Timestamp) -> Option<Commissioning> {
    let said = told.identity.filter(|identity| **identity != Identity::default());
    let (meter, setup) = (told.meter.clone(), told.setup.clone());
    let Some(last) = records.last() else {
        let first = Commissioning {
            meter,
            since: now,
            setup,
            identity: said.cloned(),
            cause: Cause::First,
            changes: Vec::new(),
        };
        return told.heard.then_some(first);
    };
    if last.setup == setup && said.is_none_or(|said| last.identity.as_ref() == Some(said)) {
        return None;
    }
    let mut changes = settings(&last.setup, &setup);
    // Where the config names another unit or another map, another meter is what a person expects. By another line or
    // address the same meter is reached.
    let is_other = |change: &Change| matches!(change.what, Part::Unit | Part::Template);
    let known = last.identity.clone().filter(|_| !changes.iter().any(is_other));
    let identity = match (known.as_ref(), said) {
        (Some(known), Some(said)) => Some(merged(known, said)),
        (known, said) => known.or(said).cloned(),
    };
    changes.extend(sayings(known.as_ref(), identity.as_ref()));
    if changes.is_empty() && identity == last.identity {
        return None;
    }
    let silent = || changes.iter().filter(|change| change.silent);
    let cause = if silent().next().is_some() {
        let standing = changes_in_effect(records).pop().filter(|changed| stands(changed, now));
        let taken_back = standing.is_some_and(|changed| {
            let before: Vec<_> = changed.changes.iter().filter(|change| change.silent).collect();
            silent().count() == before.len()
                && silent().all(|now| before.iter().any(|was| was.what == now.what && was.from == now.to))
        });
        let of_late = |record: &&Commissioning| {
            matches!(record.cause, Cause::Changed | Cause::Restored) && now.millis_since(record.since) < DAY_MS
        };
        // The last of a day is never that all is well again, so that it stays told.
        let most = if taken_back { MOST_A_DAY - 1 } else { MOST_A_DAY };
        if last.setup == setup && records.iter().filter(of_late).count() >= most {
            return None;
        }
        if taken_back { Cause::Restored } else { Cause::Changed }
    } else if last.setup != setup {
        Cause::Configured
    } else {
        Cause::Completed
    };
    Some(Commissioning { meter, since: now, setup, identity, cause, changes })
}

/// The alerts of a meter's changes that nobody announced, as long as they stand.
pub fn alerts(records: &[Commissioning], name: &str, now: Timestamp) -> Vec<Alert> {
    let alert = |changed: &Commissioning| {
        Alert::new(AlertKind::MeterChanged, Some(changed.meter.clone()), changed.since, now, text(changed, name))
    };
    changes_in_effect(records).into_iter().filter(|changed| stands(changed, now)).map(alert).collect()
}

/// Whether an alert of this room is over: the change was taken back, or it has stood for long enough.
pub fn is_over(alert: &Alert, records: &[Commissioning], now: Timestamp) -> bool {
    is_old(alert, now) || !changes_in_effect(records).iter().any(|changed| changed.since == alert.occasion)
}

/// Whether it has stood for long enough.
pub fn is_old(alert: &Alert, now: Timestamp) -> bool {
    now.millis_since(alert.occasion) >= STANDS_MS
}

fn stands(changed: &Commissioning, now: Timestamp) -> bool {
    now.millis_since(changed.since) < STANDS_MS
}

/// Changes that nobody announced and that were not taken back.
fn changes_in_effect(records: &[Commissioning]) -> Vec<&Commissioning> {
    let mut in_effect = Vec::new();
    for record in records {
        match record.cause {
            Cause::Changed => in_effect.push(record),
            Cause::Restored => drop(in_effect.pop()),
            Cause::First | Cause::Completed | Cause::Configured => {}
        }
    }
    in_effect
}

/// What the config has otherwise. All of it is a person's doing, but for another map under the same name.
fn settings(before: &Setup, now: &Setup) -> Vec<Change> {
    let template = |setup: &Setup| setup.template.clone().unwrap_or_else(|| "registers of its own".to_owned());
    let same_name = before.template.is_some() && before.template == now.template;
    let rows = [
        (Part::Line, before.line.to_string(), now.line.to_string(), false),
        (Part::Wire, before.wire.clone(), now.wire.clone(), false),
        (Part::Unit, before.unit.to_string(), now.unit.to_string(), false),
        (Part::Template, template(before), template(now), false),
        (Part::TemplateSha256, before.template_sha256.to_string(), now.template_sha256.to_string(), same_name),
        (Part::CtRatio, before.ct_ratio.to_string(), now.ct_ratio.to_string(), false),
        (Part::VtRatio, before.vt_ratio.to_string(), now.vt_ratio.to_string(), false),
        (Part::Invert, before.invert.to_string(), now.invert.to_string(), false),
        (Part::Category, before.category.to_string(), now.category.to_string(), false),
    ];
    let differ = rows.into_iter().filter(|(_, from, to, _)| from != to);
    differ.map(|(what, from, to, silent)| Change { what, from: Some(from), to: Some(to), silent }).collect()
}

/// What the meter says otherwise. To say something for the first time is no change of it.
fn sayings(before: Option<&Identity>, now: Option<&Identity>) -> Vec<Change> {
    let models = |models: &[u16]| {
        let list: Vec<_> = models.iter().map(u16::to_string).collect();
        (!list.is_empty()).then(|| list.join(", "))
    };
    let parts = |identity: Option<&Identity>| {
        let none = Identity::default();
        let identity = identity.unwrap_or(&none);
        [
            (Part::Manufacturer, identity.manufacturer.clone()),
            (Part::Model, identity.model.clone()),
            (Part::SerialNumber, identity.serial_number.clone()),
            (Part::Firmware, identity.firmware.clone()),
            (Part::SunspecModels, models(&identity.sunspec_models)),
        ]
    };
    let pairs = parts(before).into_iter().zip(parts(now)).filter(|(before, now)| before.1 != now.1);
    pairs.map(|((what, from), (_, to))| Change { what, silent: from.is_some(), from, to }).collect()
}

/// What is said now, and what was said before where nothing is said now: a register that was refused once has not
/// changed.
fn merged(before: &Identity, now: &Identity) -> Identity {
    let or = |now: &Option<String>, before: &Option<String>| now.clone().or_else(|| before.clone());
    let models = if now.sunspec_models.is_empty() { &before.sunspec_models } else { &now.sunspec_models };
    Identity {
        manufacturer: or(&now.manufacturer, &before.manufacturer),
        model: or(&now.model, &before.model),
        serial_number: or(&now.serial_number, &before.serial_number),
        firmware: or(&now.firmware, &before.firmware),
        sunspec_models: models.clone(),
    }
}

fn text(record: &Commissioning, name: &str) -> String {
    let Setup { line, unit, template, .. } = &record.setup;
    let told = |value: &Option<String>| value.clone().unwrap_or_else(|| "absent".to_owned());
    let silent = || record.changes.iter().filter(|change| change.silent);
    let said = silent().filter(|change| change.what != Part::TemplateSha256);
    let said: Vec<_> =
        said.map(|change| format!("{} was {} and is {}", change.what, told(&change.from), told(&change.to))).collect();
    let mut text = format!("{name} (line {line}, unit {unit})");
    if !said.is_empty() {
        text += &format!(
            " is not what it was: {}. If the meter was exchanged or updated on purpose, nothing needs doing; otherwise \
             check the wiring and the unit number.",
            said.join(", ")
        );
    }
    if let Some(map) = silent().find(|change| change.what == Part::TemplateSha256) {
        let short = |digest: &Option<String>| told(digest).chars().take(8).collect::<String>();
        let template = template.as_deref().unwrap_or_default();
        text += if said.is_empty() { "" } else { " Also, it" };
        text += &format!(
            " is read by another register map than before: template {template} was {} and is {}. An update of \
             meterseal or an edited file does that; compare one value with the meter's display.",
            short(&map.from),
            short(&map.to)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Category, Digest, Ratio};
    use proptest::prelude::*;

    const HOUR: i64 = 3_600_000;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_millis(1_795_219_200_000 + hours * HOUR)
    }

    fn setup() -> Setup {
        Setup {
            line: "msb".parse().unwrap(),
            wire: "192.0.2.10:502".to_owned(),
            unit: 3,
            template: Some("acme".to_owned()),
            template_sha256: Digest::of(b"acme"),
            ct_ratio: Ratio::ONE,
            vt_ratio: Ratio::ONE,
            invert: false,
            category: Category::Cons,
        }
    }

    fn serial(number: &str) -> Identity {
        Identity { serial_number: Some(number.to_owned()), ..Identity::default() }
    }

    /// The records after a meter was told of so, one hour after the other.
    fn told(story: &[(Setup, Option<Identity>)]) -> Vec<Commissioning> {
        let mut records = Vec::new();
        for (hour, (setup, identity)) in (0..).zip(story) {
            let meter = "main".parse().unwrap();
            let told = Told { meter: &meter, setup, heard: true, identity: identity.as_ref() };
            records.extend(next(&records, &told, at(hour)));
            assert_eq!(next(&records, &told, at(hour)), None, "the same again is nothing new");
        }
        records
    }

    fn causes(story: &[(Setup, Option<Identity>)]) -> Vec<Cause> {
        told(story).iter().map(|record| record.cause).collect()
    }

    #[test]
    fn the_first_record_waits_for_an_answer_and_gains_what_is_said_later() {
        let (meter, setup) = ("main".parse().unwrap(), setup());
        let silent = Told { meter: &meter, setup: &setup, heard: false, identity: None };
        assert_eq!(next(&[], &silent, at(0)), None);
        let nothing = Some(Identity::default());
        let story = [
            (setup.clone(), None),
            (setup.clone(), nothing.clone()),
            (setup.clone(), Some(serial("7"))),
            (setup.clone(), None),
            (setup, nothing),
        ];
        let records = told(&story);
        assert_eq!(records.iter().map(|record| record.cause).collect::<Vec<_>>(), [Cause::First, Cause::Completed]);
        assert_eq!(records[1].identity, Some(serial("7")));
        assert_eq!(
            records[1].changes[0],
            Change { what: Part::SerialNumber, from: None, to: Some("7".into()), silent: false }
        );
        assert_eq!(alerts(&records, "Main", at(9)), []);
    }

    #[test]
    fn what_a_person_changed_is_a_record_and_no_alert() {
        let one = (setup(), Some(serial("7")));
        let edits: [fn(&mut Setup); 5] = [
            |setup| setup.ct_ratio = Ratio::new(40, 1).unwrap(),
            |setup| setup.invert = true,
            |setup| (setup.line, setup.wire) = ("roof".parse().unwrap(), "192.0.2.11:502".to_owned()),
            // Another unit and another map: another meter is what a person expects there.
            |setup| setup.unit = 4,
            |setup| (setup.template, setup.template_sha256) = (Some("other".into()), Digest::of(b"other")),
        ];
        for (place, edit) in edits.into_iter().enumerate() {
            let mut edited = setup();
            edit(&mut edited);
            let serial_now = if place < 3 { "7" } else { "8" };
            let story = [one.clone(), (edited.clone(), None), (edited, Some(serial(serial_now)))];
            let records = told(&story);
            assert_eq!(records[1].cause, Cause::Configured, "{place}");
            assert_eq!(records.last().unwrap().identity, Some(serial(serial_now)), "{place}");
            assert_eq!(records.len(), if place < 3 { 2 } else { 3 }, "{place}");
            assert_eq!(alerts(&records, "Main", at(9)), [], "{place}");
        }
        // Registers in the config are edited there.
        let own = |text: &[u8]| Setup { template: None, template_sha256: Digest::of(text), ..setup() };
        assert_eq!(causes(&[(own(b"a"), None), (own(b"b"), None)]), [Cause::First, Cause::Configured]);
    }

    #[test]
    fn an_exchanged_meter_is_told_until_it_is_back_or_a_week_has_passed() {
        let with = |number: &str| (setup(), Some(serial(number)));
        let records = told(&[with("7"), with("8")]);
        let raised = alerts(&records, "Main", at(2));
        assert_eq!(raised.len(), 1);
        assert_eq!((raised[0].kind, raised[0].occasion), (AlertKind::MeterChanged, at(1)));
        assert_eq!(
            raised[0].text,
            "Main (line msb, unit 3) is not what it was: serial number was 7 and is 8. If the meter was exchanged or \
             updated on purpose, nothing needs doing; otherwise check the wiring and the unit number."
        );
        assert!(!is_over(&raised[0], &records, at(1 + 7 * 24 - 1)) && is_over(&raised[0], &records, at(1 + 7 * 24)));
        let back = told(&[with("7"), with("8"), with("7")]);
        assert_eq!(back[2].cause, Cause::Restored);
        assert!(is_over(&raised[0], &back, at(3)) && alerts(&back, "Main", at(3)).is_empty());
        // Two exchanges, one taken back.
        let twice = told(&[with("7"), with("8"), with("9"), with("8")]);
        assert_eq!(alerts(&twice, "Main", at(4)).len(), 1);
        assert!(!is_over(&raised[0], &twice, at(4)));
        // After a week the other meter is the meter.
        let mut late = told(&[with("7"), with("8")]);
        let meter = "main".parse().unwrap();
        let said = serial("7");
        let again = Told { meter: &meter, setup: &setup(), heard: true, identity: Some(&said) };
        late.extend(next(&late, &again, at(24 * 9)));
        assert_eq!(late[2].cause, Cause::Changed);
    }

    #[test]
    fn a_meter_that_is_exchanged_along_with_its_line_or_address_is_told() {
        let edits: [fn(&mut Setup); 2] =
            [|setup| setup.line = "roof".parse().unwrap(), |setup| setup.wire = "192.0.2.11:502".to_owned()];
        for edit in edits {
            let mut moved = setup();
            edit(&mut moved);
            // It is heard right after the config changed, or a while later.
            let first = (setup(), Some(serial("7")));
            for way in [None, Some("8")] {
                let story = [first.clone(), (moved.clone(), way.map(serial)), (moved.clone(), Some(serial("8")))];
                let records = told(&story);
                let text = &alerts(&records, "Main", at(9))[0].text;
                assert!(text.contains("serial number was 7 and is 8"), "{text}");
                assert_eq!(records.last().unwrap().cause, Cause::Changed);
            }
        }
    }

    #[test]
    fn meters_that_answer_in_turn_fill_no_store_and_stay_told() {
        const DAY: usize = 24 * 60;
        for (meters, most) in [(2, MOST_A_DAY - 1), (3, MOST_A_DAY), (5, MOST_A_DAY)] {
            let (meter, setup) = ("main".parse().unwrap(), setup());
            let said: Vec<_> = (0..meters).map(|number| serial(&number.to_string())).collect();
            let mut records = Vec::new();
            let mut hear = |minute: usize| {
                let now = at(0).plus_millis(i64::try_from(minute).unwrap() * 60_000);
                let identity = Some(&said[minute % meters]);
                records.extend(next(&records, &Told { meter: &meter, setup: &setup, heard: true, identity }, now));
                (records.len() - 1, alerts(&records, "Main", now).len())
            };
            let (mut of_day, mut days) = (0, Vec::new());
            for minute in 0..3 * DAY {
                let (made, standing) = hear(minute);
                if (minute + 1) % DAY == 0 {
                    assert!(standing > 0, "nothing is told of {meters} meters");
                    days.push(made - of_day);
                    of_day = made;
                }
            }
            assert_eq!(days[0], most, "{meters} meters");
            assert!(days.iter().all(|of_day| *of_day <= MOST_A_DAY), "{meters} meters: {days:?}");
        }
    }

    #[test]
    fn another_map_under_the_same_name_is_told() {
        let other = Setup { template_sha256: Digest::of(b"b"), ..setup() };
        let records = told(&[(setup(), Some(serial("7"))), (other, Some(serial("7")))]);
        let text = &alerts(&records, "Main", at(2))[0].text;
        assert!(
            text.starts_with("Main (line msb, unit 3) is read by another register map than before: template acme was "),
            "{text}"
        );
        assert!(text.ends_with("compare one value with the meter's display."), "{text}");
    }

    #[test]
    fn a_record_is_canonical_and_reads_back() {
        let records = told(&[(setup(), Some(serial("7"))), (setup(), Some(serial("8")))]);
        let bytes = records[1].to_record().unwrap();
        assert_eq!(serde_json::from_slice::<Commissioning>(&bytes).unwrap(), records[1]);
        let text = String::from_utf8(bytes).unwrap();
        assert!(
            text.starts_with(r#"{"category":"CONS","cause":"changed","changes":[{"from":"7","silent":true,"to":"8","what":"serial_number"}],"ct_ratio":[1,1],"identity":{"serial_number":"8"},"#),
            "{text}"
        );
    }

    proptest! {
        /// Whatever the story: the newest record says what is set up and all that was last said, an alert stands for
        /// just those records that a person must hear of, and only what was known before can change unannounced.
        #[test]
        fn records_follow_what_is_told(
            story in prop::collection::vec((0..3_u8, 0..2_u8, prop::option::of(0..3_u8), prop::option::of(0..2_u8)), 1..=MOST_A_DAY),
        ) {
            let (mut place, mut known) = (None, (None, None));
            let (mut unannounced, mut told_so) = (0, Vec::new());
            for (unit, map, number, firmware) in story {
                let setup = Setup { unit, template_sha256: Digest::of(&[map]), ..setup() };
                let identity = Identity {
                    serial_number: number.map(|number| number.to_string()),
                    firmware: firmware.map(|number| number.to_string()),
                    ..Identity::default()
                };
                let moved = place.is_some_and(|(before, _)| before != unit);
                if moved {
                    known = (None, None);
                }
                let differs = |known: Option<u8>, now: Option<u8>| known.is_some() && now.is_some() && known != now;
                let remapped = place.is_some_and(|(_, before)| before != map);
                unannounced += usize::from(remapped || differs(known.0, number) || differs(known.1, firmware));
                known = (number.or(known.0), firmware.or(known.1));
                place = Some((unit, map));
                told_so.push((setup, Some(identity)));
            }
            let records = told(&told_so);
            let silent = |record: &&Commissioning| matches!(record.cause, Cause::Changed | Cause::Restored);
            prop_assert_eq!(records.iter().filter(silent).count(), unannounced);
            let last = records.last().unwrap();
            prop_assert_eq!(Some(&last.setup), told_so.last().map(|(setup, _)| setup));
            let identity = last.identity.clone().unwrap_or_default();
            let text = |number: Option<u8>| number.map(|number| number.to_string());
            prop_assert_eq!((identity.serial_number, identity.firmware), (text(known.0), text(known.1)));
            let count = |cause| records.iter().filter(|record| record.cause == cause).count();
            let standing = alerts(&records, "Main", at(30));
            prop_assert_eq!(standing.len(), count(Cause::Changed) - count(Cause::Restored));
            for alert in standing {
                prop_assert!(!is_over(&alert, &records, at(30)));
            }
        }
    }
}
