//! What goes through beside the headers: bodies and other protocols.

use super::edge::{Edge, HOST, Listener, Site, inline};
use crate::introspection_endpoint::{IntrospectionEndpoint, Reply};
use reqwest::{Client, Version};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const BYTES: usize = 200_000;

/// A body whose bytes differ, and what the upstream tells of it.
fn body() -> (Vec<u8>, u64) {
    let body: Vec<u8> = (0..BYTES).map(|it| u8::try_from(it % 251).unwrap()).collect();
    let sum = body.iter().zip(1..).map(|(byte, place)| u64::from(*byte) * place).sum();
    (body, sum)
}

/// Posts a body with this token: the status, and what is answered.
async fn post(client: &Client, url: &str, http: Version, token: &str) -> (u16, Value) {
    let request = client.post(url).header("authorization", format!("Bearer {token}"));
    let response = request.body(body().0).send().await.unwrap();
    assert_eq!(response.version(), http);
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
}

#[tokio::test]
async fn a_body_arrives_as_it_was_sent_or_not_at_all() {
    let site = Site::new().await;
    let client = site.client("client");
    let endpoint = IntrospectionEndpoint::start(Reply::json(&json!({"active": false}))).await;
    let secret = site.write("secret", "secret");
    let mut config = site.configuration();
    config["issuers"][0]["introspection"] = json!({
        "endpoint": endpoint.url(), "client_id": "gateway", "client_secret_file": secret,
        "cache_ttl": "0s", "negative_ttl": "0s", "timeout": "20s", "forward_jwt": true,
    });
    config["limits"]["check_deadline"] = json!("25s");
    let edge = Edge::start(&site, &[Listener::tls("a", inline(&config))]).await;
    let url = edge.url("a", "/certificate").await;
    let (good, other) = (site.token_of(&client), site.token_of(&site.client("other")));
    let (_, sum) = body();
    let arrives = |(status, told): (u16, Value)| {
        assert_eq!((status, &told["bytes"], &told["sum"]), (200, &json!(BYTES), &json!(sum)));
    };
    for http in [Version::HTTP_11, Version::HTTP_2] {
        let builder = site.client_builder(Some(&client));
        let builder = if http == Version::HTTP_2 { builder } else { builder.http1_only() };
        let asks = builder.build().unwrap();
        arrives(post(&asks, &url, http, &good).await);
        assert_eq!(post(&asks, &url, http, &other).await.0, 401);
        // The connection is as good as before.
        arrives(post(&asks, &url, http, &good).await);
        for (reply, expected) in [
            (Reply::of("application/jwt", good.clone()), 200),
            (Reply::json(&json!({"active": false})), 401),
        ] {
            endpoint.reply(reply);
            endpoint.hold();
            let calls = endpoint.calls();
            let (answer, ()) = tokio::join!(post(&asks, &url, http, "opaque"), async {
                endpoint.called(calls + 1).await;
                assert_eq!(edge.status().await["checks_under_way"], 1, "it waits, body or not");
                endpoint.release();
            });
            match expected {
                200 => arrives(answer),
                _ => assert_eq!(answer.0, expected),
            }
        }
    }
}

#[tokio::test]
async fn a_websocket_opens_for_who_may_and_carries_what_is_said() {
    let site = Site::new().await;
    let mut config = site.configuration();
    config["policies"] = json!([{"name": "all", "sender_constraint": "none"}]);
    let edge = Edge::start(&site, &[Listener::plain("a", inline(&config))]).await;
    let address = edge.address("a").await;
    let good = site.token(&json!({}));
    for (token, expected) in [(good.as_str(), "101"), ("forged", "401")] {
        let mut connection = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "GET /chat HTTP/1.1\r\nhost: {HOST}\r\nauthorization: Bearer {token}\r\n\
             connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        connection.write_all(request.as_bytes()).await.unwrap();
        let head = head(&mut connection).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {expected} ")), "{head}");
        if expected == "101" {
            for word in [&b"hello"[..], b"\x00\xff again"] {
                connection.write_all(word).await.unwrap();
                let mut echo = vec![0; word.len()];
                connection.read_exact(&mut echo).await.unwrap();
                assert_eq!(echo, word);
            }
        }
    }
    assert!(edge.ends().await.success());
}

/// A response up to the empty line.
async fn head(connection: &mut TcpStream) -> String {
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}
