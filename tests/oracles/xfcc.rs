//! Certificates whose names spell elements of `x-forwarded-client-cert`, and clients that send one
//! of their own: whatever they write, the certificate that is read is the client's, or none.

use super::choices::Choices;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keybound_core::client_certificate::{ClientCertificate, Source};
use keybound_core::jose::Thumbprint;
use keybound_core::{Evidence, Field, PeerCertificate};

/// A client connects somewhere on a way of up to three proxies, with any certificate and any
/// header. Holds that no other thumbprint is read than that of its own certificate.
pub fn no_other_certificate_is_read(choices: &mut Choices<'_>) -> &'static str {
    let proxies = [Certificate::of_proxy("inner"), Certificate::of_proxy("edge")];
    let victim = Certificate::of("victim");
    let behind = &proxies[choices.pick(&[0, 0, 1, 2])..];
    let listed: Vec<_> = behind.iter().map(|it| it.listed(choices.one_in(2))).collect();
    // Whoever connects to a proxy further on leaves out those before it.
    let entry = if choices.one_in(2) { choices.below(behind.len() + 1) } else { behind.len() };
    let entry = if choices.one_in(4) { 0 } else { entry };
    let (header, spelled) = plan(choices, &victim, &behind[..entry], &listed);
    let client = Certificate::of_client(choices, &spelled, &victim, &proxies);

    let mut peer = &client;
    let mut value = header;
    for proxy in &behind[entry..] {
        value = Proxy::any(choices).forward(&value, peer);
        peer = proxy;
    }
    value = Proxy::any(choices).forward(&value, peer);
    let own = peer.url_encoded();
    let evidence = Evidence {
        xfcc: Field::One(value.as_bytes()),
        peer_principal: peer.principal().as_bytes(),
        peer_certificate: PeerCertificate::url_encoded_pem(if choices.one_in(2) {
            own.as_bytes()
        } else {
            b""
        }),
        ..Evidence::default()
    };
    match (Source::Xfcc { behind: listed.clone() }).read(&evidence) {
        ClientCertificate::Presented(it) => {
            assert_eq!(it, client.thumbprint(), "{value}\nbehind {listed:?}, from {client:?}");
            if spelled.is_empty() { "read" } else { "read in spite of its names" }
        }
        ClientCertificate::Absent => "none",
        ClientCertificate::Malformed => "malformed",
        ClientCertificate::Conflict => "conflict",
    }
}

/// A header that the client sends and text for the names in its certificate. With the element of a
/// proxy between the two, they may spell the elements that are expected before those of the proxies
/// further on.
fn plan(
    choices: &mut Choices<'_>,
    victim: &Certificate,
    left_out: &[Certificate],
    listed: &[String],
) -> (String, String) {
    let pair = |(of, listed): (&Certificate, &String)| {
        if *listed == of.hash() { format!("Hash={listed}") } else { format!("URI={listed}") }
    };
    let mut wanted = vec![format!("Hash={}", victim.hash())];
    wanted.extend(left_out.iter().zip(listed).map(pair));
    match choices.below(8) {
        0 => (String::new(), String::new()),
        1 => (choices.text(HEADERS, 3), String::new()),
        _ => {
            // The proxy's own element begins with the hash of the client.
            let (before, own) = wanted.split_at(choices.below(wanted.len() + 1));
            let joint = choices.pick(&[";", ";", ";", ",", "\";", "\","]);
            let end = choices.pick(&["", "", "", ";", ",", "\""]);
            let open = choices.pick(&["", "", "", "", ",", ";Subject=\"", ";URI=\""]);
            (before.join(",") + open, format!("{joint}{}{end}", own.join(",")))
        }
    }
}

const HEADERS: &[&str] = &[
    "Hash=",
    "2b0c8ae5a6e2bd1e2b2c1a2a2c7b1d7e8f9012345678901234567890abcdef01",
    "By=spiffe://lab/us",
    ";",
    ",",
    "URI=spiffe://lab/edge",
    ";Subject=\"",
    "\"",
    "[",
    "[]",
    "[{\"hash\":\"2b0c8ae5a6e2bd1e2b2c1a2a2c7b1d7e8f9012345678901234567890abcdef01\"}]",
    "\\",
];

/// What is in a certificate.
#[derive(Debug)]
struct Certificate {
    der: Vec<u8>,
    subject: String,
    uris: Vec<String>,
    dns: Vec<String>,
}

impl Certificate {
    fn of(name: &str) -> Self {
        // To read one takes its outer form alone (X.690 §8.1).
        let mut der = vec![0x30, u8::try_from(name.len()).unwrap()];
        der.extend(name.as_bytes());
        Self { der, subject: format!("CN={name}"), uris: vec![], dns: vec![] }
    }

    fn of_proxy(name: &str) -> Self {
        let (uris, dns) = (vec![format!("spiffe://lab/{name}")], vec![format!("{name}.lab")]);
        Self { uris, dns, ..Self::of(name) }
    }

    /// Its names are what the client could get an authority to sign: no name of others.
    fn of_client(
        choices: &mut Choices<'_>,
        spelled: &str,
        victim: &Self,
        proxies: &[Self; 2],
    ) -> Self {
        let hashes = [victim, &proxies[0], &proxies[1]].map(|it| format!("Hash={}", it.hash()));
        let cert = format!("Cert=\"{}\"", victim.url_encoded());
        let mut atoms =
            vec!["", "a", ",", ";", "\"", "\\", "=", " ", "\r\n", "é", "By=spiffe://lab/us"];
        atoms.extend([
            "URI=",
            "URI=spiffe://lab/edge",
            "DNS=",
            "Subject=\"",
            "Issuer=\"x\"",
            "]",
            "{",
        ]);
        atoms.extend(hashes.iter().map(|it| &**it).chain([&*cert, spelled, spelled, spelled]));
        let alone = choices.below(8);
        let mut names = |place: usize, first: &str| {
            if alone < 3 {
                let name = (alone == place).then(|| format!("{first}{spelled}"));
                return name.into_iter().collect();
            }
            let count = choices.below(3);
            let name = |_| format!("{first}{}", choices.text(&atoms, 2));
            (0..count).map(name).collect::<Vec<_>>()
        };
        let (uris, dns) = (names(0, "spiffe://lab/client"), names(1, "x"));
        let subject = names(2, "CN=client").pop().unwrap_or_default();
        Self { subject, uris, dns, ..Self::of("client") }
    }

    fn thumbprint(&self) -> Thumbprint {
        Thumbprint::of(&self.der)
    }

    fn hash(&self) -> String {
        self.thumbprint().to_hex()
    }

    /// As an operator lists it.
    fn listed(&self, by_hash: bool) -> String {
        if by_hash { self.hash() } else { self.uris[0].clone() }
    }

    /// As Envoy calls it (`source.principal`).
    fn principal(&self) -> &str {
        self.uris.first().or_else(|| self.dns.first()).unwrap_or(&self.subject)
    }

    fn pem(&self) -> String {
        let body = STANDARD.encode(&self.der);
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    }

    fn url_encoded(&self) -> String {
        let body = STANDARD.encode(&self.der);
        let body = body.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        format!("-----BEGIN%20CERTIFICATE-----%0A{body}%0A-----END%20CERTIFICATE-----%0A")
    }

    /// As OpenSSL prints a distinguished name for RFC 2253.
    fn escaped_subject(&self) -> String {
        let escape = |it: u8| match it {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => format!("\\{}", char::from(it)),
            b' '..=b'~' => char::from(it).to_string(),
            it => format!("\\{it:02X}"),
        };
        self.subject.bytes().map(escape).collect::<Vec<_>>().concat()
    }
}

/// An Envoy that adds to the header or puts its own in place of it, and what it tells of its peer
/// (`set_current_client_cert_details`).
struct Proxy {
    appends: bool,
    has_uri: bool,
    json: bool,
    details: [bool; 6],
}

impl Proxy {
    fn any(choices: &mut Choices<'_>) -> Self {
        Self {
            appends: !choices.one_in(3),
            has_uri: choices.one_in(2),
            json: choices.one_in(4),
            details: match choices.below(4) {
                0 => [false, false, false, false, true, false],
                1 => [true, false, true, true, true, false],
                _ => [(); 6].map(|()| choices.one_in(2)),
            },
        }
    }

    fn forward(&self, header: &str, peer: &Certificate) -> String {
        if !self.appends || header.is_empty() {
            return if self.json { format!("[{}]", self.object(peer)) } else { self.pairs(peer) };
        }
        // What is there already decides the form.
        match header.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
            Some("") => format!("[{}]", self.object(peer)),
            Some(elements) => format!("[{elements},{}]", self.object(peer)),
            None => format!("{header},{}", self.pairs(peer)),
        }
    }

    /// Names of the peer are written as they are.
    fn pairs(&self, peer: &Certificate) -> String {
        let [cert, chain, subject, uri, dns, issuer] = self.details;
        let mut pairs = vec![];
        if self.has_uri {
            pairs.push("By=spiffe://lab/us".to_owned());
        }
        pairs.push(format!("Hash={}", peer.hash()));
        if cert {
            pairs.push(format!("Cert=\"{}\"", peer.url_encoded()));
        }
        if chain {
            pairs.push(format!("Chain=\"{}\"", peer.url_encoded()));
        }
        if subject {
            pairs.push(format!("Subject=\"{}\"", peer.escaped_subject()));
        }
        if uri && peer.uris.is_empty() {
            pairs.push("URI=".to_owned());
        }
        if uri {
            pairs.extend(peer.uris.iter().map(|it| format!("URI={it}")));
        }
        if dns {
            pairs.extend(peer.dns.iter().map(|it| format!("DNS={it}")));
        }
        if issuer {
            pairs.push("Issuer=\"CN=ca\"".to_owned());
        }
        pairs.join(";")
    }

    fn object(&self, peer: &Certificate) -> String {
        let [cert, chain, subject, uri, dns, issuer] = self.details;
        let mut members = serde_json::Map::new();
        let mut add = |name: &str, told: bool, value: serde_json::Value| {
            if told {
                members.insert(name.to_owned(), value);
            }
        };
        add("by", self.has_uri, vec!["spiffe://lab/us"].into());
        add("hash", true, peer.hash().into());
        add("cert", cert, peer.pem().into());
        add("chain", chain, vec![peer.pem()].into());
        add("subject", subject, peer.escaped_subject().into());
        add("uri", uri, peer.uris.clone().into());
        add("dns", dns, peer.dns.clone().into());
        add("issuer", issuer, "CN=ca".into());
        serde_json::Value::Object(members).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choices::{CASES, outcomes};

    #[test]
    fn whatever_names_spell_the_certificate_is_the_clients_or_none() {
        outcomes(CASES, no_other_certificate_is_read).came_up(&[
            "read",
            "read in spite of its names",
            "malformed",
            "conflict",
        ]);
    }
}
