//! The page and its files, embedded. They are public: what they show needs a token.

use axum::http::{HeaderName, header};
use axum::response::IntoResponse;

/// A new version of the program brings a new page: browsers ask each time.
fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    const CACHE: (HeaderName, &str) = (header::CACHE_CONTROL, "no-cache");
    ([(header::CONTENT_TYPE, kind), CACHE], text)
}

pub async fn html() -> impl IntoResponse {
    file("text/html; charset=utf-8", include_str!("page/index.html"))
}

pub async fn css() -> impl IntoResponse {
    file("text/css; charset=utf-8", include_str!("page/page.css"))
}

pub async fn js() -> impl IntoResponse {
    file("text/javascript; charset=utf-8", include_str!("page/page.js"))
}

pub async fn find_js() -> impl IntoResponse {
    file("text/javascript; charset=utf-8", include_str!("page/find.js"))
}

pub async fn evidence_js() -> impl IntoResponse {
    file("text/javascript; charset=utf-8", include_str!("page/evidence.js"))
}

pub async fn icon() -> impl IntoResponse {
    file("image/svg+xml", include_str!("page/icon.svg"))
}
