//! The Modbus/TCP side: frames in, answers out. One meter of each plant answers badly at times.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::mood::{self, Mood};
use super::registers::{Exception, Meters};
use crate::clock::Clock;
use crate::model::Timestamp;
use crate::sources::template::Function;

/// One port: the units behind it are the meters from `first` on.
pub(super) struct Port {
    pub meters: Arc<Meters>,
    pub first: usize,
    pub clock: Clock,
}

/// Connections held on one port. One more is closed as soon as it comes, as small gateways do.
const CONNECTIONS: usize = 64;
/// Late answers that one connection holds back. One more is never given.
const HELD_BACK: usize = 16;
/// Transaction, protocol and length (Modbus Messaging on TCP/IP, section 3.1.3).
const HEADER: usize = 6;
/// Unit and PDU.
const LONGEST: usize = 254;

/// Accepts until stopped.
pub(super) async fn serve(listener: TcpListener, port: Arc<Port>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < CONNECTIONS => {
                    let (port, stop) = (port.clone(), stop.clone());
                    connections.spawn(async move {
                        // A client that goes away, or talks no Modbus, concerns nobody else.
                        converse(stream, &port, &stop).await.ok();
                    });
                }
                Ok((stream, _)) => drop(stream),
                // No file descriptor is free: wait until some are closed.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
        }
    }
    while connections.join_next().await.is_some() {}
}

/// Answers one connection, until the client closes it.
async fn converse(mut stream: TcpStream, port: &Port, stop: &CancellationToken) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut asked = vec![0; 4 * (HEADER + LONGEST)];
    let mut filled = 0;
    let mut answers = Vec::new();
    let mut late: Vec<(Instant, Vec<u8>)> = Vec::new();
    loop {
        let due = late.iter().map(|(due, _)| *due).min();
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            read = stream.read(&mut asked[filled..]) => match read? {
                0 => return Ok(()),
                read => filled += read,
            },
        }
        let mut used = 0;
        while let Some(frame) = first_frame(&asked[used..filled])? {
            used += frame.len();
            match port.answer(frame) {
                Reply::Now(answer) => answers.extend(answer),
                Reply::After(wait, answer) if late.len() < HELD_BACK => late.push((Instant::now() + wait, answer)),
                Reply::After(..) | Reply::Never => {}
            }
        }
        asked.copy_within(used..filled, 0);
        filled -= used;
        let now = Instant::now();
        late.retain(|(due, answer)| {
            let wait = *due > now;
            if !wait {
                answers.extend(answer);
            }
            wait
        });
        stream.write_all(&answers).await?;
        answers.clear();
    }
}

/// The frame at the start of `bytes`, if all of it is there.
fn first_frame(bytes: &[u8]) -> io::Result<Option<&[u8]>> {
    let Some(header) = bytes.get(..HEADER) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[2..4] != [0, 0] || !(2..=LONGEST).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(bytes.get(..HEADER + length))
}

enum Reply {
    Now(Vec<u8>),
    After(Duration, Vec<u8>),
    Never,
}

impl Port {
    fn answer(&self, frame: &[u8]) -> Reply {
        let (unit, pdu) = (frame[HEADER], &frame[HEADER + 1..]);
        let now = self.clock.now();
        // Units count from 1; nobody is unit 0.
        let index = usize::from(unit).checked_sub(1).map_or(usize::MAX, |unit| self.first + unit);
        let mood = mood::of(index, now);
        let answer = match mood {
            Mood::Silent => return Reply::Never,
            Mood::Busy => Err(Exception::Busy),
            Mood::Well | Mood::Slow(_) => self.registers(index, pdu, now),
        };
        let mut answered = frame[..4].to_vec();
        let pdu = match answer {
            Ok(words) => {
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
                [vec![pdu[0], u8::try_from(bytes.len()).unwrap_or(u8::MAX)], bytes].concat()
            }
            Err(exception) => vec![pdu[0] | 0x80, exception as u8],
        };
        answered.extend(u16::try_from(pdu.len() + 1).unwrap_or(u16::MAX).to_be_bytes());
        answered.push(unit);
        answered.extend(pdu);
        match mood {
            Mood::Slow(wait) => Reply::After(wait, answered),
            _ => Reply::Now(answered),
        }
    }

