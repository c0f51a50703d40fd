//! Readings and blocks of a period, streamed: a batch is read from the store, written out, and forgotten.

use std::sync::Arc;
use std::{mem, vec};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use jiff::tz::TimeZone;
use tracing::error;

use super::Web;
use super::periods::{MINUTE_CSV, Minute, PERIOD_CSV, Summing, period_of};
use super::problem::Problem;
use super::query::{Asked, Format, Named, Nothing, RangeAsked, Resolution};
use super::rows::Row;
use super::wire::{BLOCK_CSV, BlockView, TimeWriter, push_block_csv, push_intervals, push_json, push_text};
use crate::model::decimal::push_value;
use crate::model::{
    Block, ClockState, Coverage, Layout, MeterId, Origin, Quantity, Ratio, Span, StoredReading, Timestamp,
};
use crate::store::{Reader, ReadingStream, StoreError};

/// Bytes handed to the connection at once. With the batch that the store gives, all the memory an answer takes.
const CHUNK: usize = 64 * 1024;
/// Blocks are read from the store in windows of this length.
const WINDOW_MS: i64 = 31 * 86_400_000;

/// Readings of a meter, or what derives from them and from its blocks
#[utoipa::path(
    get,
    path = "/api/meters/{id}/readings",
    params(("id" = MeterId, Path, description = "The meter's id"), RangeAsked),
    responses(
        (status = 200, description = "The rows, the oldest first",
            content((Vec<Row> = "application/json"), (String = "text/csv; charset=utf-8; header=present"))),
        (status = 404, description = "There is no such meter")
    )
)]
pub async fn readings(
    State(web): State<Web>,
    Named(id): Named,
    Asked(asked): Asked<RangeAsked>,
) -> Result<Response, Problem> {
    rows_of(&web, &id, &asked).await
}

/// The same as of a meter, by the name that others use
#[utoipa::path(
    get,
    path = "/api/channels/{id}/readings",
    params(("id" = MeterId, Path, description = "The meter's id"), RangeAsked),
    responses(
        (status = 200, description = "The rows, the oldest first",
            content((Vec<Row> = "application/json"), (String = "text/csv; charset=utf-8; header=present"))),
        (status = 404, description = "There is no such meter")
    )
)]
pub async fn channel_readings(
    State(web): State<Web>,
    Named(id): Named,
    Asked(asked): Asked<RangeAsked>,
) -> Result<Response, Problem> {
    rows_of(&web, &id, &asked).await
}

async fn rows_of(web: &Web, id: &str, asked: &RangeAsked) -> Result<Response, Problem> {
    let meter = known(web, id).await?;
    let (resolution, format) = (asked.resolution()?.unwrap_or(Resolution::Raw), asked.format()?);
    let is_sum = web.meter(id).is_ok_and(|meter| matches!(meter.origin, Origin::Sum { .. }));
    if is_sum && matches!(resolution, Resolution::Raw | Resolution::Minute) {
        let what =
            format!("{meter} is a sum of meters and has no readings: ask for block, hour, day, week, month or year");
        return Err(Problem::Parameter { name: "resolution", what });
    }
    let span = asked.span(resolution, &web.zone(), web.views.clock.now())?;
    answer(web, meter, span, resolution, format).await
}

/// The sealed blocks that start in a period, the newest revision of each
#[utoipa::path(
    get,
    path = "/api/meters/{id}/blocks",
    params(("id" = MeterId, Path, description = "The meter's id"), RangeAsked),
    responses(
        (status = 200, description = "The rows, the oldest first",
            content((Vec<BlockView> = "application/json"), (String = "text/csv; charset=utf-8; header=present"))),
        (status = 404, description = "There is no such meter")
    )
)]
pub async fn blocks(
    State(web): State<Web>,
    Named(id): Named,
    Asked(asked): Asked<RangeAsked>,
) -> Result<Response, Problem> {
    let meter = known(&web, &id).await?;
    if !matches!(asked.resolution()?, None | Some(Resolution::Block)) {
        let what = "this gives blocks; `/api/meters/{id}/readings` gives other steps".into();
        return Err(Problem::Parameter { name: "resolution", what });
    }
    let span = asked.span(Resolution::Block, &web.zone(), web.views.clock.now())?;
    answer(&web, meter, span, Resolution::Block, asked.format()?).await
}

