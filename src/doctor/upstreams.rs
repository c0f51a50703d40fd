//! What is sent to others.

use super::Finding;
use super::daemon::{for_what_is_off, unseen};
use super::facts::Facts;
use super::said::{ago, lasted, why};
use crate::model::{Stream, UpstreamState, UpstreamStatus};

const UPSTREAM: &str = "upstream";
/// Records that wait for longer than this, though it is connected.
const OLD_MS: i64 = 3_600_000;
/// One that was never reached for so long is away.
const REACHED_MS: i64 = 120_000;

pub fn upstreams(facts: &Facts) -> Vec<Finding> {
    if facts.upstreams.is_empty() && facts.setup.is_some() && facts.kept.facts().is_some() {
        return vec![Finding::ok(UPSTREAM, "", "none is configured".to_owned())];
    }
    let mut all = Vec::new();
    for (name, upstream) in &facts.upstreams {
        all.push(one(name, upstream, facts));
        if upstream.dead_letters > 0 {
            let found = format!("{} records were refused, and wait for somebody", upstream.dead_letters);
            let remedy = format!(
                "why: `meterseal upstream dead-letters {name}`; then `meterseal upstream replay {name}`, or `meterseal \
                 upstream discard {name} --all`"
            );
            all.push(Finding::look(UPSTREAM, &format!("{name} dead letters"), found, remedy));
        }
    }
    all
}

fn one(name: &str, upstream: &UpstreamStatus, facts: &Facts) -> Finding {
    let now = facts.now;
    let (to, waits) = (format!("{} to {}", upstream.kind, upstream.to), waiting(upstream, facts));
    let problem = why(upstream.problem.as_deref());
    let runs = facts.daemon.live().is_some();
    let is_unseen = upstream.problem.as_deref().is_some_and(|problem| unseen(problem, facts).is_some());
    match upstream.state {
        state if !runs && (state != UpstreamState::Off || is_unseen) => {
            let found = format!("{to}: nothing is sent while the daemon does not run; {waits}");
            Finding::look(UPSTREAM, name, found, "start the daemon: `sudo systemctl start meterseal`")
        }
        UpstreamState::Off => {
            let problem = upstream.problem.as_deref().unwrap_or("it is off");
            let found = format!("{problem}; {waits}");
            let remedy = for_what_is_off(problem);
            Finding::broken(UPSTREAM, name, found, remedy)
        }
        UpstreamState::Stopped => {
            let found = format!("{to} has refused us for {}{problem}; {waits}", lasted(upstream.since, now));
            let remedy = format!(
                "renew its token or certificate, then `sudo systemctl restart meterseal`, or `meterseal upstream flush \
                 {name}` if the other side was mended"
            );
            Finding::broken(UPSTREAM, name, found, remedy)
        }
        UpstreamState::Away => {
            away(name, &format!("{to} has been away for {}{problem}; {waits}", lasted(upstream.since, now)))
        }
        UpstreamState::Starting if now.millis_since(upstream.since) > REACHED_MS => {
            away(name, &format!("{to} was never reached{problem}; {waits}"))
        }
        UpstreamState::Starting => Finding::ok(UPSTREAM, name, format!("{to} is being reached; {waits}")),
        UpstreamState::Connected => {
            let found = format!("{to}, connected for {}; {waits}", lasted(upstream.since, now));
            let oldest = upstream.streams.iter().filter(|(_, stream)| stream.depth > 0);
            let oldest = oldest.filter_map(|(_, stream)| stream.oldest).min();
            match oldest.filter(|oldest| now.millis_since(*oldest) > OLD_MS) {
                None => Finding::ok(UPSTREAM, name, found),
                Some(_) => {
                    let remedy = format!(
                        "it catches up by itself, the newest first: `meterseal upstream` shows how fast; if that is \
                         nothing, `meterseal upstream flush {name}`"
                    );
                    Finding::look(UPSTREAM, name, found, remedy)
                }
            }
        }
    }
}

fn away(name: &str, found: &str) -> Finding {
    let remedy = format!(
        "is the line up, and its name known? `ip route`, `getent hosts HOST`, `curl -v URL`; nothing is lost meanwhile, and \
         `meterseal upstream flush {name}` tries at once"
    );
    Finding::broken(UPSTREAM, name, found.to_owned(), remedy)
}

