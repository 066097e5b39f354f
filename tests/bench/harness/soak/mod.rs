//! Clients of all kinds for a long time, while what keybound depends on fails and changes. Each answer is
//! held against what it must be just then.

mod client;
mod issued;
mod world;

use super::corpus::{self, HOST};
use super::load::{self, Asker, Failure, Shape};
use super::proofs::prove;
use super::tokens::{Signer, tampered};
use clap::Args;
use client::Client;
use issued::{Token, now};
use jsonwebtoken::Algorithm;
use keybound_core::jose::{Thumbprint, thumbprint};
use serde_json::json;
use std::collections::VecDeque;
use std::io::{Write, stdin, stdout};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use world::{ALLOWED, Moment, World};

#[derive(Args)]
pub(super) struct Options {
    /// Where the keys of the issuer go, the denylist and certificates. Then a line is read from the standard
    /// input, with the addresses of the proxies; and from each line after it, what happens.
    folder: PathBuf,
    #[command(flatten)]
    shape: Shape,
}

/// What a client tries, and how many of a hundred requests do.
const MIX: [(Kind, usize); 13] = [
    (Kind::Known, 48),
    (Kind::New, 12),
    (Kind::Proof, 12),
    (Kind::Replay, 8),
    (Kind::WrongCertificate, 4),
    (Kind::WrongKey, 2),
    (Kind::Expired, 3),
    (Kind::Forged, 3),
    (Kind::NoToken, 2),
    (Kind::Former, 2),
    (Kind::Stolen, 1),
    (Kind::Revoked, 2),
    (Kind::Stranger, 1),
];

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A token that was shown before, with the certificate that it is bound to.
    Known,
    /// The same with a token that was not.
    New,
    /// A token that is bound to a key, with a proof by it.
    Proof,
    /// A proof once more, at the other proxy.
    Replay,
    /// A token with somebody else's certificate.
    WrongCertificate,
    /// A token with a proof by somebody else's key.
    WrongKey,
    Expired,
    /// A token with another signature.
    Forged,
    NoToken,
    /// A token by the key before the present one.
    Former,
    /// The same, of just now, as by somebody who has stolen that key.
    Stolen,
    /// A token of the session before the present one.
    Revoked,
    /// A token by a key that was never published.
    Stranger,
}

/// What all clients know.
struct Shared {
    world: World,
    keys: Vec<(Signer, String)>,
    /// The certificates of the client and of somebody else.
    x5t: String,
    /// Proofs that were used at the first or the second proxy.
    used: [Mutex<VecDeque<Used>>; 2],
    stranger: Signer,
}

struct Used {
    token: Token,
    proof: String,
    allowed: bool,
}

/// So many keys of clients, so that none has too many proofs.
const KEYS: usize = 16;

/// So many used proofs wait to be used again, at most.
const WAITING: usize = 100;

pub(super) async fn run(options: &Options) {
    let parties = corpus::certificates(&options.folder);
    let x5t = parties.client.thumbprint().to_base64url();
    let world = World::new(&options.folder, &x5t);
    println!("ready");
    stdout().flush().unwrap();
    let addresses = stdin().lines().next().unwrap().unwrap();
    let key = |_| {
        let key = Signer::new(Algorithm::ES256, "client");
        let jkt = thumbprint(key.jwk().as_object().unwrap()).unwrap().to_base64url();
        (key, jkt)
    };
    let shared = Arc::new(Shared {
        world,
        keys: (0..KEYS).map(key).collect(),
        x5t,
        used: [Mutex::default(), Mutex::default()],
        stranger: Signer::new(Algorithm::ES256, "stranger"),
    });
    let mut askers = vec![];
    for _ in 0..options.shape.connections {
        for (place, to) in addresses.split(' ').enumerate() {
            let [client, another] = ["client", "another"]
                .map(|name| Client::new(to, corpus::tls_client(&options.folder, name)));
            let shared = Arc::clone(&shared);
            askers.push(Soaking { place, client, another, shared });
        }
    }
    let told = Arc::clone(&shared);
    std::thread::spawn(move || {
        for line in stdin().lines() {
            told.world.happens(&line.unwrap());
        }
    });
    load::run(&options.shape, askers).await;
}

struct Soaking {
    /// At the first or the second proxy.
    place: usize,
    client: Client,
    another: Client,
    shared: Arc<Shared>,
}

impl Asker for Soaking {
    async fn ask(&mut self, number: usize) -> Result<String, Failure> {
        // Who come in turn to the two proxies try the same; and of a hundred such pairs in a row, each tries
        // something else: 37 and 100 have no divisor in common.
        let mut kind = number / 2 * 37 % 100;
        let (kind, _) = MIX
            .iter()
            .find(|(_, share)| {
                let here = kind < *share;
                kind = kind.saturating_sub(*share);
                here
            })
            .unwrap();
        let verdict = self.asked(*kind, number).await;
        Ok(format!("{} {verdict}", self.place))
    }
}

