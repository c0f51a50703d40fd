//! The page and its files, embedded. They are public: what they show needs a sign-in.
//!
//! They lie in the program as `build.rs` packed them. A new version of the program brings a new page, so browsers ask each
//! time, and hear that nothing changed by the digest of what they have.

use std::io::Read as _;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flate2::read::GzDecoder;

use super::Web;
use crate::model::Digest;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const TEXT: &str = "text/plain; charset=utf-8";

const JSON: &str = "application/json";

/// A file of `build.rs`.
macro_rules! packed {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".gz"))
    };
}

/// The description of the API.
pub static DESCRIPTION: File = File::new("/api/openapi.json", JSON, packed!("openapi.json"));

/// Address, content type and bytes of every file.
static FILES: &[File] = &[
    File::new("/", HTML, packed!("page/index.html")),
    File::new("/page.css", CSS, packed!("page/page.css")),
    File::new("/alerts.js", JS, packed!("page/alerts.js")),
    File::new("/api.js", JS, packed!("page/api.js")),
    File::new("/app.js", JS, packed!("page/app.js")),
    File::new("/blocks.js", JS, packed!("page/blocks.js")),
    File::new("/connections.js", JS, packed!("page/connections.js")),
    File::new("/dom.js", JS, packed!("page/dom.js")),
    File::new("/evidence.js", JS, packed!("page/evidence.js")),
    File::new("/exports.js", JS, packed!("page/exports.js")),
    File::new("/find.js", JS, packed!("page/find.js")),
    File::new("/format.js", JS, packed!("page/format.js")),
    File::new("/live.js", JS, packed!("page/live.js")),
    File::new("/meter.js", JS, packed!("page/meter.js")),
    File::new("/meters.js", JS, packed!("page/meters.js")),
    File::new("/now.js", JS, packed!("page/now.js")),
    File::new("/pieces.js", JS, packed!("page/pieces.js")),
    File::new("/settings-access.js", JS, packed!("page/settings-access.js")),
    File::new("/settings-audit.js", JS, packed!("page/settings-audit.js")),
    File::new("/settings-config.js", JS, packed!("page/settings-config.js")),
    File::new("/settings-tokens.js", JS, packed!("page/settings-tokens.js")),
    File::new("/settings.js", JS, packed!("page/settings.js")),
    File::new("/setup.js", JS, packed!("page/setup.js")),
    File::new("/sign-in.js", JS, packed!("page/sign-in.js")),
    File::new("/theme.js", JS, packed!("page/theme.js")),
    File::new("/trend.js", JS, packed!("page/trend.js")),
    File::new("/upstream.js", JS, packed!("page/upstream.js")),
    File::new("/vendor/uPlot.esm.js", JS, packed!("page/vendor/uPlot.esm.js")),
    File::new("/vendor/uPlot.css", CSS, packed!("page/vendor/uPlot.css")),
    File::new("/icon.svg", SVG, packed!("page/icon.svg")),
    File::new("/licences.txt", TEXT, packed!("page/vendor/LICENCES.txt")),
];

pub struct File {
    path: &'static str,
    kind: &'static str,
    /// As RFC 1952 has it.
    packed: &'static [u8],
}

/// What each form is known by: as it is, and packed. Strong tags must differ (RFC 9110 8.8.1).
struct Tags {
    plain: HeaderValue,
    packed: HeaderValue,
}

/// A route for each file.
pub fn routes() -> Router<Web> {
    FILES.iter().fold(Router::new(), |router, file| {
        router.route(file.path, get(move |headers: HeaderMap| async move { file.answer(&headers) }))
    })
}

/// Whether there is a file at this address.
pub fn has(path: &str) -> bool {
    FILES.iter().any(|file| file.path == path)
}

impl File {
    const fn new(path: &'static str, kind: &'static str, packed: &'static [u8]) -> Self {
        Self { path, kind, packed }
    }

    pub fn answer(&self, headers: &HeaderMap) -> Response {
        let tags = Tags::of(self.packed);
        let takes_gzip = takes_gzip(headers);
        let mut response = if has_already(headers, &tags) {
            StatusCode::NOT_MODIFIED.into_response()
        } else if takes_gzip {
            let coding = (header::CONTENT_ENCODING, "gzip");
            ([(header::CONTENT_TYPE, self.kind), coding], Bytes::from_static(self.packed)).into_response()
        } else {
            ([(header::CONTENT_TYPE, self.kind)], unpacked(self.packed)).into_response()
        };
        let headers = response.headers_mut();
        headers.insert(header::ETAG, if takes_gzip { tags.packed } else { tags.plain });
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        response
    }
}

