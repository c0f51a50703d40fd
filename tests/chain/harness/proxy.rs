//! Stands before a node and changes what it says.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use super::{Node, post};

pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    /// Of the node that is asked.
    port: AtomicU16,
    lies: Mutex<BTreeMap<String, Arc<Lie>>>,
    asked: Mutex<Vec<Asked>>,
}

/// From the question and the answer of the node (a whole one, with `result` or `error`) to what is said.
type Lie = dyn Fn(&Asked, Value) -> Told + Send + Sync;

/// A question.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub params: Value,
}

/// What the proxy does.
pub enum Told {
    /// A whole answer; its id is that of the question unless it has one of its own.
    Answer(Value),
    Status(u16, String),
    /// The first so many bytes, and then the end.
    Cut(usize, Value),
    /// So many bytes of JSON.
    Huge(usize),
    /// Nothing, until the other side goes.
    Hang,
}

impl Told {
    pub fn result(result: Value) -> Self {
        Self::Answer(json!({ "jsonrpc": "2.0", "result": result }))
    }

    pub fn error(code: i64, message: &str) -> Self {
        Self::Answer(json!({ "jsonrpc": "2.0", "error": { "code": code, "message": message } }))
    }
}

/// How nodes refuse a transaction: bor (as geth), and Erigon.
pub mod words {
    pub const KNOWN: [&str; 2] = ["already known", "existing tx with same hash"];
    pub const NONCE_TOO_LOW: [&str; 2] = ["nonce too low: next nonce 7, tx nonce 6", "nonce too low"];
    pub const TOO_CHEAP_TO_REPLACE: [&str; 2] =
        ["replacement transaction underpriced", "could not replace existing tx"];
    pub const TOO_CHEAP: [&str; 2] =
        ["transaction underpriced: gas tip cap 1, minimum needed 25000000000", "underpriced"];
    pub const NO_FUNDS: [&str; 2] =
        ["insufficient funds for gas * price + value: balance 0, tx cost 9, overshot 9", "insufficient funds"];
}

impl Proxy {
    /// Says what the node says.
    pub fn start(node: &Node) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared =
            Arc::new(Shared { port: AtomicU16::new(node.port), lies: Mutex::default(), asked: Mutex::default() });
        let serving = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = serving.clone();
                // Whoever asked sees that the connection ends.
                thread::spawn(move || shared.serve(stream).ok());
            }
        });
        Self { port, shared }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on another node is asked.
    pub fn turn_to(&self, node: &Node) {
        self.shared.port.store(node.port, Ordering::SeqCst);
    }

    /// What is said to `method` from now on, from what the node says.
    pub fn lie(&self, method: &str, lie: impl Fn(&Asked, Value) -> Told + Send + Sync + 'static) {
        self.shared.lies.lock().unwrap().insert(method.to_owned(), Arc::new(lie));
    }

    /// The same lie to every method.
    pub fn lie_always(&self, lie: impl Fn(&Asked, Value) -> Told + Send + Sync + 'static) {
        self.lie("", lie);
    }

    /// Says what the node says.
    pub fn be_honest(&self) {
        self.shared.lies.lock().unwrap().clear();
    }

    /// All questions about `method`, in their order.
    pub fn asked(&self, method: &str) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().iter().filter(|asked| asked.method == method).cloned().collect()
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut stream = stream;
        while let Some(body) = request(&mut reader)? {
            let question: Value = serde_json::from_slice(&body)?;
            let asked = Asked {
                method: question["method"].as_str().unwrap_or_default().to_owned(),
                params: question["params"].clone(),
            };
            self.asked.lock().unwrap().push(asked.clone());
            let truth: Value = serde_json::from_slice(&post(self.port.load(Ordering::SeqCst), &body)?)?;
            let lie = {
                let lies = self.lies.lock().unwrap();
                lies.get(&asked.method).or_else(|| lies.get("")).cloned()
            };
            let told = match lie {
                Some(lie) => lie(&asked, truth),
                None => Told::Answer(truth),
            };
            let whole = |mut answer: Value| {
                if answer.get("id").is_none() {
                    answer["id"] = question["id"].clone();
                }
                answer.to_string().into_bytes()
            };
            match told {
                Told::Answer(answer) => write_answer(&mut stream, 200, &whole(answer))?,
                Told::Status(status, body) => write_answer(&mut stream, status, body.as_bytes())?,
                Told::Cut(bytes, answer) => {
                    let mut all = Vec::new();
                    write_answer(&mut all, 200, &whole(answer))?;
                    return stream.write_all(&all[..bytes.min(all.len() - 1)]);
                }
                Told::Huge(bytes) => {
                    let mut body = whole(json!({ "result": "" }));
                    body.resize(bytes, b' ');
                    write_answer(&mut stream, 200, &body)?;
                }
                Told::Hang => {
                    io::copy(&mut reader, &mut io::sink())?;
                }
            }
        }
        Ok(())
    }
}

/// The body of the next request; none at the end.
fn request(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Vec<u8>>> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(body))
}

fn write_answer(stream: &mut impl io::Write, status: u16, body: &[u8]) -> io::Result<()> {
    let length = body.len();
    write!(stream, "HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n")?;
    stream.write_all(body)?;
    stream.flush()
}