/// The sealed blocks of the site's day
#[utoipa::path(
    get,
    path = "/api/meters/{id}/blocks/today",
    params(("id" = MeterId, Path, description = "The meter's id")),
    responses(
        (status = 200, description = "The blocks", body = [BlockView]),
        (status = 404, description = "There is no such meter")
    )
)]
pub async fn blocks_today(
    State(web): State<Web>,
    Named(id): Named,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Response, Problem> {
    let meter = known(&web, &id).await?;
    let now = web.views.clock.now();
    let today = period_of(now, Resolution::Day, &web.zone());
    let today = today.ok_or_else(|| Problem::BadRequest(format!("the clock says {now}, which no calendar has")))?;
    answer(&web, meter, today, Resolution::Block, Format::Json).await
}

/// A meter of the config, or one that was taken out of it and whose blocks are still here.
pub async fn known(web: &Web, id: &str) -> Result<MeterId, Problem> {
    let absent = match web.meter(id) {
        Ok(meter) => return Ok(meter.id),
        Err(absent) => absent,
    };
    let Ok(id) = id.parse::<MeterId>() else { return Err(absent) };
    if web.views.reader.sealed_through().await?.contains_key(&id) { Ok(id) } else { Err(absent) }
}

/// Begins the answer: the first chunk is made before the status goes out, so that a store that cannot answer is told
/// as a problem.
async fn answer(
    web: &Web,
    meter: MeterId,
    span: Span,
    resolution: Resolution,
    format: Format,
) -> Result<Response, Problem> {
    let (reader, chain) = (&web.views.reader, web.chain());
    let rows = match resolution {
        Resolution::Raw => Rows::Raw(RawRows::new(reader, meter, span, format).await?),
        Resolution::Minute => Rows::Minutes { stream: reader.readings(meter, span.start(), span.end()), minute: None },
        Resolution::Block => Rows::Blocks(BlockRows::new(reader, meter, span, chain).await?),
        Resolution::Hour | Resolution::Day | Resolution::Week | Resolution::Month | Resolution::Year => {
            let span = whole_periods(span, resolution, &web.zone());
            let summing = Box::new(Summing::new(resolution, web.zone(), span));
            Rows::Periods { blocks: BlockRows::overlapping(reader, meter, span).await?, summing: Some(summing) }
        }
    };
    let mut answer = Answer { out: Vec::with_capacity(CHUNK + CHUNK / 4), rows, format, is_first: true, ended: false };
    answer.open();
    answer.fill().await?;
    let kind = match format {
        Format::Json => "application/json",
        Format::Csv => "text/csv; charset=utf-8; header=present",
    };
    Ok(([(header::CONTENT_TYPE, kind)], answer.into_body()).into_response())
}

/// The periods that `span` touches, whole.
fn whole_periods(span: Span, resolution: Resolution, zone: &TimeZone) -> Span {
    let first = period_of(span.start(), resolution, zone);
    let last = period_of(span.end().plus_millis(-1), resolution, zone);
    match (first, last) {
        (Some(first), Some(last)) => Span::new(first.start(), last.end()).unwrap_or(span),
        _ => span,
    }
}

/// An answer under way.
struct Answer {
    out: Vec<u8>,
    rows: Rows,
    format: Format,
    is_first: bool,
    ended: bool,
}

/// Where the rows come from.
enum Rows {
    Raw(RawRows),
    Minutes { stream: ReadingStream, minute: Option<Minute> },
    Blocks(BlockRows),
    Periods { blocks: BlockRows, summing: Option<Box<Summing>> },
}

impl Answer {
    fn open(&mut self) {
        match (self.format, &self.rows) {
            (Format::Json, _) => self.out.push(b'['),
            (Format::Csv, Rows::Raw(raw)) => raw.push_header(&mut self.out),
            (Format::Csv, Rows::Minutes { .. }) => self.out.extend_from_slice(MINUTE_CSV.as_bytes()),
            (Format::Csv, Rows::Blocks(_)) => self.out.extend_from_slice(BLOCK_CSV.as_bytes()),
            (Format::Csv, Rows::Periods { .. }) => self.out.extend_from_slice(PERIOD_CSV.as_bytes()),
        }
    }

    /// Writes rows until a chunk is full or all are written.
    async fn fill(&mut self) -> Result<(), StoreError> {
        while !self.ended && self.out.len() < CHUNK {
            let mut sink = Sink { out: &mut self.out, format: self.format, is_first: &mut self.is_first };
            let more = match &mut self.rows {
                Rows::Raw(raw) => raw.write(&mut sink).await?,
                Rows::Minutes { stream, minute } => write_minutes(stream, minute, &mut sink).await?,
                Rows::Blocks(blocks) => blocks.write(&mut sink).await?,
                Rows::Periods { blocks, summing } => write_periods(blocks, summing, &mut sink).await?,
            };
            if !more {
                self.ended = true;
                if self.format == Format::Json {
                    self.out.extend_from_slice(b"]\n");
                }
            }
        }
        Ok(())
    }

    /// A store that fails half way ends the connection without its last chunk, so that no client takes the part for
    /// the whole.
    fn into_body(self) -> Body {
        Body::from_stream(stream::try_unfold(self, |mut answer| async move {
            if let Err(cause) = answer.fill().await {
                error!(error = &cause as &dyn std::error::Error, "an answer was cut off: the store failed half way");
                return Err(cause);
            }
            if answer.out.is_empty() {
                return Ok(None);
            }
            let chunk = Bytes::from(mem::replace(&mut answer.out, Vec::with_capacity(CHUNK + CHUNK / 4)));
            Ok(Some((chunk, answer)))
        }))
    }
}

/// Takes rows, in the one form or the other.
struct Sink<'a> {
    out: &'a mut Vec<u8>,
    format: Format,
    is_first: &'a mut bool,
}

