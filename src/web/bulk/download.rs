//! The manifest and the archive of a bundle. Ranges after RFC 9110 section 14: one range is answered as that, several as
//! the whole.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::PoisonError;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tracing::error;

use super::{BulkArchive, BulkNow, ReadAt, known};
use crate::model::{Artifact, Job, JobId};
use crate::store::Held;
use crate::web::Web;
use crate::web::ask::ask;
use crate::web::guard::Exporter;
use crate::web::problem::Problem;
use crate::web::query::{Asked, Named, Nothing};

/// Bytes read and sent together.
const PIECE: usize = 256 << 10;

/// A bundle that is there, and stays while it is read.
struct Found {
    id: JobId,
    folder: PathBuf,
    held: Held,
    etag: String,
}

/// The manifest of an export's bundle
#[utoipa::path(
    get,
    path = "/api/bulk/{id}/manifest",
    params(("id" = JobId, Path, description = "The export's id")),
    responses(
        (status = 200, description = "The manifest", body = Object, headers(("ETag" = String))),
        (status = 304, description = "It is as it was"),
        (status = 404, description = "There is no such export"),
        (status = 409, description = "The export is not done, or failed"),
        (status = 410, description = "The bundle was deleted"),
        (status = 500, description = "The bundle cannot be read")
    )
)]
pub async fn manifest(
    State(web): State<Web>,
    headers: HeaderMap,
    Named(id): Named,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    let Found { folder, held, etag, .. } = found(&web, &id).await?;
    if none_match(&headers, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    let text = tokio::fs::read(folder.join("manifest.json")).await.map_err(broken)?;
    drop(held);
    Ok(([(header::CONTENT_TYPE, "application/json".to_owned()), (header::ETAG, etag)], text).into_response())
}

/// All of an export's bundle as a tar archive, also in ranges
#[utoipa::path(
    get,
    path = "/api/bulk/{id}/download",
    params(("id" = JobId, Path, description = "The export's id")),
    responses(
        (status = 200, description = "The archive", content_type = "application/x-tar", body = Vec<u8>,
            headers(("ETag" = String), ("Accept-Ranges" = String), ("Content-Disposition" = String))),
        (status = 206, description = "The range that was asked for", content_type = "application/x-tar", body = Vec<u8>,
            headers(("ETag" = String), ("Content-Range" = String))),
        (status = 304, description = "It is as it was"),
        (status = 404, description = "There is no such export"),
        (status = 409, description = "The export is not done, or failed"),
        (status = 410, description = "The bundle was deleted"),
        (status = 416, description = "The range begins after the end"),
        (status = 500, description = "The bundle cannot be read")
    ),
    security(("token" = ["export"]))
)]
pub async fn download(
    State(web): State<Web>,
    method: Method,
    headers: HeaderMap,
    Exporter(by): Exporter,
    Named(id): Named,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    let Found { id, folder, held, etag } = found(&web, &id).await?;
    let archive = ask(&web.views.bulk, |reply| BulkNow::Archive { folder, reply }).await?;
    let BulkArchive { length, read_at } = archive.map_err(broken)?;
    let name = format!("attachment; filename=\"{id}.tar\"");
    let always = [
        (header::ETAG, etag.clone()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        (header::CONTENT_DISPOSITION, name),
        // The bundle never changes; who may have it can.
        (header::CACHE_CONTROL, "private, no-cache".to_owned()),
    ];
    if none_match(&headers, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, always).into_response());
    }
    let stretch = match wanted(&method, &headers, &etag, length) {
        Wanted::Whole => 0..length,
        Wanted::Part(part) => part,
        Wanted::Nothing => return Err(Problem::Range(length)),
    };
    let is_whole = stretch == (0..length);
    let status = if is_whole { StatusCode::OK } else { StatusCode::PARTIAL_CONTENT };
    let of_length = (header::CONTENT_LENGTH, (stretch.end - stretch.start).to_string());
    let kind = (header::CONTENT_TYPE, "application/x-tar".to_owned());
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        let name = by.name.clone();
        ask(&web.views.bulk, |reply| BulkNow::Download { id, by, reply }).await??;
        Sending { web: web.clone(), read_at, id, by: name, rest: stretch.clone(), length, _held: held }.into_body()
    };
    let mut response = (status, always, [of_length, kind], body).into_response();
    if !is_whole {
        let range = format!("bytes {}-{}/{length}", stretch.start, stretch.end - 1);
        let range = HeaderValue::from_str(&range).map_err(|error| broken(io::Error::other(error)))?;
        response.headers_mut().insert(header::CONTENT_RANGE, range);
    }
    Ok(response)
}

