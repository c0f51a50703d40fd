//! The name of a meter out of its topic.

/// The topic filter of a subscription.
pub struct Filter {
    levels: Vec<String>,
}

impl Filter {
    pub fn new(filter: &str) -> Self {
        let mut levels: Vec<String> = filter.split('/').map(str::to_owned).collect();
        // A shared subscription, `$share/group/filter`, hears topics of `filter`.
        if levels.len() > 2 && levels[0] == "$share" {
            levels.drain(..2);
        }
        Self { levels }
    }

    /// The levels of `topic` that the wildcards stand for, so that the topics of one device that differ elsewhere share
    /// a name: `shellies/+/emeter/+/power` and `shellies/+/emeter/+/total` both say `em3/0`. The whole topic where there
    /// is no wildcard, or where it stands for nothing.
    pub fn name(&self, topic: &str) -> String {
        let mut heard = topic.split('/');
        let mut parts: Vec<&str> = Vec::new();
        for level in &self.levels {
            match level.as_str() {
                "#" => parts.extend(heard.by_ref()),
                "+" => parts.extend(heard.next()),
                _ => drop(heard.next()),
            }
        }
        let name = parts.join("/");
        if name.is_empty() { topic.to_owned() } else { name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_levels_of_the_wildcards_are_the_name() {
        let name = |filter, topic| Filter::new(filter).name(topic);
        assert_eq!(name("zigbee2mqtt/#", "zigbee2mqtt/hall/plug"), "hall/plug");
        assert_eq!(name("shellies/+/emeter/+/power", "shellies/em3/emeter/0/power"), "em3/0");
        assert_eq!(name("shellies/+/emeter/+/total", "shellies/em3/emeter/0/total"), "em3/0");
        assert_eq!(name("$share/seal/a/+", "a/b"), "b");
        assert_eq!(name("plant/meter", "plant/meter"), "plant/meter");
        assert_eq!(name("plant/#", "plant"), "plant");
        assert_eq!(name("a/+/c", "other"), "other");
    }
}
