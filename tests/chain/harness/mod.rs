//! A real node of the Ethereum kind (anvil), and a proxy before it that can lie. Other test programs take it in by
//! `#[path = "../chain/harness/mod.rs"]`.

#![allow(dead_code, unused_imports, reason = "not all of the tests that share this folder use all of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod node;
mod proxy;

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

pub use node::{ACCOUNT, KEY, Mining, Node, OTHERS, number};
pub use proxy::{Asked, Proxy, Told, words};

/// Nothing here takes as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes a block at the node on this port, which another process may have started.
pub fn mine(port: u16) {
    post(port, br#"{"jsonrpc":"2.0","id":1,"method":"anvil_mine","params":["0x1"]}"#)
        .expect("the node does not answer");
}

/// The body of the answer to a body that is posted.
fn post(port: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    write!(
        stream,
        "POST / HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(answer.split_off(head + 4))
}
