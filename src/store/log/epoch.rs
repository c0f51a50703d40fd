//! Epochs and what is signed of them. A private key is read here and nowhere else.

use std::collections::BTreeMap;
use std::ops::Range;

use ed25519_dalek::SigningKey;
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::json;

use super::{append, random, rows};
use crate::model::entry::{self, EntryKind, Reason};
use crate::model::note::{Checkpoint, SignedCheckpoint, VerifierKey};
use crate::model::{Digest, SiteId, Stream, Timestamp};
use crate::store::{Identity, backup, events, jobs, ledger, upstream};

/// A new epoch that is wanted.
#[derive(Clone, Debug)]
pub struct Succession {
    /// Any but [`Reason::Init`].
    pub reason: Reason,
    /// The site from now on; `None` when it stays.
    pub site: Option<SiteId>,
    /// The newest checkpoint that others hold, as a signed note.
    pub last_outside: Option<String>,
    /// Others hold what contradicts this store, as is found while it is open: all that came since it was opened belongs to
    /// the new epoch, also what was signed meanwhile.
    pub since_open: bool,
}

/// How far all was when the store was opened, or when an epoch began for what came since then.
#[derive(Clone, Default, Debug, PartialEq)]
pub struct Since {
    epoch: i64,
    /// The size of that epoch.
    size: u64,
    next_seq: u64,
    events: BTreeMap<Stream, u64>,
}

impl Since {
    /// As it is now; `next_seq` is that of the next reading.
    pub fn now(connection: &Connection, next_seq: u64) -> rusqlite::Result<Self> {
        let (epoch, size): (i64, i64) =
            connection.query_row("SELECT number, size FROM epochs ORDER BY number DESC LIMIT 1", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        let newest = |stream| Ok((stream, events::newest(connection, stream)?));
        let events = events::STREAMS.into_iter().map(newest).collect::<rusqlite::Result<_>>()?;
        Ok(Self { epoch, size: size.cast_unsigned(), next_seq, events })
    }
}

/// Whether this store alone goes on from what it holds. If not, another image of it may have signed a longer log of the
/// old epoch, and so nothing more of that one is signed here.
fn is_alone(reason: Reason) -> bool {
    matches!(reason, Reason::KeyRotation | Reason::Site)
}

/// What an epoch is opened with.
pub struct Opened {
    pub identity: Identity,
    pub public: [u8; 32],
    pub reason: Reason,
}

/// The current epoch.
struct Current {
    number: i64,
    size: u64,
    root: Digest,
    identity: Identity,
    public: [u8; 32],
}

/// Opens an epoch. Leaf 0 says why, and after what: old origin, last checkpoint here, last one outside.
pub fn open(
    connection: &Connection,
    opened: &Opened,
    (old_origin, last_local, last_outside): (Option<&str>, Option<&str>, Option<&str>),
    now: Timestamp,
) -> rusqlite::Result<()> {
    let Opened { identity, public, reason } = opened;
    connection.execute(
        "INSERT INTO epochs (epoch, site, gateway, public, opened, reason, size, frontier)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, x'')",
        params![identity.epoch, identity.site.as_str(), identity.gateway, public, now.as_millis(), reason.as_str()],
    )?;
    for (name, value) in [("site", identity.site.as_str()), ("gateway", &identity.gateway), ("epoch", &identity.epoch)]
    {
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?1, ?2)", params![name, value])?;
    }
    let record = entry::succession(*reason, old_origin, last_local, last_outside);
    append(connection, now, |log| log.record(EntryKind::Succession, record)).map(|_| ())
}

/// Who keeps the store, as its marks say.
pub fn kept_identity(connection: &Connection) -> rusqlite::Result<Identity> {
    let text = |name: &str| -> rusqlite::Result<String> {
        connection.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0))
    };
    let site = text("site")?;
    let site = site.parse().map_err(|_| rows::torn(&format!("`{site}` is no site id")))?;
    Ok(Identity { site, gateway: text("gateway")?, epoch: text("epoch")? })
}

/// The gateway's id by its first public key.
pub fn gateway_of(public: &[u8; 32]) -> String {
    hex(&Digest::of(public).as_bytes()[..16])
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn current(connection: &Connection) -> rusqlite::Result<Current> {
    let identity = kept_identity(connection)?;
    let (number, public, epoch): (i64, [u8; 32], String) =
        connection.query_row("SELECT number, public, epoch FROM epochs ORDER BY number DESC LIMIT 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    if epoch != identity.epoch {
        return Err(rows::torn("the current epoch is not the newest one"));
    }
    let (size, root) = super::Appender::open(connection, Timestamp::default())?.head();
    Ok(Current { number, size, root, identity, public })
}

/// A backup that was made without it has zeros in its place.
fn has_key(connection: &Connection, public: &[u8; 32]) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM keys WHERE public = ?1 AND private <> zeroblob(32)";
    Ok(connection.query_row(sql, [public], |_| Ok(())).optional()?.is_some())
}

