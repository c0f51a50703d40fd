//! What the benches of bundles share: the plant whose rows they hold, and what stands at a bundle's head.

use std::collections::BTreeMap;

use meterseal::evidence::dataset::Heading;
use meterseal::evidence::dataset::manifest::{Kind, PointsQuery, Query, Server};
use meterseal::model::Tags;

pub const ID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
pub const NOON: i64 = 1_763_726_400_000_000_000;
pub const SECOND: i64 = 1_000_000_000;
pub const METERS: usize = 20;
pub const MEASUREMENT: &str = "energy";

/// The tags of each meter.
pub fn tags() -> Vec<Tags> {
    let tags = |meter: usize| -> Tags {
        [("line".into(), format!("l{}", meter % 3).into()), ("meter".into(), format!("meter-{meter:02}").into())].into()
    };
    (0..METERS).map(tags).collect()
}

/// Of a bundle whose rows begin at [`NOON`].
pub fn heading(to_ns: i64) -> Heading {
    let query = PointsQuery {
        fields: Vec::new(),
        measurement: MEASUREMENT.to_owned(),
        name: "bench".to_owned(),
        tags: BTreeMap::new(),
    };
    let connection = Server {
        kind: "influxdb".to_owned(),
        name: "bench".to_owned(),
        server_version: "1.6.7".to_owned(),
        version: 1,
    };
    Heading {
        id: ID.parse().unwrap(),
        kind: Kind::Points,
        connection,
        query: Query::Points(query),
        from_ns: NOON,
        to_ns,
        gateway: "0".repeat(32),
        site: "bench".parse().unwrap(),
        program: "meterseal".to_owned(),
    }
}
