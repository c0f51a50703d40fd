//! Topics by a template: which stream of which gateway is published where.

use std::fmt;
use std::str::FromStr;

use crate::model::nearest;
use crate::store::Identity;

/// What stands in a topic for what is not of a meter, and for a meter that is not known.
const NO_METER: &str = "_";

/// Placeholders, as they are written.
const PLACEHOLDERS: [(&str, Part); 5] = [
    ("{site}", Part::Site),
    ("{gateway}", Part::Gateway),
    ("{epoch}", Part::Epoch),
    ("{stream}", Part::Stream),
    ("{meter}", Part::Meter),
];

/// Longer ones are no topics of a plant; MQTT ends at 65535 bytes.
const LONGEST: usize = 1024;

/// A topic with placeholders, such as `meterseal/{site}/{gateway}/{stream}`.
#[derive(Clone, PartialEq, Debug)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, PartialEq, Debug)]
enum Part {
    Text(String),
    Site,
    Gateway,
    Epoch,
    Stream,
    Meter,
}

/// Why a text is no template, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}: {mend}")]
pub struct BadTemplate {
    pub why: String,
    pub mend: String,
}

impl Template {
    /// The topic of a record of `epoch`, of a meter or of none.
    pub fn topic(&self, identity: &Identity, epoch: &str, stream: &str, meter: Option<&str>) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Site => identity.site.to_string(),
            Part::Gateway => identity.gateway.clone(),
            Part::Epoch => epoch.to_owned(),
            Part::Stream => stream.to_owned(),
            Part::Meter => meter.unwrap_or(NO_METER).to_owned(),
        };
        self.parts.iter().map(part).collect()
    }

    /// Takes the topics of this stream in whatever epoch.
    pub fn filter(&self, identity: &Identity, stream: &str) -> String {
        self.topic(identity, "+", stream, None)
    }

    pub fn has_epoch(&self) -> bool {
        self.parts.contains(&Part::Epoch)
    }

    pub fn has_meter(&self) -> bool {
        self.parts.contains(&Part::Meter)
    }

    fn check(&self) -> Result<(), BadTemplate> {
        let bad = |why: &str, mend: &str| Err(BadTemplate { why: why.to_owned(), mend: mend.to_owned() });
        if self.text.is_empty() || self.text.len() > LONGEST {
            return bad("a topic has 1 to 1024 bytes", "write one such as \"meterseal/{site}/{gateway}/{stream}\"");
        }
        if self.text.contains(['+', '#']) {
            return bad("+ and # are wildcards, to which nobody publishes", "leave them out");
        }
        if self.text.starts_with('$') {
            return bad("topics that begin with $ are the broker's own", "begin it with a name");
        }
        if self.text.contains(|letter: char| letter.is_control()) {
            return bad("it has a control character", "leave it out");
        }
        if !self.parts.contains(&Part::Gateway) {
            return bad("the checkpoints of two gateways would overwrite each other", "put {gateway} into it");
        }
        if !self.parts.contains(&Part::Stream) {
            return bad("records and checkpoints would have one topic", "put {stream} into it");
        }
        // Checkpoints of former epochs are looked for as well, by a wildcard, which stands for whole levels only.
        if self.text.split('/').any(|level| level.contains("{epoch}") && level != "{epoch}") {
            return bad("{epoch} is not alone between its slashes", "write /{epoch}/");
        }
        Ok(())
    }
}

impl FromStr for Template {
    type Err = BadTemplate;

    fn from_str(text: &str) -> Result<Self, BadTemplate> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let end = from.find('}').filter(|end| *end > 0).ok_or_else(|| BadTemplate {
                why: "a brace has no partner".to_owned(),
                mend: "write placeholders as {site}".to_owned(),
            })?;
            let (placeholder, after) = from.split_at(end + 1);
            match PLACEHOLDERS.iter().find(|(name, _)| *name == placeholder) {
                Some((_, part)) => parts.push(part.clone()),
                None => return Err(unknown(placeholder)),
            }
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        let template = Self { text: text.to_owned(), parts };
        template.check()?;
        Ok(template)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn unknown(placeholder: &str) -> BadTemplate {
    let mend = match nearest(placeholder, PLACEHOLDERS.iter().map(|(name, _)| *name)) {
        Some(name) => format!("did you mean {name}?"),
        None => "there are {site}, {gateway}, {epoch}, {stream} and {meter}".to_owned(),
    };
    BadTemplate { why: format!("{placeholder} is no placeholder"), mend }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { site: "plant-3".parse().unwrap(), gateway: "ab12".to_owned(), epoch: "new".to_owned() }
    }

    #[test]
    fn a_topic_is_made_of_its_parts() {
        for (template, topic, filter) in [
            ("meterseal/{site}/{gateway}/{stream}", "meterseal/plant-3/ab12/blocks", "meterseal/plant-3/ab12/blocks"),
            ("{gateway}/{epoch}/{stream}-{meter}", "ab12/old/blocks-m1", "ab12/+/blocks-_"),
            ("{stream}{gateway}{site}", "blocksab12plant-3", "blocksab12plant-3"),
        ] {
            let made: Template = template.parse().unwrap();
            assert_eq!(made.topic(&identity(), "old", "blocks", Some("m1")), topic);
            assert_eq!(made.filter(&identity(), "blocks"), filter);
            assert_eq!(made.to_string(), template);
        }
    }

    #[test]
    fn what_is_no_template_says_what_to_do() {
        for (template, part) in [
            ("a/{gatway}/{stream}", "did you mean {gateway}?"),
            ("a/{x}/{stream}", "there are {site}"),
            ("a/{gateway}/{stream", "brace"),
            ("a/}{gateway}/{stream}", "brace"),
            ("", "1 to 1024"),
            ("a/+/{gateway}/{stream}", "wildcards"),
            ("{gateway}/{stream}/#", "wildcards"),
            ("$SYS/{gateway}/{stream}", "broker's own"),
            ("a\n/{gateway}/{stream}", "control"),
            ("a/{site}/{stream}", "put {gateway}"),
            ("a/{gateway}", "put {stream}"),
            ("{gateway}/x{epoch}/{stream}", "/{epoch}/"),
        ] {
            let error = template.parse::<Template>().unwrap_err().to_string();
            assert!(error.contains(part), "{template}: {error}");
        }
        assert!(format!("{{gateway}}/{{stream}}/{}", "x".repeat(1024)).parse::<Template>().is_err());
    }
}
