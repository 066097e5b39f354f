//! Filling a server: with tokens that it has not seen, with proofs, with connections.

use super::checks::{ask, connect};
use super::corpus::{check, claims, configuration, dpop_check};
use super::load::{self, Asker, Failure, Shape};
use super::tokens::Signer;
use bytes::{Bytes, BytesMut};
use clap::{Args, ValueEnum};
use h2::client::SendRequest;
use jsonwebtoken::Algorithm;
use keybound_core::jose::Thumbprint;
use keybound_core::jose::thumbprint;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Args)]
pub(super) struct Options {
    /// Where the rules of the server go, and its keys. The address of the server is then read from the
    /// standard input, and the figures are printed.
    folder: PathBuf,
    #[arg(long)]
    with: What,
    #[command(flatten)]
    shape: Shape,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Certificate-bound tokens, each of them new.
    Tokens,
    /// DPoP proofs, by some keys in turn.
    Proofs,
    /// Connections that have nothing to say, until the standard input ends.
    Connections,
}

/// One key may use a twentieth of the proofs that are kept.
const KEYS: usize = 40;

pub(super) async fn run(options: &Options) {
    let issuer = Signer::new(Algorithm::EdDSA, "key");
    let keys = json!({"keys": [issuer.jwk()]}).to_string();
    std::fs::create_dir_all(&options.folder).unwrap();
    std::fs::write(options.folder.join("jwks.json"), keys).unwrap();
    std::fs::write(options.folder.join("rules.yaml"), configuration("EdDSA")).unwrap();
    println!("ready");
    std::io::stdout().flush().unwrap();
    let to = std::io::stdin().lines().next().unwrap().unwrap();
    let mut senders = vec![];
    for _ in 0..options.shape.connections {
        senders.push(connect(&to).await);
    }
    if options.with == What::Connections {
        println!("open");
        // The connections are looked after meanwhile.
        tokio::task::spawn_blocking(|| std::io::stdin().lines().next()).await.unwrap();
        return;
    }
    let makes = Arc::new(Maker::new(issuer, options.with));
    let each = senders.iter().flat_map(|it| (0..options.shape.in_flight).map(move |_| it.clone()));
    let askers = each.map(|sender| Filling { sender, makes: Arc::clone(&makes) }).collect();
    load::run(&options.shape, askers).await;
}

/// Makes a request for each number.
struct Maker {
    issuer: Signer,
    with: What,
    /// Keys of clients, and a token that is bound to each.
    clients: Vec<(Signer, String)>,
}

struct Filling {
    sender: SendRequest<Bytes>,
    makes: Arc<Maker>,
}

impl Asker for Filling {
    async fn ask(&mut self, number: usize) -> Result<String, Failure> {
        let message = self.makes.request(number);
        ask(&mut self.sender, message).await
    }
}

impl Maker {
    fn new(issuer: Signer, with: What) -> Self {
        let client = |number| {
            let key = Signer::new(Algorithm::EdDSA, "client");
            let jkt = thumbprint(key.jwk().as_object().unwrap()).unwrap().to_base64url();
            let token = issuer.sign("at+jwt", &claims(number, &json!({"jkt": jkt})));
            (key, token)
        };
        let clients = if with == What::Proofs { (0..KEYS).map(client).collect() } else { vec![] };
        Self { issuer, with, clients }
    }

    fn request(&self, number: usize) -> Bytes {
        let message = if self.with == What::Proofs {
            let (key, token) = &self.clients[number % KEYS];
            dpop_check(key, token, number)
        } else {
            // Any octets that look like a certificate's will do.
            let certificate = [0x30, 0x01, 0x00];
            let x5t = Thumbprint::of(&certificate).to_base64url();
            let token = self.issuer.sign("at+jwt", &claims(number, &json!({"x5t#S256": x5t})));
            let pem = super::corpus::url_encoded_pem(&certificate);
            check(&pem, &[("authorization", &format!("Bearer {token}"))])
        };
        let mut frame = BytesMut::from(&b"\0"[..]);
        frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        frame.extend_from_slice(&message);
        frame.freeze()
    }
}
