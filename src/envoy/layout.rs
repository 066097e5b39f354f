//! The data of Envoy's interface for dynamic modules: how it lies in memory, and what its numbers mean.

use std::ffi::{c_char, c_int};
use std::ptr;

/// Bytes of either side (`envoy_dynamic_module_type_envoy_buffer` and `…_module_buffer`).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer {
    pub(crate) data: *const c_char,
    pub(crate) length: usize,
}

/// A header of either side (`envoy_dynamic_module_type_envoy_http_header` and `…_module_http_header`).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpHeader {
    pub(crate) name: Buffer,
    pub(crate) value: Buffer,
}

/// `envoy_dynamic_module_type_http_header_type`.
pub(crate) const REQUEST_HEADER: c_int = 0;
pub(crate) const RESPONSE_HEADER: c_int = 2;

/// `envoy_dynamic_module_type_attribute_id`.
pub(crate) const SUBJECT: c_int = 33;
pub(crate) const DNS_SAN: c_int = 35;
pub(crate) const URI_SAN: c_int = 37;
pub(crate) const CERTIFICATE_DIGEST: c_int = 38;

/// `envoy_dynamic_module_type_log_level`.
pub(crate) const WARN: c_int = 3;
pub(crate) const ERROR: c_int = 4;

/// `envoy_dynamic_module_type_on_http_filter_request_headers_status`.
pub(crate) const CONTINUE: c_int = 0;
pub(crate) const STOP_ITERATION: c_int = 1;
pub(crate) const STOP_ALL_AND_WATERMARK: c_int = 4;

/// The same for bodies and trailers: they go on as they come.
pub(crate) const BODY_CONTINUE: c_int = 0;

/// `envoy_dynamic_module_type_http_filter_stream_reset_reason`.
pub(crate) const LOCAL_RESET: c_int = 0;

impl Buffer {
    /// No bytes, and not even empty ones.
    pub(crate) const NONE: Self = Self { data: ptr::null(), length: 0 };

    /// Bytes that Envoy may read as long as they live.
    pub(crate) const fn lent(bytes: &[u8]) -> Self {
        Self { data: bytes.as_ptr().cast(), length: bytes.len() }
    }
}

impl HttpHeader {
    /// No header.
    pub(crate) const NONE: Self = Self { name: Buffer::NONE, value: Buffer::NONE };

    /// A name and a value that Envoy may read as long as both live.
    pub(crate) const fn lent(name: &str, value: &str) -> Self {
        Self { name: Buffer::lent(name.as_bytes()), value: Buffer::lent(value.as_bytes()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{align_of, offset_of, size_of};

    #[test]
    fn a_buffer_is_a_pointer_and_a_length() {
        assert_eq!([size_of::<Buffer>(), align_of::<Buffer>()], [16, 8]);
        assert_eq!([offset_of!(Buffer, data), offset_of!(Buffer, length)], [0, 8]);
    }

    /// Envoy has the four words of a header in one structure.
    #[test]
    fn a_header_is_two_pointers_each_with_its_length() {
        assert_eq!([size_of::<HttpHeader>(), align_of::<HttpHeader>()], [32, 8]);
        assert_eq!([offset_of!(HttpHeader, name), offset_of!(HttpHeader, value)], [0, 16]);
    }

    /// In the order of Envoy's enumerations, which grow at their ends.
    #[test]
    fn numbers_are_those_of_envoy() {
        assert_eq!([REQUEST_HEADER, RESPONSE_HEADER], [0, 2]);
        assert_eq!([SUBJECT, DNS_SAN, URI_SAN, CERTIFICATE_DIGEST], [33, 35, 37, 38]);
        assert_eq!([WARN, ERROR], [3, 4]);
        assert_eq!([CONTINUE, STOP_ITERATION, STOP_ALL_AND_WATERMARK, BODY_CONTINUE], [0, 1, 4, 0]);
        assert_eq!(LOCAL_RESET, 0);
    }
}
