//! Statements: how texts are quoted in them, and transactions. All statements are sent in the simple protocol, or end
//! within their transaction, so that poolers may give each transaction another connection.

use tokio_postgres::{Client, Error};

/// A name in double quotes.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text in single quotes, whatever the server makes of backslashes.
pub fn literal(text: &str) -> String {
    format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// What holds within each of our transactions, whatever the server, the role or a pooler says: what was committed is
/// durable, nothing waits long for a lock, and a line that broke unseen does not hold ours for hours.
const SETTINGS: &str = "SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') \
    WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true), set_config('lock_timeout', '5s', true), \
    set_config('idle_in_transaction_session_timeout', '60s', true), set_config('tcp_keepalives_idle', '15', true), \
    set_config('tcp_keepalives_interval', '5', true), set_config('tcp_keepalives_count', '3', true)";

/// Begins a transaction, and says what holds in it.
pub fn begin(statement_timeout_ms: u128) -> String {
    format!("BEGIN; {SETTINGS}, set_config('statement_timeout', '{statement_timeout_ms}', true)")
}

/// Does this in a transaction of its own, which is given up when it fails.
pub async fn transaction<T>(client: &Client, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    client.simple_query(&begin(60_000)).await?;
    match work.await {
        Ok(done) => {
            client.simple_query("COMMIT").await?;
            Ok(done)
        }
        Err(error) => {
            // Whether that works or not, the error before it is the one to tell.
            client.simple_query("ROLLBACK").await.ok();
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_ends_its_quotes() {
        assert_eq!(literal(r"a'b\'; DROP"), r" E'a''b\\''; DROP'");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
    }
}
