//! The priority of tokens when not all can be introspected, and the reasons to turn some away.

use keybound_core::Detail;

/// What is known of a token before its issuer is asked. Higher ranks go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// It was active recently, or it is a JWT with a valid signature. Neither can be forged.
    Known,
    /// It was turned away before without a call. A client that makes up a new token for each
    /// request has none of this rank.
    Returning,
    /// Nothing, or its last call failed. A good token looks the same as a forged one here.
    New,
}

impl Rank {
    /// All ranks, highest first.
    pub(super) const ALL: [Self; 3] = [Self::Known, Self::Returning, Self::New];

    /// The label in log lines.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Returning => "returning",
            Self::New => "new",
        }
    }
}

/// Why a check was turned away without a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TurnedAway {
    /// The circuit breaker is open.
    BreakerOpen,
    /// All concurrent calls were in use until the deadline.
    Busy,
    /// The issuer limits our calls.
    RateLimited,
    /// The last call for this token failed a moment ago.
    FailedBefore,
    /// The check reached its deadline; the call goes on.
    Late,
}

impl TurnedAway {
    /// All of them.
    pub(super) const ALL: [Self; 5] =
        [Self::BreakerOpen, Self::Busy, Self::RateLimited, Self::FailedBefore, Self::Late];

    /// Whether capacity was the reason, so that a retry may succeed.
    pub(super) const fn is_for_want_of_room(self) -> bool {
        matches!(self, Self::BreakerOpen | Self::Busy | Self::RateLimited)
    }

    /// The label in the status and in metrics.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::BreakerOpen => "breaker_open",
            Self::Busy => "busy",
            Self::RateLimited => "rate_limited",
            Self::FailedBefore => "failed_before",
            Self::Late => "late",
        }
    }

    /// The detail of the denial, for the operator.
    pub(super) const fn detail(self) -> Detail {
        match self {
            Self::BreakerOpen => Detail::IssuerFails,
            Self::Busy => Detail::IssuerBusy,
            Self::RateLimited => Detail::IssuerLimits,
            Self::FailedBefore => Detail::IssuerFailedBefore,
            Self::Late => Detail::IssuerLate,
        }
    }
}
