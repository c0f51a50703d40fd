//! What the other side holds, by its own word, as records by key and hash.

use meterseal::model::{Digest, Stream};

use crate::gateway::Records;
use crate::postgres::Postgres;
use crate::receiver::Receiver;

/// Every row with its epoch, stream, seq and hash, and its line made anew of its columns.
const ROWS: &str = "
    SELECT epoch, 'readings', seq, encode(sha256, 'hex'),
        format('{\"category\":%s,\"meter\":%s,\"seq\":%s,\"time\":%s,\"values\":%s}', to_json(category), to_json(meter), seq,
            (extract(epoch FROM time) * 1000)::bigint, values)
        FROM meterseal.readings r JOIN meterseal.gateways g ON g.id = r.gateway
    UNION ALL SELECT epoch, 'blocks', seq, encode(sha256, 'hex'),
        format('{\"index\":%s,\"kind\":\"%s\",\"meter_salt\":\"%s\",\"record\":%s,\"salt\":\"%s\",\"seq\":%s,\"time\":%s}', index, kind,
            encode(meter_salt, 'hex'), record, encode(salt, 'hex'), seq, (extract(epoch FROM time) * 1000)::bigint)
        FROM meterseal.blocks b JOIN meterseal.gateways g ON g.id = b.gateway
    UNION ALL SELECT epoch, 'alerts', seq, encode(sha256, 'hex'), record::text
        FROM meterseal.alerts a JOIN meterseal.gateways g ON g.id = a.gateway
    UNION ALL SELECT epoch, 'notices', seq, encode(sha256, 'hex'), record::text
        FROM meterseal.notices n JOIN meterseal.gateways g ON g.id = n.gateway";

pub fn by_receiver(receiver: &Receiver) -> Records {
    let records = receiver.records().into_iter();
    records.map(|((_, epoch, stream, seq), hash)| ((epoch, Stream::named(&stream).unwrap(), seq), hash)).collect()
}

pub fn by_postgres(postgres: &Postgres) -> Records {
    let mut records = Records::new();
    for row in postgres.psql(ROWS).lines() {
        let columns: Vec<&str> = row.splitn(5, '|').collect();
        let [epoch, stream, seq, hash, line] = columns[..] else { panic!("{row}") };
        assert_eq!(Digest::of(line.as_bytes()).to_string(), hash, "{row} is not what it says");
        let key = (epoch.to_owned(), Stream::named(stream).unwrap(), seq.parse().unwrap());
        assert_eq!(records.insert(key, hash.parse().unwrap()), None, "{row} is there twice");
    }
    records
}
