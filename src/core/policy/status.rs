//! What becomes of the status that a token has in a list of its issuer.

use crate::words::words;

words! {
    /// What becomes of the place in a status list that a token names.
    #[default(Off)]
    pub enum StatusDemand as "StatusDemand" {
        /// Nothing: it is not looked at.
        Off = "off",
        /// The status there must be a good one. A token that names no place passes.
        IfPresent = "if_present",
        /// The same, and a token that names no place is denied.
        Required = "required",
    }
}
