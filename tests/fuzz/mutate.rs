//! Inputs out of real payloads: their tokens moved about, their bytes changed.

use crate::seeds::Target;

/// A seeded row of numbers (splitmix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `below`, which is not 0.
    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % below
    }

    pub fn one_in(&mut self, times: u64) -> bool {
        self.roll(times) == 0
    }

    /// A place in something of `len` parts, or 0 where it has none.
    pub fn place(&mut self, len: usize) -> usize {
        usize::try_from(self.roll(u64::try_from(len.max(1)).unwrap())).unwrap()
    }

    pub fn pick<'l, T>(&mut self, list: &'l [T]) -> &'l T {
        &list[self.place(list.len())]
    }
}

/// A topic and a payload: one of the target's, changed more or less.
pub fn message(target: &Target, dice: &mut Dice) -> (String, Vec<u8>) {
    let which = dice.place(target.payloads.len());
    // Mostly where such a payload belongs.
    let topic =
        if dice.one_in(4) { dice.pick::<&str>(target.topics) } else { target.topics[which % target.topics.len()] };
    let mut topic = topic.to_owned();
    if dice.one_in(20) {
        topic = odd_topic(&topic, dice);
    }
    (topic, payload(target.payloads, which, dice))
}

/// One of the payloads, changed more or less.
pub fn payload(payloads: &[&str], which: usize, dice: &mut Dice) -> Vec<u8> {
    let mut tokens = tokens(payloads[which]);
    if dice.one_in(8) {
        return tokens.concat().into_bytes();
    }
    for _ in 0..=dice.roll(3) {
        let other = self::tokens(dice.pick::<&str>(payloads));
        rearrange(&mut tokens, &other, dice);
    }
    let mut payload = tokens.concat().into_bytes();
    if dice.one_in(6) {
        for _ in 0..=dice.roll(3) {
            corrupt(&mut payload, dice);
        }
    }
    payload
}

fn odd_topic(topic: &str, dice: &mut Dice) -> String {
    let levels: Vec<&str> = topic.split('/').collect();
    let mut odd: Vec<&str> = levels.clone();
    match dice.roll(6) {
        0 => drop(odd.remove(dice.place(levels.len()))),
        1 => odd.insert(dice.place(levels.len()), *dice.pick(&levels)),
        2 => odd.insert(dice.place(levels.len()), ""),
        3 => odd[dice.place(levels.len())] = "\u{7}é\u{1F600}",
        4 => odd[dice.place(levels.len())] = "em1:255",
        _ => return format!("{}/{topic}", "x".repeat(dice.place(600))),
    }
    odd.join("/")
}

/// The text cut into strings, words and numbers, and all else one by one.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let (mut quoted, mut escaped, mut open) = (false, false, false);
    for letter in text.chars() {
        let word = letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '+');
        if open && (quoted || word) {
            tokens.last_mut().unwrap().push(letter);
        } else {
            tokens.push(letter.to_string());
        }
        if letter == '"' && !escaped {
            quoted = !quoted;
            open = quoted;
        } else {
            open = quoted || word;
        }
        escaped = quoted && letter == '\\' && !escaped;
    }
    tokens
}

/// What stands for a value in places where it should not.
const VALUES: &[&str] = &[
    "0",
    "-0",
    "-0.0",
    "1e308",
    "1e309",
    "-1e-400",
    "9007199254740993",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "-9223372036854775809",
    "0.1",
    "1795253400000",
    "1795253399.999",
    "4102444800001",
    "255",
    "1E5",
    "null",
    "true",
    "false",
    "nan",
    "-NaN",
    "Infinity",
    "\"\"",
    "\"nan\"",
    "\"1,5\"",
    "\" 7.5 \"",
    "\"-0\"",
    "\"1e999\"",
    "\"unavailable\"",
    "\"s\"",
    "\"\\u0000\"",
    "\"\\ud83d\\ude00\"",
    "\"\\ud83d\"",
    "\"\u{202e}x\"",
    "[]",
    "{}",
    "[[1]]",
    "{\"id\":0,\"val\":\"B\"}",
    "[1,2,3]",
    "[null,nan,\"4\"]",
    "\"2026-10-25T02:30:00\"",
    "\"2026-03-29T02:30:00\"",
    "\"-9999-01-01T00:00:00Z\"",
    "\"9999-12-31T23:59:59.999999999-25:59\"",
    "\"2026-11-21\"",
    "\"NotifyStatus\"",
];

fn rearrange(tokens: &mut Vec<String>, other: &[String], dice: &mut Dice) {
    if tokens.is_empty() {
        tokens.push("{".to_owned());
    }
    let at = dice.place(tokens.len());
    let span = dice.place(8).min(tokens.len() - at);
    match dice.roll(20) {
        // A value for another.
        0..=9 => {
            let values: Vec<usize> = (0..tokens.len()).filter(|&at| is_value(tokens, at)).collect();
            if !values.is_empty() {
                tokens[*dice.pick(&values)] = (*dice.pick(VALUES)).to_owned();
            }
        }
        10 => drop(tokens.drain(at..at + span)),
        11 => {
            let again: Vec<String> = tokens[at..at + span].to_vec();
            tokens.splice(at..at, again);
        }
        12 => {
            let to = dice.place(tokens.len());
            tokens.swap(at, to);
        }
        13 => {
            let from = dice.place(other.len());
            let until = (from + dice.place(12)).min(other.len());
            tokens.splice(at..at + span, other[from..until].iter().cloned());
        }
        14..=15 => {
            let depth = if dice.one_in(4) { 200 } else { 1 };
            let (open, close) = if dice.one_in(2) { ("[", "]") } else { ("{\"a\":", "}") };
            tokens[at] = format!("{}{}{}", open.repeat(depth), tokens[at], close.repeat(depth));
        }
        // A name for another.
        _ => {
            let texts: Vec<&String> = other.iter().filter(|token| token.starts_with('"')).collect();
            let names: Vec<usize> = (0..tokens.len()).filter(|&at| tokens[at].starts_with('"')).collect();
            if !texts.is_empty() && !names.is_empty() {
                tokens[*dice.pick(&names)] = (*dice.pick(&texts)).clone();
            }
        }
    }
}

/// A token after `:`, `,` or `[`, or the only one, as far as that can be seen.
fn is_value(tokens: &[String], at: usize) -> bool {
    let plain = tokens[at].starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '"' | '-' | '+' | '.'));
    plain && tokens.get(at + 1).is_none_or(|next| next != ":")
}

fn corrupt(payload: &mut Vec<u8>, dice: &mut Dice) {
    let at = dice.place(payload.len());
    let byte = u8::try_from(dice.roll(256)).unwrap();
    match dice.roll(7) {
        0 if !payload.is_empty() => payload[at] ^= 1 << dice.roll(8),
        1 if !payload.is_empty() => payload[at] = byte,
        2 => payload.insert(at, byte),
        3 if !payload.is_empty() => drop(payload.remove(at)),
        4 => payload.truncate(at),
        5 => drop(payload.splice(0..0, *b"\xEF\xBB\xBF")),
        _ => {
            let part = payload.get(at..).unwrap_or_default().to_vec();
            payload.extend(part);
        }
    }
}
