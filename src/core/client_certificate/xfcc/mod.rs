//! Which element of `x-forwarded-client-cert` is the client's, and when to trust it.
//!
//! Each proxy on the path adds one element about its own peer. The names in an element come from
//! that peer's certificate, and Envoy writes them unescaped, so a certificate can forge whole pairs
//! and elements, and a client whose own header is not stripped can prepend elements. Against both,
//! the header is accepted only if it has exactly the configured number of elements; all but the
//! first belong to the configured proxies; the last matches the peer that Envoy itself reports
//! (`source.principal`, `source.certificate`); and each element has one `Hash` and, if any, a
//! `Cert` that matches it.

mod json;
mod text;

use super::{CARRIED_BYTES, Unusable, peer};
use crate::jose::thumbprint::Thumbprint;
use crate::request::{Evidence, Field};
use std::borrow::Cow;

/// The thumbprint of the client's certificate; none if the header is absent or empty.
///
/// `behind` is as in [`super::Source::Xfcc`]. A header that cannot be parsed, or occurs more than
/// once, is malformed. A header that does not describe the configured chain of proxies is a
/// conflict: the wrong number of elements, another proxy, or another peer than Envoy reports.
pub(super) fn read(
    evidence: &Evidence<'_>,
    behind: &[String],
) -> Result<Option<Thumbprint>, Unusable> {
    match evidence.xfcc {
        Field::Absent | Field::One(b"") => Ok(None),
        Field::One(value) if value.len() <= CARRIED_BYTES => {
            // No text element begins with a bracket: none of its keys does.
            let client = if value.starts_with(b"[") {
                client(json::elements(value)?.into_iter().map(Ok), evidence, behind)
            } else {
                client(text::elements(value), evidence, behind)
            };
            client.map(Some)
        }
        Field::One(_) | Field::Many => Err(Unusable::Malformed),
    }
}

/// What one proxy reports about its peer.
struct Element<'a> {
    /// The peer's certificate.
    hash: Thumbprint,
    /// The first URI SAN: empty if the certificate has none, absent if the proxy does not forward
    /// it.
    uri: Option<Cow<'a, [u8]>>,
    /// The first DNS SAN; absent if the certificate has none or the proxy does not forward it.
    dns: Option<Cow<'a, [u8]>>,
}

impl<'a> Element<'a> {
    /// A consistent element: `certificate`, if the proxy forwards it, must have the SHA-256 that
    /// `hash` spells in 64 lower-case hexadecimal digits.
    fn new(
        hash: &[u8],
        certificate: Option<Thumbprint>,
        uri: Option<Cow<'a, [u8]>>,
        dns: Option<Cow<'a, [u8]>>,
    ) -> Result<Self, Unusable> {
        if hash.iter().any(u8::is_ascii_uppercase) {
            return Err(Unusable::Malformed);
        }
        let hash = Thumbprint::from_hex(hash).ok_or(Unusable::Malformed)?;
        match certificate {
            Some(certificate) if certificate != hash => Err(Unusable::Conflict),
            Some(_) | None => Ok(Self { hash, uri, dns }),
        }
    }

    /// Whether it describes the proxy with this identity.
    fn is(&self, identity: &str) -> bool {
        match Thumbprint::from_hex(identity.as_bytes()) {
            Some(hash) => self.hash == hash,
            None => !identity.is_empty() && self.uri.as_deref() == Some(identity.as_bytes()),
        }
    }

    /// Whether it can describe the peer that Envoy calls `principal`: the first URI SAN, else the
    /// first DNS SAN, else the subject. What can be compared depends on what the proxy forwards;
    /// only a contradiction counts.
    fn may_be(&self, principal: &[u8]) -> bool {
        match (self.uri.as_deref(), self.dns.as_deref()) {
            (Some(b""), Some(dns)) => dns == principal,
            (Some(b""), None) | (None, _) => true,
            (Some(uri), _) => uri == principal,
        }
    }
}

