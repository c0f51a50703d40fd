//! The public log: checkpoints and tiles (C2SP tlog-tiles) of every epoch. Nothing of it tells of energy.

use axum::extract::{Path, State};
use axum::http::{HeaderName, header};
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;

use super::Web;
use super::problem::Problem;
use super::wire::{At, Json};
use crate::model::note::SignedCheckpoint;
use crate::store::Epoch;

#[derive(Serialize, ToSchema)]
#[schema(as = Epoch)]
struct EpochView {
    epoch: String,
    origin: String,
    /// Verifier key.
    key: String,
    opened: At,
    reason: &'static str,
    /// Entries under the newest checkpoint; `None` before the first one.
    size: Option<u64>,
}

/// The epochs of the log, the oldest first
#[utoipa::path(get, path = "/log/", responses((status = 200, description = "The epochs", body = [EpochView])))]
pub async fn epochs(State(web): State<Web>) -> Result<impl IntoResponse, Problem> {
    let mut views = Vec::new();
    let marked = web.views.checkpoint.borrow().clone();
    let epochs = web.views.reader.epochs().await?;
    for (at, epoch) in epochs.iter().enumerate() {
        let shown = match &marked {
            Some(marked) => shown_of(&web, marked, &epochs, at).await?,
            None => None,
        };
        views.push(EpochView {
            origin: epoch.identity.origin(),
            key: epoch.key.to_string(),
            opened: At(epoch.opened),
            reason: epoch.reason.as_str(),
            size: shown.map(|signed| signed.checkpoint.size),
            epoch: epoch.identity.epoch.clone(),
        });
    }
    Ok(Json(views))
}

/// The newest signed checkpoint of an epoch
#[utoipa::path(
    get,
    path = "/log/{epoch}/checkpoint",
    params(("epoch" = String, Path)),
    responses(
        (status = 200, description = "A signed note", content_type = "text/plain; charset=utf-8", body = String),
        (status = 404, description = "There is no such epoch, or nothing of it was signed yet")
    )
)]
pub async fn checkpoint(State(web): State<Web>, Path(epoch): Path<String>) -> Result<impl IntoResponse, Problem> {
    let note = shown(&web, &epoch).await?.ok_or(Problem::NoTile)?.note();
    const SHORTLY: (HeaderName, &str) = (header::CACHE_CONTROL, "max-age=5");
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8"), SHORTLY], note))
}

pub async fn tile(
    State(web): State<Web>,
    Path((epoch, tile)): Path<(String, String)>,
) -> Result<impl IntoResponse, Problem> {
    // What lies under a checkpoint never changes.
    const FOR_EVER: (HeaderName, &str) = (header::CACHE_CONTROL, "public, max-age=31536000, immutable");
    let tile = TilePath::parse(&tile).ok_or(Problem::NoTile)?;
    let shown = shown(&web, &epoch).await?.ok_or(Problem::NoTile)?;
    if !tile.is_within(shown.checkpoint.size) {
        return Err(Problem::NoTile);
    }
    let reader = &web.views.reader;
    let bytes = match tile.level {
        Some(level) => reader.tile(&epoch, level, tile.n, tile.width).await?,
        None => reader.entry_tile(&epoch, tile.n, tile.width).await?,
    };
    let bytes = bytes.ok_or(Problem::NoTile)?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream"), FOR_EVER], bytes))
}

/// The newest checkpoint of an epoch that may be shown.
async fn shown(web: &Web, epoch: &str) -> Result<Option<SignedCheckpoint>, Problem> {
    let Some(marked) = web.views.checkpoint.borrow().clone() else { return Ok(None) };
    // Whoever follows the log asks for hundreds of tiles, nearly all of this epoch: it needs no look at the others.
    let current = web.views.reader.identity();
    if (current.epoch.as_str(), &current.origin()) == (epoch, &marked.checkpoint.origin) {
        return Ok(Some(marked.as_ref().clone()));
    }
    let epochs = web.views.reader.epochs().await?;
    match epochs.iter().position(|other| other.identity.epoch == epoch) {
        Some(at) => shown_of(web, &marked, &epochs, at).await,
        None => Ok(None),
    }
}