impl Tags {
    fn of(packed: &[u8]) -> Self {
        let digest = Digest::of(packed);
        // Hexadecimal digits, which any header may bear.
        let tag = |text: String| HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("\"\""));
        Self { plain: tag(format!("\"{digest}\"")), packed: tag(format!("\"{digest}-gzip\"")) }
    }
}

/// For the few who take nothing packed. What `build.rs` packed can be unpacked.
fn unpacked(packed: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    if let Err(error) = GzDecoder::new(packed).read_to_end(&mut plain) {
        tracing::error!(%error, "a file of the page is damaged in the program");
    }
    plain
}

/// Whether `Accept-Encoding` has gzip with a weight that is not 0.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let weight = |wanted: &str| {
        let given = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        given.flat_map(|value| value.split(',')).find_map(|coding| {
            let (name, weight) = coding.split_once(';').unwrap_or((coding, "q=1"));
            let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.trim().parse::<f32>().ok());
            name.trim().eq_ignore_ascii_case(wanted).then_some(weight.unwrap_or(0.0) > 0.0)
        })
    };
    weight("gzip").or_else(|| weight("*")).unwrap_or(false)
}

/// Whether `If-None-Match` names one of the forms: either says that the browser has this very file.
fn has_already(headers: &HeaderMap, tags: &Tags) -> bool {
    let named = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    named.flat_map(|value| value.split(',')).map(str::trim).any(|named| {
        let named = named.strip_prefix("W/").unwrap_or(named);
        named == "*" || [&tags.plain, &tags.packed].iter().any(|tag| tag.as_bytes() == named.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn gzip_is_for_those_who_take_it() {
        for taken in ["gzip", "br, gzip", "GZIP;q=0.5", "*", "deflate , gzip ; q=1", "br;q=1.0, *;q=0.1"] {
            assert!(takes_gzip(&with(header::ACCEPT_ENCODING, taken)), "{taken}");
        }
        for refused in ["", "br", "gzip;q=0", "gzip;q=0, *", "*;q=0", "gzip;q=x", "xgzip"] {
            assert!(!takes_gzip(&with(header::ACCEPT_ENCODING, refused)), "{refused}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[test]
    fn the_script_of_auditors_lies_where_the_page_says() {
        let (page, package) = (include_str!("page/evidence.js"), include_str!("../../packaging/install"));
        assert!(package.contains("put 755 tools/verify.py usr/share/meterseal/verify.py"));
        assert!(page.contains(" /usr/share/meterseal ") && page.contains("`python3 verify.py ${verify}`"));
    }

    #[test]
    fn a_file_that_is_there_already_is_known_by_its_tag() {
        let forms = Tags::of(b"packed");
        let (tag, packed) = (forms.plain.to_str().unwrap(), forms.packed.to_str().unwrap());
        assert_ne!(tag, packed);
        for known in [tag, packed, "*", &format!("W/{tag}"), &format!("\"other\", {packed}")] {
            assert!(has_already(&with(header::IF_NONE_MATCH, known), &forms), "{known}");
        }
        for other in ["\"other\"", tag.trim_matches('"'), ""] {
            assert!(!has_already(&with(header::IF_NONE_MATCH, other), &forms), "{other}");
        }
        assert!(!has_already(&HeaderMap::new(), &forms));
    }

    #[test]
    fn every_file_is_what_it_was_before_it_was_packed() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        for file in FILES {
            let name = if file.path == "/" { "/index.html" } else { file.path };
            let name = if name == "/licences.txt" { "/vendor/LICENCES.txt" } else { name };
            let plain = std::fs::read(folder.join(format!("src/web/page{name}"))).unwrap();
            assert_eq!(unpacked(file.packed), plain, "{name}");
            assert!(file.packed.len() < plain.len(), "{name}");
        }
        assert_eq!(unpacked(DESCRIPTION.packed), std::fs::read(folder.join("docs/openapi.json")).unwrap());
    }

    #[test]
    fn no_two_files_have_one_address() {
        let mut paths: Vec<_> = FILES.iter().map(|file| file.path).collect();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), FILES.len());
        assert!(has("/") && !has("/api/meters"));
    }
}
