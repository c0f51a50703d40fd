//! The files of the page, as a browser fetches them.

use std::io::Read as _;

use flate2::read::GzDecoder;
use reqwest::Method;

use crate::plant::Plant;

/// Address and bytes of every file, read from where they are declared.
fn files() -> Vec<(String, Vec<u8>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/web/");
    let source = std::fs::read_to_string(format!("{folder}page.rs")).unwrap();
    let file = |declared: &str| {
        let (path, rest) = declared.split_once('"').unwrap();
        let name = rest.split_once("packed!(\"").unwrap().1.split_once('"').unwrap().0;
        (path.to_owned(), std::fs::read(format!("{folder}{name}")).unwrap())
    };
    let list = source.split_once("static FILES").unwrap().1;
    let found: Vec<_> = list.split("File::new(\"").skip(1).map(file).collect();
    assert!(found.len() > 4, "{found:?}");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_is_public_and_known_again_by_its_tag() {
    let plant = Plant::start().await;
    for (path, bytes) in files() {
        let plain = plant.send(plant.request(&path)).await;
        assert_eq!((plain.status, plain.text.as_bytes()), (200, &bytes[..]), "{path}");
        assert!(plain.header("etag").starts_with('"'), "{path}: a strong tag");
        assert_eq!((plain.header("content-encoding"), plain.header("vary")), ("", "accept-encoding"), "{path}");
        assert_eq!(plain.header("cache-control"), "no-cache", "{path}");
        assert!(plain.header("content-type").contains('/'), "{path}");

        let answer = plant.request(&path).header("accept-encoding", "gzip, br").send().await.unwrap();
        let (headers, packed) = (answer.headers().clone(), answer.bytes().await.unwrap());
        if let Some(coding) = headers.get("content-encoding") {
            assert_eq!(coding, "gzip", "{path}");
            assert_ne!(headers["etag"], plain.header("etag"), "{path}: two forms under one strong tag");
            let mut unpacked = Vec::new();
            GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).unwrap();
            assert_eq!(unpacked, bytes, "{path}");
        } else {
            assert_eq!(packed, bytes, "{path}");
        }

        for tag in [plain.header("etag"), headers["etag"].to_str().unwrap()] {
            let again = plant.send(plant.request(&path).header("if-none-match", tag)).await;
            assert_eq!((again.status, again.text.as_str()), (304, ""), "{path}");
            assert_eq!(again.header("etag"), plain.header("etag"), "{path}");
            assert_eq!(again.header("cache-control"), "no-cache", "{path}");
        }
        let other = plant.send(plant.request(&path).header("if-none-match", "\"of-an-older-version\"")).await;
        assert_eq!(other.status, 200, "{path}");

        let head = plant.send(plant.method(Method::HEAD, &path)).await;
        assert_eq!((head.status, head.text.as_str()), (200, ""), "{path}");
        assert_eq!(head.header("content-length"), bytes.len().to_string(), "{path}");
        assert_eq!(head.header("etag"), plain.header("etag"), "{path}");
        let posted = plant.send(plant.post(&path)).await;
        assert_eq!(posted.status, 405, "{path}");
    }
    plant.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_style_sheet_is_sent_compressed_to_who_takes_it() {
    let plant = Plant::start().await;
    let answer = plant.request("/page.css").header("accept-encoding", "gzip").send().await.unwrap();
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let refused = plant.request("/page.css").header("accept-encoding", "gzip;q=0").send().await.unwrap();
    assert!(!refused.headers().contains_key("content-encoding"));
    plant.end().await;
}

/// A browser fetches a view's files when it is first shown, and the chart library with the first chart.
#[tokio::test(flavor = "multi_thread")]
async fn all_of_the_page_is_less_than_250_kilobytes() {
    const BYTES: usize = 250_000;
    let plant = Plant::start().await;
    let mut sent = 0;
    for (path, _) in files() {
        let request = plant.request(&path).header("accept-encoding", "gzip");
        sent += request.send().await.unwrap().bytes().await.unwrap().len();
    }
    assert!((10_000..BYTES).contains(&sent), "{sent} bytes");
    plant.end().await;
}
