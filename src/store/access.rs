//! Who may come in: PINs, TOTP, recovery codes, the set-up code, lock-outs and API tokens. A change is one transaction
//! with its entry in the log; what is looked at with each request is held in memory as it was last committed.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use tokio::sync::watch;
use utoipa::ToSchema;

use super::evidence::Evidence;
use super::{Bearer, Ledger, Reader, Scope, StoreError, blocking, log, mutex, read, write};
use crate::model::{Actor, Digest, Timestamp};

/// Each is compared with every token that comes, so there are not too many.
const TOKENS: usize = 100;
/// When a token was last used is kept no finer than this: a write for every request would wear out the flash.
const USE_MS: i64 = 3_600_000;

/// Step from version 7 to 8 of `evidence.db`.
pub const SCHEMA: &str = "
    -- `phc` is the hash with its salt and parameters.
    CREATE TABLE pins (role TEXT PRIMARY KEY, phc TEXT NOT NULL, since INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    -- `last_step` is the newest step whose code was taken: none is taken twice.
    CREATE TABLE totp (
        id INTEGER PRIMARY KEY CHECK (id = 1), secret BLOB NOT NULL, since INTEGER NOT NULL, last_step INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE recovery_codes (sha256 BLOB PRIMARY KEY, used INTEGER) STRICT, WITHOUT ROWID;
    CREATE TABLE setup_code (id INTEGER PRIMARY KEY CHECK (id = 1), sha256 BLOB NOT NULL) STRICT;
    -- Of one source of guesses, and of all together under the name ''. `wait` and `forget` are ms from the start on.
    CREATE TABLE lockouts (
        source TEXT PRIMARY KEY, failures INTEGER NOT NULL, wait INTEGER NOT NULL, forget INTEGER NOT NULL,
        untold INTEGER NOT NULL, known INTEGER
    ) STRICT, WITHOUT ROWID;
    ALTER TABLE tokens ADD COLUMN made_by TEXT;
    ALTER TABLE tokens ADD COLUMN last_used INTEGER;
    CREATE INDEX audit_entries ON entries (epoch, idx) WHERE kind = 5;
";

/// What whoever signs in with a PIN may do: a viewer reads, an admin does everything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Viewer,
    Admin,
}

impl Role {
    pub const ALL: [Self; 2] = [Self::Viewer, Self::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Admin => "admin",
        }
    }

    pub fn scope(self) -> Scope {
        match self {
            Self::Viewer => Scope::Read,
            Self::Admin => Scope::Admin,
        }
    }
}

impl Scope {
    pub const ALL: [Self; 4] = [Self::Read, Self::Ingest, Self::Export, Self::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Ingest => "ingest",
            Self::Export => "export",
            Self::Admin => "admin",
        }
    }
}

/// The hash of a PIN (a PHC string). Its salt makes it another one each time, also of the same PIN.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptPin {
    pub phc: Arc<str>,
    pub since: Timestamp,
}

#[derive(Clone, PartialEq, Eq)]
pub struct KeptTotp {
    pub secret: Vec<u8>,
    pub since: Timestamp,
    pub last_step: u64,
}

/// What signing in is checked against.
#[derive(Clone, Default)]
pub struct Access {
    pub pins: BTreeMap<Role, KeptPin>,
    /// Asked of the admin.
    pub totp: Option<KeptTotp>,
    pub setup_code: Option<Digest>,
    /// Those that were not used yet.
    recovery: Vec<Digest>,
    tokens: Vec<(Digest, Token)>,
}

impl Access {
    pub fn pin(&self, role: Role) -> Option<&KeptPin> {
        self.pins.get(&role)
    }

    pub fn recovery_left(&self) -> usize {
        self.recovery.len()
    }

