//! What the database holds of this gateway: looked up on each connection, and its checkpoints.

use tokio_postgres::{Client, Error, SimpleQueryMessage, SimpleQueryRow};

use super::sql::{self, identifier, literal};
use super::{Receiver, Session, schema};
use crate::model::note::SignedCheckpoint;
use crate::model::{Digest, Position, Stream, Unsent};
use crate::store::Identity;
use crate::upstream::receiver::{NOTES, Opened, Witness};

impl Receiver {
    /// Makes what is missing, and asks how far it is. Of cursors only those of the current epoch tell: one of an earlier
    /// epoch may lie beyond where that ended, where the store was put back; then the store's own position holds, which
    /// lies no further than what arrived, and what is sent again is known by its key.
    pub(super) async fn look(&self, session: &mut Session, identity: &Identity) -> Result<Opened, Error> {
        schema::ensure(&session.client, &self.config.schema).await?;
        let id = self.number(session, identity, &identity.epoch).await?;
        let schema = identifier(&self.config.schema);
        let (gateway, upstream) = (literal(&identity.gateway), literal(&self.name));
        let ask = format!(
            "SELECT stream, live::text, open::text FROM {schema}.cursors WHERE gateway = {id} AND upstream = {upstream}; \
             SELECT DISTINCT ON (c.gateway) c.note FROM {schema}.checkpoints c JOIN {schema}.gateways g \
             ON g.id = c.gateway WHERE g.gateway = {gateway} ORDER BY c.gateway DESC, c.size DESC LIMIT {NOTES}"
        );
        let mut opened = Opened::default();
        for row in rows(&session.client.simple_query(&ask).await?) {
            match (row.len(), row.get(0)) {
                (1, Some(note)) => opened.held.extend(note.parse::<SignedCheckpoint>()),
                (_, Some(name)) => {
                    let Some(stream) = Stream::named(name) else { continue };
                    let position = position(row.get(1), row.get(2));
                    opened.positions.extend(position.clone().map(|position| (stream, position)));
                    session.cursors.insert((id, stream), position);
                }
                _ => {}
            }
        }
        for (epoch, stream) in &self.seen {
            if *epoch == identity.epoch {
                opened.positions.entry(*stream).or_default();
            }
        }
        Ok(opened)
    }

    /// The number of one of the gateway's epochs, given now if it has none.
    pub(super) async fn number(&self, session: &mut Session, identity: &Identity, epoch: &str) -> Result<i32, Error> {
        if let Some(id) = session.gateways.get(epoch) {
            return Ok(*id);
        }
        // An epoch that is past may have begun under another site; where its rows were never seen here, nobody knows.
        let origin = Identity { epoch: epoch.to_owned(), ..identity.clone() }.origin();
        let add = format!(
            "INSERT INTO {}.gateways AS g (gateway, epoch, site, origin) VALUES ({}, {}, {}, {}) \
             ON CONFLICT (gateway, epoch) DO UPDATE SET last_seen = now() RETURNING id",
            identifier(&self.config.schema),
            literal(&identity.gateway),
            literal(epoch),
            literal(identity.site.as_str()),
            literal(&origin),
        );
        let answer = sql::transaction(&session.client, session.client.simple_query(&add)).await?;
        let id = rows(&answer).next().and_then(|row| row.get(0)?.parse().ok()).unwrap_or_default();
        session.gateways.insert(epoch.to_owned(), id);
        Ok(id)
    }

    /// Keeps the checkpoint, if it goes on from the highest one; says which is the highest then.
    pub(super) async fn hand_over(
        &self,
        session: &mut Session,
        identity: &Identity,
        witness: &Witness,
    ) -> Result<Option<SignedCheckpoint>, Error> {
        let id = self.number(session, identity, &identity.epoch).await?;
        let client = &session.client;
        let schema = identifier(&self.config.schema);
        let newest = format!("SELECT note FROM {schema}.checkpoints WHERE gateway = {id} ORDER BY size DESC LIMIT 1");
        sql::transaction(client, async {
            // Two who come for one gateway wait for one another.
            client.simple_query(&format!("SELECT id FROM {schema}.gateways WHERE id = {id} FOR UPDATE")).await?;
            let held = note(client, &newest).await?;
            let size = held.as_ref().map_or(0, |held| held.checkpoint.size);
            let new = &witness.checkpoint.checkpoint;
            if size != witness.old || new.size <= size {
                return Ok(held);
            }
            let text = witness.checkpoint.note();
            let add = format!(
                "INSERT INTO {schema}.checkpoints (gateway, size, root, note, sha256) VALUES ({id}, {}, '\\x{}', {}, '\\x{}')",
                new.size,
                new.root,
                literal(&text),
                Digest::of(text.as_bytes()),
            );
            client.simple_query(&add).await?;
            note(client, &newest).await
        })
        .await
    }
}

async fn note(client: &Client, ask: &str) -> Result<Option<SignedCheckpoint>, Error> {
    let answer = client.simple_query(ask).await?;
    Ok(rows(&answer).next().and_then(|row| row.get(0)?.parse().ok()))
}

/// The rows among the messages of an answer.
pub(super) fn rows(answer: &[SimpleQueryMessage]) -> impl Iterator<Item = &SimpleQueryRow> {
    answer.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })
}

/// A cursor, as it is kept.
pub(super) fn position(live: Option<&str>, open: Option<&str>) -> Option<Position> {
    let open: Vec<Unsent> = serde_json::from_str(open?).ok()?;
    Some(Position { live: live?.parse().ok()?, open })
}
