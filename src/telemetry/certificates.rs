//! The metrics of the certificates of listeners (`listen.tls`, `listen.events.tls`): from when until when each
//! is valid.

use super::register::Register;
use keybound_core::client_certificate::Validity;
use prometheus::IntGaugeVec;

/// The metrics of certificates.
#[derive(Debug)]
pub struct Certificates {
    not_before: IntGaugeVec,
    not_after: IntGaugeVec,
}

/// A certificate in a file that the configuration names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The key that names the file.
    pub file: &'static str,
    /// Its place in the file; the first is 1.
    pub position: usize,
    /// Its validity period.
    pub validity: Validity,
}

impl Certificates {
    pub(super) fn new(new: &Register<'_>) -> prometheus::Result<Self> {
        let labels = &["file", "position"];
        Ok(Self {
            not_before: new.gauges(
                "keybound_tls_certificate_not_before_timestamp_seconds",
                "When a certificate of a listener becomes valid, by the key of its file and its place there.",
                labels,
            )?,
            not_after: new.gauges(
                "keybound_tls_certificate_not_after_timestamp_seconds",
                "When a certificate of a listener expires, by the key of its file and its place there.",
                labels,
            )?,
        })
    }

    /// Tells of `certificates`, and no longer of those before.
    pub fn set(&self, certificates: &[Certificate]) {
        self.not_before.reset();
        self.not_after.reset();
        for Certificate { file, position, validity } in certificates {
            let position = &*position.to_string();
            for (gauge, time) in
                [(&self.not_before, validity.from), (&self.not_after, validity.until)]
            {
                gauge.with_label_values(&[file, position]).set(time.as_secs());
            }
        }
    }
}