    /// Whether this is a recovery code that was not used yet. Compares with all of them, in constant time.
    pub fn has_recovery(&self, code: &Digest) -> bool {
        let is = |known: &Digest| bool::from(known.as_bytes().ct_eq(code.as_bytes()));
        self.recovery.iter().fold(false, |found, known| found | is(known))
    }
}

/// An API token, without the token itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Token {
    pub id: i64,
    pub name: String,
    pub scope: Scope,
    pub created: Timestamp,
    /// Absent for one that was made by an earlier version.
    pub by: Option<String>,
    pub last_used: Option<Timestamp>,
}

/// Wrong guesses of one source, or of all under the empty name. Times are ms from now on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lockout {
    pub source: String,
    pub failures: u32,
    /// Nothing more is looked at until then.
    pub wait_ms: u64,
    /// The failures are forgotten then.
    pub forget_ms: u64,
    /// Guesses that the log does not tell of yet.
    pub untold: u64,
    /// An admin has signed in from there; the larger, the later.
    pub known: Option<u64>,
}

/// What the admin shows beside the PIN.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Second {
    /// TOTP is off, or it is a viewer.
    Nothing,
    /// The code of this step.
    Step(u64),
    Recovery(Digest),
}

/// Something that changes who may come in, or that somebody did.
#[derive(Clone, PartialEq, Debug)]
pub enum AccessChange {
    /// The admin's first PIN, by the set-up code.
    SetUp {
        phc: String,
    },
    Pin {
        role: Role,
        phc: String,
    },
    NoPin {
        role: Role,
    },
    /// `step` is that of the code by which it was confirmed.
    Totp {
        secret: Vec<u8>,
        step: u64,
        recovery: Vec<Digest>,
    },
    NoTotp,
    /// A new set-up code; of no use once there is a PIN.
    SetupCode {
        code: Digest,
    },
    SignIn {
        role: Role,
        second: Second,
    },
    SignOut {
        role: Role,
    },
    /// An admin ends somebody's session.
    EndSession {
        role: Role,
        of: String,
    },
    Token {
        name: String,
        scope: Scope,
        token: Digest,
    },
    /// All of this name, since earlier versions did not keep names apart.
    NoToken {
        name: String,
    },
    NoTokenOf {
        id: i64,
    },
    /// Lock-outs as they stand now, and what the log is to tell of guesses.
    Lockouts {
        all: Vec<Lockout>,
        told: Option<(&'static str, Value)>,
    },
}

/// Why a change was not made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AccessRefused {
    #[error("there is a PIN already: sign in with it, or set another with `meterseal pin set`")]
    PinExists,
    #[error("the {} has no PIN", .0.as_str())]
    NoPin(Role),
    #[error("TOTP is on already: switch it off first")]
    TotpOn,
    #[error("TOTP is off")]
    TotpOff,
    /// The code was right, and was shown before.
    #[error("this code was used before: wait for the next one")]
    CodeUsed,
    #[error("there is no token `{0}`")]
    NoToken(String),
    #[error("there is a token `{0}` already: revoke it first, or take another name")]
    TokenExists(String),
    #[error("there are {TOKENS} tokens, which are as many as there may be: revoke those that nobody uses")]
    TokensFull,
}

/// An entry of the log that says what somebody did.
#[derive(Clone, PartialEq, Debug)]
pub struct AuditEntry {
    pub place: AuditPlace,
    pub epoch: String,
    pub time: Timestamp,
    pub action: String,
    pub by: String,
    pub detail: Value,
}

/// The number of an epoch in this store, and the index in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct AuditPlace {
    pub epoch: i64,
    pub index: u64,
}

impl Reader {
    /// What signing in is checked against, as it was last committed.
    pub fn access(&self) -> Arc<Access> {
        read(&self.shared.access).clone()
    }

    /// Changes whenever a PIN, TOTP or a token does.
    pub fn access_changed(&self) -> watch::Receiver<u64> {
        self.shared.access_changed.subscribe()
    }