fn key_of(connection: &Connection, public: &[u8; 32]) -> rusqlite::Result<SigningKey> {
    let private: Option<[u8; 32]> =
        connection.query_row("SELECT private FROM keys WHERE public = ?1", [public], |row| row.get(0)).optional()?;
    let private = private.filter(|bytes| *bytes != [0; 32]);
    private.map(|bytes| SigningKey::from_bytes(&bytes)).ok_or_else(|| rows::torn("the key of the log is not there"))
}

/// The checkpoint of all that the current epoch holds. It is durable before anybody sees it, and one that was signed at
/// this size is returned as it was.
pub fn checkpoint(connection: &Connection, now: Timestamp) -> rusqlite::Result<SignedCheckpoint> {
    let transaction = connection.unchecked_transaction()?;
    let current = current(&transaction)?;
    let note = sign(&transaction, &current, None, now)?;
    transaction.commit()?;
    Ok(note)
}

/// Signs the epoch as it is, within a transaction; also with the key of a successor, under its origin.
fn sign(
    connection: &Connection,
    current: &Current,
    successor: Option<(&str, &SigningKey)>,
    now: Timestamp,
) -> rusqlite::Result<SignedCheckpoint> {
    if let Some(signed) = stored(connection, current.number, Some(current.size))? {
        return Ok(signed);
    }
    let origin = current.identity.origin();
    let key = key_of(connection, &current.public)?;
    let head = Checkpoint { origin: origin.clone(), size: current.size, root: current.root };
    let keys: Vec<_> = [(origin.as_str(), &key)].into_iter().chain(successor).collect();
    let signed = SignedCheckpoint::sign(head, &keys);
    // Of each UTC day the last one stays, and those that something names: any other can be made anew from the tiles.
    connection.execute(
        "DELETE FROM checkpoints WHERE epoch = ?1 AND named = 0 AND signed / 86400000 = ?2 / 86400000
         AND size = (SELECT max(size) FROM checkpoints WHERE epoch = ?1)",
        params![current.number, now.as_millis()],
    )?;
    connection.execute(
        "INSERT INTO checkpoints VALUES (?1, ?2, ?3, 0, ?4)",
        params![current.number, current.size.cast_signed(), now.as_millis(), signed.note()],
    )?;
    Ok(signed)
}

/// The newest checkpoint of an epoch, or that of a size.
pub fn stored(connection: &Connection, epoch: i64, size: Option<u64>) -> rusqlite::Result<Option<SignedCheckpoint>> {
    let mut statement = connection.prepare_cached(
        "SELECT note FROM checkpoints WHERE epoch = ?1 AND (?2 IS NULL OR size = ?2) ORDER BY size DESC LIMIT 1",
    )?;
    let note: Option<String> =
        statement.query_row(params![epoch, size.map(u64::cast_signed)], |row| row.get(0)).optional()?;
    let read = |note: String| note.parse().map_err(|error| rows::torn(&format!("a checkpoint: {error}")));
    note.map(read).transpose()
}

