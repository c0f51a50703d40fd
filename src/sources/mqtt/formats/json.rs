//! `json`: any JSON message, read by pointers (RFC 6901).

use std::fmt;
use std::str::FromStr;

use super::time::{TimeFormat, believable};
use super::topic::Filter;
use super::tree::{Node, Odd, cleaned, parse};
use super::{Decoded, MOST_SAMPLES, MOST_VALUES, Message, Sample, Value, meter_name};
use crate::model::{Quantity, Ratio, Stamp, Timestamp};

/// Where in a message what is.
#[derive(Clone, Debug, PartialEq)]
pub struct Json {
    /// A list, each element of which speaks of a meter; the other pointers begin at the element. `id` and `time` are
    /// looked for in the whole message where the element does not have them. Absent: the message is about one meter.
    pub each: Option<Pointer>,
    /// The meter's name, a text or a whole number. Absent: the topic names it, and of a list the place is appended.
    pub id: Option<Pointer>,
    /// When it was measured. Absent: the arrival counts.
    pub time: Option<(Pointer, TimeFormat)>,
    /// At most 255, of different quantities.
    pub values: Vec<Pointed>,
}

/// One value of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Pointed {
    pub quantity: Quantity,
    pub pointer: Pointer,
    pub scale: Ratio,
}

/// A path into a JSON value, such as `/ENERGY/Power` or `/phases/0/p`; empty for the whole. `~1` stands for `/` in a
/// name, `~0` for `~`.
#[derive(Clone, PartialEq, Eq)]
pub struct Pointer {
    text: String,
    names: Vec<String>,
}

/// The text is no pointer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPointer {
    #[error("`{0}` does not begin with `/`")]
    NoSlash(String),
    #[error("`{0}` has a `~` that is neither `~0` (for `~`) nor `~1` (for `/`)")]
    Tilde(String),
}

impl Json {
    pub(super) fn decode(&self, message: &Message<'_>, arrival: &Stamp, filter: &Filter) -> Decoded {
        let text = cleaned(message.payload);
        let root = match parse(&text) {
            Ok(root) => root,
            Err(why) => return Decoded::fault(why),
        };
        let mut decoded = Decoded::default();
        let topic = filter.name(message.topic);
        let Some(each) = &self.each else {
            self.element(&root, &Around::default(), &topic, arrival, &mut decoded);
            return decoded;
        };
        let find = |pointer: Option<&Pointer>| pointer.map_or(Ok(None), |pointer| pointer.find(&root));
        let around = Around { id: find(self.id.as_ref()), time: find(self.time.as_ref().map(|(pointer, _)| pointer)) };
        match each.find(&root) {
            Ok(None | Some(Node::Null)) => {}
            Ok(Some(Node::List(elements))) => {
                for (place, element) in elements.iter().take(MOST_SAMPLES).enumerate() {
                    self.element(element, &around, &format!("{topic}/{place}"), arrival, &mut decoded);
                }
                if elements.len() > MOST_SAMPLES {
                    decoded.complain(format!("{each}: more than {MOST_SAMPLES} elements"));
                }
            }
            Ok(Some(_)) => decoded.complain(format!("{each}: not a list")),
            Err(odd) => decoded.complain(format!("{each}: {odd}")),
        }
        decoded
    }

    fn element(
        &self,
        element: &Node<'_>,
        around: &Around<'_, '_>,
        topic: &str,
        arrival: &Stamp,
        decoded: &mut Decoded,
    ) {
        let mut values = Vec::new();
        for Pointed { quantity, pointer, scale } in self.values.iter().take(MOST_VALUES) {
            match pointer.find(element).and_then(|node| node.map_or(Ok(None), Node::number)) {
                Ok(None) => {}
                Ok(Some(number)) => values.push(Value { quantity: quantity.clone(), number, scale: *scale }),
                Err(odd) => decoded.complain(format!("{pointer}: {odd}")),
            }
        }
        // What says nothing of a meter need not name one.
        if values.is_empty() {
            return;
        }
        match self.name(element, around, topic) {
            Ok(meter) => {
                let time = self.time(element, around, arrival, decoded);
                decoded.add(Sample { meter, time, values });
            }
            Err(why) => decoded.complain(why),
        }
    }

    fn name(&self, element: &Node<'_>, around: &Around<'_, '_>, topic: &str) -> Result<String, String> {
        let Some(id) = &self.id else {
            return meter_name(topic).ok_or_else(|| "the topic gives no name of 1 to 128 bytes".to_owned());
        };
        let said = id.find(element).and_then(|found| found.map_or(around.id, |node| Ok(Some(node))));
        let name = said.and_then(|node| node.map_or(Ok(None), Node::name)).map_err(|odd| format!("{id}: {odd}"))?;
        name.as_deref().and_then(meter_name).ok_or_else(|| format!("{id}: no name of 1 to 128 bytes for the meter"))
    }

