//! The network of these tests does what is asked of it, and says what it did.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::proxy::{Faults, Line, Proxy, Tally};

/// Sends back what it is sent, and how much that was when its client has said all.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let (mut stream, mut chunk, mut all) = (stream.unwrap(), [0; 4_096], 0);
                while let Ok(size @ 1..) = stream.read(&mut chunk) {
                    all += size;
                    stream.write_all(&chunk[..size]).ok();
                }
                write!(stream, "{all}").ok();
            });
        }
    });
    address
}

/// What comes back of so many bytes, and whether the connection ended in order.
fn said(network: &Proxy, bytes: usize) -> (usize, bool) {
    let mut stream = TcpStream::connect(network.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut writing = stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        writing.write_all(&vec![b'x'; bytes]).and_then(|()| writing.shutdown(std::net::Shutdown::Write)).is_ok()
    });
    let mut answer = Vec::new();
    let is_whole = stream.read_to_end(&mut answer).is_ok();
    writer.join().unwrap();
    (answer.len(), is_whole)
}

#[test]
fn a_network_without_faults_changes_nothing() {
    let network = Proxy::start(echo(), Faults::default(), 1);
    assert_eq!(said(&network, 1_000_000), (1_000_007, true));
    assert_eq!(network.tally(), Tally { connections: 1, ..Tally::default() });
}

#[test]
fn a_network_cuts_truncates_delays_and_repeats() {
    let faults = Faults {
        end_one_in: 2,
        within_bytes: 100_000,
        within: Duration::from_millis(20),
        delay_one_in: 20,
        delay: Duration::from_millis(2),
        replay_one_in: 2,
    };
    let network = Proxy::start(echo(), faults, 2);
    let whole = (0..60).filter(|_| said(&network, 100_000) == (100_006, true)).count();
    let began = Instant::now();
    // What is said again is counted when its answers are through.
    while network.tally().replayed < 10 {
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", network.tally());
        sleep(Duration::from_millis(5));
    }
    let Tally { connections, cut, truncated, delayed, .. } = network.tally();
    assert_eq!(connections, 60);
    assert!(cut > 5 && truncated > 0 && delayed > 5, "{:?}", network.tally());
    assert!((10..56).contains(&whole), "{whole} got through");
}

#[test]
fn a_line_goes_down_and_dark_and_up_again() {
    let network = Proxy::start(echo(), Faults::default(), 3);
    let mut open = TcpStream::connect(network.address()).unwrap();
    open.write_all(b"a").unwrap();
    open.read_exact(&mut [0]).unwrap();
    network.line(Line::Dark);
    open.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    open.write_all(b"b").unwrap();
    assert!(open.read(&mut [0]).is_err_and(|silence| silence.kind() == std::io::ErrorKind::WouldBlock));
    network.line(Line::Down);
    open.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert!(open.read(&mut [0]).is_err_and(|end| end.kind() == std::io::ErrorKind::ConnectionReset));
    assert_eq!(said(&network, 10).0, 0);
    network.line(Line::Up);
    assert_eq!(said(&network, 10), (12, true));
}
