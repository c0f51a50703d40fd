//! A simulated plant: meters that answer on a real Modbus/TCP socket. For the demo, tests and training.
//!
//! It gives the same values for the same instant, however often it is started, and it never touches the store.

mod identity;
mod mood;
pub mod plant;
mod publish;
mod registers;
mod server;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::civil::date;
use jiff::tz::TimeZone;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::sources::template::Template;
use plant::{PLACES, Plant};
pub use publish::{ACREL, ACREL_TOPIC, PLUG, PLUG_TOPIC, publish};
pub use registers::{Exception, Meters};

/// Units behind one port; more meters take the ports that follow.
const UNITS_PER_PORT: usize = 100;
/// More than any test needs, and each port holds at most `server::CONNECTIONS` sockets.
pub const MOST_METERS: usize = 2_000;

/// What is simulated, and where it answers.
#[derive(Clone, Debug)]
pub struct Config {
    /// Port 0 takes free ports.
    pub listen: SocketAddr,
    /// 1 to `MOST_METERS`.
    pub meters: usize,
    /// The meters have these in turn; at least one.
    pub templates: Vec<Arc<Template>>,
    /// Gives the plant its local time of day.
    pub timezone: TimeZone,
}

/// A plant whose ports are open and do not answer yet.
pub struct Simulation {
    meters: Arc<Meters>,
    ports: Vec<TcpListener>,
}

/// Where one simulated meter is found, and what stands there.
#[derive(Clone, Debug)]
pub struct Simulated {
    pub id: String,
    pub name: String,
    pub address: SocketAddr,
    pub unit: u8,
    pub place: &'static plant::Place,
}

impl Simulation {
    /// Works out the plant and opens its ports.
    pub async fn bind(config: &Config) -> io::Result<Self> {
        let count = config.meters.clamp(1, MOST_METERS);
        let plant = Plant::new(SEED, standard_offset_ms(&config.timezone));
        let mut ports = Vec::new();
        for at in 0..count.div_ceil(UNITS_PER_PORT) {
            let mut address = config.listen;
            if address.port() != 0 {
                let port = u16::try_from(usize::from(address.port()) + at).map_err(io::Error::other)?;
                address.set_port(port);
            }
            ports.push(TcpListener::bind(address).await?);
        }
        Ok(Self { meters: Arc::new(Meters::new(plant, count, &config.templates)), ports })
    }

    /// The meters, for reading them without a socket.
    pub fn meters(&self) -> Arc<Meters> {
        self.meters.clone()
    }

    /// Where each meter answers, in the order of their indexes.
    pub fn simulated(&self) -> io::Result<Vec<Simulated>> {
        (0..self.meters.count())
            .map(|index| {
                let place = &PLACES[index % PLACES.len()];
                let (mut id, mut name) = (place.id.to_owned(), place.name.to_owned());
                if index >= PLACES.len() {
                    let copy = index / PLACES.len() + 1;
                    (id, name) = (format!("{id}-{copy}"), format!("{name} {copy}"));
                }
                let address = self.ports[index / UNITS_PER_PORT].local_addr()?;
                let unit = u8::try_from(index % UNITS_PER_PORT + 1).map_err(io::Error::other)?;
                Ok(Simulated { id, name, address, unit, place })
            })
            .collect()
    }

    /// A config for these meters, ready to paste.
    pub fn config_text(&self) -> io::Result<String> {
        let mut text = String::new();
        let mut line = None;
        for (index, meter) in self.simulated()?.into_iter().enumerate() {
            if line != Some(meter.address) {
                line = Some(meter.address);
                let name = format!("simulated-{}", meter.address.port());
                text += &format!("[[modbus]]\nname = \"{name}\"\ntcp = \"{}\"\nsimulated = true\n", meter.address);
            }
            let Simulated { id, name, unit, place, .. } = meter;
            let (template, category) = (&self.meters.template(index).name, place.category);
            text += &format!("[[modbus.meter]]\nid = \"{id}\"\nname = \"{name}\"\nunit = {unit}\n");
            text += &format!("template = \"{template}\"\ncategory = \"{category}\"\ninterval = \"1s\"\n");
            if let Some(target) = place.peak_target_kwh {
                text += &format!("peak_target_kwh = {target:.1}\n");
            }
        }
        Ok(text)
    }

    /// Answers until stopped.
    pub async fn run(self, clock: Clock, stop: CancellationToken) {
        let mut ports = JoinSet::new();
        for (at, listener) in self.ports.into_iter().enumerate() {
            let port = server::Port { meters: self.meters.clone(), first: at * UNITS_PER_PORT, clock: clock.clone() };
            ports.spawn(server::serve(listener, Arc::new(port), stop.clone()));
        }
        while ports.join_next().await.is_some() {}
    }
}

/// The same plant everywhere, so that two people see the same figures.
const SEED: u64 = 7;

/// The zone's offset from UTC outside summer time.
fn standard_offset_ms(zone: &TimeZone) -> i64 {
    let offset = |month| {
        let midnight = date(2026, month, 1).to_zoned(zone.clone());
        midnight.map_or(0, |at| i64::from(at.offset().seconds()) * 1_000)
    };
    offset(1).min(offset(7))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn config(meters: usize) -> Config {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        Config { listen, meters, templates: vec![registers::tests::template()], timezone: TimeZone::UTC }
    }

    #[tokio::test]
    async fn a_config_that_is_pasted_names_every_meter_once() {
        let simulation = Simulation::bind(&config(UNITS_PER_PORT + 20)).await.unwrap();
        let table: toml::Table = simulation.config_text().unwrap().parse().unwrap();
        let lines = table["modbus"].as_array().unwrap();
        let meters: Vec<_> = lines.iter().flat_map(|line| line["meter"].as_array().unwrap()).collect();
        let ids: BTreeSet<_> = meters.iter().map(|meter| meter["id"].as_str().unwrap()).collect();
        assert_eq!((lines.len(), meters.len(), ids.len()), (2, UNITS_PER_PORT + 20, UNITS_PER_PORT + 20));
        assert!(lines.iter().all(|line| line["simulated"].as_bool() == Some(true)));
        let categories: BTreeSet<_> = meters[..8].iter().map(|meter| meter["category"].as_str().unwrap()).collect();
        assert_eq!(categories, ["CONS", "INJ", "PROD", "STOR"].into());
    }

    #[tokio::test]
    async fn a_stopped_simulation_closes_its_ports() {
        let simulation = Simulation::bind(&config(1)).await.unwrap();
        let address = simulation.simulated().unwrap()[0].address;
        let (clock, stop) = (Clock::trusted(), CancellationToken::new());
        let mut task = JoinSet::new();
        task.spawn(simulation.run(clock, stop.clone()));
        let held = tokio::net::TcpStream::connect(address).await.unwrap();
        stop.cancel();
        task.join_next().await.unwrap().unwrap();
        assert!(tokio::net::TcpStream::connect(address).await.is_err());
        drop(held);
    }

    #[test]
    fn the_plant_keeps_standard_time() {
        let offset = |zone: &str| standard_offset_ms(&TimeZone::get(zone).unwrap()) / 3_600_000;
        assert_eq!((offset("Europe/Berlin"), offset("Australia/Sydney"), offset("Asia/Kuala_Lumpur")), (1, 10, 8));
    }
}
