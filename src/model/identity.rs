//! What a meter says of itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a meter says of itself; absent is what it does not say, or what its template does not ask for. A number is in
/// decimal digits, a text as the meter gives it, without its padding.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Identity {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub manufacturer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub serial_number: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub firmware: Option<String>,
    /// Of a SunSpec device: the models it is made of, in the order in which they lie, such as 1, 103, 160.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sunspec_models: Vec<u16>,
}
