//! `GET /api/openapi.json`: what the routes take and give, for programs (OpenAPI 3.1).
//!
//! It is made of the declarations that the router is made of, in tests: the program serves the file that they hold
//! against those.

#[cfg(test)]
pub mod described;

use axum::http::HeaderMap;
use axum::response::Response;
use utoipa::PartialSchema;
use utoipa::openapi::schema::AnyOf;
use utoipa::openapi::{Object, RefOr, Schema, Type};

use super::page;
use super::query::{Asked, Nothing};

/// Who may ask for a group of routes. A handler that wants more says so: `security(("token" = ["admin"]))`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Whoever can reach the address.
    Anyone,
    /// Scope `read`.
    Readers,
    /// Scope `read` or `export`.
    Exporters,
    /// Scope `admin`.
    Admins,
}

/// This description
#[utoipa::path(
    get,
    path = "/api/openapi.json",
    responses((status = 200, description = "OpenAPI 3.1", body = Object))
)]
pub async fn openapi(headers: HeaderMap, Asked(Nothing {}): Asked<Nothing>) -> Response {
    page::DESCRIPTION.answer(&headers)
}

/// The members of `T`, or none of them: what `flatten` makes of an option.
pub fn perhaps<T: PartialSchema>() -> RefOr<Schema> {
    let whole = T::schema();
    let mut none = Object::builder();
    if let RefOr::T(Schema::Object(object)) = &whole {
        for name in object.properties.keys() {
            none = none.property(name, Object::with_type(Type::Null));
        }
    }
    RefOr::T(AnyOf::builder().item(whole).item(none).into())
}