fn client<'a>(
    mut elements: impl Iterator<Item = Result<Element<'a>, Unusable>>,
    evidence: &Evidence<'_>,
    behind: &[String],
) -> Result<Thumbprint, Unusable> {
    let first = elements.next().ok_or(Unusable::Malformed)??;
    let client = first.hash;
    let mut last = first;
    for proxy in behind {
        last = elements.next().ok_or(Unusable::Conflict)??;
        if !last.is(proxy) {
            return Err(Unusable::Conflict);
        }
    }
    match elements.next() {
        None => (),
        Some(Ok(_)) => return Err(Unusable::Conflict),
        Some(Err(unusable)) => return Err(unusable),
    }
    let agreed = agree(&last, evidence)?;
    // Whoever can reach this proxy can send a plausible chain, so the last element is not trusted
    // on the word of the header alone.
    if !behind.is_empty() && !agreed {
        return Err(Unusable::Conflict);
    }
    Ok(client)
}

/// Whether the peer that Envoy reports matches the last element. False if Envoy reports nothing.
fn agree(last: &Element<'_>, evidence: &Evidence<'_>) -> Result<bool, Unusable> {
    let certificate = peer::read(evidence.peer_certificate)?;
    let principal = evidence.peer_principal;
    if certificate.is_some_and(|it| it != last.hash)
        || (!principal.is_empty() && !last.may_be(principal))
    {
        return Err(Unusable::Conflict);
    }
    Ok(certificate.is_some() || !principal.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_certificate::examples::RFC8705;
    use crate::request::PeerCertificate;

    const US: &str = "spiffe://lab/us";
    const EDGE: &str = "spiffe://lab/edge";
    const INNER: &str = "spiffe://lab/inner";

    fn hash(of: &str) -> String {
        Thumbprint::of(of.as_bytes()).to_hex()
    }

    /// The element that a proxy adds about its peer `name`, whose only SAN is `uri`.
    fn element(name: &str, uri: &str) -> String {
        format!("By={US};Hash={};Subject=\"CN={name}\";URI={uri}", hash(name))
    }

    fn client_element() -> String {
        element("client", "spiffe://lab/client")
    }

    fn owned(behind: &[&str]) -> Vec<String> {
        behind.iter().map(|&it| it.to_owned()).collect()
    }

    /// Reads the header with only `source.principal` beside it.
    fn told(xfcc: &str, behind: &[&str], principal: &str) -> Result<Thumbprint, Unusable> {
        let evidence = Evidence {
            xfcc: Field::One(xfcc.as_bytes()),
            peer_principal: principal.as_bytes(),
            ..Evidence::default()
        };
        read(&evidence, &owned(behind)).map(|it| it.expect("the header is not empty"))
    }

    #[track_caller]
    fn is(xfcc: &str, behind: &[&str], principal: &str, client: &str) {
        let expected = Ok(Thumbprint::of(client.as_bytes()));
        assert_eq!(told(xfcc, behind, principal), expected, "{xfcc}");
    }

    #[track_caller]
    fn conflicts(xfcc: &str, behind: &[&str], principal: &str) {
        assert_eq!(told(xfcc, behind, principal), Err(Unusable::Conflict), "{xfcc}");
    }

    #[track_caller]
    fn malformed(xfcc: &str) {
        assert_eq!(told(xfcc, &[], ""), Err(Unusable::Malformed), "{xfcc}");
    }

    #[test]
    fn no_header_is_no_certificate_and_two_are_malformed() {
        let with = |xfcc| read(&Evidence { xfcc, ..Evidence::default() }, &[]);
        assert_eq!(with(Field::Absent), Ok(None));
        assert_eq!(with(Field::One(b"")), Ok(None));
        assert_eq!(with(Field::Many), Err(Unusable::Malformed));
    }

    #[test]
    fn a_header_that_no_chain_fills_is_refused_unread() {
        let fixed = format!("Hash={};DNS=", hash("client"));
        let longest = format!("{fixed}{:x<1$}", "", CARRIED_BYTES - fixed.len());
        is(&longest, &[], "", "client");
        malformed(&(longest + "x"));
    }

    #[test]
    fn on_a_direct_hop_the_one_element_is_the_client() {
        is(&format!("Hash={}", hash("client")), &[], "", "client");
        is(&format!("By={US};Hash={}", hash("client")), &[], "CN=client", "client");
        is(&client_element(), &[], "spiffe://lab/client", "client");
    }

    #[test]
    fn the_chain_is_exactly_as_long_as_configured() {
        let edge = element("edge", EDGE);
        let inner = element("inner", INNER);
        let client = client_element();
        let two = format!("{client},{edge}");
        let three = format!("{client},{edge},{inner}");
        is(&two, &[EDGE], EDGE, "client");
        is(&three, &[EDGE, INNER], INNER, "client");
        conflicts(&two, &[], EDGE);
        conflicts(&three, &[EDGE], INNER);
        conflicts(&client, &[EDGE], EDGE);
        conflicts(&edge, &[EDGE], EDGE);
        conflicts(&two, &[EDGE, INNER], EDGE);
    }

    #[test]
    fn all_but_the_first_are_the_listed_proxies_in_order() {
        let client = client_element();
        let edge = element("edge", EDGE);
        let inner = element("inner", INNER);
        conflicts(&format!("{client},{inner}"), &[EDGE], INNER);
        conflicts(&format!("{client},{inner},{edge}"), &[EDGE, INNER], EDGE);
        conflicts(&format!("{client},{inner},{inner}"), &[EDGE, INNER], INNER);
        conflicts(&format!("{client},{}", element("edge", "spiffe://lab/edge2")), &[EDGE], EDGE);
        // Only the first URI SAN is an identity: Envoy names the peer by it.
        let second = format!("{};URI={EDGE}", element("edge", "spiffe://lab/other"));
        conflicts(&format!("{client},{second}"), &[EDGE], "spiffe://lab/other");
        // A URI that a DNS SAN spells is not an identity either.
        let dns = format!("By={US};Hash={};URI=;DNS={EDGE}", hash("edge"));
        conflicts(&format!("{client},{dns}"), &[EDGE], EDGE);
        conflicts(&format!("{client},By={US};Hash={};URI=", hash("edge")), &[""], "");
    }

    #[test]
    fn a_proxy_may_be_listed_by_the_hash_of_its_certificate() {
        let two = format!("{},By={US};Hash={}", client_element(), hash("edge"));
        is(&two, &[&hash("edge")], "CN=edge", "client");
        is(&two, &[&hash("edge").to_uppercase()], "CN=edge", "client");
        conflicts(&two, &[&hash("other")], "CN=edge");
        conflicts(&two, &[EDGE], EDGE);
    }

    #[test]
    fn the_last_element_must_be_the_peer_that_envoy_sees() {
        let two = format!("{},{}", client_element(), element("edge", EDGE));
        conflicts(&two, &[EDGE], "spiffe://lab/other");
        conflicts(&two, &[EDGE], "spiffe://lab/client");
        conflicts(&client_element(), &[], "spiffe://lab/other");
        let by_dns = format!("Hash={};URI=;DNS=a.lab;DNS=b.lab", hash("client"));
        is(&by_dns, &[], "a.lab", "client");
        conflicts(&by_dns, &[], "b.lab");
    }

    #[test]
    fn behind_a_proxy_the_headers_own_word_does_not_do() {
        conflicts(&format!("{},{}", client_element(), element("edge", EDGE)), &[EDGE], "");
    }

    #[test]
    fn a_principal_that_the_element_cannot_tell_is_no_contradiction() {
        for details in ["", ";DNS=a.lab", ";Subject=\"CN=client\"", ";URI=;Subject=\"CN=client\""] {
            let xfcc = format!("By={US};Hash={}{details}", hash("client"));
            is(&xfcc, &[], "spiffe://lab/client", "client");
        }
    }

    #[test]
    fn envoys_own_certificate_must_be_that_of_the_last_element() {
        let peer = RFC8705.pem.replace(' ', "%20").replace('\n', "%0A");
        let own = Thumbprint::from_base64url(RFC8705.x5t_s256).unwrap();
        let check = |xfcc: &str, certificate: &str, behind: &[&str], expected| {
            let evidence = Evidence {
                xfcc: Field::One(xfcc.as_bytes()),
                peer_certificate: PeerCertificate::url_encoded_pem(certificate.as_bytes()),
                ..Evidence::default()
            };
            assert_eq!(read(&evidence, &owned(behind)), expected, "{xfcc}");
        };
        let direct = format!("Hash={}", own.to_hex());
        check(&direct, &peer, &[], Ok(Some(own)));
        check(&format!("Hash={}", hash("x")), &peer, &[], Err(Unusable::Conflict));
        check(&direct, "x", &[], Err(Unusable::Malformed));
        let edge = format!("{},{direct};URI={EDGE}", client_element());
        let client = Thumbprint::of(b"client");
        check(&edge, &peer, &[EDGE], Ok(Some(client)));
        check(&edge, &peer, &[&own.to_hex()], Ok(Some(client)));
        let other = format!("{},{}", client_element(), element("edge", EDGE));
        check(&other, &peer, &[EDGE], Err(Unusable::Conflict));
    }

    #[test]
    fn a_forwarded_certificate_must_be_the_one_that_is_named() {
        let cert = RFC8705.pem.replace(' ', "%20").replace('\n', "%0A");
        let own = Thumbprint::from_base64url(RFC8705.x5t_s256).unwrap().to_hex();
        assert!(told(&format!("Hash={own};Cert=\"{cert}\""), &[], "").is_ok());
        conflicts(&format!("Hash={};Cert=\"{cert}\"", hash("client")), &[], "");
        // In every element.
        let two = format!("{},Hash={};Cert=\"{cert}\"", client_element(), hash("edge"));
        conflicts(&two, &[&hash("edge")], "CN=edge");
        malformed(&format!("Hash={own};Cert=\"FORGED\""));
        malformed(&format!("Hash={own};Cert=\"\""));
        malformed(&format!("Hash={own};Cert="));
    }

    #[test]
    fn what_is_not_envoys_grammar_is_malformed() {
        let hash = hash("client");
        malformed(&hash);
        malformed("Hash");
        malformed("Hash=");
        malformed("URI=spiffe://lab/client");
        malformed(&format!("Hash={}", hash.to_uppercase()));
        malformed(&format!("Hash={}", hash.split_at(1).1));
        malformed(&format!("Hash={hash}0"));
        malformed(&format!("hash={hash}"));
        malformed(&format!("HASH={hash}"));
        malformed(&format!(" Hash={hash}"));
        malformed(&format!("Hash= {hash}"));
        malformed(&format!("Hash={hash} "));
        malformed(&format!("Hash={hash};"));
        malformed(&format!("Hash={hash},"));
        malformed(&format!(";Hash={hash}"));
        malformed(&format!(",Hash={hash}"));
        malformed(&format!("Hash={hash};;By=x"));
        malformed(&format!("Hash={hash}; By=x"));
        malformed(&format!("Hash={hash};Serial=1"));
        malformed(&format!("Hash={hash};Subject=\"CN=x\" ;By=x"));
        malformed(&format!("Hash={hash};Subject=\"CN=x\"y"));
        malformed(&format!("Hash={hash};Subject=\"CN=x"));
        malformed(&format!("Hash={hash};Subject=\"CN=x\\\""));
        malformed(&format!("Hash={hash};Subject=CN=\"x\""));
        for control in ["\0", "\t", "\r\n", "\x7f"] {
            malformed(&format!("Hash={hash};URI=x{control}y"));
            malformed(&format!("Hash={hash};Subject=\"x{control}y\""));
            malformed(&format!("Hash={hash};Subject=\"x\\{control}y\""));
        }
        malformed(&format!("Hash={hash};URI=é"));
    }

    #[test]
    fn names_may_repeat_and_nothing_else() {
        let hash = hash("client");
        is(&format!("By=a;By=b;Hash={hash};URI=c;URI=d;DNS=e;DNS=f"), &[], "c", "client");
        for pair in ["Chain=x", "Subject=\"CN=x\"", "Issuer=\"CN=x\""] {
            is(&format!("Hash={hash};{pair}"), &[], "", "client");
            malformed(&format!("Hash={hash};{pair};{pair}"));
        }
        malformed(&format!("Hash={hash};Hash={hash}"));
    }

    #[test]
    fn a_backslash_escapes_within_quotes_only() {
        let hash = hash("client");
        is(&format!(r#"Hash={hash};Subject="CN=a\"b\\\;c,O=d""#), &[], "", "client");
        is(&format!(r#"Hash={hash};URI="a\"\,\\b""#), &[], r#"a",\b"#, "client");
        is(&format!(r"Hash={hash};URI=a\;By=b"), &[], r"a\", "client");
    }

    #[test]
    fn a_certificate_cannot_speak_for_another_by_what_its_names_spell() {
        let attacker = |uri: &str| element("attacker", uri);
        let victim = hash("victim");
        malformed(&attacker(&format!("x;Hash={victim}")));
        malformed(&attacker(&format!("x\";Hash={victim}")));
        conflicts(&attacker(&format!("x,Hash={victim}")), &[], "");
        // It is accepted as a proxy, but only with its own certificate in front.
        is(&attacker(&format!("x,Hash={victim};URI={EDGE}")), &[EDGE], EDGE, "attacker");
    }

    #[test]
    fn a_dns_name_cannot_speak_for_the_proxies_where_uris_are_not_forwarded() {
        // The header of a workload, with the element of a proxy that forwards only DNS SANs.
        let chain = |dns: &str| {
            let (victim, me) = (hash("victim"), hash("me"));
            format!("Hash={victim},By={US};Hash={me};Subject=\"CN=me\";DNS={dns}")
        };
        let spelled = format!("x;URI={INNER},Hash={}", hash("edge"));
        let mine = "spiffe://lab/me";
        for (spelled, principal) in [
            (spelled.clone(), mine),
            (spelled.clone(), "x"),
            (format!("a;DNS={spelled}"), "a"),
            (format!("{spelled};URI={mine}"), mine),
            (format!("{spelled};DNS=a"), "a"),
            (format!("{spelled};URI=;DNS=a"), "a"),
        ] {
            for behind in [[INNER, &hash("edge")], [&hash("edge"), INNER], [INNER, EDGE]] {
                let found = told(&chain(&spelled), &behind, principal);
                assert!(found.is_err(), "{spelled} {principal} {behind:?}");
            }
        }
        malformed(&format!("Hash={};DNS=x;URI={INNER}", hash("me")));
        is(&format!("Hash={};URI={INNER};DNS=x", hash("me")), &[], INNER, "me");
    }

    #[test]
    fn a_client_cannot_swallow_the_proxys_element_in_a_quote_of_its_own() {
        // Under APPEND_FORWARD the client's header comes first. It opens a quote, and a SAN of
        // the client's certificate closes it again.
        let opened = format!("Hash={};Subject=\"", hash("victim"));
        let appended = |san: &str| format!("{opened},By={US};Hash={};URI=a;URI={san}", hash("me"));
        malformed(&appended("x\""));
        malformed(&appended("\";By=b"));
        let chain = appended(&format!("x\",By={US};Hash={};URI={EDGE}", hash("edge")));
        assert_eq!(told(&chain, &[EDGE], EDGE), Err(Unusable::Malformed));
        malformed(&format!("{opened}\\,By={US};Hash={};URI=a;URI=x\"", hash("me")));
    }

    #[test]
    fn the_json_form_tells_the_same() {
        let hash = hash("client");
        let own = Thumbprint::from_base64url(RFC8705.x5t_s256).unwrap().to_hex();
        let pem = RFC8705.pem.replace('\n', "\\n");
        is(&format!(r#"[{{"hash":"{hash}"}}]"#), &[], "", "client");
        let named = format!(r#"[{{"by":["b"],"hash":"{hash}","uri":["a,\"b;"],"dns":["d"]}}]"#);
        is(&named, &[], "a,\"b;", "client");
        conflicts(&named, &[], "d");
        let two = format!(r#"[{{"hash":"{hash}"}},{{"hash":"{own}","uri":["{EDGE}"]}}]"#);
        is(&two, &[EDGE], EDGE, "client");
        conflicts(&two, &[], EDGE);
        assert!(told(&format!(r#"[{{"hash":"{own}","cert":"{pem}"}}]"#), &[], "").is_ok());
        conflicts(&format!(r#"[{{"hash":"{hash}","cert":"{pem}"}}]"#), &[], "");
        for odd in [
            "[",
            "[]",
            "[1]",
            "[{}]",
            &format!(r#"[{{"Hash":"{hash}"}}]"#),
            &format!(r#"[{{"hash":"{}"}}]"#, hash.to_uppercase()),
            &format!(r#"[{{"hash":"{hash}","hash":"{hash}"}}]"#),
            &format!(r#"[{{"hash":"{hash}","serial":"1"}}]"#),
            &format!(r#"[{{"hash":"{hash}","cert":"x"}}]"#),
            &format!(r#"[{{"hash":"{hash}","uri":"x"}}]"#),
            &format!(r#"[{{"hash":"{hash}","subject":"\ud800"}}]"#),
            &format!(r#"[{{"hash":"{hash}","issuer":{{"a":1,"a":1}}}}]"#),
            &format!(r#"[["{hash}",null,[],[],null,null,null,null]]"#),
            &format!(r#"[{{"hash":"{hash}"}}],Hash={hash}"#),
            &format!(r#"[{{"hash":"{hash}"}}"#),
            &format!(r#" [{{"hash":"{hash}"}}]"#),
        ] {
            malformed(odd);
        }
    }
}
