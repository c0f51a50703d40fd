//! Serial ports, and gateways on the network while no daemon asks them.

use std::path::Path;

use super::Finding;
use super::facts::{Facts, LineFacts, PortFacts};

const PORT: &str = "port";

pub fn ports(facts: &Facts) -> Vec<Finding> {
    let machine = &facts.machine;
    let mut all: Vec<Finding> = machine.ports.iter().map(|port| one(port, facts)).collect();
    for gateway in &machine.gateways {
        let subject = format!("{} {}", gateway.line, gateway.address);
        all.push(match &gateway.connected {
            Ok(()) => Finding::ok(PORT, &subject, "takes connections".to_owned()),
            Err(why) => {
                Finding::broken(PORT, &subject, format!("cannot be reached: {why}"), gateway_remedy(&gateway.address))
            }
        });
    }
    all
}

/// What to do about a gateway that cannot be reached.
pub fn gateway_remedy(address: &str) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    format!(
        "is it on, and its address right? `ping {host}`, `ip route get {host}`; another master may hold its only \
         connection; then `meterseal scan {address}`"
    )
}

fn one(port: &PortFacts, facts: &Facts) -> Finding {
    let device = port.device.display();
    let subject = format!("{} {device}", port.line);
    let broken = |found: String, remedy: String| Finding::broken(PORT, &subject, found, remedy);
    if !port.is_there {
        let plugged = match port.plugged.as_slice() {
            [] => "no adapter is seen: plug it in, and see with `dmesg | tail`, `ls -l /dev/serial/by-id`".to_owned(),
            [one] => format!("this one is plugged in: `serial = \"{}\"`", one.display()),
            more => format!("plugged in are {}", listed(more)),
        };
        let remedy = format!("{plugged}; the daemon opens the port by itself once it is there");
        return broken("is not there".to_owned(), remedy);
    }
    if !port.is_port {
        return broken(
            "is no serial port".to_owned(),
            "name the port of the adapter: `ls -l /dev/serial/by-id`".to_owned(),
        );
    }
    if !port.may_open {
        let PortFacts { user, group, .. } = port;
        let found = format!("user {user} may not open it: it is for the group {group}");
        return broken(found, format!("`sudo usermod -aG {group} {user}`, then `sudo systemctl restart meterseal`"));
    }
    if let [first, ..] = port.used_by.as_slice() {
        let found = format!("is open in {} as well: two masters garble each other's answers", port.used_by.join(", "));
        let pid = first.split(' ').next().unwrap_or_default();
        let remedy = format!(
            "end that program (`ps -fp {pid}`), for ever if it is a service, such as `sudo systemctl disable --now \
             ModemManager`"
        );
        return broken(found, remedy);
    }
    if let Some(Err(why)) = &port.opened {
        return broken(
            format!("does not open: {why}"),
            "unplug the adapter and plug it in again; see `dmesg | tail`".to_owned(),
        );
    }
    let line = facts.daemon.live().and_then(|live| live.lines.iter().find(|line| line.name == port.line));
    if let Some(LineFacts { connected: false, problem: Some(problem), .. }) = line {
        let remedy = "unplug the adapter and plug it in again; see `dmesg | tail` and `journalctl -u meterseal -n 50`";
        return broken(format!("does not work: {problem}"), remedy.to_owned());
    }
    // A number goes to whichever adapter is found first.
    let is_numbered =
        |path: &Path| path.to_string_lossy().starts_with("/dev/ttyUSB") || path.starts_with("/dev/ttyACM");
    if let Some(by_id) = port.by_id.as_ref().filter(|_| is_numbered(&port.device)) {
        let found = "works; with a second adapter its number may become another one at the next start".to_owned();
        return Finding::look(PORT, &subject, found, format!("name it for good: `serial = \"{}\"`", by_id.display()));
    }
    let opens = match (line, &port.opened) {
        (Some(_), _) => "open",
        (None, Some(_)) => "opens",
        (None, None) => "is there",
    };
    Finding::ok(PORT, &subject, format!("{opens}, group {}", port.group))
}

