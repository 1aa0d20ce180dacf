//! Spans and events as lines of OTLP/JSON, which OpenTelemetry collectors read from a file.

use std::fmt::Debug;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// A layer that writes each span of raglan to this file as the span ends.
pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(path: &Path) -> Result<impl Layer<S>> {
    let file = File::create(path).with_context(|| format!("`{}`", path.display()))?;
    let trace_id = format!("{:016x}{:016x}", random(), random());
    let ours = Targets::new().with_target("raglan", Level::INFO);
    Ok(TraceFile { file: Mutex::new(file), trace_id, salt: random() }.with_filter(ours))
}

/// The first thing that went wrong with writing.
static PROBLEM: OnceLock<String> = OnceLock::new();

/// Why spans are missing from the file, if any are.
pub fn problem() -> Option<&'static str> {
    PROBLEM.get().map(String::as_str)
}

/// A number that no other process is likely to have.
fn random() -> u64 {
    RandomState::new().hash_one(std::process::id()) | 1
}

struct TraceFile {
    file: Mutex<File>,
    trace_id: String,
    salt: u64,
}

/// What is known of a span that has not ended.
struct Open {
    start: u128,
    /// Number of the span within the process, from which its id is made: the subscriber's own are used again.
    span_id: String,
    attributes: Vec<Value>,
    events: Vec<Value>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for TraceFile {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let span_id = format!("{:016x}", self.salt.wrapping_add(number).max(1));
        let open = Open { start: now(), span_id, attributes: fields.0, events: Vec::new() };
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(open);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(open) = span.extensions_mut().get_mut::<Open>() {
            let mut fields = Fields::default();
            values.record(&mut fields);
            open.attributes.append(&mut fields.0);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(span) = context.event_span(event) else { return };
        if let Some(open) = span.extensions_mut().get_mut::<Open>() {
            let mut fields = Fields::default();
            event.record(&mut fields);
            let is_message = |field: &Value| field["key"] == "message";
            let name =
                fields.0.iter().find(|field| is_message(field)).map(|field| field["value"]["stringValue"].clone());
            fields.0.retain(|field| !is_message(field));
            let name = name.unwrap_or_else(|| json!(event.metadata().name()));
            open.events.push(json!({ "timeUnixNano": now().to_string(), "name": name, "attributes": fields.0 }));
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let end = now();
        let Some(span) = context.span(&id) else { return };
        let Some(open) = span.extensions_mut().remove::<Open>() else { return };
        let parent = span.parent().and_then(|parent| Some(parent.extensions().get::<Open>()?.span_id.clone()));
        let mut told = json!({
            "traceId": self.trace_id,
            "spanId": open.span_id,
            "name": name(span.name(), &open.attributes),
            "kind": 1, // internal
            "startTimeUnixNano": open.start.to_string(),
            "endTimeUnixNano": end.to_string(),
            "attributes": open.attributes,
            "events": open.events,
        });
        if let Some(parent) = parent {
            told["parentSpanId"] = json!(parent);
        }
        let line = json!({ "resourceSpans": [{
            "resource": { "attributes": [text("service.name", "raglan"), text("service.version", env!("CARGO_PKG_VERSION"))] },
            "scopeSpans": [{ "scope": { "name": span.metadata().target() }, "spans": [told] }],
        }] });
        if let Ok(mut file) = self.file.lock() {
            // A trace that cannot be written is no reason to lose the work that it is of.
            if let Err(problem) = writeln!(file, "{line}") {
                PROBLEM.get_or_init(|| problem.to_string());
            }
        }
    }
}

/// A stage's span goes by the stage's own name.
fn name(span: &str, attributes: &[Value]) -> String {
    let own = attributes.iter().find(|attribute| attribute["key"] == "name");
    match own.and_then(|attribute| attribute["value"]["stringValue"].as_str()) {
        Some(own) => format!("{span} {own}"),
        None => span.to_owned(),
    }
}

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos())
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

/// Fields as attributes of OTLP.
#[derive(Default)]
struct Fields(Vec<Value>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push(text(field.name(), value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.push(json!({ "key": field.name(), "value": { "intValue": value.to_string() } }));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.push(json!({ "key": field.name(), "value": { "intValue": value.to_string() } }));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.push(json!({ "key": field.name(), "value": { "doubleValue": value } }));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.push(json!({ "key": field.name(), "value": { "boolValue": value } }));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.push(text(field.name(), &format!("{value:?}")));
    }
}
