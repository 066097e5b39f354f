//! A stub of an OpenTelemetry collector, and what it received (OTLP 1.x, by its field numbers).

use prost::Message;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

/// A collector that takes all that comes.
pub(crate) struct Collector {
    pub(crate) endpoint: String,
    /// The heads of its requests, in lower case, and their bodies.
    pub(crate) requests: Receiver<(String, Vec<u8>)>,
}

impl Collector {
    pub(crate) fn start(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let (tell, requests) = channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let (mut head, mut line) = (String::new(), String::new());
                while stream.read_line(&mut line).unwrap() > 2 {
                    head += &std::mem::take(&mut line).to_lowercase();
                }
                let body = match head.split("content-length: ").nth(1) {
                    Some(length) => read(&mut stream, length.lines().next().unwrap(), 10),
                    None => chunks(&mut stream),
                };
                drop(tell.send((head, body)));
                stream.get_mut().write_all(answer).unwrap();
            }
        });
        Self { endpoint, requests }
    }
}

fn read(stream: &mut impl Read, length: &str, radix: u32) -> Vec<u8> {
    let mut body = vec![0; usize::from_str_radix(length.trim(), radix).unwrap()];
    stream.read_exact(&mut body).unwrap();
    body
}

/// A body in chunks (RFC 9112 §7.1).
fn chunks(stream: &mut impl BufRead) -> Vec<u8> {
    let mut body = vec![];
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let chunk = read(stream, &line, 16);
        read(stream, "2", 10);
        if chunk.is_empty() {
            return body;
        }
        body.extend(chunk);
    }
}

pub(crate) const TAKEN: &[u8] =
    b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

pub(crate) fn spans(body: &[u8]) -> Vec<Span> {
    let told = Export::decode(body).unwrap();
    let scopes = told.resource_spans.into_iter().flat_map(|it| it.scope_spans);
    scopes.flat_map(|it| it.spans).collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|it| [it >> 4, it & 15])
        .filter_map(|it| char::from_digit(it.into(), 16))
        .collect()
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Export {
    #[prost(message, repeated, tag = "1")]
    pub(crate) resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    pub(crate) resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Resource {
    #[prost(message, repeated, tag = "1")]
    pub(crate) attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    pub(crate) spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
#[expect(clippy::struct_field_names, reason = "as in the definition")]
pub(crate) struct Span {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(crate) name: String,
    #[prost(int32, tag = "6")]
    pub(crate) kind: i32,
    #[prost(fixed64, tag = "7")]
    pub(crate) start: u64,
    #[prost(fixed64, tag = "8")]
    pub(crate) end: u64,
    #[prost(message, repeated, tag = "9")]
    pub(crate) attributes: Vec<Attribute>,
    #[prost(message, optional, tag = "15")]
    pub(crate) status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    pub(crate) flags: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Status {
    #[prost(int32, tag = "3")]
    pub(crate) code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Attribute {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) value: Option<Value>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Value {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
}

impl Attribute {
    pub(crate) fn text(&self) -> (&str, &str) {
        (&self.key, self.value.as_ref().map_or("", |it| &it.text))
    }
}