impl Sink<'_> {
    fn row(&mut self, json: impl FnOnce(&mut Vec<u8>), csv: impl FnOnce(&mut Vec<u8>)) {
        match self.format {
            Format::Json => {
                if !mem::replace(self.is_first, false) {
                    self.out.extend_from_slice(b",\n");
                }
                json(self.out);
            }
            Format::Csv => csv(self.out),
        }
    }

    fn is_full(&self) -> bool {
        self.out.len() >= CHUNK
    }
}

/// Readings as they were stored.
struct RawRows {
    stream: ReadingStream,
    batch: vec::IntoIter<StoredReading>,
    time: TimeWriter,
    /// The columns of a CSV; empty for JSON.
    columns: Vec<Quantity>,
    known: Option<KnownLayout>,
}

/// What is the same for all readings of a layout.
struct KnownLayout {
    layout: Arc<Layout>,
    /// `,"power_kw":` and the scale, by place.
    members: Vec<(Vec<u8>, Ratio)>,
    /// The place of each column.
    places: Vec<Option<u8>>,
}

impl RawRows {
    async fn new(reader: &Reader, meter: MeterId, span: Span, format: Format) -> Result<Self, StoreError> {
        let mut stream = reader.readings(meter.clone(), span.start(), span.end());
        let batch = stream.next().await.transpose()?.unwrap_or_default();
        let columns = if format == Format::Csv { columns(reader, &meter) } else { Vec::new() };
        Ok(Self { stream, batch: batch.into_iter(), time: TimeWriter::default(), columns, known: None })
    }