/// The newest checkpoint that may be shown of the epoch at place `at`. Nothing is shown that is not marked outside of the
/// store: the marked epoch up to the mark, and an older one whole.
async fn shown_of(
    web: &Web,
    marked: &SignedCheckpoint,
    epochs: &[Epoch],
    at: usize,
) -> Result<Option<SignedCheckpoint>, Problem> {
    let of_mark = epochs.iter().position(|other| other.key.name() == marked.checkpoint.origin);
    Ok(match of_mark {
        Some(of_mark) if at == of_mark => Some(marked.clone()),
        Some(of_mark) if at < of_mark => web.views.reader.checkpoint(&epochs[at].identity.epoch).await?,
        _ => None,
    })
}

/// C2SP tlog-tiles: `<L>/<N>[.p/<W>]`, or `entries` in the place of the level.
#[derive(Debug, PartialEq, Eq)]
struct TilePath {
    /// `None` for entries.
    level: Option<u8>,
    n: u64,
    width: u16,
}

impl TilePath {
    fn parse(path: &str) -> Option<Self> {
        let (level, rest) = path.split_once('/')?;
        let level = match level {
            "entries" => None,
            digits => Some(number::<u8>(digits).filter(|level| *level < 8)?),
        };
        let (n, width) = match rest.split_once(".p/") {
            Some((n, width)) => (n, number::<u16>(width).filter(|width| (1..=255).contains(width))?),
            None => (rest, 256),
        };
        let mut groups: Vec<&str> = n.split('/').collect();
        let last = groups.pop()?;
        let mut whole = 0_u64;
        for group in groups.iter().map(|group| group.strip_prefix('x')).chain([Some(last)]) {
            let group = group.filter(|group| group.len() == 3 && group.bytes().all(|digit| digit.is_ascii_digit()))?;
            whole = whole.checked_mul(1_000)?.checked_add(group.parse().ok()?)?;
        }
        // No group before is needed that says nothing: a tile has one address.
        (groups.first() != Some(&"x000")).then_some(Self { level, n: whole, width })
    }

    /// Whether a log of `size` entries has all of it.
    fn is_within(&self, size: u64) -> bool {
        let hashes = size.checked_shr(8 * u32::from(self.level.unwrap_or(0))).unwrap_or(0);
        let end = self.n.checked_mul(256).and_then(|first| first.checked_add(self.width.into()));
        end.is_some_and(|end| end <= hashes)
    }
}

/// As it is written: no sign, no leading zero.
fn number<T: std::str::FromStr + ToString>(text: &str) -> Option<T> {
    text.parse().ok().filter(|number: &T| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_has_one_address() {
        let tile = |level, n, width| Some(TilePath { level, n, width });
        assert_eq!(TilePath::parse("0/x001/x234/067"), tile(Some(0), 1_234_067, 256));
        assert_eq!(TilePath::parse("entries/000.p/255"), tile(None, 0, 255));
        assert_eq!(TilePath::parse("2/005"), tile(Some(2), 5, 256));
        for bad in [
            "",
            "0",
            "0/",
            "0/5",
            "0/0005",
            "00/005",
            "+1/005",
            "8/000",
            "0/x000/005",
            "0/001/005",
            "0/x001",
            "0/005.p/0",
            "0/005.p/256",
            "0/005.p/01",
            "0/005.p/",
            "-1/000",
            "0/x999/x999/x999/x999/x999/x999/x999/999",
            "data/000",
        ] {
            assert_eq!(TilePath::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_tile_ends_where_the_log_does() {
        let is_within = |path: &str, size| TilePath::parse(path).unwrap().is_within(size);
        assert!(is_within("0/000", 256) && !is_within("0/000", 255));
        assert!(is_within("1/000.p/1", 256) && !is_within("1/000.p/1", 255));
        assert!(is_within("entries/001.p/1", 257) && !is_within("entries/001.p/1", 256));
        assert!(!is_within("7/000.p/1", u64::MAX >> 8));
    }
}