    /// Whose token this is; `None` for an unknown one. Compares its digest with all of them in constant time, and
    /// remembers that it was used.
    pub fn bearer_of(&self, token: &str) -> Option<Bearer> {
        let digest = Digest::of(token.as_bytes());
        let access = self.access();
        let mut found = None;
        for (known, token) in &access.tokens {
            if bool::from(known.as_bytes().ct_eq(digest.as_bytes())) {
                found = Some(token);
            }
        }
        let Token { id, name, scope, .. } = found?;
        mutex(&self.shared.tokens_used).insert(*id, self.shared.clock.now());
        Some(Bearer { name: name.clone(), scope: *scope })
    }

    /// What the bearer of this token may do; `None` for an unknown one.
    pub fn scope_of(&self, token: &str) -> Option<Scope> {
        self.bearer_of(token).map(|bearer| bearer.scope)
    }

    /// The API tokens, the oldest first.
    pub fn tokens(&self) -> Vec<Token> {
        let used = mutex(&self.shared.tokens_used).clone();
        let latest = |token: &Token| used.get(&token.id).copied().max(token.last_used);
        let access = self.access();
        access.tokens.iter().map(|(_, token)| Token { last_used: latest(token), ..token.clone() }).collect()
    }

    /// Lock-outs as they were last kept.
    pub async fn lockouts(&self) -> Result<Vec<Lockout>, StoreError> {
        self.evidence(lockouts).await
    }

    /// What was done, of all epochs, the newest first; what came before `before` when it is given. Also what is not
    /// signed yet: who has just changed something must find it.
    pub async fn audit(&self, before: Option<AuditPlace>, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
        self.evidence(move |connection| audit(connection, before, limit)).await
    }
}

impl Ledger {
    /// Makes a change, with its entry in the log. Of a new token its row is returned.
    pub async fn change_access(
        &self,
        change: AccessChange,
        by: Actor,
    ) -> Result<Result<Option<Token>, AccessRefused>, StoreError> {
        let shared = self.shared.clone();
        blocking(move || {
            let now = shared.clock.now();
            let done = shared.write_evidence(|evidence: &mut Evidence| {
                let work = |connection: &mut Connection| {
                    let transaction = connection.transaction()?;
                    let made = match apply(&transaction, &change, &by, now) {
                        Ok(made) => made,
                        Err(Stopped::Refused(refused)) => return Ok(Err(refused)),
                        Err(Stopped::Sql(error)) => return Err(error),
                    };
                    transaction.commit()?;
                    if !matches!(change, AccessChange::Lockouts { .. } | AccessChange::SignOut { .. }) {
                        *write(&shared.access) = Arc::new(access(connection)?);
                    }
                    Ok(Ok(made))
                };
                work(&mut evidence.connection).map_err(|error| evidence.fault(error))
            })?;
            shared.access_changed.send_modify(|count| *count += 1);
            Ok(done)
        })
        .await
    }

    /// Keeps when tokens were last used, where that is news.
    pub async fn keep_token_use(&self) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        blocking(move || {
            let used = mutex(&shared.tokens_used).clone();
            let is_news = |kept: Option<Timestamp>, used: Timestamp| {
                kept.is_none_or(|kept| !(0..USE_MS).contains(&used.millis_since(kept)))
            };
            let known = read(&shared.access).clone();
            let news: Vec<(i64, Timestamp)> = known
                .tokens
                .iter()
                .filter_map(|(_, token)| {
                    let used = *used.get(&token.id)?;
                    is_news(token.last_used, used).then_some((token.id, used))
                })
                .collect();
            if news.is_empty() {
                return Ok(());
            }
            shared.write_evidence(|evidence| {
                let work = |connection: &mut Connection| {
                    let transaction = connection.transaction()?;
                    for (id, used) in &news {
                        transaction
                            .execute("UPDATE tokens SET last_used = ?2 WHERE id = ?1", params![id, used.as_millis()])?;
                    }
                    transaction.commit()?;
                    *write(&shared.access) = Arc::new(access(connection)?);
                    Ok(())
                };
                work(&mut evidence.connection).map_err(|error| evidence.fault(error))
            })
        })
        .await
    }
}

