//! Every reason for a denial, with what the client is told.
//!
//! One table for the status, challenge, metric, log, metadata, page, dashboard and documentation
//! (RFC 6750 §3.1, RFC 9449 §7.1).

use Fault::{Client, Dependency, Keybound};
use OAuthError::{
    InsufficientScope, InsufficientUserAuthentication, InvalidDpopProof, InvalidRequest,
    InvalidToken, UseDpopNonce,
};
use std::fmt;

/// An error code for a challenge, from the OAuth registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OAuthError {
    /// RFC 6750 §3.1.
    InvalidRequest,
    /// RFC 6750 §3.1.
    InvalidToken,
    /// RFC 6750 §3.1.
    InsufficientScope,
    /// RFC 9470 §3.
    InsufficientUserAuthentication,
    /// RFC 9449 §7.1.
    InvalidDpopProof,
    /// RFC 9449 §9.
    UseDpopNonce,
}

impl OAuthError {
    /// The code as registered.
    pub const fn code(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidToken => "invalid_token",
            Self::InsufficientScope => "insufficient_scope",
            Self::InsufficientUserAuthentication => "insufficient_user_authentication",
            Self::InvalidDpopProof => "invalid_dpop_proof",
            Self::UseDpopNonce => "use_dpop_nonce",
        }
    }
}

/// Who has to fix the cause of a denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The sender of the request.
    Client,
    /// A dependency of keybound: an issuer, or the replay store.
    Dependency,
    /// keybound itself.
    Keybound,
}

impl Fault {
    /// The label in metrics and `/status`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Dependency => "dependency",
            Self::Keybound => "keybound",
        }
    }
}

macro_rules! denials {
    ($(
        $(#[doc = $sentence:literal])+
        $name:ident = $status:literal, $fault:expr, $error:expr, $label:literal;
    )+) => {
        /// The reason for a denial. The documentation of a variant is the sentence that the client
        /// gets as `error_description`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Denial {
            $($(#[doc = $sentence])+ $name,)+
        }

        impl Denial {
            /// Every reason, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The reason with this label.
            pub fn labelled(label: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|it| it.label() == label)
            }

            /// The label in metrics, logs and metadata.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// The HTTP status that the client gets.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)+ }
            }

            /// Who has to fix the cause.
            pub const fn fault(self) -> Fault {
                match self { $(Self::$name => $fault,)+ }
            }

            /// The OAuth error code, if the standards define one.
            pub const fn error(self) -> Option<OAuthError> {
                match self { $(Self::$name => $error,)+ }
            }

            /// A fixed sentence for the client. Never contains input.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => trimmed(concat!($($sentence,)+)),)+ }
            }
        }
    };
}

/// Removes the space after the slashes of a doc comment.
const fn trimmed(sentence: &str) -> &str {
    sentence.trim_ascii()
}

