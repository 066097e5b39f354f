//! Flaws of a proxy's question: why it does not describe a request, and what to do about it.

use super::Flavour;
use keybound_core::{Detail, Refusal};

/// What keeps a question from describing exactly one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// This header is absent or empty.
    Missing(&'static str),
    /// This header occurs more than once.
    Repeated(&'static str),
    /// The value of this header cannot be that of a request, or says what no proxy of this flavour does.
    Unusable(&'static str),
    /// This header is one in which proxies of another flavour describe the request.
    Foreign(&'static str),
    /// The target of the question is not one that a proxy of this flavour asks at.
    Target,
    /// The request upgrades to a protocol other than WebSocket.
    Upgrade,
}

impl Flaw {
    /// The detail that operators read.
    pub fn detail(self) -> Detail {
        match self {
            Self::Missing(header) => missing(header),
            Self::Repeated(_) | Self::Unusable(_) => Detail::QuestionUnusable,
            Self::Foreign(_) => Detail::QuestionForeign,
            Self::Target => Detail::QuestionTarget,
            Self::Upgrade => Detail::UpgradeForeign,
        }
    }

    /// The header that it is about.
    pub const fn header(self) -> Option<&'static str> {
        match self {
            Self::Missing(header)
            | Self::Repeated(header)
            | Self::Unusable(header)
            | Self::Foreign(header) => Some(header),
            Self::Target | Self::Upgrade => None,
        }
    }

    /// What to change in the proxy or in the configuration; none where the client is to blame.
    pub fn advice(self, flavour: &Flavour) -> Option<String> {
        Some(match (self, flavour) {
            (Self::Missing(header), Flavour::Nginx) => {
                let value = nginx_value(header)?;
                format!(
                    "in the location that asks keybound: `proxy_set_header {header} {value};` (ingress-nginx: \
                     in the annotation auth-snippet), or set forward_auth.flavour to the proxy that asks"
                )
            }
            (Self::Missing(header), Flavour::Traefik) => format!(
                "Traefik and Caddy send {header} by themselves: is forward_auth.flavour that of the proxy \
                 that asks?"
            ),
            (Self::Missing(header), Flavour::Envoy { .. }) => {
                format!("every question has {header}: is another program than Envoy asking?")
            }
            (Self::Repeated(header), _) => format!(
                "the proxy must replace {header}, not add one to that of the client: whose is it otherwise?"
            ),
            (Self::Foreign(header), _) => format!(
                "{header} is of another proxy than Envoy: set forward_auth.flavour to the proxy that asks, or \
                 have Envoy not send it along"
            ),
            (Self::Target, Flavour::Envoy { path_prefix }) => format!(
                "each question's path must begin with forward_auth.path_prefix, {path_prefix:?}, which must \
                 be the path_prefix of Envoy's http_service"
            ),
            (Self::Target, _) => {
                "have the proxy ask at /check, or at /check/NAME for the policy NAME".to_owned()
            }
            (Self::Unusable(_) | Self::Upgrade, _) => return None,
        })
    }
}

impl From<Flaw> for Refusal {
    fn from(flaw: Flaw) -> Self {
        flaw.detail().into()
    }
}

fn missing(header: &str) -> Detail {
    match header {
        "x-original-method" => Detail::XOriginalMethodMissing,
        "x-original-uri" => Detail::XOriginalUriMissing,
        "x-forwarded-method" => Detail::XForwardedMethodMissing,
        "x-forwarded-uri" => Detail::XForwardedUriMissing,
        "x-forwarded-host" => Detail::XForwardedHostMissing,
        "x-forwarded-proto" => Detail::XForwardedProtoMissing,
        "host" => Detail::HostMissing,
        _ => Detail::QuestionUnusable,
    }
}

/// The variable of nginx that belongs into a header.
fn nginx_value(header: &str) -> Option<&'static str> {
    match header {
        "x-original-method" => Some("$request_method"),
        "x-original-uri" => Some("$request_uri"),
        "x-forwarded-host" => Some("$host"),
        "x-forwarded-proto" => Some("$scheme"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_that_describes_a_request_is_missed_by_its_name() {
        let envoy = Flavour::Envoy { path_prefix: "/check".to_owned() };
        for flavour in [Flavour::Nginx, Flavour::Traefik, envoy] {
            let names = flavour.headers().iter().copied().chain(["host"]);
            for name in names.filter(|it| *it != "x-ssl-client-verify") {
                let flaw = Flaw::Missing(name);
                let expected = format!("{}_missing", name.replace('-', "_"));
                assert_eq!(flaw.detail().label(), expected);
                assert_eq!(flaw.header(), Some(name));
                let of_nginx = flavour == Flavour::Nginx && name != "host";
                let advice = flaw.advice(&flavour);
                let sets = format!("proxy_set_header {name} $");
                assert_eq!(
                    advice.unwrap_or_default().contains(&sets),
                    of_nginx,
                    "{flavour:?} {name}"
                );
            }
        }
    }
}
