//! The WebSocket as simulators and dashboards meet it: real clients, a real store, and blocks that are sealed from it.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use meterseal::blocks;
use meterseal::model::{BlockFlag, Energy, Meter, Span, Timestamp};
use meterseal::store::Role;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::plant::{HALF_MS, NOW, Plant, at, id};
use super::{PATIENCE, assert_problem};

struct Client(WebSocketStream<TcpStream>);

impl Client {
    async fn try_connect(plant: &Plant, path: &str, token: Option<&str>) -> Result<Self, Error> {
        let bearer = token.map(|token| ("authorization", format!("Bearer {token}")));
        Self::with_headers(plant, path, bearer).await
    }

    async fn with_headers(
        plant: &Plant,
        path: &str,
        headers: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Self, Error> {
        Self::over(TcpStream::connect(plant.address).await.unwrap(), path, headers).await
    }

    async fn over(
        stream: TcpStream,
        path: &str,
        headers: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Self, Error> {
        let address = stream.peer_addr().unwrap();
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let answer = timeout(PATIENCE, client_async(request, stream)).await.unwrap();
        answer.map(|(socket, _)| Self(socket))
    }

    async fn connect(plant: &Plant, path: &str, token: &str) -> Self {
        Self::try_connect(plant, path, Some(token)).await.unwrap()
    }

    async fn say(&mut self, said: Value) {
        self.0.send(Message::text(said.to_string())).await.unwrap();
    }

    async fn next(&mut self) -> Option<Message> {
        loop {
            match timeout(PATIENCE, self.0.next()).await.expect("nothing came") {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(message)) => return Some(message),
                Some(Err(_)) | None => return None,
            }
        }
    }

    async fn hear(&mut self) -> Value {
        match self.next().await {
            Some(Message::Text(text)) => serde_json::from_str(&text).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// The next message, which must be of this type.
    async fn expect(&mut self, wanted: &str) -> Value {
        let heard = self.hear().await;
        assert_eq!(heard["type"], wanted, "{heard}");
        heard
    }

    async fn goodbye(&mut self) -> CloseFrame {
        match self.next().await {
            Some(Message::Close(Some(frame))) => frame,
            other => panic!("{other:?}"),
        }
    }

    /// Registers, and passes over what is said to that.
    async fn register(&mut self, device: &str) {
        self.say(json!({"type": "simulator:register", "deviceName": device})).await;
        self.expect("simulator:registered").await;
        self.expect("simulator:handshake-ack").await;
    }

    async fn read(&mut self, device: &str, time: Timestamp, kw: f64, interval: f64) -> Value {
        self.say(reading(device, time, kw, interval)).await;
        self.hear().await
    }
}

fn reading(device: &str, time: Timestamp, kw: f64, interval: f64) -> Value {
    json!({
        "type": "simulator:reading", "deviceId": device, "totalPowerKw": kw, "timestamp": time.as_millis(),
        "frequency": 50.02, "readingInterval": interval,
    })
}

async fn seal(plant: &Plant) {
    let config = plant.known.blocks.borrow().clone();
    blocks::seal_all_due(&config, &plant.store.reader(), &plant.store.ledger(), &plant.clock).await.unwrap();
}

fn status(refused: Result<Client, Error>) -> u16 {
    match refused {
        Err(Error::Http(answer)) => answer.status().as_u16(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was let in"),
    }
}

/// When the block of NOW began: 15:00 local time.
fn border() -> Timestamp {
    at("2026-11-21T07:00:00Z")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simulator_and_two_dashboards_talk_as_that_protocol_says() {
    let plant = Plant::start().await;
    let now = at(NOW).as_millis();
    let mut simulator = Client::connect(&plant, "/?token=ingest", "ingest").await;
    simulator.say(json!({"type": "simulator:handshake", "source": "auto"})).await;
    let ack = simulator.expect("simulator:handshake-ack").await;
    assert_eq!(
        (&ack["status"], &ack["reason"], &ack["dashboardsReady"]),
        (&json!("error"), &json!("auto"), &json!(false))
    );

    simulator
        .say(json!({
            "type": "simulator:register", "deviceName": "EMS-SIM-2", "deviceId": "other", "simulatorName": " ABC ",
            "targetPeakKwh": "200.5", "whatsappNumber": "+60123",
        }))
        .await;
    let known = json!({
        "type": "simulator:registered", "deviceId": "EMS-SIM-2", "deviceName": "EMS-SIM-2", "simulatorName": "ABC",
        "timestamp": now,
    });
    assert_eq!(simulator.hear().await, known);
    let ack = simulator.expect("simulator:handshake-ack").await;
    assert_eq!(
        (&ack["status"], &ack["reason"], &ack["dashboardsOnline"]),
        (&json!("warning"), &json!("register"), &json!(0))
    );
    assert_eq!((&ack["deviceId"], &ack["simulatorName"]), (&json!("EMS-SIM-2"), &json!("ABC")));

    // Dashboards by header and by address.
    let mut first = Client::connect(&plant, "/ws", "read").await;
    first.say(json!({"type": "dashboard:register"})).await;
    let initial = first.expect("dashboard:initial").await;
    assert_eq!(initial["timestamp"], now);
    let meter = &initial["meter"];
    let number = meter["id"].as_i64().unwrap();
    assert_eq!(
        *meter,
        json!({
            "id": number, "device_id": "EMS-SIM-2", "client_name": "ABC", "is_simulator": true, "reading_interval": 60,
            "target_peak_kwh": "200.50", "whatsapp_number": "+60123", "created_at": "2026-11-21T07:18:12.000Z",
            "updated_at": "2026-11-21T07:18:12.000Z",
        })
    );
    assert_eq!(initial["currentBlock"], Value::Null);
    assert_eq!((&initial["blocksToday"], &initial["lastTenBlocks"]), (&json!([]), &json!([])));
    let here = json!([{"deviceId": "EMS-SIM-2", "deviceName": "EMS-SIM-2", "simulatorName": "ABC", "meterId": number}]);
    assert_eq!(initial["simulators"], here);
    let all: Vec<_> = initial["allMeters"].as_array().unwrap().iter().map(|meter| &meter["device_id"]).collect();
    assert_eq!(all, ["EMS-SIM-2", "main", "total"]);
    let ack = simulator.expect("simulator:handshake-ack").await;
    assert_eq!(
        (&ack["status"], &ack["reason"], &ack["dashboardsOnline"]),
        (&json!("ok"), &json!("dashboard-joined"), &json!(1))
    );
    let mut second = Client::try_connect(&plant, &format!("/websocket?token={}", plant.token), None).await.unwrap();
    second.say(json!({"type": "dashboard:register"})).await;
    second.expect("dashboard:initial").await;
    assert_eq!(simulator.expect("simulator:handshake-ack").await["dashboardsOnline"], 2);

    // A reading: dashboards learn of it first, and the reading is durable when it is acknowledged.
    let taken = at(NOW).plus_millis(-12_000);
    simulator.say(reading("EMS-SIM-2", taken, 75.256, 30.0)).await;
    for dashboard in [&mut first, &mut second] {
        let update = dashboard.expect("dashboard:update").await;
        let reading = &update["reading"];
        assert!(reading["id"].is_u64());
        assert_eq!(
            (&reading["meter_id"], &reading["timestamp"]),
            (&json!(number), &json!(taken.as_millis().to_string()))
        );
        assert_eq!((&reading["total_power_kw"], &reading["frequency"]), (&json!("75.26"), &json!("50.02")));
        assert_eq!((&reading["reading_interval"], &update["meter"]["reading_interval"]), (&json!(30), &json!(30)));
        let info = json!({"start": "2026-11-21T07:00:00.000Z", "end": "2026-11-21T07:30:00.000Z", "isPeakHour": true});
        assert_eq!(update["blockInfo"], info);
        let block = &update["currentBlock"];
        // 75.256 kW for 12 s.
        assert_eq!((&block["total_kwh"], &block["max_power_kw"]), (&json!("0.2509"), &json!("75.26")));
        assert_eq!((&block["reading_count"], &block["is_peak_hour"]), (&json!(1), &json!(true)));
        assert_eq!(block["block_start"], "2026-11-21T07:00:00.000Z");
    }
    let ack = simulator.expect("simulator:acknowledged").await;
    assert_eq!(
        ack,
        json!({
            "type": "simulator:acknowledged", "deviceId": "EMS-SIM-2", "timestamp": now, "status": "accepted",
            "reading": {"totalPowerKw": 75.256, "timestamp": taken.as_millis()}, "dashboardsOnline": 2, "sequence": 1,
        })
    );
    let live = plant.store.reader().live();
    assert_eq!(live[&id("EMS-SIM-2")][&"power_kw".parse().unwrap()].value.to_string(), "75.256");

    // One that registers another simulator is told to all.
    let mut other = Client::connect(&plant, "/socket", &plant.token).await;
    other.register("SIM-B").await;
    for dashboard in [&mut first, &mut second] {
        let told = dashboard.expect("dashboard:simulators-updated").await;
        assert_eq!(told["simulators"][1]["deviceId"], "SIM-B");
    }
    assert_eq!(simulator.expect("simulator:handshake-ack").await["reason"], "simulator-registered");
    drop(other);
    let told = first.expect("dashboard:simulators-updated").await;
    assert_eq!(told["simulators"], here);
    first.0.close(None).await.unwrap();
    let ack = simulator.expect("simulator:handshake-ack").await;
    assert_eq!((&ack["reason"], &ack["dashboardsOnline"]), (&json!("dashboard-left"), &json!(1)));

    // Who is not registered is acknowledged without a number.
    let mut unknown = Client::connect(&plant, "/ws", "ingest").await;
    assert_eq!(unknown.read("SIM-C", at(NOW), 1.0, 60.0).await["sequence"], Value::Null);
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_at_a_border_and_one_that_is_repeated_count_once_and_no_change_of_interval_loses_any() {
    let plant = Plant::start().await;
    let mut simulator = Client::connect(&plant, "/ws", "ingest").await;
    simulator.register("SIM-A").await;
    plant.clock.advance_to(border().plus_millis(HALF_MS));
    // From 15:00:00 to 15:30:00: five minutes at 300 s, ten at 1 s … 120 s, and both borders.
    let (mut time, mut exact) = (border(), 0.0);
    for (interval, kw) in [(300.0, 60.0), (1.0, 720.0), (59.0, 36.0), (120.0, 90.0), (420.0, 12.0), (900.0, 8.0)] {
        for _ in 0..2 {
            assert_eq!(simulator.read("SIM-A", time, kw, interval).await["status"], "accepted");
        }
        exact += kw * interval / 3_600.0;
        #[allow(clippy::cast_possible_truncation)]
        let ms = (interval * 1_000.0) as i64;
        time = time.plus_millis(ms);
    }
    assert_eq!(time, border().plus_millis(HALF_MS));
    simulator.read("SIM-A", time, 1_000.0, 60.0).await;
    plant.clock.advance(Duration::from_secs(15 * 60 + 1));
    seal(&plant).await;
    let span = Span::new(border(), time.plus_millis(1)).unwrap();
    let blocks = plant.store.reader().blocks(&id("SIM-A"), span).await.unwrap();
    assert!((blocks[0].net().unwrap().to_kwh() - exact).abs() < 1e-9, "{exact}: {:?}", blocks[0]);
    assert!(blocks[0].flags.has(BlockFlag::Simulated) && blocks[0].is_peak_hour);
    assert_eq!(blocks.len(), 1, "that of the last reading runs still");
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_up_is_neither_logged_nor_sent_and_is_shown_as_simulated() {
    let plant = Plant::start().await;
    let mut simulator = Client::connect(&plant, "/ws", "ingest").await;
    simulator.register("SIM-A").await;
    let size = plant.sign().await.checkpoint.size;
    for minute in 0..40 {
        simulator.read("SIM-A", border().plus_millis(minute * 60_000), 60.0, 60.0).await;
    }
    plant.clock.advance_to(border().plus_millis(HALF_MS + 600_000));
    seal(&plant).await;
    let reader = plant.store.reader();
    let blocks = reader.blocks(&id("SIM-A"), Span::new(border(), at(NOW)).unwrap()).await.unwrap();
    assert_eq!(blocks[0].net(), Some(Energy::from_uwh(30_000_000_000)));
    assert_eq!(plant.sign().await.checkpoint.size, size, "a block that was made up is in the log");
    assert!(reader.blocks_to_send(0, 1 << 40, 10).await.unwrap().is_empty());
    assert_problem(&plant.ask("/api/proof?meter=SIM-A&block=2026-11-21T07:00:00Z").await, 404);
    // The simulator forgotten, what is sealed of it is made up still.
    let mut without = (**plant.known.blocks.borrow()).clone();
    without.meters.retain(|meter| meter.id.as_str() != "SIM-A");
    simulator.read("SIM-A", border().plus_millis(59_000), 90.0, 60.0).await;
    blocks::seal_all_due(&without, &reader, &plant.store.ledger(), &plant.clock).await.unwrap();
    let blocks = reader.blocks(&id("SIM-A"), Span::new(border(), at(NOW)).unwrap()).await.unwrap();
    assert_eq!(blocks[0].revision, 1);
    assert_eq!(plant.sign().await.checkpoint.size, size);

    let meters = plant.get("/api/meters").await;
    let shown = meters.as_array().unwrap().iter().find(|meter| meter["id"] == "SIM-A").unwrap();
    assert_eq!(
        (&shown["kind"], &shown["simulated"], &shown["power_kw"]),
        (&json!("simulator"), &json!(true), &json!(60.0))
    );
    plant.get("/api/meters/SIM-A").await;
    let rows = plant.get("/api/meters/SIM-A/readings?from=2026-11-21T07:00:00Z&to=2026-11-21T07:01:00Z").await;
    assert_eq!((&rows[0]["frequency_hz"], rows[0]["reading_interval_s"].as_f64()), (&json!(50.02), Some(60.0)));

    // The snapshot of that backend, by number, by name, and with neither.
    let old = plant.get("/api/dashboard/snapshot?deviceId=SIM-A&limit=3").await;
    let number = old["meter"]["id"].as_i64().unwrap();
    assert_eq!(old["timestamp"], plant.clock.now().as_millis());
    assert_eq!(old["readings"].as_array().unwrap().len(), 3);
    assert_eq!(old["readings"][2]["timestamp"], border().plus_millis(39 * 60_000).as_millis().to_string());
    assert_eq!(
        (&old["blocksToday"][0]["reading_count"], &old["lastTenBlocks"][0]["avg_power_kw"]),
        (&json!(30), &json!("60.02"))
    );
    assert_eq!(old["connectedSimulators"][0]["meterId"], number);
    assert_eq!(old["dashboardStats"], json!({"dashboardsOnline": 0, "dashboardsReady": false}));
    assert!(old["blockInfo"]["isPeakHour"].is_boolean());
    assert_eq!(plant.get(&format!("/api/dashboard/snapshot?meterId={number}")).await["meter"], old["meter"]);
    assert_eq!(plant.get("/api/dashboard/snapshot?meterId=main").await["meter"]["device_id"], "main");
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_let_in_without_a_token_or_does_more_than_it_says() {
    let plant = Plant::start().await;
    for path in ["/", "/ws", "/socket", "/websocket"] {
        assert_eq!(status(Client::try_connect(&plant, path, None).await), 401, "{path}");
        assert_eq!(status(Client::try_connect(&plant, &format!("{path}?token=another"), None).await), 401, "{path}");
    }
    assert_eq!(status(Client::try_connect(&plant, "/api/ws", Some("read")).await), 404);
    assert_problem(&plant.ask("/ws").await, 426);
    assert_eq!(plant.send(plant.request("/")).await.status, 200, "the page stays where it is");
    let handshake = |key: &str| {
        let request = plant.request("/ws").bearer_auth("read").header("connection", "upgrade");
        request.header("upgrade", "websocket").header("sec-websocket-version", "13").header("sec-websocket-key", key)
    };
    assert_problem(&plant.send(handshake("short")).await, 400);

    let mut reader = Client::connect(&plant, "/ws", "read").await;
    let may_not = "this token may not simulate: it needs the scope `ingest` or `admin`";
    reader.say(json!({"type": "simulator:register"})).await;
    assert_eq!(reader.expect("error").await["message"], may_not);
    assert_eq!(reader.read("SIM-A", at(NOW), 1.0, 60.0).await, json!({"type": "error", "message": may_not}));
    for scope in ["ingest", "export"] {
        let mut writer = Client::connect(&plant, "/ws", scope).await;
        writer.say(json!({"type": "dashboard:register"})).await;
        assert!(writer.expect("error").await["message"].as_str().unwrap().starts_with("this token may not read"));
    }
    assert!(plant.store.reader().meters().is_empty());
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_connects_from_its_own_page_alone_and_its_end_closes_what_it_opened() {
    let plant = Plant::start().await;
    plant.set_pin(Role::Admin, "482915").await;
    plant.set_pin(Role::Viewer, "7093158264").await;
    let signed = plant.send(plant.post("/api/session").body(json!({"pin": "7093158264"}).to_string())).await;
    assert_eq!(signed.status, 200, "{}", signed.text);
    let token = signed.json()["token"].as_str().unwrap().to_owned();
    let cookie = ("cookie", format!("meterseal_session={token}"));
    let from = |origin: String| [cookie.clone(), ("origin", origin)];
    assert_eq!(status(Client::with_headers(&plant, "/ws", [cookie.clone()]).await), 403);
    assert_eq!(status(Client::with_headers(&plant, "/ws", from("http://elsewhere.example".to_owned())).await), 403);
    let mut page = Client::with_headers(&plant, "/ws", from(plant.url(""))).await.unwrap();
    page.say(json!({"type": "dashboard:register"})).await;
    page.expect("dashboard:initial").await;
    page.say(json!({"type": "simulator:register"})).await;
    page.expect("error").await;
    let mut program = Client::connect(&plant, "/ws", &token).await;
    let ended = plant.send(plant.by("DELETE", "/api/session").bearer_auth(&token)).await;
    assert_eq!(ended.status, 204, "{}", ended.text);
    assert_eq!(u16::from(page.goodbye().await.code), 1008);
    assert_eq!(u16::from(program.goodbye().await.code), 1008);
    assert_eq!(status(Client::with_headers(&plant, "/ws", from(plant.url(""))).await), 401);
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_is_told_or_ends_the_connection() {
    let plant = Plant::start().await;
    let mut client = Client::connect(&plant, "/ws", &plant.token).await;
    client.0.send(Message::text("{")).await.unwrap();
    assert!(client.expect("error").await["message"].as_str().unwrap().starts_with("Invalid JSON"));
    client.say(json!({"type": "simulator:reading", "deviceId": "S", "totalPowerKw": "1", "timestamp": 1})).await;
    let told = client.expect("error").await;
    assert_eq!(told["message"], "Invalid simulator payload: \"totalPowerKw\" must be a number");
    // What nobody knows is passed over: the next answer is that to the next message.
    client.say(json!({"type": "meter:read"})).await;
    client.say(json!({"type": "simulator:handshake"})).await;
    assert_eq!(client.expect("simulator:handshake-ack").await["reason"], "manual");
    for (time, rule) in
        [(1_732_173_492, "lies more than 400 days back"), (at(NOW).as_millis() * 2, "lies more than a day")]
    {
        let ack = client.read("S", Timestamp::from_millis(time), 1.0, 60.0).await;
        assert_eq!(ack["status"], "error");
        assert!(ack["message"].as_str().unwrap().contains(rule), "{ack}");
    }
    // A name of this plant is no simulator's, and no more than 64 are.
    for message in ["simulator:register", "simulator:reading"] {
        client
            .say(json!({"type": message, "deviceName": "main", "totalPowerKw": 1, "timestamp": at(NOW).as_millis()}))
            .await;
        assert!(client.expect("error").await["message"].as_str().unwrap().contains("`main` is a meter of this plant"));
    }
    for device in 0..64 {
        client.register(&format!("SIM-{device}")).await;
    }
    client.say(json!({"type": "simulator:register", "deviceName": "SIM-64"})).await;
    assert!(client.expect("error").await["message"].as_str().unwrap().starts_with("64 simulators are known"));
    plant.clock.advance(Duration::from_secs(600));
    client.register("SIM-64").await;
    assert_eq!(plant.known.roster.borrow().simulators.len(), 64);

    client.0.send(Message::binary(vec![1, 2])).await.unwrap();
    assert_eq!(u16::from(client.goodbye().await.code), 1003);
    let mut client = Client::connect(&plant, "/ws", &plant.token).await;
    client.0.send(Message::text(" ".repeat(64 * 1024))).await.unwrap();
    assert!(client.expect("error").await["message"].as_str().unwrap().starts_with("Invalid JSON"));
    client.0.send(Message::text(" ".repeat(64 * 1024 + 1))).await.unwrap();
    assert_eq!(u16::from(client.goodbye().await.code), 1009);
    plant.end().await;
}

/// A figure of `/metrics`, over a connection of its own.
async fn figure(plant: &Plant, name: &str) -> usize {
    let asked = plant.request("/metrics").bearer_auth(&plant.token).header("connection", "close");
    let text = plant.send(asked).await.text;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap()
}

#[tokio::test]
async fn a_dashboard_that_does_not_read_holds_up_nobody_and_is_dropped() {
    /// What waits for one client, and the message that is being written to it.
    const HELD: usize = 32 + 1;
    let plant = Plant::start().await;
    let little = TcpSocket::new_v4().unwrap();
    little.set_recv_buffer_size(4_096).unwrap();
    let bearer = [("authorization", "Bearer read".to_owned())];
    let mut stuck = Client::over(little.connect(plant.address).await.unwrap(), "/ws", bearer).await.unwrap();
    let mut reads = Client::connect(&plant, "/ws", "read").await;
    for dashboard in [&mut stuck, &mut reads] {
        dashboard.say(json!({"type": "dashboard:register"})).await;
        dashboard.expect("dashboard:initial").await;
    }
    let mut simulator = Client::connect(&plant, "/ws", "ingest").await;
    simulator.register("SIM-A").await;
    assert_eq!(simulator.expect("simulator:handshake-ack").await["reason"], "simulator-registered");
    reads.expect("dashboard:simulators-updated").await;

    // Until the kernel holds no more for it, and what the gateway holds has given way many times.
    let (mut told, mut missed) = (0, 0);
    while missed < 10 * HELD {
        let times: Vec<_> = (told..told + 64).map(|at| border().plus_millis(at * 5_000)).collect();
        for time in &times {
            simulator.say(reading("SIM-A", *time, 60.0, 5.0)).await;
        }
        for time in &times {
            let update = reads.expect("dashboard:update").await;
            assert_eq!(update["reading"]["timestamp"], time.as_millis().to_string());
            let ack = simulator.expect("simulator:acknowledged").await;
            assert_eq!((&ack["status"], &ack["dashboardsOnline"]), (&json!("accepted"), &json!(2)));
        }
        told += 64;
        assert!(told < 16_000, "nothing gives way");
        missed = figure(&plant, "meterseal_web_socket_messages_missed_total").await;
    }
    assert_eq!(figure(&plant, "meterseal_web_socket_clients").await, 3);

    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(26)).await;
    tokio::time::resume();
    let left = simulator.expect("simulator:handshake-ack").await;
    assert_eq!((&left["reason"], &left["dashboardsOnline"]), (&json!("dashboard-left"), &json!(1)));
    let ack = simulator.read("SIM-A", border().plus_millis(told * 5_000), 60.0, 5.0).await;
    assert_eq!((&ack["status"], &ack["dashboardsOnline"]), (&json!("accepted"), &json!(1)));
    reads.expect("dashboard:update").await;

    // What reaches it yet lay in the kernel: of all others no more was held than is to be.
    let mut came = 0;
    while let Some(message) = stuck.next().await {
        came += usize::from(matches!(message, Message::Text(text) if text.contains("dashboard:update")));
    }
    assert_eq!(figure(&plant, "meterseal_web_socket_clients").await, 2);
    let gone = usize::try_from(told).unwrap() - came - missed;
    assert!(came > 0 && gone <= HELD, "{told} told, {came} came, {missed} missed");
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dashboards_are_told_of_measured_meters_too() {
    let plant = Plant::start().await;
    plant.read(at(NOW), 31_500.0, 1_000_000).await;
    let mut dashboard = Client::connect(&plant, "/ws", "read").await;
    dashboard.say(json!({"type": "dashboard:register"})).await;
    let initial = dashboard.expect("dashboard:initial").await;
    assert_eq!((&initial["meter"]["device_id"], &initial["meter"]["is_simulator"]), (&json!("main"), &json!(false)));
    let update = dashboard.expect("dashboard:update").await;
    assert_eq!((&update["meter"], &update["currentBlock"]), (&initial["meter"], &initial["currentBlock"]));
    assert_eq!(
        (&update["reading"]["total_power_kw"], &update["reading"]["meter_id"]),
        (&json!("31.50"), &initial["meter"]["id"])
    );
    plant.end().await;
}

#[tokio::test]
async fn a_client_that_keeps_silent_for_a_period_is_dropped() {
    let plant = Plant::start().await;
    let mut silent = Client::connect(&plant, "/ws", "read").await;
    let mut lives = Client::connect(&plant, "/ws", "read").await;
    let alive = async |client: &mut Client| {
        client.say(json!({"type": "simulator:handshake"})).await;
        client.expect("simulator:handshake-ack").await;
    };
    alive(&mut silent).await;
    alive(&mut lives).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(26)).await;
    tokio::time::resume();
    alive(&mut lives).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(26)).await;
    tokio::time::resume();
    alive(&mut lives).await;
    // It is told so where it still listens; what it was sent before is there.
    assert!(matches!(silent.next().await, None | Some(Message::Close(_))));
    assert!(silent.0.send(Message::text("{}")).await.is_err() || silent.next().await.is_none());
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simulator_outlives_the_page_and_gives_way_to_the_config() {
    let plant = Plant::start().await;
    let mut client = Client::connect(&plant, "/ws", "ingest").await;
    client.register("SIM-A").await;
    let number = plant.known.roster.borrow().numbers[&id("SIM-A")];
    let plant = plant.restart_web().await;
    assert_eq!(u16::from(client.goodbye().await.code), 1001);
    let mut client = Client::connect(&plant, "/ws", "ingest").await;
    client.register("SIM-A").await;
    assert_eq!(plant.known.roster.borrow().numbers[&id("SIM-A")], number);
    // A meter of the config takes the name.
    let mut known = plant.known.roster.subscribe();
    plant.measured.send_modify(|config| {
        let mut changed = (**config).clone();
        changed.meters.push(Meter { id: id("SIM-A"), ..changed.meters[0].clone() });
        *config = changed.into();
    });
    timeout(PATIENCE, known.wait_for(|known| known.simulators.is_empty())).await.unwrap().unwrap();
    let refused = client.read("SIM-A", at(NOW), 1.0, 60.0).await;
    assert!(refused["message"].as_str().unwrap().contains("is a meter of this plant"), "{refused}");
    plant.end().await;
}