denials! {
    /// the request is malformed
    RequestMalformed = 400, Client, Some(InvalidRequest), "request_malformed";
    /// the request carries more than one set of credentials
    CredentialsAmbiguous = 400, Client, Some(InvalidRequest), "credentials_ambiguous";
    /// the client certificate is malformed
    CertificateMalformed = 400, Client, Some(InvalidRequest), "certificate_malformed";

    /// no policy applies to the request
    PolicyUnknown = 403, Client, None, "policy_unknown";

    /// the request carries no access token
    CredentialsMissing = 401, Client, None, "credentials_missing";
    /// the authentication scheme is not supported
    SchemeUnsupported = 401, Client, None, "scheme_unsupported";

    /// the access token is malformed
    TokenMalformed = 401, Client, Some(InvalidToken), "token_malformed";
    /// the access token is too large
    TokenTooLarge = 401, Client, Some(InvalidToken), "token_too_large";
    /// the access token is signed with an algorithm that is not allowed
    TokenAlgorithmForbidden = 401, Client, Some(InvalidToken), "token_algorithm_forbidden";
    /// the token is not an access token
    TokenTypeWrong = 401, Client, Some(InvalidToken), "token_type_wrong";
    /// the issuer of the access token is not accepted here
    TokenIssuerUnknown = 401, Client, Some(InvalidToken), "token_issuer_unknown";
    /// the access token is signed with an unknown key
    TokenKeyUnknown = 401, Client, Some(InvalidToken), "token_key_unknown";
    /// the signature of the access token is invalid
    TokenSignatureInvalid = 401, Client, Some(InvalidToken), "token_signature_invalid";
    /// the access token has expired
    TokenExpired = 401, Client, Some(InvalidToken), "token_expired";
    /// the access token is not valid yet
    TokenPremature = 401, Client, Some(InvalidToken), "token_premature";
    /// the access token is intended for another audience
    TokenAudienceMismatch = 401, Client, Some(InvalidToken), "token_audience_mismatch";
    /// the access token lacks a required claim
    TokenClaimMissing = 401, Client, Some(InvalidToken), "token_claim_missing";
    /// the access token is not active
    TokenInactive = 401, Client, Some(InvalidToken), "token_inactive";
    /// the access token has been revoked
    TokenRevoked = 401, Client, Some(InvalidToken), "token_revoked";

    /// the access token is not bound to a key as this resource requires
    BindingMissing = 401, Client, Some(InvalidToken), "binding_missing";
    /// the access token is bound by a method that is not supported
    BindingUnsupported = 401, Client, Some(InvalidToken), "binding_unsupported";
    /// the authentication scheme does not match the binding of the access token
    SchemeMismatch = 401, Client, Some(InvalidToken), "scheme_mismatch";
    /// the access token is bound to a client certificate and the request has none
    CertificateMissing = 401, Client, Some(InvalidToken), "certificate_missing";
    /// the access token is bound to another client certificate
    CertificateMismatch = 401, Client, Some(InvalidToken), "certificate_mismatch";
    /// the sources of the client certificate contradict each other
    CertificateConflict = 401, Client, Some(InvalidToken), "certificate_conflict";
    /// the access token is bound to another key than that of the DPoP proof
    ProofKeyMismatch = 401, Client, Some(InvalidToken), "proof_key_mismatch";

    /// the request carries no DPoP proof
    ProofMissing = 401, Client, Some(InvalidDpopProof), "proof_missing";
    /// the DPoP proof is malformed
    ProofMalformed = 401, Client, Some(InvalidDpopProof), "proof_malformed";
    /// the DPoP proof is signed with an algorithm that is not allowed
    ProofAlgorithmForbidden = 401, Client, Some(InvalidDpopProof), "proof_algorithm_forbidden";
    /// the signature of the DPoP proof is invalid
    ProofSignatureInvalid = 401, Client, Some(InvalidDpopProof), "proof_signature_invalid";
    /// the DPoP proof was made for another method
    ProofMethodMismatch = 401, Client, Some(InvalidDpopProof), "proof_method_mismatch";
    /// the DPoP proof was made for another target
    ProofTargetMismatch = 401, Client, Some(InvalidDpopProof), "proof_target_mismatch";
    /// the DPoP proof was made for another access token
    ProofTokenMismatch = 401, Client, Some(InvalidDpopProof), "proof_token_mismatch";
    /// the time of the DPoP proof is outside the accepted window
    ProofStale = 401, Client, Some(InvalidDpopProof), "proof_stale";
    /// the DPoP proof has been used before
    ProofReplayed = 401, Client, Some(InvalidDpopProof), "proof_replayed";

    /// the user must log in again, more strongly or more recently
    AuthenticationInsufficient = 401, Client, Some(InsufficientUserAuthentication), "authentication_insufficient";
    /// the DPoP proof lacks a current nonce of this server
    NonceRequired = 401, Client, Some(UseDpopNonce), "nonce_required";

    /// the access token lacks a required scope
    ScopeInsufficient = 403, Client, Some(InsufficientScope), "scope_insufficient";
    /// a claim of the access token does not have a value that this resource requires
    ClaimInsufficient = 403, Client, None, "claim_insufficient";

    // Not the client's fault. Denied all the same: a check that cannot be completed does not pass.

    /// the keys of the issuer are not available
    KeysUnavailable = 503, Dependency, None, "keys_unavailable";
    /// token introspection is not available
    IntrospectionUnavailable = 503, Dependency, None, "introspection_unavailable";
    /// the DPoP proof cannot be checked for replay
    ReplayUnavailable = 503, Dependency, None, "replay_unavailable";
    /// whether the access token has been revoked cannot be told
    RevocationUnavailable = 503, Dependency, None, "revocation_unavailable";
    /// the check took too long
    CheckTimedOut = 503, Dependency, None, "check_timed_out";
    /// too many requests are being checked
    Overloaded = 503, Keybound, None, "overloaded";
    /// the check failed
    Internal = 500, Keybound, None, "internal";
}

