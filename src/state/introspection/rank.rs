//! Which tokens go first where not all can, and why some are turned away.

use keybound_core::Detail;

/// What is known of a token before its issuer is asked. The better goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// It was active not long ago, or it is a JWT whose signature is good. Nobody can make one up.
    Known,
    /// It was turned away before, and nobody has asked about it yet. Whoever makes up a new token
    /// for each request has none of this rank.
    Returning,
    /// Nothing, or that its last call failed. A good token looks the same as one that is made up.
    New,
}

impl Rank {
    /// All of them, the best first.
    pub(super) const ALL: [Self; 3] = [Self::Known, Self::Returning, Self::New];
}

/// Why a check gets no answer, although the issuer was not asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TurnedAway {
    /// The issuer fails at all tokens.
    BreakerOpen,
    /// No place among the calls became free in time.
    Busy,
    /// The issuer limits how often it is asked.
    RateLimited,
    /// The issuer failed at this very token a moment ago.
    FailedBefore,
    /// The call goes on, but the check must not wait any longer.
    Late,
}

impl TurnedAway {
    /// All of them.
    pub(super) const ALL: [Self; 5] =
        [Self::BreakerOpen, Self::Busy, Self::RateLimited, Self::FailedBefore, Self::Late];

    /// Whether there was no room for it then, and may be when it comes again.
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

    /// What the operator is told of a denial.
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