    fn registers(&self, index: usize, pdu: &[u8], now: Timestamp) -> Result<Vec<u16>, Exception> {
        let function = match pdu[0] {
            3 => Function::Holding,
            4 => Function::Input,
            _ => return Err(Exception::IllegalFunction),
        };
        let [_, a, b, c, d] = *pdu else { return Err(Exception::IllegalValue) };
        self.meters.read(index, function, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]), now)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio_modbus::client::{Context, tcp};
    use tokio_modbus::prelude::{ExceptionCode, Reader, Slave, SlaveContext};

    use super::super::plant::Plant;
    use super::super::registers::tests::template;
    use super::*;

    /// A Wednesday noon at which every meter is well.
    const NOON: Timestamp = Timestamp::from_millis(1_795_003_320_000);

    struct Served {
        address: SocketAddr,
        clock: Clock,
        stop: CancellationToken,
        tasks: JoinSet<()>,
    }

    async fn served(meters: usize) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (clock, stop) = (Clock::manual(NOON), CancellationToken::new());
        let meters = Arc::new(Meters::new(Plant::new(1, 0), meters, &[template()]));
        let port = Arc::new(Port { meters, first: 0, clock: clock.clone() });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, port, stop.clone()));
        Served { address, clock, stop, tasks }
    }

    async fn connect(served: &Served, unit: u8) -> Context {
        tcp::connect_slave(served.address, Slave(unit)).await.unwrap()
    }

    #[tokio::test]
    async fn a_modbus_client_reads_units_and_is_told_what_it_may_not() {
        let mut served = served(3).await;
        let mut client = connect(&served, 2).await;
        let words = client.read_input_registers(0, 6).await.unwrap().unwrap();
        let volts = f32::from_bits(u32::from(words[0]) << 16 | u32::from(words[1]));
        assert!((215.0..245.0).contains(&volts), "{volts}");
        assert_eq!(client.read_input_registers(6, 1).await.unwrap(), Err(ExceptionCode::IllegalDataAddress));
        assert_eq!(client.read_input_registers(0, 41).await.unwrap(), Err(ExceptionCode::IllegalDataValue));
        assert_eq!(client.read_coils(0, 1).await.unwrap(), Err(ExceptionCode::IllegalFunction));
        for nobody in [0, 4, 255] {
            client.set_slave(Slave(nobody));
            assert_eq!(client.read_input_registers(0, 2).await.unwrap(), Err(ExceptionCode::GatewayTargetDevice));
        }
        client.set_slave(Slave(3));
        assert_eq!(client.read_holding_registers(10, 8).await.unwrap().unwrap().len(), 8);
        served.stop.cancel();
        served.tasks.join_next().await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn frames_may_come_in_pieces_and_in_heaps() {
        let served = served(1).await;
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let ask = |id: u8| [0, id, 0, 0, 0, 6, 1, 4, 0, 0, 0, 2];
        let mut asked: Vec<u8> = (0..100).flat_map(ask).collect();
        for byte in asked.drain(..15) {
            stream.write_all(&[byte]).await.unwrap();
        }
        stream.write_all(&asked).await.unwrap();
        let mut answer = [0; 13];
        for id in 0..100 {
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer[..9], [0, id, 0, 0, 0, 7, 1, 4, 4]);
        }
    }

    #[tokio::test]
    async fn what_is_no_modbus_ends_its_own_connection_only() {
        let served = served(1).await;
        let mut client = connect(&served, 1).await;
        for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 1, 0, 0, 0, 1, 1], &[0, 1, 0, 0, 1, 0, 1]] {
            let mut stream = TcpStream::connect(served.address).await.unwrap();
            stream.write_all(garbage).await.unwrap();
            // Closed, with or without a reset.
            assert_eq!(stream.read(&mut [0; 16]).await.unwrap_or(0), 0);
        }
        assert!(client.read_input_registers(0, 2).await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_port_holds_so_many_connections_and_no_more() {
        let served = served(1).await;
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut client = connect(&served, 1).await;
            assert!(client.read_input_registers(0, 2).await.unwrap().is_ok());
            held.push(client);
        }
        let mut extra = connect(&served, 1).await;
        assert!(extra.read_input_registers(0, 2).await.is_err());
        assert!(held[0].read_input_registers(0, 2).await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn the_flaky_meter_has_moods_and_the_others_none() {
        let served = served(4).await;
        let start = NOON.as_millis() - NOON.as_millis().rem_euclid(1_200_000) + 1_200_000;
        let at = |second: i64| served.clock.advance_to(Timestamp::from_millis(start + second * 1_000));
        let mut flaky = connect(&served, 4).await;
        at(510);
        let mut frames = TcpStream::connect(served.address).await.unwrap();
        frames.write_all(&[0, 1, 0, 0, 0, 6, 4, 4, 0, 0, 0, 2, 0, 2, 0, 0, 0, 6, 3, 4, 0, 0, 0, 2]).await.unwrap();
        let mut answer = [0; 13];
        frames.read_exact(&mut answer).await.unwrap();
        assert_eq!((answer[1], answer[6]), (2, 3), "unit 4 is silent and unit 3 answers");
        at(901);
        assert_eq!(flaky.read_input_registers(0, 2).await.unwrap(), Err(ExceptionCode::ServerDeviceBusy));
        at(1_000);
        assert!(flaky.read_input_registers(0, 2).await.unwrap().is_ok());
    }
}