macro_rules! details {
    ($($(#[doc = $sentence:literal])+ $name:ident of $denial:ident = $label:literal;)+) => {
        /// The detail behind a reason, for the operator: one of a fixed set, never sent to clients.
        /// The documentation of a variant is the sentence that operators read.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Detail {
            $($(#[doc = $sentence])+ $name,)+
        }

        impl Detail {
            /// Every detail, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The reason to which it belongs.
            pub const fn denial(self) -> Denial {
                match self { $(Self::$name => Denial::$denial,)+ }
            }

            /// The label in metrics, logs and `/status`.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// A fixed sentence for the operator. Never contains input.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => trimmed(concat!($($sentence,)+)),)+ }
            }
        }
    };
}

details! {
    /// the message is longer than the limit
    MessageTooLarge of RequestMalformed = "message_too_large";
    /// the message is compressed, which was not negotiated
    MessageCompressed of RequestMalformed = "message_compressed";
    /// the message is truncated
    MessageTruncated of RequestMalformed = "message_truncated";
    /// the call contains more than one message
    MessageExcess of RequestMalformed = "message_excess";
    /// the message is not valid protobuf
    MessageUnreadable of RequestMalformed = "message_unreadable";
    /// a singular field occurs twice
    FieldRepeated of RequestMalformed = "field_repeated";
    /// the message contains no HTTP request
    HttpRequestMissing of RequestMalformed = "http_request_missing";
    /// the request has no method
    MethodMissing of RequestMalformed = "method_missing";
    /// the method, scheme, host, path or policy is not UTF-8
    TextNotUtf8 of RequestMalformed = "text_not_utf8";
    /// the proxy's question has no x-original-method
    XOriginalMethodMissing of RequestMalformed = "x_original_method_missing";
    /// the proxy's question has no x-original-uri
    XOriginalUriMissing of RequestMalformed = "x_original_uri_missing";
    /// the proxy's question has no x-forwarded-method
    XForwardedMethodMissing of RequestMalformed = "x_forwarded_method_missing";
    /// the proxy's question has no x-forwarded-uri
    XForwardedUriMissing of RequestMalformed = "x_forwarded_uri_missing";
    /// the proxy's question has no x-forwarded-host
    XForwardedHostMissing of RequestMalformed = "x_forwarded_host_missing";
    /// the proxy's question has no x-forwarded-proto
    XForwardedProtoMissing of RequestMalformed = "x_forwarded_proto_missing";
    /// the proxy's question has no host
    HostMissing of RequestMalformed = "host_missing";
    /// a header that describes the request is repeated in the proxy's question, or has an odd value
    QuestionUnusable of RequestMalformed = "question_unusable";
    /// a header of the question is from another kind of proxy than `forward_auth.flavour`
    QuestionForeign of RequestMalformed = "question_foreign";
    /// the proxy does not ask at /check or /check/NAME, or not behind the `path_prefix`
    QuestionTarget of RequestMalformed = "question_target";
    /// the request upgrades to a protocol other than WebSocket, which would escape all checks
    UpgradeForeign of RequestMalformed = "upgrade_foreign";
    /// a header that an upstream could confuse with one of keybound's cannot be removed
    HeaderUnremovable of RequestMalformed = "header_unremovable";
    /// the path, as some servers read it, is under a stricter policy
    PathAmbiguous of RequestMalformed = "path_ambiguous";
    /// the host, as some servers read it, is under a stricter policy
    HostAmbiguous of RequestMalformed = "host_ambiguous";
    /// the method, as some servers read it, is under a stricter policy
    MethodAmbiguous of RequestMalformed = "method_ambiguous";
    /// the URL in a header is under a stricter policy
    UrlOverridden of RequestMalformed = "url_overridden";
    /// a thumbprint in cnf is no SHA-256 in base64url: hex, padded, standard base64, SHA-1, or no text at all
    ConfirmationMalformed of TokenMalformed = "confirmation_malformed";
    /// the algorithm is allowed, but the key that the token names is for another, by its type or its alg
    KeyForbidsAlgorithm of TokenAlgorithmForbidden = "key_forbids_algorithm";
    /// the issuer publishes the key of the token, but in a form that cannot be used
    KeyUnusable of TokenKeyUnknown = "key_unusable";
    /// the status claim cannot be read
    StatusMalformed of TokenMalformed = "status_malformed";
    /// the token names no place in a status list, and `status_list` is `required`
    StatusMissing of TokenClaimMissing = "status_missing";
    /// the token is invalid by the status list that it names
    StatusInvalid of TokenRevoked = "status_invalid";
    /// the token is suspended by the status list that it names
    StatusSuspended of TokenRevoked = "status_suspended";
    /// the token has a status in the list that it names which is neither valid, invalid nor suspended
    StatusOther of TokenRevoked = "status_other";
    /// an entry of the denylist names the token
    Denylisted of TokenRevoked = "denylisted";
    /// the issuer told by an event that tokens of this user or session that were issued until then are revoked
    EventReceived of TokenRevoked = "event_received";
    /// the token has no kid, and too many such tokens have failed with every key
    KeyTriesSpent of Overloaded = "key_tries_spent";
    /// the key of the token is unknown, and the key set cannot be fetched again yet
    KeyNotKnownYet of KeysUnavailable = "key_not_known_yet";

    /// there was no room for an event about tokens that were issued until then, of which this may be one
    EventsFull of RevocationUnavailable = "events_full";
    /// the events that replicas share in Redis could not be read for too long, or one of them cannot be read
    EventsUnheard of RevocationUnavailable = "events_unheard";

    /// a claim by which tokens are revoked (`jti`, `sub`, `sid`, the client) holds more names than are looked up
    NamesTooMany of RevocationUnavailable = "names_too_many";

    /// the replay store in memory is full
    StoreFull of ReplayUnavailable = "store_full";
    /// the client has used as many proofs as one key may within their lifetime
    ClientOverShare of ReplayUnavailable = "client_over_share";
    /// the clock went back to a time that the replay store no longer remembers
    ClockWentBack of ReplayUnavailable = "clock_went_back";
    /// there is no connection to Redis
    StoreUnreachable of ReplayUnavailable = "store_unreachable";
    /// Redis does not answer in time
    StoreLate of ReplayUnavailable = "store_late";
    /// Redis has no memory left (OOM)
    StoreOutOfMemory of ReplayUnavailable = "store_out_of_memory";
    /// Redis does not let this user write (NOPERM, NOAUTH), or refuses the client certificate
    StoreNotPermitted of ReplayUnavailable = "store_not_permitted";
    /// Redis is a replica, which only reads (READONLY)
    StoreReadOnly of ReplayUnavailable = "store_read_only";
    /// no node of the Redis cluster serves the record at present (MOVED, CLUSTERDOWN)
    StoreMoved of ReplayUnavailable = "store_moved";
    /// Redis is loading or busy (LOADING, BUSY)
    StoreNotReady of ReplayUnavailable = "store_not_ready";
    /// Redis cannot persist or replicate what it records (MISCONF, NOREPLICAS)
    StoreNotDurable of ReplayUnavailable = "store_not_durable";
    /// Redis refuses to record for another reason
    StoreRefuses of ReplayUnavailable = "store_refuses";
    /// the status list that the token names could not be fetched, or is too old
    StatusListUnavailable of RevocationUnavailable = "status_list_unavailable";
    /// the status list that the token names is where no list may be fetched from
    StatusListForbidden of RevocationUnavailable = "status_list_forbidden";
    /// the tokens of the issuer name too many status lists at once
    StatusListsFull of RevocationUnavailable = "status_lists_full";
    /// the status list that the token names ends before its place, or is that of another tenant
    StatusUnreadable of RevocationUnavailable = "status_unreadable";
    /// the issuer's introspection endpoint gave no usable answer about the token
    IssuerAnswerUnusable of IntrospectionUnavailable = "issuer_answer_unusable";
    /// the issuer failed to answer about this token recently, and is not asked again yet
    IssuerFailedBefore of IntrospectionUnavailable = "issuer_failed_before";
    /// the issuer did not answer in time (`introspection.timeout`, `check_deadline`, Envoy's `timeout`)
    IssuerLate of IntrospectionUnavailable = "issuer_late";
    /// the issuer fails for all tokens, and the circuit breaker is open
    IssuerFails of IntrospectionUnavailable = "issuer_fails";
    /// too many calls to the issuer are in progress
    IssuerBusy of IntrospectionUnavailable = "issuer_busy";
    /// the issuer limits the rate of calls (429)
    IssuerLimits of IntrospectionUnavailable = "issuer_limits";
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A reason for a denial, with its detail if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason.
    pub denial: Denial,
    /// The detail for the operator.
    pub detail: Option<Detail>,
}

impl From<Detail> for Refusal {
    fn from(detail: Detail) -> Self {
        Self { denial: detail.denial(), detail: Some(detail) }
    }
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self { denial, detail: None }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_reason_has_a_label_of_its_own() {
        let labels: HashSet<_> = Denial::ALL.iter().map(|it| it.label()).collect();
        assert_eq!(labels.len(), Denial::ALL.len());
    }

    #[test]
    fn every_detail_has_a_label_of_its_own() {
        let labels: HashSet<_> = Detail::ALL.iter().map(|it| it.label()).collect();
        assert_eq!(labels.len(), Detail::ALL.len());
        let is_label = |it: &str| {
            it.bytes().all(|it| it.is_ascii_lowercase() || it == b'_' || it.is_ascii_digit())
        };
        assert!(Detail::ALL.iter().all(|it| is_label(it.label()) && it.sentence().len() > 10));
    }

    #[test]
    fn every_reason_refuses() {
        for denial in Denial::ALL {
            assert!((400..600).contains(&denial.status()), "{denial}");
        }
    }

    #[test]
    fn the_client_reads_from_the_status_whether_it_is_at_fault() {
        // RFC 9110 §15.5 and §15.6.
        for denial in Denial::ALL {
            assert_eq!(denial.fault() == Client, denial.status() < 500, "{denial}");
        }
    }

    #[test]
    fn every_sentence_fits_into_a_quoted_string() {
        // RFC 6750 §3: error_description holds only %x20-21 / %x23-5B / %x5D-7E.
        for denial in Denial::ALL {
            let sentence = denial.sentence();
            let allowed = |it: u8| matches!(it, 0x20..=0x21 | 0x23..=0x5b | 0x5d..=0x7e);
            assert!(sentence.bytes().all(allowed), "{denial}");
            assert!(!sentence.starts_with(' ') && sentence.len() > 10, "{denial}");
        }
    }

    #[test]
    fn invalid_token_is_always_a_401() {
        for denial in Denial::ALL {
            if denial.error() == Some(InvalidToken) {
                assert_eq!(denial.status(), 401, "{denial}");
            }
        }
    }
}
