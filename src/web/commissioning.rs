//! Which meter stands behind an id: its newest commissioning record.

use serde::Serialize;
use utoipa::ToSchema;

use super::Web;
use super::meters::MeterView;
use super::wire::At;
use crate::model::{Category, Cause, Change, Commissioning, Digest, Meter, Part};
use crate::store::StoreError;

/// One meter by itself.
#[derive(Serialize, ToSchema)]
#[schema(as = OneMeter)]
pub struct OneMeterView<'a> {
    #[serde(flatten)]
    pub meter: MeterView<'a>,
    /// Absent for a sum, and before the meter was first heard.
    pub commissioning: Option<CommissioningView>,
}

/// What is known of a meter since its last change.
#[derive(Serialize, ToSchema)]
#[schema(as = Commissioning)]
pub struct CommissioningView {
    since: At,
    cause: Cause,
    manufacturer: Option<String>,
    model: Option<String>,
    serial_number: Option<String>,
    firmware: Option<String>,
    sunspec_models: Vec<u16>,
    line: String,
    /// Where the line was reached.
    wire: String,
    unit: u8,
    /// `None` for registers that stand in the config itself.
    template: Option<String>,
    template_sha256: Digest,
    ct_ratio: String,
    vt_ratio: String,
    invert: bool,
    category: Category,
    changes: Vec<ChangeView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = CommissioningChange)]
struct ChangeView {
    what: Part,
    from: Option<String>,
    to: Option<String>,
}

/// The newest record of a meter.
pub async fn newest(web: &Web, meter: &Meter) -> Result<Option<CommissioningView>, StoreError> {
    let record = web.views.reader.commissionings(&meter.id, 1).await?.pop();
    Ok(record.map(CommissioningView::from))
}

impl From<Commissioning> for CommissioningView {
    fn from(record: Commissioning) -> Self {
        let (setup, identity) = (record.setup, record.identity.unwrap_or_default());
        Self {
            since: At(record.since),
            cause: record.cause,
            manufacturer: identity.manufacturer,
            model: identity.model,
            serial_number: identity.serial_number,
            firmware: identity.firmware,
            sunspec_models: identity.sunspec_models,
            line: setup.line.to_string(),
            wire: setup.wire,
            unit: setup.unit,
            template: setup.template,
            template_sha256: setup.template_sha256,
            ct_ratio: setup.ct_ratio.to_string(),
            vt_ratio: setup.vt_ratio.to_string(),
            invert: setup.invert,
            category: setup.category,
            changes: record.changes.into_iter().map(ChangeView::from).collect(),
        }
    }
}

impl From<Change> for ChangeView {
    fn from(Change { what, from, to, .. }: Change) -> Self {
        Self { what, from, to }
    }
}