/// What ends a change before its commit.
enum Stopped {
    Refused(AccessRefused),
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for Stopped {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<AccessRefused> for Stopped {
    fn from(refused: AccessRefused) -> Self {
        Self::Refused(refused)
    }
}

fn apply(
    transaction: &Transaction<'_>,
    change: &AccessChange,
    by: &Actor,
    now: Timestamp,
) -> Result<Option<Token>, Stopped> {
    let tell = |action: &str, detail: Value| log::tell(transaction, (now, action, by), detail);
    match change {
        AccessChange::SetUp { phc } => {
            if has_pin(transaction, Role::Admin)? {
                return Err(AccessRefused::PinExists.into());
            }
            keep_pin(transaction, Role::Admin, phc, now)?;
            tell("set-up", json!({}))?;
        }
        AccessChange::Pin { role, phc } => {
            keep_pin(transaction, *role, phc, now)?;
            tell("pin-set", json!({ "role": role }))?;
        }
        AccessChange::NoPin { role } => {
            if transaction.execute("DELETE FROM pins WHERE role = ?1", [role.as_str()])? == 0 {
                return Err(AccessRefused::NoPin(*role).into());
            }
            tell("pin-revoke", json!({ "role": role }))?;
        }
        AccessChange::Totp { secret, step, recovery } => {
            let sql = "INSERT OR IGNORE INTO totp VALUES (1, ?1, ?2, ?3)";
            if transaction.execute(sql, params![secret, now.as_millis(), step.cast_signed()])? == 0 {
                return Err(AccessRefused::TotpOn.into());
            }
            transaction.execute("DELETE FROM recovery_codes", [])?;
            for code in recovery {
                transaction.execute("INSERT INTO recovery_codes VALUES (?1, NULL)", [code.as_bytes()])?;
            }
            tell("totp-on", json!({}))?;
        }
        AccessChange::NoTotp => {
            if transaction.execute("DELETE FROM totp", [])? == 0 {
                return Err(AccessRefused::TotpOff.into());
            }
            transaction.execute("DELETE FROM recovery_codes", [])?;
            tell("totp-off", json!({}))?;
        }
        AccessChange::SetupCode { code } => {
            transaction.execute("INSERT OR REPLACE INTO setup_code VALUES (1, ?1)", [code.as_bytes()])?;
        }
        AccessChange::SignIn { role, second } => {
            let by_what = use_second(transaction, second, now)?;
            tell("sign-in", json!({ "role": role, "second": by_what }))?;
        }
        AccessChange::SignOut { role } => tell("sign-out", json!({ "role": role }))?,
        AccessChange::EndSession { role, of } => tell("session-end", json!({ "role": role, "of": of }))?,
        AccessChange::Token { name, scope, token } => {
            let made = make_token(transaction, (name, *scope, token), &by.name, now)?;
            tell("token-create", json!({ "id": made.id, "name": name, "scope": scope }))?;
            return Ok(Some(made));
        }
        AccessChange::NoToken { name } => {
            if transaction.execute("DELETE FROM tokens WHERE name = ?1", [name])? == 0 {
                return Err(AccessRefused::NoToken(name.clone()).into());
            }
            tell("token-revoke", json!({ "name": name }))?;
        }
        AccessChange::NoTokenOf { id } => {
            let mut deleted = transaction.prepare("DELETE FROM tokens WHERE id = ?1 RETURNING name")?;
            let name: Option<String> = deleted.query_row([id], |row| row.get(0)).optional()?;
            let name = name.ok_or_else(|| AccessRefused::NoToken(id.to_string()))?;
            tell("token-revoke", json!({ "id": id, "name": name }))?;
        }
        AccessChange::Lockouts { all, told } => {
            keep_lockouts(transaction, all)?;
            if let Some((action, detail)) = told {
                tell(action, detail.clone())?;
            }
        }
    }
    Ok(None)
}

fn has_pin(connection: &Connection, role: Role) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM pins WHERE role = ?1")?.exists([role.as_str()])
}

/// The set-up code has served once there is an admin.
fn keep_pin(transaction: &Transaction<'_>, role: Role, phc: &str, now: Timestamp) -> rusqlite::Result<()> {
    let values = params![role.as_str(), phc, now.as_millis()];
    transaction.execute("INSERT OR REPLACE INTO pins VALUES (?1, ?2, ?3)", values)?;
    if role == Role::Admin {
        transaction.execute("DELETE FROM setup_code", [])?;
    }
    Ok(())
}

/// Uses up a code; how it is told.
fn use_second(transaction: &Transaction<'_>, second: &Second, now: Timestamp) -> Result<Option<&'static str>, Stopped> {
    let (used, told) = match second {
        Second::Nothing => return Ok(None),
        Second::Step(step) => {
            let sql = "UPDATE totp SET last_step = ?1 WHERE last_step < ?1";
            (transaction.execute(sql, [step.cast_signed()])?, "totp")
        }
        Second::Recovery(code) => {
            let sql = "UPDATE recovery_codes SET used = ?2 WHERE sha256 = ?1 AND used IS NULL";
            (transaction.execute(sql, params![code.as_bytes(), now.as_millis()])?, "recovery")
        }
    };
    if used == 0 { Err(AccessRefused::CodeUsed.into()) } else { Ok(Some(told)) }
}

fn make_token(
    transaction: &Transaction<'_>,
    (name, scope, token): (&str, Scope, &Digest),
    by: &str,
    now: Timestamp,
) -> Result<Token, Stopped> {
    if transaction.prepare("SELECT 1 FROM tokens WHERE name = ?1")?.exists([name])? {
        return Err(AccessRefused::TokenExists(name.to_owned()).into());
    }
    let count: i64 = transaction.query_row("SELECT count(*) FROM tokens", [], |row| row.get(0))?;
    if usize::try_from(count).unwrap_or(usize::MAX) >= TOKENS {
        return Err(AccessRefused::TokensFull.into());
    }
    transaction.execute(
        "INSERT INTO tokens (name, scope, sha256, created, made_by) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![name, scope.as_str(), token.as_bytes(), now.as_millis(), by],
    )?;
    let id = transaction.last_insert_rowid();
    Ok(Token { id, name: name.to_owned(), scope, created: now, by: Some(by.to_owned()), last_used: None })
}

fn keep_lockouts(transaction: &Transaction<'_>, all: &[Lockout]) -> rusqlite::Result<()> {
    let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    transaction.execute("DELETE FROM lockouts", [])?;
    let mut insert = transaction.prepare_cached("INSERT INTO lockouts VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    for Lockout { source, failures, wait_ms, forget_ms, untold, known } in all {
        insert.execute(params![
            source,
            failures,
            whole(*wait_ms),
            whole(*forget_ms),
            whole(*untold),
            known.map(whole)
        ])?;
    }
    Ok(())
}

fn lockouts(connection: &Connection) -> rusqlite::Result<Vec<Lockout>> {
    let mut statement =
        connection.prepare_cached("SELECT source, failures, wait, forget, untold, known FROM lockouts")?;
    let whole = |number: i64| u64::try_from(number).unwrap_or(0);
    let rows = statement.query_map([], |row| {
        Ok(Lockout {
            source: row.get(0)?,
            failures: row.get(1)?,
            wait_ms: whole(row.get(2)?),
            forget_ms: whole(row.get(3)?),
            untold: whole(row.get(4)?),
            known: row.get::<_, Option<i64>>(5)?.map(whole),
        })
    })?;
    rows.collect()
}

/// What signing in is checked against, from its rows.
pub fn access(connection: &Connection) -> rusqlite::Result<Access> {
    let time = |millis: i64| Timestamp::from_millis(millis);
    let mut pins = BTreeMap::new();
    for role in Role::ALL {
        let mut statement = connection.prepare_cached("SELECT phc, since FROM pins WHERE role = ?1")?;
        let pin = statement.query_row([role.as_str()], |row| {
            Ok(KeptPin { phc: row.get::<_, String>(0)?.into(), since: time(row.get(1)?) })
        });
        pins.extend(pin.optional()?.map(|pin| (role, pin)));
    }
    let mut statement = connection.prepare_cached("SELECT secret, since, last_step FROM totp")?;
    let totp = statement.query_row([], |row| {
        let last_step = row.get::<_, i64>(2)?.cast_unsigned();
        Ok(KeptTotp { secret: row.get(0)?, since: time(row.get(1)?), last_step })
    });
    let mut statement = connection.prepare_cached("SELECT sha256 FROM recovery_codes WHERE used IS NULL")?;
    let recovery =
        statement.query_map([], |row| row.get(0).map(Digest::from_bytes))?.collect::<rusqlite::Result<_>>()?;
    let mut statement = connection.prepare_cached("SELECT sha256 FROM setup_code")?;
    let setup_code = statement.query_row([], |row| row.get::<_, [u8; 32]>(0)).optional()?;
    Ok(Access {
        pins,
        totp: totp.optional()?,
        recovery,
        setup_code: setup_code.map(Digest::from_bytes),
        tokens: tokens(connection)?,
    })
}

fn tokens(connection: &Connection) -> rusqlite::Result<Vec<(Digest, Token)>> {
    let mut statement = connection
        .prepare_cached("SELECT sha256, id, name, scope, created, made_by, last_used FROM tokens ORDER BY id")?;
    let rows = statement.query_map([], |row| {
        let scope: String = row.get(3)?;
        let token = Token {
            id: row.get(1)?,
            name: row.get(2)?,
            // What is not known may do the least.
            scope: Scope::ALL.into_iter().find(|known| known.as_str() == scope).unwrap_or(Scope::Read),
            created: Timestamp::from_millis(row.get(4)?),
            by: row.get(5)?,
            last_used: row.get::<_, Option<i64>>(6)?.map(Timestamp::from_millis),
        };
        Ok((Digest::from_bytes(row.get(0)?), token))
    })?;
    rows.collect()
}

fn audit(connection: &Connection, before: Option<AuditPlace>, limit: usize) -> rusqlite::Result<Vec<AuditEntry>> {
    // By the index of these entries alone: a log has a million others between them.
    let mut statement = connection.prepare_cached(
        "SELECT entries.epoch, idx, time, record, epochs.epoch FROM entries INDEXED BY audit_entries
         JOIN epochs ON number = entries.epoch
         WHERE kind = 5 AND (entries.epoch, idx) < (?1, ?2) ORDER BY entries.epoch DESC, idx DESC LIMIT ?3",
    )?;
    let (epoch, index) = before.map_or((i64::MAX, i64::MAX), |place| (place.epoch, place.index.cast_signed()));
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![epoch, index, limit], |row| {
        let record: String = row.get(3)?;
        let mut record: Value =
            serde_json::from_str(&record).map_err(|_| log::torn("an entry of the log is not written as it must be"))?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(AuditEntry {
            place: AuditPlace { epoch: row.get(0)?, index: row.get::<_, i64>(1)?.cast_unsigned() },
            epoch: row.get(4)?,
            time: Timestamp::from_millis(row.get(2)?),
            action: text(&record["action"]),
            by: text(&record["by"]),
            detail: record["detail"].take(),
        })
    })?;
    rows.collect()
}
