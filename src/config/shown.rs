//! The texts of a config as they may be shown: without what is a secret, or looks like one.

use std::path::PathBuf;

use super::files::Files;
use super::report::Place;
use super::tree::{Node, Table, Value};

/// What stands in the stead of a secret.
const HIDDEN: &str = "\"***\"";
const TORN: &str = "# This file is no TOML, so nobody knows where a secret stands in it: it is not shown.\n";
/// A key that has one of these in its name bears a secret.
const SECRETIVE: [&str; 5] = ["pass", "token", "secret", "key", "credential"];
const MISSPELT: [&str; 3] = ["password", "token", "secret"];
/// Keys whose texts are paths, though their name is as that of a secret.
const PLAIN: [&str; 1] = ["client_key"];

/// Path and text of each file. `inline` are the places of secrets that were found while it was read.
pub fn texts(files: &Files, table: &Table, inline: &[Place], torn: &[Place]) -> Vec<(PathBuf, String)> {
    let mut places = inline.to_vec();
    hide(table, "", &mut places);
    places.sort();
    places.dedup();
    // Of a place within another only the outer one is replaced.
    let mut outer: Vec<Place> = Vec::new();
    for place in places {
        if outer.last().is_none_or(|last| last.file != place.file || place.start >= last.end) {
            outer.push(place);
        }
    }
    let all = files.replaced(&outer, HIDDEN);
    let texts = all.config().enumerate().filter(|(file, _)| !files.is_made(*file)).map(|(file, text)| {
        let is_torn = torn.iter().any(|place| place.file == file);
        let text = if is_torn { TORN.to_owned() } else { without_comments_that_hide(text) };
        (files.path(file).to_owned(), text)
    });
    let maps = files.meters().map(|(path, text)| (path.to_owned(), text.to_owned()));
    texts.chain(maps).collect()
}

fn hide(table: &Table, within: &str, places: &mut Vec<Place>) {
    for (key, (_, node)) in &table.0 {
        hide_value(node, key, within, places);
    }
}

fn hide_value(node: &Node, key: &str, within: &str, places: &mut Vec<Place>) {
    match &node.value {
        Value::Text(text) => {
            // The address of a webhook is most often a secret as a whole, and its body may bear one.
            let of_webhook = within == "webhook" && matches!(key, "url" | "body");
            if of_webhook || is_secretive(key) || has_user(text) {
                places.push(node.place);
            }
        }
        // A reference to a secret is none.
        Value::Table(table) if !is_reference(table) => hide(table, key, places),
        Value::List(items) => items.iter().for_each(|item| hide_value(item, key, within, places)),
        _ => {}
    }
}

fn is_secretive(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    // A misspelt key is a fault, and its value as secret as it was meant to be.
    let is_near = |word: &&str| strsim::osa_distance(&key, word) <= 2;
    let has_one = SECRETIVE.iter().any(|word| key.contains(word));
    !PLAIN.contains(&key.as_str()) && (has_one || MISSPELT.iter().any(is_near))
}

fn is_reference(table: &Table) -> bool {
    table.0.len() == 1 && ["env", "file", "credential"].iter().any(|kind| table.0.contains_key(*kind))
}

/// `scheme://user@host` or `scheme://user:password@host`, also where it is no good address; or a token in the query.
fn has_user(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else { return false };
    let host = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    host.contains('@') || rest.split_once('?').is_some_and(|(_, query)| is_secretive(query))
}

/// A comment may be a line of config that somebody put aside, with its secret.
fn without_comments_that_hide(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let comment = line.split_once('#').map(|(_, comment)| comment);
        let given = comment.and_then(|comment| comment.split_once('='));
        let hides =
            given.is_some_and(|(key, value)| is_secretive(key.trim()) || has_user(value) || key.contains("url"));
        match line.split_once('#').filter(|_| hides) {
            Some((before, _)) => shown.push_str(&format!("{before}# ***\n")),
            None => shown.push_str(line),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::super::{Files, check};
    use crate::model::Timestamp;

    fn shown(text: &str) -> String {
        let checked = check(&Files::of_text("m.toml", text), Timestamp::from_millis(0));
        checked.shown.into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn whatever_looks_like_a_secret_is_hidden_also_where_the_config_is_faulty() {
        for (given, wanted) in [
            ("[[influx]]\npasword = \"x1y2\"\n", "[[influx]]\npasword = \"***\"\n"),
            ("[[mqtt]]\nurl = \"mqtt://me:x1y2@host\"\n", "[[mqtt]]\nurl = \"***\"\n"),
            ("[[upstream]]\nurl = \"https://host/?token=x1y2\"\n", "[[upstream]]\nurl = \"***\"\n"),
            ("[alerts]\nwebhook = { url = \"http://h/x1y2\" }\n", "[alerts]\nwebhook = { url = \"***\" }\n"),
            ("# password = \"x1y2\"\n[site]\n", "# ***\n[site]\n"),
            ("token = { file = \"/run/t\" }\n", "token = { file = \"/run/t\" }\n"),
            ("client_key = \"/etc/k.pem\" # of the plant\n", "client_key = \"/etc/k.pem\" # of the plant\n"),
        ] {
            assert_eq!(shown(given), wanted);
        }
        assert!(!shown("password = \"x1y2\nrest").contains("x1y2"), "what is no TOML is not shown");
    }
}