impl Soaking {
    /// Asks, and judges the answer: the kind of the request and the reason, and `WRONG` before it if it may
    /// not be.
    async fn asked(&mut self, kind: Kind, number: usize) -> String {
        let shared = Arc::clone(&self.shared);
        let world = &shared.world;
        let used = matches!(kind, Kind::Replay).then(|| self.used_elsewhere()).flatten();
        // There may be nothing yet to show again.
        let kind = if matches!(kind, Kind::Replay) && used.is_none() { Kind::Known } else { kind };
        let (token, proof) = match &used {
            Some(used) => (used.token.clone(), Some(used.proof.clone())),
            None => self.shown(kind, number),
        };
        let text = (!matches!(kind, Kind::NoToken)).then_some(&*token.text);
        let other = matches!(kind, Kind::WrongCertificate);
        let client = if other { &mut self.another } else { &mut self.client };
        let asked = Instant::now();
        let answer = client.ask(text, proof.as_deref()).await;
        let moment = Moment { asked, answered: Instant::now() };
        let reason = match answer {
            Ok(reason) => reason,
            Err(why) => return world.closed(kind, moment, &why.to_string()),
        };
        let may_be = may_be(world, kind, &token, used.as_ref(), moment);
        if matches!(kind, Kind::Proof) {
            let mut used = shared.used[self.place].lock().unwrap();
            used.push_back(Used { token, proof: proof.unwrap(), allowed: reason == ALLOWED });
            let many = used.len();
            used.drain(..many.saturating_sub(WAITING));
        }
        world.judged(kind, &reason, &may_be)
    }

    fn used_elsewhere(&self) -> Option<Used> {
        self.shared.used[1 - self.place].lock().unwrap().pop_front()
    }

    /// The token of a request, and the proof beside it.
    fn shown(&self, kind: Kind, number: usize) -> (Token, Option<String>) {
        let Shared { world, keys, x5t, stranger, .. } = &*self.shared;
        let by_certificate = json!({"x5t#S256": x5t});
        let (key, jkt) = &keys[number / 100 % keys.len()];
        match kind {
            Kind::Proof | Kind::WrongKey => {
                let token = world.issue(&json!({"jkt": jkt}), 300);
                let key = if matches!(kind, Kind::Proof) { key } else { stranger };
                let proof = proof(key, &token);
                (token, Some(proof))
            }
            Kind::New => (world.issue(&by_certificate, 300), None),
            Kind::Stolen => (world.issue_by_former(&by_certificate, 300), None),
            Kind::Expired => (world.issue(&by_certificate, -60), None),
            Kind::Stranger => (Token::by_stranger(stranger, &by_certificate), None),
            Kind::Former => (world.former(number), None),
            Kind::Revoked => (world.revoked(number), None),
            Kind::Forged => {
                let token = world.known(number);
                (Token { text: tampered(&token.text), ..token }, None)
            }
            Kind::Known | Kind::Replay | Kind::WrongCertificate | Kind::NoToken => {
                (world.known(number), None)
            }
        }
    }
}

/// The reasons of which one must be told.
fn may_be(
    world: &World,
    kind: Kind,
    token: &Token,
    used: Option<&Used>,
    moment: Moment,
) -> Vec<&'static str> {
    // What is told where nothing is wrong with the token itself.
    let good = match kind {
        Kind::NoToken => return vec!["credentials_missing"],
        Kind::Stranger => return vec!["token_key_unknown"],
        Kind::Forged => vec!["token_signature_invalid"],
        Kind::Expired => vec!["token_expired"],
        Kind::WrongCertificate => vec!["certificate_mismatch"],
        Kind::WrongKey => vec!["proof_key_mismatch"],
        Kind::Proof => world.recorded(&[ALLOWED], moment),
        Kind::Replay if used.is_some_and(|it| it.allowed) => {
            world.recorded(&["proof_replayed"], moment)
        }
        // Nobody knows whether it was recorded when that could not be said.
        Kind::Replay => world.recorded(&["proof_replayed", ALLOWED], moment),
        Kind::Known | Kind::New | Kind::Former | Kind::Stolen | Kind::Revoked => vec![ALLOWED],
    };
    let of_token = world.may_be(token, moment).into_iter();
    let told = of_token.flat_map(|it| match it {
        ALLOWED => good.clone(),
        // A key may have come with a token of just now.
        "token_key_unknown" if matches!(kind, Kind::Stolen) => vec![it, "keys_unavailable"],
        it => vec![it],
    });
    told.collect()
}

/// A proof by `key`, that has not been used.
fn proof(key: &Signer, token: &Token) -> String {
    let claims = json!({
        "jti": issued::unique(), "htm": "GET", "iat": now(), "htu": format!("https://{HOST}/accounts/22289"),
        "ath": Thumbprint::of(token.text.as_bytes()).to_base64url(),
    });
    prove(key, &claims)
}
