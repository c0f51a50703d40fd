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
