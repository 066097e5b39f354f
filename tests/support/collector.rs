//! Knows a collector of OpenTelemetry, and what it is told (OTLP 1.x, by its field numbers).

use prost::Message;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

/// A collector that takes all that comes.
pub struct Collector {
    pub endpoint: String,
    /// The heads of its requests, in lower case, and their bodies.
    pub requests: Receiver<(String, Vec<u8>)>,
}

impl Collector {
    pub fn start(answer: &'static [u8]) -> Self {
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

pub const TAKEN: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

pub fn spans(body: &[u8]) -> Vec<Span> {
    let told = Export::decode(body).unwrap();
    let scopes = told.resource_spans.into_iter().flat_map(|it| it.scope_spans);
    scopes.flat_map(|it| it.spans).collect()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|it| [it >> 4, it & 15])
        .filter_map(|it| char::from_digit(it.into(), 16))
        .collect()
}

#[derive(Clone, PartialEq, Message)]
pub struct Export {
    #[prost(message, repeated, tag = "1")]
    pub resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Resource {
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    pub spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
#[expect(clippy::struct_field_names, reason = "as in the definition")]
pub struct Span {
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub name: String,
    #[prost(int32, tag = "6")]
    pub kind: i32,
    #[prost(fixed64, tag = "7")]
    pub start: u64,
    #[prost(fixed64, tag = "8")]
    pub end: u64,
    #[prost(message, repeated, tag = "9")]
    pub attributes: Vec<Attribute>,
    #[prost(message, optional, tag = "15")]
    pub status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    pub flags: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Status {
    #[prost(int32, tag = "3")]
    pub code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Attribute {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(message, optional, tag = "2")]
    pub value: Option<Value>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Value {
    #[prost(string, tag = "1")]
    pub text: String,
}

impl Attribute {
    pub fn text(&self) -> (&str, &str) {
        (&self.key, self.value.as_ref().map_or("", |it| &it.text))
    }
}
