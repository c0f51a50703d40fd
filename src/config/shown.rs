//! The texts of a config as they may be shown: without what is a secret, or looks like one.

use std::path::PathBuf;

use super::files::Files;
use super::report::Place;
use super::tree::{Node, Table, Value};
use crate::model::address::{KEY, without_keys};

/// What stands in the stead of a secret.
const HIDDEN: &str = "\"***\"";
const TORN: &str = "# This file is no TOML, so nobody knows where a secret stands in it: it is not shown.\n";
/// A key that has one of these in its name bears a secret.
const SECRETIVE: [&str; 5] = ["pass", "token", "secret", "key", "credential"];
const MISSPELT: [&str; 3] = ["password", "token", "secret"];
/// Keys whose texts are paths, though their name is as that of a secret.
const PLAIN: [&str; 1] = ["client_key"];

/// Keys whose addresses bear a key somewhere in their path, more often than not.
const NODES: &str = "rpc";

/// Path and text of each file. `inline` are the places of secrets that were found while it was read.
pub fn texts(files: &Files, table: &Table, inline: &[Place], torn: &[Place]) -> Vec<(PathBuf, String)> {
    let mut hidden = Hidden { files, places: inline.iter().map(|place| (*place, HIDDEN.to_owned())).collect() };
    hidden.table(table, "");
    let all = files.replaced(&hidden.places);
    let texts = all.config().enumerate().filter(|(file, _)| !files.is_made(*file)).map(|(file, text)| {
        let is_torn = torn.iter().any(|place| place.file == file);
        let text = if is_torn { TORN.to_owned() } else { without_comments_that_hide(text) };
        (files.path(file).to_owned(), text)
    });
    let maps = files.meters().map(|(path, text)| (path.to_owned(), text.to_owned()));
    texts.chain(maps).collect()
}

/// Places of what is not shown, and what is in its stead.
struct Hidden<'f> {
    files: &'f Files,
    places: Vec<(Place, String)>,
}

impl Hidden<'_> {
    fn table(&mut self, table: &Table, within: &str) {
        for (key, (_, node)) in &table.0 {
            self.value(node, key, within);
        }
    }

    fn value(&mut self, node: &Node, key: &str, within: &str) {
        match &node.value {
            Value::Text(text) => {
                // The address of a webhook is most often a secret as a whole, and its body may bear one.
                let of_webhook = within == "webhook" && matches!(key, "url" | "body");
                if of_webhook || is_secretive(key) || has_user(text) {
                    self.places.push((node.place, HIDDEN.to_owned()));
                    return;
                }
                let written = self.files.at(node.place);
                let shown = without_keys(written, if key == NODES { 1 } else { KEY });
                if shown != written {
                    self.places.push((node.place, shown));
                }
            }
            // A reference to a secret is none.
            Value::Table(table) if !is_reference(table) => self.table(table, key),
            Value::List(items) => items.iter().for_each(|item| self.value(item, key, within)),
            _ => {}
        }
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
        let hides = comment.is_some_and(|comment| has_user(comment) || without_keys(comment, KEY) != comment)
            || given.is_some_and(|(key, _)| is_secretive(key.trim()) || key.contains("url") || key.trim() == NODES);
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
            (
                "[anchor]\nrpc = [\"https://a.example/v3/x1y2\", 'http://127.0.0.1:8545']\n",
                "[anchor]\nrpc = [\"https://a.example/***\", 'http://127.0.0.1:8545']\n",
            ),
            ("rcp = \"https://a/v3/x1y2x1y2x1y2x1y2x1y2\"\n", "rcp = \"https://a/***\"\n"),
            ("# rpc = [\"https://a.example/v3/x1y2\"]\n", "# ***\n"),
            ("#   \"https://a/v3/x1y2x1y2x1y2x1y2x1y2\",\n", "# ***\n"),
            ("token = { file = \"/run/t\" }\n", "token = { file = \"/run/t\" }\n"),
            ("client_key = \"/etc/k.pem\" # of the plant\n", "client_key = \"/etc/k.pem\" # of the plant\n"),
        ] {
            assert_eq!(shown(given), wanted);
        }
        assert!(!shown("password = \"x1y2\nrest").contains("x1y2"), "what is no TOML is not shown");
    }
}