    fn push_header(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"time,seq");
        for column in &self.columns {
            push_text(out, format_args!(",{column}"));
        }
        out.extend_from_slice(b",clock,conflict\r\n");
    }

    async fn write(&mut self, sink: &mut Sink<'_>) -> Result<bool, StoreError> {
        if self.batch.as_slice().is_empty() {
            match self.stream.next().await {
                Some(batch) => self.batch = batch?.into_iter(),
                None => return Ok(false),
            }
        }
        while !sink.is_full() {
            let Some(reading) = self.batch.next() else { break };
            let time = &mut self.time;
            let known = match &mut self.known {
                Some(known) if Arc::ptr_eq(&known.layout, &reading.layout) => known,
                known => known.insert(KnownLayout::new(&reading.layout, &self.columns)),
            };
            match sink.format {
                Format::Json => sink.row(|out| known.push_json(out, &reading, time), |_| ()),
                Format::Csv => sink.row(|_| (), |out| known.push_csv(out, &reading, time)),
            }
        }
        Ok(true)
    }
}

impl KnownLayout {
    fn new(layout: &Arc<Layout>, columns: &[Quantity]) -> Self {
        let member = |slot: &crate::model::Slot| (format!(",\"{}\":", slot.quantity).into_bytes(), slot.scale);
        Self {
            layout: Arc::clone(layout),
            members: layout.slots.iter().map(member).collect(),
            places: columns.iter().map(|column| layout.slot_named(column.as_str())).collect(),
        }
    }

    /// What was absent has no member.
    fn push_json(&self, out: &mut Vec<u8>, reading: &StoredReading, time: &mut TimeWriter) {
        out.extend_from_slice(b"{\"time\":\"");
        time.push(out, reading.time);
        push_text(out, format_args!("\",\"seq\":{}", reading.seq));
        for (place, raw) in &reading.values {
            if let Some((name, scale)) = self.members.get(usize::from(*place)) {
                out.extend_from_slice(name);
                push_value(out, *raw, *scale);
            }
        }
        push_intervals(out, reading);
        if reading.clock == ClockState::Unsynchronised {
            out.extend_from_slice(b",\"clock\":\"unsynchronised\"");
        }
        if reading.conflict {
            out.extend_from_slice(b",\"conflict\":true");
        }
        out.push(b'}');
    }

    /// What was absent is an empty cell.
    fn push_csv(&self, out: &mut Vec<u8>, reading: &StoredReading, time: &mut TimeWriter) {
        time.push(out, reading.time);
        push_text(out, format_args!(",{}", reading.seq));
        for place in &self.places {
            out.push(b',');
            if let Some((raw, place)) = place.and_then(|place| Some((reading.at(place)?, place))) {
                push_value(out, raw, self.members[usize::from(place)].1);
            }
        }
        out.extend_from_slice(if reading.clock == ClockState::Unsynchronised { b",unsynchronised" } else { b"," });
        out.extend_from_slice(if reading.conflict { b",true\r\n" } else { b",\r\n" });
    }
}

/// The columns of a CSV: all that the meter's layouts name, in their order.
fn columns(reader: &Reader, meter: &MeterId) -> Vec<Quantity> {
    let mut columns: Vec<Quantity> = Vec::new();
    for layout in reader.layouts(meter) {
        for slot in &layout.slots {
            if !columns.contains(&slot.quantity) {
                columns.push(slot.quantity.clone());
            }
        }
    }
    columns
}

