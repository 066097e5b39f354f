//! Advice on connections that fail before their first request: what to change, and where.

use crate::telemetry::connections::Cause;
use crate::telemetry::metrics::Front;

/// One sentence for who runs the proxy; none if the cause says nothing about its settings.
pub(super) const fn on(cause: Cause, front: Front) -> Option<&'static str> {
    let is_grpc = matches!(front, Front::ExtAuthz);
    Some(match cause {
        Cause::HttpVersion if is_grpc => {
            "HTTP/1.1 on listen.ext_authz, which is gRPC: set http2_protocol_options for Envoy's cluster; \
             proxies that ask over HTTP/1.1 belong to listen.forward_auth"
        }
        Cause::HttpVersion => {
            "HTTP/2 on listen.forward_auth, which speaks HTTP/1.1: Envoy's grpc_service belongs to \
             listen.ext_authz; for its http_service, leave http2_protocol_options out"
        }
        Cause::TlsUnexpected if is_grpc => {
            "the proxy speaks TLS, and listen.tls is not set: set it, or remove the transport_socket \
             of Envoy's cluster"
        }
        Cause::TlsUnexpected => {
            "the proxy speaks TLS, and listen.tls is not set: set it, or have the proxy ask by http"
        }
        Cause::NotTls if is_grpc => {
            "listen.tls is set, and the proxy does not speak TLS: give Envoy's cluster a transport_socket \
             with an UpstreamTlsContext"
        }
        Cause::NotTls => {
            "listen.tls is set, and the proxy does not speak TLS: have the proxy ask by https"
        }
        Cause::CertificateMissing if is_grpc => {
            "listen.tls.client_ca_file demands a client certificate: give Envoy's cluster tls_certificates \
             in the common_tls_context of its transport_socket"
        }
        Cause::CertificateMissing => {
            "listen.tls.client_ca_file demands a client certificate: give the proxy one for its questions \
             (proxy_ssl_certificate of nginx)"
        }
        Cause::CertificateUntrusted => {
            "the proxy's certificate must come from an authority in listen.tls.client_ca_file, and be for \
             clients (extended key usage)"
        }
        Cause::CertificateExpired => {
            "renew the proxy's certificate, or correct the clock of this machine"
        }
        Cause::NameNotAllowed => {
            "if this proxy may ask, add a name of its certificate to listen.tls.client_names"
        }
        Cause::RefusedByClient => {
            "the proxy does not accept listen.tls.certificate_file: it must trust its authority, and \
             expect the name in it"
        }
        Cause::Incompatible if is_grpc => {
            "the proxy must offer TLS 1.2 or 1.3, and h2 if it offers protocols (ALPN)"
        }
        Cause::Incompatible => {
            "the proxy must offer TLS 1.2 or 1.3, and http/1.1 if it offers protocols (ALPN)"
        }
        Cause::NotHttp => "is it another program than a proxy that connects to this listener?",
        Cause::TimedOut | Cause::Closed | Cause::Other => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_was_told_wrongly_is_told_to_who_runs_it() {
        for (cause, front, part) in [
            (Cause::HttpVersion, Front::ExtAuthz, "set http2_protocol_options for Envoy's cluster"),
            (Cause::HttpVersion, Front::ForwardAuth, "belongs to listen.ext_authz"),
            (Cause::TlsUnexpected, Front::ExtAuthz, "remove the transport_socket"),
            (Cause::TlsUnexpected, Front::ForwardAuth, "by http"),
            (Cause::NotTls, Front::ExtAuthz, "UpstreamTlsContext"),
            (Cause::NotTls, Front::ForwardAuth, "by https"),
            (Cause::CertificateMissing, Front::ExtAuthz, "tls_certificates"),
            (Cause::CertificateMissing, Front::ForwardAuth, "proxy_ssl_certificate"),
            (Cause::CertificateUntrusted, Front::ExtAuthz, "client_ca_file"),
            (Cause::NameNotAllowed, Front::ExtAuthz, "client_names"),
            (Cause::RefusedByClient, Front::ExtAuthz, "certificate_file"),
            (Cause::Incompatible, Front::ExtAuthz, "h2"),
            (Cause::Incompatible, Front::ForwardAuth, "http/1.1"),
        ] {
            let advice = on(cause, front).unwrap();
            assert!(advice.contains(part) && !advice.contains('\n'), "{advice}");
        }
        for cause in [Cause::TimedOut, Cause::Closed, Cause::Other] {
            assert_eq!(on(cause, Front::ExtAuthz), None);
        }
    }
}