/// Ends the current epoch and opens the next one, in one transaction. Seqs go on counting; readings belong to it from
/// `next_seq` on, which none has yet.
pub fn succeed(
    connection: &Connection,
    wish: &Succession,
    (next_seq, since): (u64, &Since),
    now: Timestamp,
) -> rusqlite::Result<Identity> {
    if wish.reason == Reason::Init {
        return Err(rusqlite::Error::InvalidParameterName("a store is made once".to_owned()));
    }
    let transaction = connection.unchecked_transaction()?;
    let mut old = current(&transaction)?;
    let old_origin = old.identity.origin();
    let mut identity = Identity { epoch: hex(&random::<8>()?), ..old.identity.clone() };
    if let Some(site) = &wish.site {
        identity.site = site.clone();
    }
    let mut public = old.public;
    // A backup need not have the key: whoever goes on from that is another gateway.
    let is_other = wish.reason == Reason::Clone || !is_alone(wish.reason) && !has_key(&transaction, &old.public)?;
    if wish.reason == Reason::KeyRotation || is_other {
        let key = SigningKey::from_bytes(&random()?);
        public = key.verifying_key().to_bytes();
        if is_other {
            identity.gateway = gateway_of(&public);
        }
        transaction
            .execute("INSERT INTO keys VALUES (?1, ?2, ?3)", params![public, key.to_bytes(), now.as_millis()])?;
    }
    let last_local = if wish.reason == Reason::KeyRotation {
        let origin = identity.origin();
        let new_key = VerifierKey::new(&*origin, public).to_string();
        let record = json!({"new_key": new_key, "new_origin": origin});
        append(&transaction, now, |log| log.record(EntryKind::Key, record))?;
        old = current(&transaction)?;
        Some(sign(&transaction, &old, Some((&origin, &key_of(&transaction, &public)?)), now)?)
    } else if is_alone(wish.reason) {
        Some(sign(&transaction, &old, None, now)?)
    } else {
        stored(&transaction, old.number, None)?
    };
    let signed = last_local.as_ref().map_or(0, |note| note.checkpoint.size);
    transaction.execute(
        "UPDATE checkpoints SET named = 1 WHERE epoch = ?1 AND size = ?2",
        params![old.number, signed.cast_signed()],
    )?;
    if public != old.public {
        // What it signed stays; it signs nothing more.
        transaction.execute("DELETE FROM keys WHERE public = ?1", [old.public])?;
    }
    let note = last_local.map(|note| note.note());
    let opened = Opened { identity, public, reason: wish.reason };
    open(&transaction, &opened, (Some(&old_origin), note.as_deref(), wish.last_outside.as_deref()), now)?;
    let epoch: i64 = transaction.query_row("SELECT max(number) FROM epochs", [], |row| row.get(0))?;
    let mut stretches = Vec::new();
    if wish.since_open {
        stretches = signed_since(&transaction, since, &old, signed)?;
        upstream::set_epoch_of_readings(&transaction, (since.next_seq, None), epoch)?;
        for (stream, newest) in &since.events {
            transaction.execute(
                "UPDATE events SET epoch = ?3 WHERE stream = ?1 AND seq > ?2",
                params![stream.as_str(), newest.cast_signed(), epoch],
            )?;
        }
    } else {
        upstream::set_epoch_of_readings(&transaction, (next_seq, None), epoch)?;
    }
    backup::forget_restored(&transaction)?;
    stretches.push((old.number, signed..old.size));
    for (number, indices) in stretches {
        carry_over(&transaction, number, indices, &opened.identity.epoch, now)?;
    }
    transaction.commit()?;
    Ok(opened.identity)
}

/// The entries that were made since then and are signed, by epoch: what was not signed when its epoch ended stands in the
/// next one again.
fn signed_since(
    connection: &Connection,
    since: &Since,
    old: &Current,
    signed: u64,
) -> rusqlite::Result<Vec<(i64, Range<u64>)>> {
    let mut stretches = Vec::new();
    for number in since.epoch..old.number {
        let size: Option<i64> =
            connection.query_row("SELECT max(size) FROM checkpoints WHERE epoch = ?1", [number], |row| row.get(0))?;
        stretches.push((number, 0..size.unwrap_or(0).cast_unsigned()));
    }
    stretches.push((old.number, 0..signed));
    if let Some((_, indices)) = stretches.first_mut().filter(|(number, _)| *number == since.epoch) {
        indices.start = since.size;
    }
    Ok(stretches)
}

/// Logs again, in the epoch that is now the current one, what a former one holds: what nobody could prove there, or what
/// others may contradict.
fn carry_over(
    connection: &Connection,
    former: i64,
    indices: Range<u64>,
    current: &str,
    now: Timestamp,
) -> rusqlite::Result<()> {
    append(connection, now, |log| {
        // Leaf 0 is the former epoch's own.
        for index in indices.start.max(1)..indices.end {
            let row = rows::entry_row(connection, former, index)?;
            let row = row.ok_or_else(|| rows::torn("an entry of the log is missing"))?;
            // So is what ends it.
            if row.kind == EntryKind::Key {
                continue;
            }
            let (epoch, next) = log.next();
            match (row.committed(connection)?, &row.meter) {
                (rows::Subject::Block(block), Some((number, ..))) => {
                    if !ledger::is_logged_at(connection, *number, &block, (former, index))? {
                        continue;
                    }
                    log.block(&block, *number)?;
                    ledger::mark_block(connection, *number, &block, epoch, next)?;
                }
                (rows::Subject::Commissioning { id, record }, Some((number, name, _))) => {
                    log.commissioning(id, (*number, name), record)?;
                    ledger::mark_commissioning(connection, id, epoch, next)?;
                }
                (rows::Subject::Record(record), None) => {
                    if let Some(dataset) = record["dataset"].as_str().filter(|_| row.kind == EntryKind::Dataset) {
                        log.name_dataset(dataset, next)?;
                        jobs::dataset_is_at(connection, dataset, (current, next), now)?;
                    }
                    log.record(row.kind, record)?;
                }
                _ => return Err(rows::torn("an entry of the log is of another meter than its record")),
            }
        }
        Ok(())
    })
}