async fn write_minutes(
    stream: &mut ReadingStream,
    minute: &mut Option<Minute>,
    sink: &mut Sink<'_>,
) -> Result<bool, StoreError> {
    let put = |sink: &mut Sink<'_>, minute: Minute| sink.row(|out| minute.push_json(out), |out| minute.push_csv(out));
    let Some(batch) = stream.next().await.transpose()? else {
        if let Some(last) = minute.take() {
            put(sink, last);
        }
        return Ok(false);
    };
    for reading in batch {
        if minute.as_ref().is_none_or(|minute| !minute.holds(reading.time))
            && let Some(done) = minute.replace(Minute::of(reading.time))
        {
            put(sink, done);
        }
        if let Some(minute) = minute {
            minute.add(&reading);
        }
    }
    Ok(true)
}

/// Blocks, window by window.
pub struct BlockRows {
    reader: Reader,
    meter: MeterId,
    next: Timestamp,
    end: Timestamp,
    batch: vec::IntoIter<(Block, Option<Coverage>)>,
    /// The one whose anchors cover them.
    chain: Option<u64>,
    /// Also the block that began before this and reaches into it. Where it is asked for, nobody asks what covers them.
    first: Option<Timestamp>,
}

impl BlockRows {
    /// The blocks that start in `span`, so that adjoining ranges share none.
    async fn new(reader: &Reader, meter: MeterId, span: Span, chain: Option<u64>) -> Result<Self, StoreError> {
        // Where the meter has no blocks yet, or none any more, no window is looked at: a range of thousands of years
        // costs no more than what is in it.
        let starts = reader.block_starts(&meter).await?;
        let (next, end) = starts.map_or((span.end(), span.end()), |(first, last)| {
            (span.start().max(first), span.end().min(last.plus_millis(WINDOW_MS)))
        });
        Ok(Self { reader: reader.clone(), meter, next, end, batch: Vec::new().into_iter(), chain, first: None })
    }

    pub async fn overlapping(reader: &Reader, meter: MeterId, span: Span) -> Result<Self, StoreError> {
        let rows = Self::new(reader, meter, span, None).await?;
        // The last block may be a silence that reaches far beyond its start.
        let end = rows.end.max(rows.next.plus_millis(WINDOW_MS)).min(span.end());
        Ok(Self { first: Some(rows.next), end, ..rows })
    }

    pub async fn next(&mut self) -> Result<Option<(Block, Option<Coverage>)>, StoreError> {
        loop {
            if let Some(block) = self.batch.next() {
                return Ok(Some(block));
            }
            let end = self.end.min(self.next.plus_millis(WINDOW_MS));
            let Some(window) = Span::new(self.next, end) else { return Ok(None) };
            let mut blocks = match self.first {
                None => self.reader.covered_blocks(&self.meter, window, self.chain).await?,
                Some(_) => {
                    let blocks = self.reader.blocks(&self.meter, window).await?;
                    blocks.into_iter().map(|block| (block, None)).collect()
                }
            };
            let is_first = self.first == Some(self.next);
            blocks.retain(|(block, _)| is_first || window.contains(block.span.start()));
            self.batch = blocks.into_iter();
            self.next = end;
        }
    }

    async fn write(&mut self, sink: &mut Sink<'_>) -> Result<bool, StoreError> {
        let Some((block, anchor)) = self.next().await? else { return Ok(false) };
        let anchor = anchor.as_ref();
        sink.row(|out| push_json(out, &BlockView::new(&block, anchor)), |out| push_block_csv(out, &block, anchor));
        Ok(true)
    }
}

async fn write_periods(
    blocks: &mut BlockRows,
    summing: &mut Option<Box<Summing>>,
    sink: &mut Sink<'_>,
) -> Result<bool, StoreError> {
    let put = |sink: &mut Sink<'_>, period: super::periods::Period| {
        sink.row(|out| push_json(out, &period), |out| period.push_csv(out));
    };
    match (blocks.next().await?, &mut *summing) {
        (Some((block, _)), Some(sums)) => {
            sums.add(&block, |period| put(sink, period));
            Ok(true)
        }
        _ => {
            if let Some(sums) = summing.take() {
                sums.finish(|period| put(sink, period));
            }
            Ok(false)
        }
    }
}
