//! Names and values as the three languages quote them, and the period in a free query. Pure.

/// An identifier of InfluxQL, in double quotes.
pub fn influxql_name(name: &str) -> String {
    let mut quoted = String::with_capacity(name.len() + 2);
    quoted.push('"');
    for c in name.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// An identifier of SQL, in double quotes.
pub fn sql_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string of Flux. `${` would begin an expression.
pub fn flux_string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '$' => quoted.push_str("\\x24"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A Flux text with `$from` and `$to` replaced by times, but for those in strings and comments: Flux cannot bind them.
pub fn flux_period(text: &str, from: &str, to: &str) -> String {
    let mut filled = String::with_capacity(text.len() + 2 * from.len());
    let mut rest = text;
    while let Some(at) = rest.find(['"', '/', '$']) {
        filled.push_str(&rest[..at]);
        rest = &rest[at..];
        let taken = if rest.starts_with('"') {
            end_of_string(rest)
        } else if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with('$') {
            let name = 1 + rest[1..].find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len() - 1);
            match &rest[1..name] {
                "from" => filled.push_str(from),
                "to" => filled.push_str(to),
                _ => filled.push_str(&rest[..name]),
            }
            rest = &rest[name..];
            continue;
        } else {
            1
        };
        filled.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    filled + rest
}

/// The length of the string at the beginning of `text`, with its quotes.
fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == '"' && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}

/// Whether an InfluxQL text is one statement that only reads: version 1 carries out several, and those that write. What
/// stands in quotes is not left out, as that would need the server's own view of where quotes end.
pub fn one_reading_statement(text: &str) -> Result<(), &'static str> {
    let text = text.trim().trim_end_matches(';').to_lowercase();
    let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    let reads = matches!(words.next(), Some("select" | "show"));
    if reads && !text.contains(';') && !words.any(|word| word == "into") {
        return Ok(());
    }
    Err("a query is one SELECT or SHOW: it begins with that word, and has neither `;` nor the word INTO")
}

/// Whether a Flux text calls none of the functions that write into a bucket. Flux has others that send (to another
/// database, by HTTP), and names can be bound anew: credentials that may only read are what makes it sure.
pub fn reads_flux(text: &str) -> Result<(), &'static str> {
    let mut rest = text;
    let mut word = "";
    while let Some(c) = rest.chars().next() {
        let is_of_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        let taken = if c == '"' {
            end_of_string(rest)
        } else if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
            continue;
        } else if c.is_whitespace() {
            c.len_utf8()
        } else {
            rest.find(|c| !is_of_word(c)).filter(|length| *length > 0).unwrap_or(if is_of_word(c) {
                rest.len()
            } else {
                c.len_utf8()
            })
        };
        if c == '(' && WRITES.contains(&word) {
            return Err("a query only reads: it calls neither `to` nor `wideTo`");
        }
        if !c.is_whitespace() {
            word = &rest[..taken];
        }
        rest = &rest[taken..];
    }
    Ok(())
}