/// How much waits, and since when.
fn waiting(upstream: &UpstreamStatus, facts: &Facts) -> String {
    // Of checkpoints only the newest is ever sent.
    let open = || upstream.streams.iter().filter(|(stream, status)| *stream != Stream::Checkpoints && status.depth > 0);
    let records = open().fold(0_u64, |sum, (_, status)| sum.saturating_add(status.depth));
    let oldest = open().filter_map(|(_, status)| status.oldest).min();
    match (records, oldest) {
        (0, _) => "nothing waits".to_owned(),
        (records, None) => format!("{records} records wait"),
        (records, Some(oldest)) => format!("{records} records wait, the oldest of {}", ago(oldest, facts.now)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State::{Broken, Look, Ok};
    use crate::doctor::facts::Daemon;
    use crate::doctor::tests::{NOW, healthy, told};
    use crate::model::StreamStatus;

    fn with(state: UpstreamState, change: impl FnOnce(&mut UpstreamStatus)) -> Facts {
        let mut facts = healthy();
        let stream = |stream, depth, age: i64| {
            (stream, StreamStatus { depth, oldest: Some(NOW.plus_millis(-age)), ..StreamStatus::default() })
        };
        let mut upstream = UpstreamStatus {
            kind: "https".to_owned(),
            to: "https://h/v1".to_owned(),
            state,
            since: NOW.plus_millis(-600_000),
            problem: None,
            streams: vec![stream(Stream::Checkpoints, 40_000, 5), stream(Stream::Blocks, 3, 90_000)],
            ..UpstreamStatus::default()
        };
        change(&mut upstream);
        facts.upstreams.insert("cloud".to_owned(), upstream);
        facts
    }

    #[test]
    fn each_state_says_how_much_waits_and_what_to_do() {
        let said = |state, problem: Option<&str>| {
            told(&with(state, |upstream| upstream.problem = problem.map(str::to_owned)), "upstream", "cloud")
        };
        let (state, text) = said(UpstreamState::Connected, None);
        let wanted = "https to https://h/v1, connected for 10 min; 3 records wait, the oldest of 90 s ago";
        assert_eq!((state, text.as_str()), (Ok, wanted));
        let (state, text) = said(UpstreamState::Stopped, Some("401"));
        assert!(
            state == Broken && text.contains("has refused us for 10 min: 401;") && text.contains("renew its token")
        );
        let (state, text) = said(UpstreamState::Away, Some("no route"));
        assert!(
            state == Broken && text.contains("has been away for 10 min: no route;") && text.contains("flush cloud")
        );
        let (state, text) = said(UpstreamState::Starting, None);
        assert!(state == Broken && text.contains("was never reached"), "{text}");
        let (state, text) = said(UpstreamState::Off, Some("upstream cloud is off: no credential"));
        assert!(
            state == Broken
                && text.starts_with("upstream cloud is off: no credential; 3 records wait")
                && text.contains("LoadCredential=")
        );
    }

    #[test]
    fn what_waits_for_long_and_what_was_refused_is_looked_at() {
        let old = with(UpstreamState::Connected, |upstream| {
            upstream.streams[1].1.oldest = Some(NOW.plus_millis(-2 * OLD_MS));
        });
        assert_eq!(told(&old, "upstream", "cloud").0, Look);
        let done = with(UpstreamState::Connected, |upstream| upstream.streams[1].1.depth = 0);
        assert!(told(&done, "upstream", "cloud").1.ends_with("nothing waits"), "checkpoints are no backlog");
        let refused = with(UpstreamState::Connected, |upstream| upstream.dead_letters = 4);
        let (state, text) = told(&refused, "upstream", "cloud dead letters");
        assert!(state == Look && text.starts_with("4 records were refused") && text.contains("dead-letters cloud"));
        let new = with(UpstreamState::Starting, |upstream| upstream.since = NOW);
        assert_eq!(told(&new, "upstream", "cloud").0, Ok);
    }

    #[test]
    fn without_a_daemon_the_store_tells_how_far_it_is() {
        let mut facts = with(UpstreamState::Starting, |upstream| upstream.streams[1].1.oldest = None);
        facts.daemon = Daemon::Down;
        let (state, text) = told(&facts, "upstream", "cloud");
        assert!(
            state == Look && text.contains("nothing is sent while the daemon does not run; 3 records wait"),
            "{text}"
        );
        assert_eq!(told(&healthy(), "upstream", ""), (Ok, "none is configured".to_owned()));
    }
}