    fn time(
        &self,
        element: &Node<'_>,
        around: &Around<'_, '_>,
        arrival: &Stamp,
        decoded: &mut Decoded,
    ) -> Option<Timestamp> {
        let (pointer, format) = self.time.as_ref()?;
        match pointer.find(element).and_then(|found| found.map_or(around.time, |node| Ok(Some(node)))) {
            Ok(None | Some(Node::Null)) => None,
            Ok(Some(node)) => {
                let said = format.instant(node, arrival.time);
                if said.is_none() {
                    decoded.complain(format!("{pointer}: not a time in the format of the subscription"));
                }
                said.and_then(|said| believable(said, arrival))
            }
            Err(odd) => {
                decoded.complain(format!("{pointer}: {odd}"));
                None
            }
        }
    }
}

/// What the message as a whole says of all elements of its list.
#[derive(Clone, Copy)]
struct Around<'n, 'a> {
    id: Result<Option<&'n Node<'a>>, Odd>,
    time: Result<Option<&'n Node<'a>>, Odd>,
}

impl Default for Around<'_, '_> {
    fn default() -> Self {
        Self { id: Ok(None), time: Ok(None) }
    }
}

impl Pointer {
    /// What the pointer leads to; `None` where it leads nowhere.
    pub(super) fn find<'n, 'a>(&self, root: &'n Node<'a>) -> Result<Option<&'n Node<'a>>, Odd> {
        let mut node = root;
        for name in &self.names {
            let next = match node {
                Node::List(items) => place(name).and_then(|place| items.get(place)),
                _ => node.member(name)?,
            };
            match next {
                Some(next) => node = next,
                None => return Ok(None),
            }
        }
        Ok(Some(node))
    }
}

/// A place in a list: digits without leading zeros.
fn place(name: &str) -> Option<usize> {
    let formed = name.bytes().all(|b| b.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    if formed { name.parse().ok() } else { None }
}

impl FromStr for Pointer {
    type Err = BadPointer;

    fn from_str(text: &str) -> Result<Self, BadPointer> {
        if !text.is_empty() && !text.starts_with('/') {
            return Err(BadPointer::NoSlash(text.to_owned()));
        }
        let unescaped = |name: &str| {
            let sound = name.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
            if sound { Ok(name.replace("~1", "/").replace("~0", "~")) } else { Err(BadPointer::Tilde(text.to_owned())) }
        };
        let names = text.split('/').skip(1).map(unescaped).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), names })
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.text.is_empty() { "the message" } else { &self.text })
    }
}

impl fmt::Debug for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The document and the pointers of RFC 6901, section 5.
    #[test]
    fn pointers_lead_where_the_standard_says() {
        let text = r#"{"foo":["bar","baz"],"":0,"a/b":1,"c%d":2,"e^f":3,"g|h":4,"i\\j":5,"k\"l":6," ":7,"m~n":8}"#;
        let tree = parse(text.as_bytes()).unwrap();
        let find =
            |pointer: &str| pointer.parse::<Pointer>().unwrap().find(&tree).unwrap().map(|node| format!("{node:?}"));
        for (pointer, value) in ["/", "/a~1b", "/c%d", "/e^f", "/g|h", "/i\\j", "/k\"l", "/ ", "/m~0n"].iter().zip(0..)
        {
            assert_eq!(find(pointer), Some(format!("Number(I64({value}))")), "{pointer}");
        }
        assert_eq!(find("/foo/0").as_deref(), Some("Text(\"bar\")"));
        assert_eq!(find("").unwrap(), format!("{tree:?}"));
        for nowhere in
            ["/foo/2", "/foo/00", "/foo/-", "/foo/+1", "/foo/", "/foo/0/x", "/x", "/foo/99999999999999999999"]
        {
            assert_eq!(find(nowhere), None, "{nowhere}");
        }
        assert_eq!("foo".parse::<Pointer>(), Err(BadPointer::NoSlash("foo".to_owned())));
        assert_eq!("/a~2".parse::<Pointer>(), Err(BadPointer::Tilde("/a~2".to_owned())));
        assert_eq!("/a~".parse::<Pointer>(), Err(BadPointer::Tilde("/a~".to_owned())));
        assert_eq!("/~01".parse::<Pointer>().unwrap().names, ["~1"]);
    }
}
