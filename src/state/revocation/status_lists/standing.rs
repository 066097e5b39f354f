//! Whether a token is good by the status lists that it names.

use super::{StatusLists, Untold};
use keybound_core::oauth::{AccessToken, Status, StatusReference};
use keybound_core::{Detail, Standing, Unconfirmed, UnixTime};
use std::time::Duration;

impl StatusLists {
    /// Whether `token` is good by all the lists that it names. A check waits up to `patience` for one that
    /// is not there yet.
    #[inline]
    pub fn standing<'a>(
        &'a self,
        token: &'a AccessToken,
        time: UnixTime,
        patience: Duration,
    ) -> Standing<'a> {
        for place in places(token) {
            match self.look_up(place, token.iss(), time) {
                Ok(Status::Valid) => (),
                Err(Untold::Awaited | Untold::BeyondEnd) => {
                    return Standing::Waits(Box::pin(self.wait(token, time, patience)));
                }
                told => return Standing::Refused(self.refusal(place, told)),
            }
        }
        Standing::Good
    }

    async fn wait(
        &self,
        token: &AccessToken,
        time: UnixTime,
        patience: Duration,
    ) -> Result<(), Unconfirmed> {
        for place in places(token) {
            match self.told(place, token.iss(), time, patience).await {
                Ok(Status::Valid) => (),
                told => return Err(self.refusal(place, told)),
            }
        }
        Ok(())
    }

    /// Why a token is refused that has this status, or whose status cannot be told.
    #[cold]
    fn refusal(&self, place: &StatusReference, told: Result<Status, Untold>) -> Unconfirmed {
        let detail = match told {
            Ok(Status::Valid | Status::Invalid) => Detail::StatusInvalid,
            Ok(Status::Suspended) => Detail::StatusSuspended,
            Ok(Status::Other(_)) => Detail::StatusOther,
            Err(Untold::Awaited | Untold::Unavailable | Untold::Late) => {
                Detail::StatusListUnavailable
            }
            Err(Untold::Forbidden) => Detail::StatusListForbidden,
            Err(Untold::Full) => Detail::StatusListsFull,
            Err(Untold::BeyondEnd | Untold::OtherTenant) => Detail::StatusUnreadable,
        };
        let status = told.map_or_else(|_| String::new(), |it| format!(": {it}"));
        let (index, uri) = (place.index(), shown(place.uri()));
        let why = format!("place {index} of {uri}{status} ({})", self.describe(place));
        Unconfirmed { refusal: detail.into(), why: Some(why.into()) }
    }
}

/// Where the status of a token stands. One that cannot be read was refused before.
fn places(token: &AccessToken) -> &[StatusReference] {
    let revocable = token.revocable.as_deref();
    revocable.and_then(|it| it.places().ok()).unwrap_or_default()
}

/// A URI without its query, which may hold secrets.
fn shown(uri: &str) -> String {
    match uri.split_once('?') {
        Some((before, _)) => format!("{before}?…"),
        None => uri.to_owned(),
    }
}