/// An archive on its way out.
struct Sending {
    web: Web,
    read_at: ReadAt,
    id: JobId,
    by: String,
    rest: Range<u64>,
    length: u64,
    _held: Held,
}

impl Sending {
    /// Whether all of the archive has gone out, now that it has from `from` up to the rest.
    fn is_whole(&self, from: u64) -> bool {
        let mut reached = self.web.reached.lock().unwrap_or_else(PoisonError::into_inner);
        reached.sent((self.id, &self.by), from..self.rest.start, self.length)
    }

    fn into_body(self) -> Body {
        Body::from_stream(stream::unfold(Some(self), |sending| async {
            let mut sending = sending?;
            if sending.rest.is_empty() {
                return None;
            }
            let (read_at, at) = (sending.read_at.clone(), sending.rest.start);
            let wanted = usize::try_from(sending.rest.end - at).unwrap_or(PIECE).min(PIECE);
            let read = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; wanted];
                read_at(at, &mut piece).map(|length| (piece, length))
            });
            match read.await.map_err(io::Error::other).and_then(|read| read) {
                Ok((mut piece, length)) if length > 0 => {
                    piece.truncate(length);
                    sending.rest.start += length as u64;
                    if sending.is_whole(at) {
                        // Should this fail, the bundle is merely kept as one that nobody has.
                        sending.web.views.bulk.send(BulkNow::Downloaded { id: sending.id }).await.ok();
                    }
                    Some((Ok::<_, io::Error>(Bytes::from(piece)), Some(sending)))
                }
                read => {
                    let cause = read.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                    error!(error = &cause as &dyn std::error::Error, id = %sending.id, "a download broke off");
                    Some((Err(cause), None))
                }
            }
        }))
    }
}

/// How far archives have gone out to somebody without a gap from their first byte on: whoever has only the end of one
/// does not have it. Ranges in another order leave a bundle as one that nobody has, which merely keeps it.
#[derive(Default)]
pub struct Reached(Vec<Reach>);

struct Reach {
    id: JobId,
    by: String,
    to: u64,
}

/// Downloads whose reach is remembered; beyond, that which rested longest is forgotten.
const REACHES: usize = 64;

impl Reached {
    /// A part went out; true when that completes the archive of this length.
    fn sent(&mut self, (id, by): (JobId, &str), part: Range<u64>, length: u64) -> bool {
        let known = self.0.iter().position(|reach| reach.id == id && reach.by == by);
        let before = known.map(|at| self.0.remove(at));
        let to = before.map_or(0, |reach| reach.to);
        let to = if part.start <= to { to.max(part.end) } else { to };
        if to < length && to > 0 {
            if self.0.len() == REACHES {
                self.0.remove(0);
            }
            self.0.push(Reach { id, by: by.to_owned(), to });
        }
        to == length
    }
}

async fn found(web: &Web, id: &str) -> Result<Found, Problem> {
    let job = known(web, id).await?;
    let id = job.id;
    let Some(Artifact { manifest_sha256, .. }) = job.artifact else { return Err(no_bundle(job)) };
    // Strong: the manifest names every byte of the parts, and the archive is made of nothing else.
    let etag = format!("\"{manifest_sha256}\"");
    match web.views.reader.bundle(id).await? {
        Some((folder, held)) => Ok(Found { id, folder, held, etag }),
        None => Err(Problem::BundleGone),
    }
}

fn no_bundle(job: Job) -> Problem {
    Problem::NoBundle {
        state: job.state.as_str(),
        why: job.error.map(|error| format!(": {error}")).unwrap_or_default(),
    }
}

fn broken(cause: io::Error) -> Problem {
    error!(error = &cause as &dyn std::error::Error, "a bundle cannot be read");
    Problem::BundleBroken
}

enum Wanted {
    Whole,
    Part(Range<u64>),
    /// The range has nothing of it.
    Nothing,
}

/// What a request wants of so many bytes.
fn wanted(method: &Method, headers: &HeaderMap, etag: &str, length: u64) -> Wanted {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    // A range of what somebody has the beginning of, unless it is another thing by now: then all of it. A date is never
    // ours, so a condition with one does not hold.
    if method != Method::GET || text(header::IF_RANGE).is_some_and(|have| have.trim() != etag) {
        return Wanted::Whole;
    }
    let Some(set) = text(header::RANGE).and_then(|range| range.trim().strip_prefix("bytes=")) else {
        return Wanted::Whole;
    };
    let Some((first, last)) = set.trim().split_once('-').filter(|_| !set.contains(',')) else { return Wanted::Whole };
    let number =
        |text: &str| text.bytes().all(|digit| digit.is_ascii_digit()).then(|| text.parse().unwrap_or(u64::MAX));
    match (first, last) {
        ("", "") => Wanted::Whole,
        ("", last) => match number(last) {
            Some(0) => Wanted::Nothing,
            Some(count) => Wanted::Part(length.saturating_sub(count)..length),
            None => Wanted::Whole,
        },
        (first, last) => match (number(first), if last.is_empty() { Some(u64::MAX) } else { number(last) }) {
            (Some(first), Some(last)) if first > last => Wanted::Whole,
            (Some(first), Some(_)) if first >= length => Wanted::Nothing,
            (Some(first), Some(last)) => Wanted::Part(first..last.saturating_add(1).min(length)),
            _ => Wanted::Whole,
        },
    }
}

