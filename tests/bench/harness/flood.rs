//! A flood of security events by push: new ones, the same again, forged ones, and some that nobody vouches for.

use super::corpus::{check, claims, configuration, frames, url_encoded_pem};
use super::load::{self, Asker, Failure, Shape};
use super::tokens::Signer;
use clap::Args;
use jsonwebtoken::Algorithm;
use keybound_core::jose::Thumbprint;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Args)]
pub(super) struct Options {
    /// Where the rules of the server go, its keys, and checks of tokens that no event is about
    /// (`good.grpc`) and of some that one is (`revoked.grpc`). For each address of the server that is then
    /// read from the standard input, so many more are sent, and the figures are printed.
    folder: PathBuf,
    #[command(flatten)]
    shape: Shape,
}

const ISSUER: &str = "https://as.bank.example/oauth/v2";
const US: &str = "https://gateway.bank.example";
const DISABLED: &str = "https://schemas.openid.net/secevent/risc/event-type/account-disabled";
const SECRET: &str = "the-transmitters";

/// What is sent of ten.
const NEW: usize = 6;
const AGAIN: usize = 2;
const FORGED: usize = 1;

/// How many checks there are of each kind.
const CHECKS: usize = 1000;

/// Makes a request for each number.
struct Maker {
    issuer: Signer,
    stranger: Signer,
}

/// Sends one request after another on a connection of its own.
struct Flooding {
    to: String,
    stream: Option<TcpStream>,
    makes: Arc<Maker>,
    first: usize,
}

pub(super) async fn run(options: &Options) {
    let [issuer, stranger] = ["key", "key"].map(|kid| Signer::new(Algorithm::EdDSA, kid));
    let makes = Arc::new(Maker { issuer, stranger });
    let count = options.shape.count.unwrap();
    makes.prepare(&options.folder, count);
    println!("ready");
    std::io::stdout().flush().unwrap();
    for (turn, to) in std::io::stdin().lines().map(Result::unwrap).enumerate() {
        let asker = |_| {
            let (to, makes) = (to.clone(), Arc::clone(&makes));
            Flooding { to, stream: None, makes, first: turn * count }
        };
        load::run(&options.shape, (0..options.shape.connections).map(asker).collect()).await;
        std::io::stdout().flush().unwrap();
    }
}

impl Maker {
    fn prepare(&self, folder: &Path, count: usize) {
        std::fs::create_dir_all(folder).unwrap();
        let put = |name: &str, text: &[u8]| std::fs::write(folder.join(name), text).unwrap();
        put("jwks.json", json!({"keys": [self.issuer.jwk()]}).to_string().as_bytes());
        put("pushes", SECRET.as_bytes());
        let keys = "  keys: {jwks_file: jwks.json}\n";
        let events = format!(
            "{keys}  revocation: {{events: {{delivery: push, bearer_token_file: pushes, audience: '{US}', \
             snapshot_file: kept}}}}\n"
        );
        let rules = configuration("EdDSA").replacen(keys, &events, 1);
        put("rules.yaml", format!("{rules}limits: {{check_deadline: 60s}}\n").as_bytes());
        let checks =
            |of: &dyn Fn(usize) -> String| frames((0..CHECKS).map(|it| self.check(&of(it))));
        put("good.grpc", &checks(&|it| format!("bystander-{it}")));
        put("revoked.grpc", &checks(&|it| user(it * 10 % count)));
    }

    /// A check of a token of this user.
    fn check(&self, user: &str) -> Vec<u8> {
        // Any octets that look like a certificate's will do.
        let certificate = [0x30, 0x01, 0x00];
        let x5t = Thumbprint::of(&certificate).to_base64url();
        let mut claims = claims(0, &json!({"x5t#S256": x5t}));
        claims["sub"] = user.into();
        let token = self.issuer.sign("at+jwt", &claims);
        check(&url_encoded_pem(&certificate), &[("authorization", &format!("Bearer {token}"))])
    }

    /// What is sent, and what it is.
    fn request(&self, number: usize) -> (&'static str, String) {
        let place = number % 10;
        let (new, again, forged) = (NEW, NEW + AGAIN, NEW + AGAIN + FORGED);
        if place < new {
            ("new", pushed(&self.issuer.sign("secevent+jwt", &event(number))))
        } else if place < again {
            ("again", pushed(&self.issuer.sign("secevent+jwt", &event(number - new))))
        } else if place < forged {
            ("forged", pushed(&self.stranger.sign("secevent+jwt", &event(number))))
        } else {
            // It is refused before the body is read.
            ("unauthenticated", head("other", 1000))
        }
    }
}

fn user(number: usize) -> String {
    format!("user-{number}")
}

fn event(number: usize) -> Value {
    let base = claims(0, &Value::Null);
    json!({
        "iss": ISSUER, "aud": US, "iat": base["iat"], "jti": number.to_string(),
        "sub_id": {"format": "iss_sub", "iss": ISSUER, "sub": user(number)},
        "events": {DISABLED: {}},
    })
}

fn head(secret: &str, length: usize) -> String {
    format!(
        "POST /events HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {secret}\r\n\
         content-type: application/secevent+jwt\r\ncontent-length: {length}\r\n\r\n"
    )
}

fn pushed(token: &str) -> String {
    head(SECRET, token.len()) + token
}

impl Asker for Flooding {
    async fn ask(&mut self, number: usize) -> Result<String, Failure> {
        let (kind, request) = self.makes.request(self.first + number);
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => TcpStream::connect(&self.to).await?,
        };
        stream.write_all(request.as_bytes()).await?;
        let answer = answered(&mut stream).await?;
        if !answer.contains("connection: close") {
            self.stream = Some(stream);
        }
        Ok(format!("{kind} {}", answer.split(' ').nth(1).unwrap_or_default()))
    }
}

/// The head of an answer, whose body has come, too.
async fn answered(stream: &mut TcpStream) -> Result<String, Failure> {
    let mut found = vec![];
    loop {
        if stream.read_buf(&mut found).await? == 0 {
            return Err("no answer".into());
        }
        let text = String::from_utf8_lossy(&found).to_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|it| it.strip_prefix("content-length: "));
        if length.map_or(Ok(0), str::parse)? <= body.len() {
            return Ok(head.to_owned());
        }
    }
}