fn listed(paths: &[std::path::PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State::{Broken, Look, Ok as Good};
    use crate::doctor::facts::GatewayFacts;
    use crate::doctor::tests::{NOW, healthy, live, told};

    fn with(change: impl FnOnce(&mut PortFacts)) -> Facts {
        let mut facts = healthy();
        let mut port = PortFacts {
            line: "rs485".to_owned(),
            device: "/dev/ttyUSB0".into(),
            is_there: true,
            is_port: true,
            group: "dialout".to_owned(),
            user: "meterseal".to_owned(),
            may_open: true,
            ..PortFacts::default()
        };
        change(&mut port);
        facts.machine.ports = vec![port];
        facts
    }

    fn said(change: impl FnOnce(&mut PortFacts)) -> (super::super::State, String) {
        told(&with(change), "port", "rs485 /dev/ttyUSB0")
    }

    #[test]
    fn each_way_in_which_a_port_fails_has_its_remedy() {
        assert_eq!(said(|_| ()), (Good, "is there, group dialout".to_owned()));
        let gone = |plugged: &[&str]| {
            let plugged = plugged.iter().map(Into::into).collect();
            said(|port| (port.is_there, port.plugged) = (false, plugged))
        };
        assert!(gone(&[]).0 == Broken && gone(&[]).1.contains("is not there -> no adapter is seen: plug it in"));
        assert!(gone(&["/dev/serial/by-id/a"]).1.contains("`serial = \"/dev/serial/by-id/a\"`"));
        assert!(gone(&["/x", "/y"]).1.contains("plugged in are /x, /y"));
        let (state, text) = said(|port| port.may_open = false);
        assert!(state == Broken && text.contains("`sudo usermod -aG dialout meterseal`"), "{text}");
        let (state, text) = said(|port| port.used_by = vec!["812 (ModemManager)".to_owned()]);
        assert!(
            state == Broken && text.contains("open in 812 (ModemManager)") && text.contains("ps -fp 812"),
            "{text}"
        );
        assert_eq!(said(|port| port.is_port = false).0, Broken);
        let (state, text) = said(|port| port.opened = Some(Err("this port cannot do 9600 Bd".to_owned())));
        assert!(state == Broken && text.starts_with("does not open: this port cannot do 9600 Bd -> "), "{text}");
        assert_eq!(said(|port| port.opened = Some(Ok(()))).1, "opens, group dialout");
    }

    #[test]
    fn a_numbered_port_is_to_be_named_for_good() {
        let (state, text) = said(|port| port.by_id = Some("/dev/serial/by-id/usb-x".into()));
        assert!(state == Look && text.ends_with("name it for good: `serial = \"/dev/serial/by-id/usb-x\"`"), "{text}");
    }

    #[test]
    fn what_the_line_says_of_its_port_is_told() {
        let mut facts = with(|_| ());
        let line = |connected, problem| LineFacts { name: "rs485".to_owned(), connected, since: NOW, problem };
        live(&mut facts).lines = vec![line(false, Some("the port is gone".to_owned()))];
        let (state, text) = told(&facts, "port", "rs485 /dev/ttyUSB0");
        assert!(state == Broken && text.starts_with("does not work: the port is gone -> unplug"), "{text}");
        live(&mut facts).lines = vec![line(true, None)];
        assert_eq!(told(&facts, "port", "rs485 /dev/ttyUSB0"), (Good, "open, group dialout".to_owned()));
    }

    #[test]
    fn a_gateway_is_tried_only_where_it_was() {
        let mut facts = healthy();
        let of = |connected| vec![GatewayFacts { line: "msb".to_owned(), address: "h:502".to_owned(), connected }];
        facts.machine.gateways = of(Ok(()));
        assert_eq!(told(&facts, "port", "msb h:502"), (Good, "takes connections".to_owned()));
        facts.machine.gateways = of(Err("no route".to_owned()));
        let (state, text) = told(&facts, "port", "msb h:502");
        assert!(state == Broken && text.contains("`ping h`") && text.contains("`meterseal scan h:502`"), "{text}");
    }
}