/// Whether the client has it already.
fn none_match(headers: &HeaderMap, etag: &str) -> bool {
    let lists = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|known| {
        let known = known.trim();
        known == "*" || known.strip_prefix("W/").unwrap_or(known) == etag
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    #[test]
    fn a_bundle_was_downloaded_when_all_of_it_has_gone_out_in_order() {
        let id = |millis: i64| JobId::after(None, Timestamp::from_millis(millis), [0; 10]);
        let whole = |parts: &[(&str, Range<u64>)]| {
            let mut reached = Reached::default();
            let told: Vec<bool> =
                parts.iter().map(|(by, part)| reached.sent((id(1), by), part.clone(), 1_000)).collect();
            assert!(told[..told.len() - 1].iter().all(|is_whole| !is_whole), "{parts:?}");
            told[told.len() - 1]
        };
        assert!(whole(&[("a", 0..1_000)]));
        assert!(whole(&[("a", 0..400), ("a", 400..700), ("a", 700..1_000)]), "in order");
        assert!(whole(&[("a", 0..400), ("a", 300..1_000)]), "it goes on a little earlier than it broke off");
        assert!(!whole(&[("a", 999..1_000)]), "the tail only");
        assert!(!whole(&[("a", 0..400), ("a", 401..1_000)]), "with a gap");
        assert!(!whole(&[("a", 500..1_000), ("a", 0..500)]), "out of order");
        assert!(!whole(&[("a", 0..500), ("b", 500..1_000)]), "each has a half of it");
        assert!(whole(&[("a", 500..1_000), ("b", 0..500), ("a", 0..500), ("b", 400..600), ("a", 500..1_000)]));

        let mut reached = Reached::default();
        for millis in 0..1_000 {
            assert!(!reached.sent((id(millis), "a"), 0..500, 1_000));
        }
        assert!(reached.0.len() <= REACHES);
        assert!(reached.sent((id(999), "a"), 500..1_000, 1_000), "the newest are remembered");
        assert!(!reached.sent((id(0), "a"), 500..1_000, 1_000), "the oldest are not");
    }

    fn part(range: &str, if_range: Option<&str>) -> Result<Range<u64>, bool> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, range.parse().unwrap());
        if let Some(have) = if_range {
            headers.insert(header::IF_RANGE, have.parse().unwrap());
        }
        match wanted(&Method::GET, &headers, "\"e\"", 1_000) {
            Wanted::Part(part) => Ok(part),
            Wanted::Whole => Err(true),
            Wanted::Nothing => Err(false),
        }
    }

    #[test]
    fn a_range_is_read_as_rfc_9110_says() {
        for (range, wanted) in [
            ("bytes=0-499", Ok(0..500)),
            ("bytes=500-", Ok(500..1_000)),
            ("bytes=-300", Ok(700..1_000)),
            ("bytes=-3000", Ok(0..1_000)),
            ("bytes=999-99999999999999999999999", Ok(999..1_000)),
            ("bytes=1000-", Err(false)),
            ("bytes=-0", Err(false)),
            ("bytes=5-4", Err(true)),
            ("bytes=0-1,5-6", Err(true)),
            ("bytes=", Err(true)),
            ("bytes=-", Err(true)),
            ("bytes=a-b", Err(true)),
            ("rows=0-1", Err(true)),
        ] {
            assert_eq!(part(range, None), wanted, "{range}");
        }
        assert_eq!(part("bytes=1-", Some("\"e\"")), Ok(1..1_000));
        assert_eq!(part("bytes=1-", Some("\"other\"")), Err(true));
        assert_eq!(part("bytes=1-", Some("W/\"e\"")), Err(true), "a weak tag is never enough");
        assert_eq!(part("bytes=1-", Some("Sat, 21 Nov 2026 07:00:00 GMT")), Err(true));
    }

    #[test]
    fn who_has_it_is_told_so() {
        let has = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, value.parse().unwrap());
            none_match(&headers, "\"e\"")
        };
        assert!(has("\"e\"") && has("W/\"e\"") && has("\"a\", \"e\"") && has("*"));
        assert!(!has("\"a\"") && !has("e"));
    }
}