/// The functions of Flux that write into a bucket.
const WRITES: [&str; 2] = ["to", "wideTo"];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Texts of what is special somewhere, and of anything.
    fn texts() -> impl Strategy<Value = String> {
        prop_oneof!["[\"'\\\\${}\n\r\t;/a]{0,8}", any::<String>()]
    }

    /// What stands between quotes, if there are no others in it; a backslash takes the next character along.
    fn unquoted(text: &str, escape: impl Fn(&mut std::str::Chars) -> Option<char>) -> Option<String> {
        let mut inner = text.strip_prefix('"')?.strip_suffix('"')?.chars();
        let mut read = String::new();
        while let Some(c) = inner.next() {
            read.push(match c {
                '"' | '\n' => return None,
                '\\' => escape(&mut inner)?,
                c => c,
            });
        }
        Some(read)
    }

    proptest! {
        #[test]
        fn a_name_of_influxql_is_one_token_and_means_itself(name in texts()) {
            let escape = |rest: &mut std::str::Chars| match rest.next()? {
                'n' => Some('\n'),
                c @ ('"' | '\\') => Some(c),
                _ => None,
            };
            prop_assert_eq!(unquoted(&influxql_name(&name), escape), Some(name));
        }

        #[test]
        fn a_string_of_flux_is_one_token_means_itself_and_begins_no_expression(text in texts()) {
            let quoted = flux_string(&text);
            prop_assert!(!quoted.contains('$'));
            let escape = |rest: &mut std::str::Chars| match rest.next()? {
                'n' => Some('\n'),
                'r' => Some('\r'),
                't' => Some('\t'),
                'x' => (rest.next()? == '2' && rest.next()? == '4').then_some('$'),
                c @ ('"' | '\\') => Some(c),
                _ => None,
            };
            prop_assert_eq!(end_of_string(&quoted), quoted.len());
            prop_assert_eq!(unquoted(&quoted, escape), Some(text));
        }

        #[test]
        fn a_name_of_sql_is_one_token_and_means_itself(name in texts()) {
            let quoted = sql_name(&name);
            let inner = &quoted[1..quoted.len() - 1];
            prop_assert!(!inner.replace("\"\"", "").contains('"'));
            prop_assert_eq!(inner.replace("\"\"", "\""), name);
        }

        #[test]
        fn a_text_without_marks_stays_as_it_is(text in "[^$]{0,40}") {
            prop_assert_eq!(flux_period(&text, "A", "B"), text);
        }

        #[test]
        fn strings_and_comments_of_flux_stay_as_they_are(text in texts()) {
            let line = text.replace('\n', " ");
            let flux = format!("f(a: {}) // $from {line}\n|> range(start: $from)", flux_string(&format!("$to{text}")));
            let filled = flux_period(&flux.replace("\\x24to", "$to"), "A", "B");
            prop_assert_eq!(filled, flux.replace("\\x24to", "$to").replace("start: $from", "start: A"));
        }
    }

    #[test]
    fn the_period_stands_wherever_flux_has_an_expression() {
        let cases = [
            ("range(start: $from, stop: $to)", "range(start: A, stop: B)"),
            ("$from$to $fromage $tox $ $1", "AB $fromage $tox $ $1"),
            (r#""a \" $from" + $from"#, r#""a \" $from" + A"#),
            (r#""\\" + $from"#, r#""\\" + A"#),
            ("a / $from // $from\n$to", "a / A // $from\nB"),
            ("\"without an end $from", "\"without an end $from"),
            ("// $to", "// $to"),
        ];
        for (text, wanted) in cases {
            assert_eq!(flux_period(text, "A", "B"), wanted);
        }
    }

    #[test]
    fn only_one_statement_that_reads_is_asked_of_version_1() {
        for good in ["SELECT f FROM m", " select \"f\" from m; ", "SHOW FIELD KEYS", "SELECT mean(into_kw) FROM m"] {
            assert_eq!(one_reading_statement(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "DROP DATABASE plant",
            "SELECT f INTO g FROM m",
            "select f into\"g\" from m",
            "SELECT f FROM m; DROP MEASUREMENT m",
            "SELECT f FROM /\"/; DROP MEASUREMENT m --\"",
            "SELECTED",
            "EXPLAIN ANALYZE SELECT f FROM m",
            "-- \nDROP DATABASE plant",
        ] {
            assert!(one_reading_statement(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_query_of_version_2_writes_into_no_bucket() {
        for good in [
            "from(bucket: \"plant\") |> range(start: $from, stop: $to)",
            "f(to: 1, wideTo: (1)) // to(bucket: \"copy\")",
            "x = \"|> to(bucket: 1)\" y = into(a) z = to_(b) w = $to (c)",
            "to",
            "",
            "\"without an end to(",
        ] {
            assert_eq!(reads_flux(good), Ok(()), "{good}");
        }
        for bad in [
            "from(bucket: \"a\") |> range(start: $from) |> to(bucket: \"b\")",
            "x|>to(bucket:1)",
            "x |> influxdb.to\n  (bucket: 1)",
            "x |> influxdb.wideTo(bucket: 1)",
            "x |> to // a copy\n(bucket: 1)",
            "y = \"\\\\\" x |> to(bucket: 1)",
        ] {
            assert!(reads_flux(bad).is_err(), "{bad}");
        }
    }
}
