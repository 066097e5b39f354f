//! The service that the demo protects: it answers with what it received.

use super::site::{self, Site};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

/// An upstream that answers with the method, the path and the headers that reached it.
pub fn echo() -> Site {
    Site::new(|request| site::json(&seen(request)))
}

fn seen(request: &hyper::Request<Incoming>) -> Value {
    let mut headers = Map::new();
    for name in request.headers().keys() {
        // A list per name, since a test may be about repeated headers.
        let values = request.headers().get_all(name).iter();
        let values = values.map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned());
        headers.insert(name.to_string(), values.collect());
    }
    json!({
        "method": request.method().as_str(),
        "path": request.uri().to_string(),
        "headers": headers,
    })
}
