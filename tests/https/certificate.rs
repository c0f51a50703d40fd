//! Certificates: theirs and ours, right and wrong.

use meterseal::upstream::https::{Config, HttpsReceiver};
use meterseal::upstream::receiver::{Fault, Receiver as _};
use meterseal::upstream::tls::Tls;
use zeroize::Zeroizing;

use crate::certificates::{Authority, Certificate};
use crate::receiver::{Options, ServerTls};
use crate::sender::{Scene, config, hashes, identity, readings};

fn scene(server: Certificate, clients: Option<&Authority>) -> Scene {
    let tls = ServerTls { chain: server.chain, key: server.key, clients: clients.map(Authority::pem) };
    Scene::with(Options { tls: Some(tls), ..Options::default() })
}

fn sender(scene: &Scene, ca: Option<&Authority>, identity: Option<Certificate>) -> HttpsReceiver {
    let identity = identity.map(|client| (client.chain, Zeroizing::new(client.key)));
    let tls = Tls { ca: ca.map(Authority::pem), identity };
    HttpsReceiver::new(&Config { tls, ..config(&scene.receiver.url) }).unwrap()
}

async fn stopped(mut sender: HttpsReceiver) -> String {
    match sender.open(&identity()).await {
        Err(Fault::Stopped(told)) => told,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_certificate_is_accepted_or_told_with_the_remedy() {
    let (known, foreign) = (Authority::new(), Authority::new());
    let good = scene(known.server("localhost"), None);
    let mut opened = sender(&good, Some(&known), None);
    opened.open(&identity()).await.unwrap();
    let batch = readings([1]);
    assert_eq!(opened.deliver(&batch).await.taken, 1);
    assert_eq!(good.receiver.records(), hashes(&batch));

    for (scene, ca, part) in [
        (scene(known.server("localhost"), None), Some(&foreign), "authority that is not known here: name its CA file"),
        (scene(known.server("localhost"), None), None, "authority that is not known here: name its CA file"),
        (scene(known.expired_server("localhost"), None), Some(&known), "has expired: have it renewed over there"),
        (scene(known.server("elsewhere.example"), None), Some(&known), "a certificate of another name"),
        (
            scene(known.as_server(), None),
            Some(&known),
            "an authority's own, and none of a server: have one made over there",
        ),
    ] {
        let told = stopped(sender(&scene, ca, None)).await;
        assert!(told.starts_with(&format!("{} shows a certificate", scene.receiver.url)), "{told}");
        assert!(told.contains(part), "{told}");
    }
}

#[tokio::test]
async fn one_that_asks_for_a_certificate_gets_ours() {
    let (known, foreign) = (Authority::new(), Authority::new());
    let scene = scene(known.server("localhost"), Some(&known));
    let mut right = sender(&scene, Some(&known), Some(known.client()));
    right.open(&identity()).await.unwrap();
    assert_eq!(right.deliver(&readings([1])).await.taken, 1);
    for (ours, part) in [
        (None, "asks for a client certificate: set `client_cert` and `client_key`"),
        (Some(foreign.client()), "does not accept our client certificate"),
        (Some(known.expired_client()), "our client certificate has expired: renew it"),
    ] {
        let told = stopped(sender(&scene, Some(&known), ours)).await;
        assert!(told.starts_with(&scene.receiver.url) && told.contains(part), "{told}");
    }
}

#[tokio::test]
async fn a_port_that_speaks_no_tls_is_told() {
    let scene = Scene::new();
    let url = scene.receiver.url.replace("http://", "https://");
    let mut sender = HttpsReceiver::new(&config(&url)).unwrap();
    let Err(Fault::Away(told)) = sender.open(&identity()).await else { panic!() };
    assert_eq!(told, format!("{url} speaks no TLS at this port: are port and scheme of the address right?"));
}
