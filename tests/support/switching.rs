//! An upstream that takes up every offer of another protocol.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// It ends with this.
pub(crate) struct Switching {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Switching {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let mut tasks = JoinSet::new();
        let seen = Arc::clone(&heads);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&seen)));
            }
        });
        Self { address, heads, _tasks: tasks }
    }

    /// The protocols that were offered, in lower case, and the requests since the last call.
    pub(crate) fn offered(&self) -> (Vec<String>, Vec<String>) {
        let heads = std::mem::take(&mut *self.heads.lock().unwrap());
        let offers = heads.iter().flat_map(|it| it.lines()).filter_map(offer).collect();
        (offers, heads)
    }
}

fn offer(line: &str) -> Option<String> {
    let (name, value) = line.split_once(':')?;
    name.eq_ignore_ascii_case("upgrade").then(|| value.trim().to_ascii_lowercase())
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Vec<String>>>) {
    let mut received = vec![];
    loop {
        let mut head = [0; 4096];
        while !received.windows(4).any(|it| it == b"\r\n\r\n") {
            match stream.read(&mut head).await {
                Ok(0) | Err(_) => return,
                Ok(length) => received.extend_from_slice(&head[..length]),
            }
        }
        let text = String::from_utf8_lossy(&received).into_owned();
        received.clear();
        let answer = match text.lines().find_map(offer) {
            Some(protocol) => format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\
                 Sec-WebSocket-Accept: {ACCEPTED}\r\n\r\n"
            ),
            None => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
        };
        seen.lock().unwrap().push(text);
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The key of [`HANDSHAKE`], accepted (RFC 6455 §1.3).
const ACCEPTED: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// What a client of WebSocket sends besides.
pub(crate) const HANDSHAKE: [(&str, &str); 2] =
    [("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="), ("sec-websocket-version", "13")];
