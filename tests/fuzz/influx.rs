//! The decoders of InfluxDB's answers: whatever comes, in whatever pieces, a row keeps what rows promise, and the
//! pieces make no difference.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use meterseal::evidence::influx::{Decoder, InfluxError, Schema, Selection};
use meterseal::model::{FieldValue, Row};

use crate::mutate::{self, Dice};

/// The decoder of one version.
pub struct Target {
    pub name: &'static str,
    version: u8,
    answers: &'static [&'static str],
}

pub fn targets() -> [Target; 3] {
    [
        Target {
            name: "influx1",
            version: 1,
            answers: &[
                concat!(
                    r#"{"results":[{"statement_id":0,"series":[{"name":"e","tags":{"a":"","line":"b \"c\""},"columns":["time","i","f","s"],"values":[[5,1,1.5,"ä"],[6,null,3,""]],"partial":true}],"partial":true}]}"#,
                    "\n",
                    r#"{"results":[{"statement_id":0,"series":[{"name":"e","tags":{"line":"x"},"columns":["time","b","u"],"values":[[7,true,18446744073709551615]]}]}]}"#,
                    "\n"
                ),
                "{\"results\":[{\"statement_id\":0}]}\n",
                "{\"results\":[{\"statement_id\":0,\"error\":\"database not found: x\"}]}\n",
                "{\"error\":\"error parsing query: found EOF\"}\n",
            ],
        },
        Target {
            name: "influx2",
            version: 2,
            answers: &[
                "#datatype,string,long,dateTime:RFC3339,double,string,string,string\r\n#group,false,false,false,false,true,true,true\r\n#default,_result,,,,,,\r\n,result,table,_time,_value,_field,_measurement,line\r\n,,0,1970-01-01T00:00:00.000000005Z,1.5,f,e,\"b \"\"c\"\"\"\r\n,,0,1970-01-01T00:00:00.000000006Z,-0,f,e,\"b \"\"c\"\"\"\r\n,,1,1970-01-01T00:00:00.000000006Z,,f,e,\r\n\r\n#group,false,false,false,false,true,true\r\n#datatype,string,long,dateTime:number,string,string,string\r\n#default,_result,,,,,e\r\n,result,table,_time,_value,_field,_measurement\r\n,,0,7,\"a\r\nb,\",s,\r\n\r\n",
                "#datatype,string,long,dateTime:RFC3339Nano,unsignedLong,string,string\r\n#group,false,false,false,false,true,true\r\n#default,_result,,,,,\r\n,result,table,_time,_value,_field,_measurement\r\n,,0,1970-01-01T00:00:00.000000005Z,18446744073709551615,u,e\r\n\r\n#datatype,string,string\r\n#group,true,true\r\n#default,,\r\n,error,reference\r\n,out of memory,897\r\n",
                "\r\n",
                "error,reference\r\npanic,\r\n",
            ],
        },
        Target {
            name: "influx3",
            version: 3,
            answers: &[
                "{\"f\":1.5,\"i\":-7,\"line\":\"b \\\"c\\\"\",\"time\":\"1970-01-01T00:00:00.000000005\"}\n{\"b\":true,\"s\":\"\",\"line\":\"\",\"time\":\"1970-01-01T00:00:00.000000006\",\"u\":18446744073709551615}\n",
                "{\"f\":null,\"s\":\"ä\\n\",\"time\":\"1970-01-01T00:00:00.000000007\"}\n{\"error\":\"Query would exceed file limit of 432 parquet files\"}\n",
                "",
            ],
        },
    ]
}

pub fn attack(target: &Target, inputs: u64, seed: u64) -> Result<String, String> {
    let began = Instant::now();
    let mut dice = Dice::new(seed);
    let schema = serde_json::json!({ "fields": { "b": "bool", "f": "f64", "i": "i64", "s": "str", "u": "u64" },
                                     "tags": ["a", "line"] });
    let schema: Schema = serde_json::from_value(schema).unwrap();
    let (mut given, mut faults) = (0_u64, 0_u64);
    for input in 0..inputs {
        let which = dice.place(target.answers.len());
        let answer = mutate::payload(target.answers, which, &mut dice);
        let cuts = [dice.place(answer.len() + 1), dice.place(answer.len() + 1)];
        let read = catch_unwind(AssertUnwindSafe(|| judged(target.version, &schema, &answer, cuts)));
        let (rows, failed) = read.unwrap_or_else(|_| Err("a panic".to_owned())).map_err(|why| {
            format!("{} input {input} of FUZZ_SEED={seed}: {why}\nanswer {}", target.name, answer.escape_ascii())
        })?;
        given += u64::from(rows > 0);
        faults += u64::from(failed);
    }
    // Inputs that only ever fail, or never do, would test nothing behind the first check.
    if given < inputs / 20 || faults < inputs / 10 {
        return Err(format!("{}: of {inputs} inputs only {given} gave rows, {faults} faults", target.name));
    }
    let took = began.elapsed().as_secs_f64();
    let each = took * 1e6 / f64::from(u32::try_from(inputs).unwrap());
    let name = target.name;
    Ok(format!("{name:8} {inputs} inputs, {given} with rows, {faults} with faults, {took:.1} s, {each:.1} µs each"))
}

/// How many rows an answer gives, and whether it is refused in the end.
fn judged(version: u8, schema: &Schema, answer: &[u8], mut cuts: [usize; 2]) -> Result<(usize, bool), String> {
    cuts.sort_unstable();
    let whole = read(version, schema, &[answer]);
    let pieces = read(version, schema, &[&answer[..cuts[0]], &answer[cuts[0]..cuts[1]], &answer[cuts[1]..]]);
    if whole != pieces {
        return Err(format!("cut at {cuts:?} it is another answer: {whole:?} and {pieces:?}"));
    }
    for row in &whole.0 {
        let bad_text = |text: &str| text.is_empty() || text.contains('\u{fffd}');
        let bad_value = match &row.value {
            FieldValue::F64(number) => !number.is_finite(),
            FieldValue::Str(text) => bad_text(text),
            _ => false,
        };
        let bad_tags =
            row.tags.iter().any(|(tag, value)| value.is_empty() || bad_text(value) || tag.contains('\u{fffd}'));
        let known = schema.fields.get(&row.field) == Some(&row.value.kind());
        if bad_value || bad_tags || !known || !row.tags.is_sorted() || !(0..1_000).contains(&row.time_ns) {
            return Err(format!("a row that may not be: {row:?}"));
        }
    }
    match &whole.1 {
        Err(error) if error.to_string().len() > 2_000 => Err(format!("a reason without an end: {error}")),
        ended => Ok((whole.0.len(), ended.is_err())),
    }
}

/// The rows that come before the end or the first fault, and how it ended.
fn read(version: u8, schema: &Schema, pieces: &[&[u8]]) -> (Vec<Row>, Result<u64, InfluxError>) {
    let selection = Selection { measurement: "e".to_owned(), fields: Vec::new(), tags: [].into() };
    let mut decoder = Decoder::new("fuzzed", version, &selection, schema, 0..1_000);
    let mut rows = Vec::new();
    let mut sink = |row| {
        rows.push(row);
        Ok::<_, InfluxError>(())
    };
    let fed = pieces.iter().try_for_each(|piece| decoder.feed(piece, &mut sink));
    let ended = fed.and_then(|()| decoder.finish(&mut sink)).map(|read| read.rows);
    (rows, ended)
}
