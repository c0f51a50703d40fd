//! The page and its files, embedded. They are public: what they show needs a sign-in.
//!
//! A new version of the program brings a new page, so browsers ask each time, and hear that nothing changed by the
//! digest of what they have.

use std::io::Write as _;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::OnceCell;

use super::Web;
use super::problem::Problem;
use crate::model::Digest;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const TEXT: &str = "text/plain; charset=utf-8";

/// Address, content type and bytes of every file.
const FILES: &[File] = &[
    File::new("/", HTML, include_bytes!("page/index.html")),
    File::new("/page.css", CSS, include_bytes!("page/page.css")),
    File::new("/alerts.js", JS, include_bytes!("page/alerts.js")),
    File::new("/api.js", JS, include_bytes!("page/api.js")),
    File::new("/app.js", JS, include_bytes!("page/app.js")),
    File::new("/blocks.js", JS, include_bytes!("page/blocks.js")),
    File::new("/connections.js", JS, include_bytes!("page/connections.js")),
    File::new("/dom.js", JS, include_bytes!("page/dom.js")),
    File::new("/evidence.js", JS, include_bytes!("page/evidence.js")),
    File::new("/exports.js", JS, include_bytes!("page/exports.js")),
    File::new("/find.js", JS, include_bytes!("page/find.js")),
    File::new("/format.js", JS, include_bytes!("page/format.js")),
    File::new("/live.js", JS, include_bytes!("page/live.js")),
    File::new("/meter.js", JS, include_bytes!("page/meter.js")),
    File::new("/meters.js", JS, include_bytes!("page/meters.js")),
    File::new("/now.js", JS, include_bytes!("page/now.js")),
    File::new("/pieces.js", JS, include_bytes!("page/pieces.js")),
    File::new("/settings-access.js", JS, include_bytes!("page/settings-access.js")),
    File::new("/settings-audit.js", JS, include_bytes!("page/settings-audit.js")),
    File::new("/settings-config.js", JS, include_bytes!("page/settings-config.js")),
    File::new("/settings-tokens.js", JS, include_bytes!("page/settings-tokens.js")),
    File::new("/settings.js", JS, include_bytes!("page/settings.js")),
    File::new("/setup.js", JS, include_bytes!("page/setup.js")),
    File::new("/sign-in.js", JS, include_bytes!("page/sign-in.js")),
    File::new("/theme.js", JS, include_bytes!("page/theme.js")),
    File::new("/trend.js", JS, include_bytes!("page/trend.js")),
    File::new("/upstream.js", JS, include_bytes!("page/upstream.js")),
    File::new("/vendor/uPlot.esm.js", JS, include_bytes!("page/vendor/uPlot.esm.js")),
    File::new("/vendor/uPlot.css", CSS, include_bytes!("page/vendor/uPlot.css")),
    File::new("/icon.svg", SVG, include_bytes!("page/icon.svg")),
    File::new("/licences.txt", TEXT, include_bytes!("page/vendor/LICENCES.txt")),
];

struct File {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

/// The forms of each file, made when it is first asked for.
static FORMS: [OnceCell<Forms>; FILES.len()] = [const { OnceCell::const_new() }; FILES.len()];

/// A file as it is, and compressed. Each form has a tag of its own, as strong tags demand (RFC 9110 8.8.1).
struct Forms {
    tag: HeaderValue,
    /// Absent where it saves nothing.
    gzip: Option<(HeaderValue, Bytes)>,
}

/// A route for each file.
pub fn routes() -> Router<Web> {
    FILES.iter().zip(&FORMS).fold(Router::new(), |router, (file, forms)| {
        router.route(file.path, get(move |headers: HeaderMap| async move { file.answer(forms, &headers).await }))
    })
}

/// Whether there is a file at this address.
pub fn has(path: &str) -> bool {
    FILES.iter().any(|file| file.path == path)
}

impl File {
    const fn new(path: &'static str, kind: &'static str, bytes: &'static [u8]) -> Self {
        Self { path, kind, bytes }
    }

    async fn answer(&'static self, forms: &OnceCell<Forms>, headers: &HeaderMap) -> Result<Response, Problem> {
        let made = || async { tokio::task::spawn_blocking(|| Forms::of(self.bytes)).await };
        let forms = forms.get_or_try_init(made).await.map_err(|_| Problem::Stopping)?;
        let packed = forms.gzip.as_ref().filter(|_| takes_gzip(headers));
        let (tag, bytes) = match packed {
            Some((tag, bytes)) => (tag, bytes.clone()),
            None => (&forms.tag, Bytes::from_static(self.bytes)),
        };
        let mut response = if has_already(headers, forms) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let mut whole = ([(header::CONTENT_TYPE, self.kind)], bytes).into_response();
            if packed.is_some() {
                whole.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            whole
        };
        let headers = response.headers_mut();
        headers.insert(header::ETAG, tag.clone());
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        Ok(response)
    }
}

impl Forms {
    fn of(bytes: &[u8]) -> Self {
        let digest = Digest::of(bytes);
        // Hexadecimal digits, which any header may bear.
        let tag = |suffix: &str| HeaderValue::from_str(&format!("\"{digest}{suffix}\""));
        let tag = |suffix: &str| tag(suffix).unwrap_or(HeaderValue::from_static("\"\""));
        let gzip = gzip(bytes).filter(|packed| packed.len() < bytes.len()).map(|packed| (tag("-gzip"), packed.into()));
        Self { tag: tag(""), gzip }
    }
}

/// Writing into memory does not fail.
fn gzip(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok()
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
fn has_already(headers: &HeaderMap, forms: &Forms) -> bool {
    let tags = [Some(&forms.tag), forms.gzip.as_ref().map(|(tag, _)| tag)];
    let named = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    named.flat_map(|value| value.split(',')).map(str::trim).any(|named| {
        let named = named.strip_prefix("W/").unwrap_or(named);
        named == "*" || tags.iter().flatten().any(|tag| tag.as_bytes() == named.as_bytes())
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
    fn a_file_that_is_there_already_is_known_by_its_tag() {
        let forms = Forms::of(&[b'a'; 1_000]);
        let (tag, packed) = (forms.tag.to_str().unwrap(), forms.gzip.as_ref().unwrap().0.to_str().unwrap());
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
    fn what_does_not_shrink_is_sent_as_it_is() {
        assert!(Forms::of(b"ab").gzip.is_none());
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
