//! Envoy's interface for dynamic modules (`source/extensions/dynamic_modules/abi/abi.h` in Envoy), and
//! all that is unsafe: the declarations, safe wrappers of the callbacks, and the hooks that Envoy calls.
//!
//! Only callbacks that Envoy 1.38 has are linked; a newer one is looked up when the module is loaded. The
//! hooks catch every panic: one that left them would end the process.

#![expect(unsafe_code, reason = "a C interface: each block names the invariant that it relies on")]

use crate::awaited::Wake;
use crate::layout::{
    BODY_CONTINUE, Buffer, CERTIFICATE_DIGEST, CONTINUE, DNS_SAN, ERROR, HttpHeader, LOCAL_RESET,
    REQUEST_HEADER, RESPONSE_HEADER, STOP_ALL_AND_WATERMARK, STOP_ITERATION, SUBJECT, URI_SAN,
    WARN,
};
use crate::settings::{self, FilterConfig, Route};
use crate::stream::{Envoy, Next, Stream};
use keybound::front::module::Peer;
use keybound_core::Header;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::OnceLock;
use std::vec;

/// The version of the interface of the newest Envoy that this is tested with. An older one warns when it
/// loads the module, and goes on.
const VERSION: &CStr = c"v0.2.0";

/// An HTTP filter of Envoy's, for one stream.
type EnvoyFilter = *mut c_void;

/// A scheduler of Envoy's, for one stream.
type EnvoyScheduler = *mut c_void;

/// What Envoy does with a header of a kind.
type ChangeHeader = unsafe extern "C" fn(EnvoyFilter, c_int, Buffer, Buffer) -> bool;

type SetMetadataBatch = unsafe extern "C" fn(EnvoyFilter, Buffer, *const HttpHeader, usize);

unsafe extern "C" {
    fn envoy_dynamic_module_callback_log(level: c_int, message: Buffer);
    fn envoy_dynamic_module_callback_is_validation_mode() -> bool;
    fn envoy_dynamic_module_callback_http_get_headers_size(
        filter: EnvoyFilter,
        kind: c_int,
    ) -> usize;
    fn envoy_dynamic_module_callback_http_get_headers(
        filter: EnvoyFilter,
        kind: c_int,
        headers: *mut HttpHeader,
    ) -> bool;
    fn envoy_dynamic_module_callback_http_set_header(
        filter: EnvoyFilter,
        kind: c_int,
        name: Buffer,
        value: Buffer,
    ) -> bool;
    fn envoy_dynamic_module_callback_http_add_header(
        filter: EnvoyFilter,
        kind: c_int,
        name: Buffer,
        value: Buffer,
    ) -> bool;
    fn envoy_dynamic_module_callback_http_send_response(
        filter: EnvoyFilter,
        status: u32,
        headers: *const HttpHeader,
        count: usize,
        body: Buffer,
        details: Buffer,
    );
    fn envoy_dynamic_module_callback_http_send_response_headers(
        filter: EnvoyFilter,
        headers: *const HttpHeader,
        count: usize,
        end: bool,
    );
    fn envoy_dynamic_module_callback_http_set_dynamic_metadata_string(
        filter: EnvoyFilter,
        namespace: Buffer,
        key: Buffer,
        value: Buffer,
    );
    fn envoy_dynamic_module_callback_http_filter_get_attribute_string(
        filter: EnvoyFilter,
        attribute: c_int,
        value: *mut Buffer,
    ) -> bool;
    fn envoy_dynamic_module_callback_get_most_specific_route_config(
        filter: EnvoyFilter,
    ) -> *const c_void;
    fn envoy_dynamic_module_callback_http_filter_scheduler_new(
        filter: EnvoyFilter,
    ) -> EnvoyScheduler;
    fn envoy_dynamic_module_callback_http_filter_scheduler_commit(
        scheduler: EnvoyScheduler,
        event: u64,
    );
    fn envoy_dynamic_module_callback_http_filter_scheduler_delete(scheduler: EnvoyScheduler);
    fn envoy_dynamic_module_callback_http_filter_continue_decoding(filter: EnvoyFilter);
    fn envoy_dynamic_module_callback_http_filter_reset_stream(
        filter: EnvoyFilter,
        reason: c_int,
        details: Buffer,
    );
    fn dlsym(library: *mut c_void, symbol: *const c_char) -> *mut c_void;
}

/// An Envoy filter, while a hook for its stream runs on the worker that owns it.
///
/// What a getter lends is Envoy's memory: it lives until the next call that changes something, which
/// therefore takes the filter mutably.
#[derive(Debug)]
pub(crate) struct Filter<'h> {
    raw: EnvoyFilter,
    hook: PhantomData<&'h mut ()>,
}

/// Lines of headers that Envoy lends.
#[derive(Debug)]
pub(crate) struct Lines<'l> {
    headers: vec::IntoIter<HttpHeader>,
    lent: PhantomData<&'l [u8]>,
}

impl<'l> Iterator for Lines<'l> {
    type Item = (&'l [u8], &'l [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let HttpHeader { name, value } = self.headers.next()?;
        // SAFETY: headers live until the hook ends or one is set, which takes the filter mutably; these
        // lines borrow it.
        Some(unsafe { (bytes(name), bytes(value)) })
    }
}

/// Wakes a stream's worker from any thread.
#[derive(Debug)]
pub(crate) struct Scheduler(NonNull<c_void>);

// SAFETY: Envoy lets any thread commit and delete a scheduler (`…_scheduler_commit` posts to the worker's
// dispatcher), and it holds the filter weakly. It is not used by two threads at a time: it is not `Sync`.
unsafe impl Send for Scheduler {}

/// The bytes of a buffer of Envoy's.
///
/// # Safety
///
/// The buffer is empty, or its bytes live and do not change for `'a`.
const unsafe fn bytes<'a>(buffer: Buffer) -> &'a [u8] {
    if buffer.data.is_null() || buffer.length == 0 {
        return &[];
    }
    // SAFETY: not null, and the caller vouches for the rest.
    unsafe { slice::from_raw_parts(buffer.data.cast(), buffer.length) }
}

impl Filter<'_> {
    /// # Safety
    ///
    /// `raw` is the filter that Envoy passed to the hook that runs now, on this thread.
    const unsafe fn of(raw: EnvoyFilter) -> Self {
        Self { raw, hook: PhantomData }
    }

    /// Ends the stream, wherever it is. Envoy gives its state back before this returns, so that nobody may
    /// hold a borrow of it.
    fn end(&mut self) {
        // SAFETY: the filter lives while the hook runs, and Envoy copies the details.
        unsafe {
            envoy_dynamic_module_callback_http_filter_reset_stream(
                self.raw,
                LOCAL_RESET,
                Buffer::lent(ENDED.as_bytes()),
            );
        }
    }

    fn attribute(&self, id: c_int) -> Option<&[u8]> {
        let mut found = Buffer::NONE;
        // SAFETY: the filter lives while the hook runs, and `found` is written to only in the call.
        let told = unsafe {
            envoy_dynamic_module_callback_http_filter_get_attribute_string(
                self.raw,
                id,
                &raw mut found,
            )
        };
        // SAFETY: attributes of the connection live as long as it does, which is longer than the hook.
        let value = unsafe { bytes(found) };
        Some(value).filter(|it| told && !it.is_empty())
    }

    /// Has Envoy do `what` with a header.
    fn have(&mut self, what: ChangeHeader, kind: c_int, name: &str, value: Buffer) {
        let name = Buffer::lent(name.as_bytes());
        // SAFETY: the filter lives while the hook runs; Envoy copies name and value. That it may refuse
        // (there are no such headers now) changes nothing: there is then nothing to protect.
        let _done = unsafe { what(self.raw, kind, name, value) };
    }
}

impl Peer for Filter<'_> {
    fn certificate_digest(&self) -> Option<&[u8]> {
        self.attribute(CERTIFICATE_DIGEST)
    }

    fn principal(&self) -> &[u8] {
        let told = [URI_SAN, DNS_SAN, SUBJECT].into_iter().find_map(|it| self.attribute(it));
        told.unwrap_or_default()
    }
}

impl Envoy for Filter<'_> {
    type Lines<'l>
        = Lines<'l>
    where
        Self: 'l;
    type Wake = Scheduler;

    fn lines(&self) -> Lines<'_> {
        // SAFETY: the filter lives while the hook runs.
        let count = unsafe {
            envoy_dynamic_module_callback_http_get_headers_size(self.raw, REQUEST_HEADER)
        };
        let mut headers = vec![HttpHeader::NONE; count];
        // SAFETY: as above, and Envoy writes just as many as it has said there are: headers change only on
        // this thread.
        let told = unsafe {
            envoy_dynamic_module_callback_http_get_headers(
                self.raw,
                REQUEST_HEADER,
                headers.as_mut_ptr(),
            )
        };
        if !told {
            headers.clear();
        }
        Lines { headers: headers.into_iter(), lent: PhantomData }
    }

    fn route_policy(&self) -> Option<&str> {
        // SAFETY: the filter lives while the hook runs.
        let route =
            unsafe { envoy_dynamic_module_callback_get_most_specific_route_config(self.raw) };
        // SAFETY: what Envoy has of a route is what `…_per_route_config_new` gave it, and the stream keeps
        // its route while the hook runs.
        unsafe { route.cast::<Route>().as_ref() }.map(Route::policy)
    }

    fn add_request_header(&mut self, name: &str, value: &str) {
        let value = Buffer::lent(value.as_bytes());
        self.have(envoy_dynamic_module_callback_http_add_header, REQUEST_HEADER, name, value);
    }

    fn set_request_header(&mut self, name: &str, value: &str) {
        let value = Buffer::lent(value.as_bytes());
        self.have(envoy_dynamic_module_callback_http_set_header, REQUEST_HEADER, name, value);
    }

    fn remove_request_header(&mut self, name: &str) {
        let none = Buffer::NONE;
        self.have(envoy_dynamic_module_callback_http_set_header, REQUEST_HEADER, name, none);
    }

    fn set_response_header(&mut self, name: &str, value: &str) {
        let value = Buffer::lent(value.as_bytes());
        self.have(envoy_dynamic_module_callback_http_set_header, RESPONSE_HEADER, name, value);
    }

    fn set_metadata(&mut self, namespace: &str, metadata: &[(&str, &str)]) {
        let namespace = Buffer::lent(namespace.as_bytes());
        if let Some(set_all) = set_metadata_batch() {
            for some in metadata.chunks(AT_ONCE) {
                let mut entries = [HttpHeader::NONE; AT_ONCE];
                for (entry, (name, value)) in entries.iter_mut().zip(some) {
                    *entry = HttpHeader::lent(name, value);
                }
                // SAFETY: the filter lives while the hook runs, and Envoy copies all that it is lent. As many
                // entries are filled as it is told of.
                unsafe { set_all(self.raw, namespace, entries.as_ptr(), some.len()) };
            }
            return;
        }
        for (name, value) in metadata {
            let HttpHeader { name, value } = HttpHeader::lent(name, value);
            // SAFETY: as above.
            unsafe {
                envoy_dynamic_module_callback_http_set_dynamic_metadata_string(
                    self.raw, namespace, name, value,
                );
            }
        }
    }

    fn send_response(&mut self, status: u16, headers: &[Header<'_>], body: &str, details: &str) {
        let headers = lent(headers);
        // SAFETY: the filter lives while the hook runs, and Envoy copies all that it is lent. It calls hooks
        // of this stream before it returns: the caller holds no borrow of the stream's state.
        unsafe {
            envoy_dynamic_module_callback_http_send_response(
                self.raw,
                status.into(),
                headers.as_ptr(),
                headers.len(),
                Buffer::lent(body.as_bytes()),
                Buffer::lent(details.as_bytes()),
            );
        }
    }

    fn send_headers(&mut self, headers: &[Header<'_>]) {
        let headers = lent(headers);
        // SAFETY: as for a response with a body.
        unsafe {
            envoy_dynamic_module_callback_http_send_response_headers(
                self.raw,
                headers.as_ptr(),
                headers.len(),
                true,
            );
        }
    }

    fn continue_decoding(&mut self) {
        // SAFETY: as for a response: hooks of this stream may run inside.
        unsafe { envoy_dynamic_module_callback_http_filter_continue_decoding(self.raw) };
    }

    fn scheduler(&self) -> Option<Scheduler> {
        // SAFETY: the filter lives while the hook runs. The scheduler is ours until it is deleted.
        let raw = unsafe { envoy_dynamic_module_callback_http_filter_scheduler_new(self.raw) };
        NonNull::new(raw).map(Scheduler)
    }
}

impl Wake for Scheduler {
    fn wake(&self) {
        // SAFETY: it is deleted only when dropped.
        unsafe { envoy_dynamic_module_callback_http_filter_scheduler_commit(self.0.as_ptr(), 0) };
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // SAFETY: it is deleted once.
        unsafe { envoy_dynamic_module_callback_http_filter_scheduler_delete(self.0.as_ptr()) };
    }
}

/// Headers that Envoy may read as long as `headers` live.
fn lent(headers: &[Header<'_>]) -> Vec<HttpHeader> {
    headers.iter().map(|it| HttpHeader::lent(it.name, &it.value)).collect()
}

/// How many entries of metadata Envoy is told of at once. No check has more.
const AT_ONCE: usize = 8;

/// The callback that sets several entries of metadata at once; Envoy 1.38 has none.
fn set_metadata_batch() -> Option<SetMetadataBatch> {
    static FOUND: OnceLock<Option<SetMetadataBatch>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let name = c"envoy_dynamic_module_callback_http_set_dynamic_metadata_string_batch";
        // SAFETY: a null library stands for all that is loaded, and the name is one.
        let found = unsafe { dlsym(ptr::null_mut(), name.as_ptr()) };
        // SAFETY: Envoy's function of this name has this type since it was introduced; null is `None`.
        unsafe { std::mem::transmute::<*mut c_void, Option<SetMetadataBatch>>(found) }
    })
}

/// Whether Envoy only validates its configuration. Must be called on Envoy's main thread.
fn validates() -> bool {
    // SAFETY: it takes nothing, and on another thread Envoy answers false.
    unsafe { envoy_dynamic_module_callback_is_validation_mode() }
}

/// Writes lines to Envoy's own log.
fn log(level: c_int, lines: &[String]) {
    for line in lines.iter().map(|it| format!("keybound: {it}")) {
        // SAFETY: Envoy copies the line.
        unsafe { envoy_dynamic_module_callback_log(level, Buffer::lent(line.as_bytes())) };
    }
}

/// What `work` returns, or `otherwise` after a panic, which must not get into Envoy.
fn caught<T>(otherwise: T, work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(otherwise)
}

/// The text in a buffer of Envoy's.
///
/// # Safety
///
/// As [`bytes`].
unsafe fn text<'a>(buffer: Buffer) -> Option<&'a str> {
    // SAFETY: the caller vouches for it.
    str::from_utf8(unsafe { bytes(buffer) }).ok()
}

/// A pointer for Envoy to keep.
fn given<T>(made: T) -> *const c_void {
    Box::into_raw(Box::new(made)).cast_const().cast()
}

/// The same; null, with the problems in Envoy's log, for what could not be made.
fn given_or_told<T>(made: Result<T, Vec<String>>) -> *const c_void {
    made.map_or_else(
        |problems| {
            log(ERROR, &problems);
            ptr::null()
        },
        given,
    )
}

/// Takes back what [`given`] gave.
///
/// # Safety
///
/// `pointer` is null, or came from [`given`] with this `T`, and is not used any more.
unsafe fn take_back<T>(pointer: *const c_void) {
    if !pointer.is_null() {
        // SAFETY: the caller vouches for it.
        let taken = unsafe { Box::from_raw(pointer.cast_mut().cast::<T>()) };
        caught((), || drop(taken));
    }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_on_program_init() -> *const c_char {
    VERSION.as_ptr()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_new(
    _config: *mut c_void,
    name: Buffer,
    config: Buffer,
) -> *const c_void {
    // SAFETY: Envoy lends both for the time of this hook.
    let (name, config) = unsafe { (text(name), text(config)) };
    caught(ptr::null(), || {
        let made = settings::filter(name, config, validates());
        given_or_told(made.map(|(filter, remarks)| {
            log(WARN, &remarks);
            filter
        }))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_destroy(config: *const c_void) {
    // SAFETY: Envoy gives back what the hook above gave, once.
    unsafe { take_back::<FilterConfig>(config) };
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_per_route_config_new(
    name: Buffer,
    config: Buffer,
) -> *const c_void {
    // SAFETY: Envoy lends both for the time of this hook.
    let (name, config) = unsafe { (text(name), text(config)) };
    caught(ptr::null(), || given_or_told(settings::route(name, config)))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_per_route_config_destroy(
    route: *const c_void,
) {
    // SAFETY: Envoy gives back what the hook above gave, once.
    unsafe { take_back::<Route>(route) };
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_new(
    config: *const c_void,
    _filter: EnvoyFilter,
) -> *const c_void {
    // SAFETY: Envoy passes what `…_config_new` gave, which it has not given back.
    let config = unsafe { config.cast::<FilterConfig>().as_ref() };
    caught(ptr::null(), || config.and_then(FilterConfig::stream).map_or(ptr::null(), given))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_destroy(stream: *const c_void) {
    // SAFETY: Envoy gives back what `…_filter_new` gave, once, and calls no other hook with it.
    unsafe { take_back::<Stream>(stream) };
}

/// What `work` returns for a stream in a hook; none after a panic.
///
/// # Safety
///
/// `filter` and `stream` are what Envoy passed to the hook that runs now.
unsafe fn with_stream<T>(
    filter: EnvoyFilter,
    stream: *const c_void,
    work: impl FnOnce(&Stream, &mut Filter<'_>) -> T,
) -> Option<T> {
    // SAFETY: Envoy passes what `…_filter_new` gave, on the worker that owns it. It is only ever shared: its
    // own fields change through cells, whose borrows end before a callback that may enter another hook.
    let stream = unsafe { stream.cast::<Stream>().as_ref() }?;
    // SAFETY: the caller vouches for it.
    let mut filter = unsafe { Filter::of(filter) };
    caught(None, || Some(work(stream, &mut filter)))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_request_headers(
    filter: EnvoyFilter,
    stream: *const c_void,
    _end: bool,
) -> c_int {
    // SAFETY: these are the hook's own arguments.
    let next = unsafe { with_stream(filter, stream, |it, filter| it.arrives(filter)) };
    // SAFETY: as above.
    let failed = || unsafe { with_stream(filter, stream, |it, filter| it.fails(filter)) };
    match next.or_else(failed).unwrap_or(Next::Answered) {
        Next::Continue => CONTINUE,
        Next::Answered => STOP_ITERATION,
        Next::Wait => STOP_ALL_AND_WATERMARK,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_response_headers(
    filter: EnvoyFilter,
    stream: *const c_void,
    _end: bool,
) -> c_int {
    // SAFETY: these are the hook's own arguments.
    let _told = unsafe { with_stream(filter, stream, |it, filter| it.answers(filter)) };
    CONTINUE
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_scheduled(
    filter: EnvoyFilter,
    stream: *const c_void,
    _event: u64,
) {
    // SAFETY: these are the hook's own arguments.
    match unsafe { with_stream(filter, stream, |it, filter| it.goes_on(filter)) } {
        Some(false) => (),
        // SAFETY: as above, and the borrow of the stream is over.
        Some(true) => unsafe { Filter::of(filter) }.end(),
        None => {
            // SAFETY: as above.
            let _answered = unsafe { with_stream(filter, stream, |it, filter| it.fails(filter)) };
        }
    }
}

/// The details in Envoy's access log (`%RESPONSE_CODE_DETAILS%`) of a stream that has ended with its token.
const ENDED: &str = "keybound_token_ended";

/// Hooks that Envoy demands, and that have nothing to do here: a body is not touched.
macro_rules! idle {
    ($($name:ident($($argument:ty),*) $(-> $status:ident)?;)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name($(_: $argument),*) $(-> idle!(@type $status))? {
            $($status)?
        }
    )*};
    (@type $status:ident) => { c_int };
}

idle! {
    envoy_dynamic_module_on_http_filter_request_body(EnvoyFilter, *const c_void, bool) -> BODY_CONTINUE;
    envoy_dynamic_module_on_http_filter_request_trailers(EnvoyFilter, *const c_void) -> BODY_CONTINUE;
    envoy_dynamic_module_on_http_filter_response_body(EnvoyFilter, *const c_void, bool) -> BODY_CONTINUE;
    envoy_dynamic_module_on_http_filter_response_trailers(EnvoyFilter, *const c_void) -> BODY_CONTINUE;
    envoy_dynamic_module_on_http_filter_stream_complete(EnvoyFilter, *const c_void);
    envoy_dynamic_module_on_http_filter_http_callout_done(
        EnvoyFilter, *const c_void, u64, c_int, *const HttpHeader, usize, *const Buffer, usize
    );
    envoy_dynamic_module_on_http_filter_http_stream_headers(
        EnvoyFilter, *const c_void, u64, *const HttpHeader, usize, bool
    );
    envoy_dynamic_module_on_http_filter_http_stream_data(
        EnvoyFilter, *const c_void, u64, *const Buffer, usize, bool
    );
    envoy_dynamic_module_on_http_filter_http_stream_trailers(
        EnvoyFilter, *const c_void, u64, *const HttpHeader, usize
    );
    envoy_dynamic_module_on_http_filter_http_stream_complete(EnvoyFilter, *const c_void, u64);
    envoy_dynamic_module_on_http_filter_http_stream_reset(EnvoyFilter, *const c_void, u64, c_int);
    envoy_dynamic_module_on_http_filter_downstream_above_write_buffer_high_watermark(
        EnvoyFilter, *const c_void
    );
    envoy_dynamic_module_on_http_filter_downstream_below_write_buffer_low_watermark(
        EnvoyFilter, *const c_void
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use keybound::clock::{Clock, SystemClock};
    use keybound::commands::demo::issuer::SigningKey;
    use keybound_core::UnixTime;
    use std::cell::RefCell;
    use std::fs;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use std::time::Duration;

    /// Envoy, as far as hooks call it. It stands where the module finds an Envoy: each filter is one.
    #[derive(Default)]
    struct Stand {
        headers: Vec<(String, Vec<u8>)>,
        attributes: Vec<(c_int, String)>,
        route: Option<*const c_void>,
        told: RefCell<Vec<String>>,
        wakes: Option<Sender<u64>>,
    }

    /// What Envoy was told to log. The tests share it.
    static LOG: Mutex<Vec<String>> = Mutex::new(vec![]);

    fn log_lines() -> MutexGuard<'static, Vec<String>> {
        LOG.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stand<'a>(filter: EnvoyFilter) -> &'a Stand {
        // SAFETY: each filter of these tests is one, and lives as long as the test.
        unsafe { filter.cast::<Stand>().as_ref() }.unwrap()
    }

    fn say(buffer: Buffer) -> String {
        // SAFETY: the module lends it for the time of the call.
        String::from_utf8_lossy(unsafe { bytes(buffer) }).into_owned()
    }

    fn all(headers: *const HttpHeader, count: usize) -> String {
        // SAFETY: the module lends so many for the time of the call.
        let headers = unsafe { slice::from_raw_parts(headers, count) };
        let line = |it: &HttpHeader| format!("{}: {}", say(it.name), say(it.value));
        headers.iter().map(line).collect::<Vec<_>>().join(", ")
    }

    impl Stand {
        fn tell(&self, what: String) {
            self.told.borrow_mut().push(what);
        }

        fn filter(&self) -> EnvoyFilter {
            ptr::from_ref(self).cast_mut().cast()
        }
    }

    #[unsafe(no_mangle)]
    extern "C" fn envoy_dynamic_module_callback_log(level: c_int, message: Buffer) {
        log_lines().push(format!("{level} {}", say(message)));
    }

    #[unsafe(no_mangle)]
    extern "C" fn envoy_dynamic_module_callback_is_validation_mode() -> bool {
        false
    }

    #[unsafe(no_mangle)]
    extern "C" fn envoy_dynamic_module_callback_http_get_headers_size(
        filter: EnvoyFilter,
        kind: c_int,
    ) -> usize {
        assert_eq!(kind, REQUEST_HEADER);
        stand(filter).headers.len()
    }

    #[unsafe(no_mangle)]
    extern "C" fn envoy_dynamic_module_callback_http_get_headers(
        filter: EnvoyFilter,
        kind: c_int,
        headers: *mut HttpHeader,
    ) -> bool {
        assert_eq!(kind, REQUEST_HEADER);
        for (place, (name, value)) in stand(filter).headers.iter().enumerate() {
            let (name, value) = (Buffer::lent(name.as_bytes()), Buffer::lent(value));
            // SAFETY: the module has room for as many as it was told there are.
            unsafe { headers.add(place).write(HttpHeader { name, value }) };
        }
        true
    }

    #[unsafe(no_mangle)]
    extern "C" fn envoy_dynamic_module_callback_http_set_header(
        filter: EnvoyFilter,
        kind: c_int,
        name: Buffer,
        value: Buffer,
    ) -> bool {
        let value = if value.data.is_null() { "(removed)".to_owned() } else { say(value) };
        stand(filter).tell(format!("header {kind} {}: {value}", say(name)));
        true
    }

    #[unsafe(no_mangle)]
    extern "C" fn envoy_dynamic_module_callback_http_add_header(
        filter: EnvoyFilter,
        kind: c_int,
        name: Buffer,
        value: Buffer,
    ) -> bool {
        stand(filter).tell(format!("added {kind} {}: {}", say(name), say(value)));
        true
    }

    #[unsafe(no_mangle)]
    extern "C" fn envoy_dynamic_module_callback_http_send_response(
        filter: EnvoyFilter,
        status: u32,
        headers: *const HttpHeader,
        count: usize,
        body: Buffer,
        details: Buffer,
    ) {
        let (headers, body, details) = (all(headers, count), say(body), say(details));
        stand(filter).tell(format!("{status} {details} {headers} {body}"));
    }

    #[unsafe(no_mangle)]
    extern "C" fn envoy_dynamic_module_callback_http_send_response_headers(
        filter: EnvoyFilter,
        headers: *const HttpHeader,
        count: usize,
        end: bool,
    ) {
        stand(filter).tell(format!("headers, end {end}: {}", all(headers, count)));
    }

    #[unsafe(no_mangle)]
    extern "C" fn envoy_dynamic_module_callback_http_set_dynamic_metadata_string(
        filter: EnvoyFilter,
        namespace: Buffer,
        key: Buffer,
        value: Buffer,
    ) {
        stand(filter).tell(format!("{} {}: {}", say(namespace), say(key), say(value)));
    }

    #[unsafe(no_mangle)]
    extern "C" fn envoy_dynamic_module_callback_http_filter_get_attribute_string(
        filter: EnvoyFilter,
        attribute: c_int,
        value: *mut Buffer,
    ) -> bool {
        let found = stand(filter).attributes.iter().find(|(id, _)| *id == attribute);
        if let Some((_, found)) = found {
            // SAFETY: the module has room for one.
            unsafe { value.write(Buffer::lent(found.as_bytes())) };
        }
        found.is_some()
    }

    #[unsafe(no_mangle)]
    extern "C" fn envoy_dynamic_module_callback_get_most_specific_route_config(
        filter: EnvoyFilter,
    ) -> *const c_void {
        stand(filter).route.unwrap_or(ptr::null())
    }

    #[unsafe(no_mangle)]
    extern "C" fn envoy_dynamic_module_callback_http_filter_scheduler_new(
        filter: EnvoyFilter,
    ) -> EnvoyScheduler {
        let wakes = stand(filter).wakes.clone();
        wakes.map_or(ptr::null_mut(), |it| Box::into_raw(Box::new(it)).cast())
    }

    #[unsafe(no_mangle)]
    extern "C" fn envoy_dynamic_module_callback_http_filter_scheduler_commit(
        scheduler: EnvoyScheduler,
        event: u64,
    ) {
        // SAFETY: it is one of those above, and not deleted yet.
        let wakes = unsafe { scheduler.cast::<Sender<u64>>().as_ref() }.unwrap();
        wakes.send(event).unwrap();
    }

    #[unsafe(no_mangle)]
    extern "C" fn envoy_dynamic_module_callback_http_filter_scheduler_delete(
        scheduler: EnvoyScheduler,
    ) {
        // SAFETY: as above, and it is not used again.
        drop(unsafe { Box::from_raw(scheduler.cast::<Sender<u64>>()) });
    }

    #[unsafe(no_mangle)]
    extern "C" fn envoy_dynamic_module_callback_http_filter_continue_decoding(filter: EnvoyFilter) {
        stand(filter).tell("goes on".to_owned());
    }

    #[unsafe(no_mangle)]
    extern "C" fn envoy_dynamic_module_callback_http_filter_reset_stream(
        filter: EnvoyFilter,
        reason: c_int,
        details: Buffer,
    ) {
        stand(filter).tell(format!("reset {reason} {}", say(details)));
    }

    /// A configuration in a file of a folder of its own; the keys of its issuer come from `keys`.
    fn configuration(keys: &str, mode: &str) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "listen: {{admin: '127.0.0.1:0'}}\n\
             issuers: [{{issuer: 'https://as.test', audiences: [a], keys: {{{keys}}}}}]\n\
             policies:\n\
             - {{name: strict, match: {{path_prefix: /strict}}, sender_constraint: certificate}}\n\
             - {{name: named, match: {{path_prefix: /named}}, sender_constraint: either, mode: {mode}}}\n\
             - {{name: rest, sender_constraint: dpop, mode: report}}\n"
        );
        let path = folder.path().join("keybound.yaml");
        fs::write(&path, config).unwrap();
        fs::write(folder.path().join("keys.json"), KEYS).unwrap();
        let path = path.to_str().unwrap().to_owned();
        (folder, path)
    }

    /// RFC 7515, appendix A.3.
    const KEYS: &str = r#"{"keys": [{"kty": "EC", "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

    /// The hooks for one stream, in Envoy's order.
    struct Hooks {
        config: *const c_void,
        stream: *const c_void,
    }

    fn configured(name: &str, config: &str) -> *const c_void {
        let [name, config] = [name, config].map(|it| Buffer::lent(it.as_bytes()));
        // SAFETY: these are the arguments that Envoy passes.
        unsafe { envoy_dynamic_module_on_http_filter_config_new(ptr::null_mut(), name, config) }
    }

    fn routed(name: &str, config: &str) -> *const c_void {
        let [name, config] = [name, config].map(|it| Buffer::lent(it.as_bytes()));
        // SAFETY: these are the arguments that Envoy passes.
        unsafe { envoy_dynamic_module_on_http_filter_per_route_config_new(name, config) }
    }

    impl Hooks {
        fn begin(config: &str, stand: &Stand) -> Self {
            let config = configured("keybound", config);
            assert!(!config.is_null(), "{:?}", log_lines());
            // SAFETY: as above.
            let stream = unsafe { envoy_dynamic_module_on_http_filter_new(config, stand.filter()) };
            assert!(!stream.is_null());
            Self { config, stream }
        }

        fn request(&self, stand: &Stand) -> c_int {
            let filter = stand.filter();
            // SAFETY: as above.
            unsafe {
                envoy_dynamic_module_on_http_filter_request_headers(filter, self.stream, true)
            }
        }

        fn response(&self, stand: &Stand) {
            let filter = stand.filter();
            // SAFETY: as above.
            let next = unsafe {
                envoy_dynamic_module_on_http_filter_response_headers(filter, self.stream, true)
            };
            assert_eq!(next, CONTINUE);
        }

        fn scheduled(&self, stand: &Stand) {
            // SAFETY: as above.
            unsafe {
                envoy_dynamic_module_on_http_filter_scheduled(stand.filter(), self.stream, 0);
            }
        }
    }

    impl Drop for Hooks {
        fn drop(&mut self) {
            // SAFETY: as above; Envoy ends streams before their configuration.
            unsafe {
                envoy_dynamic_module_on_http_filter_destroy(self.stream);
                envoy_dynamic_module_on_http_filter_config_destroy(self.config);
            }
        }
    }

    fn asking(path: &str, more: &[(&str, &str)]) -> Stand {
        let own =
            [(":method", "GET"), (":scheme", "https"), (":authority", "api.test"), (":path", path)];
        let headers = own.iter().chain(more);
        let headers = headers.map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
        Stand { headers: headers.collect(), ..Stand::default() }
    }

    const IN_A_FILE: &str = "jwks_file: keys.json";
    const TOKEN: (&str, &str) = (
        "authorization",
        // `{"alg":"ES256","typ":"at+jwt","kid":"1"}`, `{"iss":"https://as.test"}`
        "Bearer eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCIsImtpZCI6IjEifQ.eyJpc3MiOiJodHRwczovL2FzLnRlc3QifQ.AA",
    );

    fn wakes(stand: &mut Stand) -> Receiver<u64> {
        let (wakes, woken) = channel();
        stand.wakes = Some(wakes);
        woken
    }

    #[test]
    fn a_request_that_is_refused_is_answered_at_once() {
        let (_folder, config) = configuration(IN_A_FILE, "enforce");
        let stand = asking("/strict", &[]);
        let hooks = Hooks::begin(&config, &stand);
        assert_eq!(hooks.request(&stand), STOP_ITERATION);
        let told = stand.told.borrow();
        let (answer, metadata) = told.split_last().unwrap();
        assert!(answer.starts_with("401 keybound_denied www-authenticate: Bearer "), "{answer}");
        let reason = "envoy.filters.http.ext_authz reason: credentials_missing";
        assert!(metadata.iter().any(|it| it == reason), "{metadata:?}");
        assert!(metadata.iter().all(|it| it.starts_with("envoy.filters.http.ext_authz ")));
    }

    #[test]
    fn a_request_that_is_let_through_goes_on_without_the_headers_that_a_client_may_not_set() {
        let (_folder, config) = configuration(IN_A_FILE, "report");
        let stand = asking("/", &[("x_auth_subject", "root")]);
        let hooks = Hooks::begin(&config, &stand);
        assert_eq!(hooks.request(&stand), CONTINUE);
        hooks.response(&stand);
        let told = stand.told.borrow();
        assert!(told.contains(&"header 0 x_auth_subject: (removed)".to_owned()), "{told:?}");
        assert!(!told.iter().any(|it| it.contains("x-auth-issuer")), "none was there: {told:?}");
        assert!(!told.iter().any(|it| it == "goes on" || it.starts_with("401")), "{told:?}");
    }

    #[test]
    fn what_a_client_may_not_set_is_removed_although_the_request_cannot_be_read() {
        let (_folder, config) = configuration(IN_A_FILE, "report");
        let all = fs::read_to_string(&config).unwrap();
        fs::write(&config, all.replace("certificate}", "certificate, mode: report}")).unwrap();
        let mut stand = asking("/", &[("x-auth-subject", "root")]);
        for (name, value) in &mut stand.headers {
            if name == ":path" {
                value.push(0xff);
            }
        }
        let hooks = Hooks::begin(&config, &stand);
        assert_eq!(hooks.request(&stand), CONTINUE, "{:?}", stand.told.borrow());
        let told = stand.told.borrow();
        let reason = "envoy.filters.http.ext_authz would_deny: request_malformed";
        assert!(told.contains(&"header 0 x-auth-subject: (removed)".to_owned()), "{told:?}");
        assert!(told.contains(&reason.to_owned()), "{told:?}");
    }

    #[test]
    fn a_route_names_the_policy() {
        let (_folder, config) = configuration(IN_A_FILE, "enforce");
        for (route, policy) in
            [("named", "named"), ("\"named\"", "named"), ("{\"policy\": \"strict\"}", "strict")]
        {
            let route = routed("keybound", route);
            let stand = Stand { route: Some(route), ..asking("/", &[]) };
            let hooks = Hooks::begin(&config, &stand);
            assert_eq!(hooks.request(&stand), STOP_ITERATION);
            let named = format!("envoy.filters.http.ext_authz policy: {policy}");
            assert!(stand.told.borrow().contains(&named), "{policy}: {:?}", stand.told.borrow());
            drop(hooks);
            // SAFETY: Envoy gives back what it was given, once.
            unsafe { envoy_dynamic_module_on_http_filter_per_route_config_destroy(route) };
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason_in_envoys_log() {
        let route = "{\"policy\": \"a\", \"mode\": \"report\"}";
        for (made, words) in [
            (configured("other", "/nowhere"), "filter_name is \"other\""),
            (configured("keybound", ""), "filter_config is missing"),
            (configured("keybound", "/nowhere.yaml"), "cannot read /nowhere.yaml"),
            // As Envoy Gateway writes a text.
            (configured("keybound", "\"/nowhere.yml\""), "cannot read /nowhere.yml"),
            (configured("keybound", "{\"issuers\": []}"), "issuers"),
            (routed("keybound", ""), "the name of a policy"),
            (routed("keybound", route), "and nothing else"),
            (routed("other", "payments"), "filter_name"),
        ] {
            assert!(made.is_null(), "{words}");
            let log = log_lines();
            let is_told = |it: &String| it.starts_with("4 keybound: ") && it.contains(words);
            assert!(log.iter().any(is_told), "{words}: {log:?}");
        }
    }

    #[test]
    fn a_check_that_waits_stops_the_request_and_wakes_its_worker() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let keys = format!("jwks_uri: 'http://{}/'", silent.local_addr().unwrap());
        let (_folder, config) = configuration(&keys, "enforce");
        let mut stand = asking("/strict", &[TOKEN]);
        let woken = wakes(&mut stand);
        let hooks = Hooks::begin(&config, &stand);
        assert_eq!(hooks.request(&stand), STOP_ALL_AND_WATERMARK);
        assert!(stand.told.borrow().is_empty());
        assert_eq!(woken.recv(), Ok(0));
        hooks.scheduled(&stand);
        let answer = stand.told.borrow().last().cloned().unwrap();
        assert!(answer.starts_with("503 keybound_denied "), "{answer}");
        hooks.scheduled(&stand);
        let answers = stand.told.borrow().iter().filter(|it| it.starts_with("503")).count();
        assert_eq!(answers, 1, "answered once");
    }

    #[test]
    fn a_client_that_hangs_up_while_a_check_waits_is_not_woken() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let keys = format!("jwks_uri: 'http://{}/'", silent.local_addr().unwrap());
        let (_folder, config) = configuration(&keys, "enforce");
        let patient = fs::read_to_string(&config).unwrap() + "limits: {check_deadline: 60s}\n";
        fs::write(&config, patient).unwrap();
        let mut stand = asking("/strict", &[TOKEN]);
        let woken = wakes(&mut stand);
        let hooks = Hooks::begin(&config, &stand);
        assert_eq!(hooks.request(&stand), STOP_ALL_AND_WATERMARK);
        drop(hooks);
        stand.wakes = None;
        // The scheduler is deleted, and nothing was committed: the channel is closed.
        assert!(woken.recv().is_err());
    }

    #[test]
    fn without_a_scheduler_nothing_waits() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let keys = format!("jwks_uri: 'http://{}/'", silent.local_addr().unwrap());
        let (_folder, config) = configuration(&keys, "enforce");
        let stand = asking("/strict", &[TOKEN]);
        let hooks = Hooks::begin(&config, &stand);
        assert_eq!(hooks.request(&stand), STOP_ITERATION);
        assert!(stand.told.borrow().iter().any(|it| it.starts_with("500")));
    }

    /// A request that is let through by a token that ends then, at a path whose policy ends streams
    /// (`/ends`) or not (`/stays`).
    fn streaming(path: &str, ends: UnixTime) -> (tempfile::TempDir, String, Stand) {
        let key = SigningKey::generate("1").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = "listen: {admin: '127.0.0.1:0'}\n\
             issuers: [{issuer: 'https://as.test', audiences: [a], clock_leeway: 0s, \
                        keys: {jwks_file: keys.json}}]\n\
             policies:\n\
             - {name: ends, match: {path_prefix: /ends}, sender_constraint: if_bound, \
                streams: end_with_token}\n\
             - {name: stays, sender_constraint: if_bound}\n";
        let path_of_config = folder.path().join("keybound.yaml");
        fs::write(&path_of_config, config).unwrap();
        let keys = serde_json::json!({"keys": [key.jwk()]}).to_string();
        fs::write(folder.path().join("keys.json"), keys).unwrap();
        let claims = serde_json::json!({
            "iss": "https://as.test", "aud": "a", "sub": "s", "client_id": "c",
            "exp": ends.as_secs(),
        });
        let bearer = format!("Bearer {}", key.sign("at+jwt", &claims).unwrap());
        let stand = asking(path, &[("authorization", &*bearer)]);
        (folder, path_of_config.to_str().unwrap().to_owned(), stand)
    }

    /// The request is let through, at once or when the keys are there.
    #[track_caller]
    fn passes(hooks: &Hooks, stand: &Stand, woken: &Receiver<u64>) {
        if hooks.request(stand) == STOP_ALL_AND_WATERMARK {
            assert_eq!(woken.recv(), Ok(0));
            hooks.scheduled(stand);
        }
        let told = stand.told.borrow();
        assert!(told.iter().any(|it| it.ends_with(" decision: allow")), "{told:?}");
    }

    /// A whole second, as tokens say it, at most so far away and at least one second less.
    fn within(seconds: u64) -> UnixTime {
        let then = SystemClock.now().saturating_add(Duration::from_secs(seconds));
        UnixTime::from_secs(then.as_secs())
    }

    #[test]
    fn a_stream_ends_with_its_token_and_once() {
        let ends = within(2);
        let (_folder, config, mut stand) = streaming("/ends", ends);
        let woken = wakes(&mut stand);
        let hooks = Hooks::begin(&config, &stand);
        passes(&hooks, &stand, &woken);
        hooks.response(&stand);
        let told = |beginning: &str| {
            stand.told.borrow().iter().filter(|it| it.starts_with(beginning)).count()
        };
        assert_eq!(told("added 0 grpc-timeout: "), 1, "for the upstream");
        // Woken for another reason, it stays.
        hooks.scheduled(&stand);
        assert_eq!(told("reset"), 0);
        assert_eq!(woken.recv(), Ok(0));
        assert!(ends <= SystemClock.now());
        hooks.scheduled(&stand);
        hooks.scheduled(&stand);
        assert_eq!(stand.told.borrow().last().unwrap(), "reset 0 keybound_token_ended");
        assert_eq!(told("reset"), 1);
    }

    #[test]
    fn a_stream_ends_when_its_token_is_revoked_and_not_when_another_is() {
        let (folder, config, mut stand) = streaming("/ends", within(60));
        let list = folder.path().join("revoked.jsonl");
        fs::write(&list, "{\"sub\":\"other\"}\n").unwrap();
        let text = fs::read_to_string(&config).unwrap();
        let revoking = "clock_leeway: 0s, revocation: {denylist_file: revoked.jsonl},";
        fs::write(&config, text.replace("clock_leeway: 0s,", revoking)).unwrap();
        let woken = wakes(&mut stand);
        let hooks = Hooks::begin(&config, &stand);
        passes(&hooks, &stand, &woken);
        hooks.response(&stand);
        let place = |text: &str| {
            let beside = folder.path().join("beside");
            fs::write(&beside, text).unwrap();
            fs::rename(&beside, &list).unwrap();
        };
        place("{\"sub\":\"s\",\"client_id\":\"other\"}\n");
        let patience = Duration::from_secs(2);
        assert!(woken.recv_timeout(patience).is_err(), "the token of another is revoked");
        place("{\"sub\":\"s\",\"client_id\":\"c\"}\n");
        assert_eq!(woken.recv_timeout(patience), Ok(0));
        hooks.scheduled(&stand);
        assert_eq!(stand.told.borrow().last().unwrap(), "reset 0 keybound_token_ended");
    }

    #[test]
    fn nobody_wakes_a_stream_that_is_over_or_that_may_outlive_its_token() {
        for (path, is_over) in [("/ends", true), ("/stays", false)] {
            let (_folder, config, mut stand) = streaming(path, within(60));
            let woken = wakes(&mut stand);
            let hooks = Hooks::begin(&config, &stand);
            passes(&hooks, &stand, &woken);
            let hooks = (!is_over).then_some(hooks);
            stand.wakes = None;
            // No scheduler is left, and nothing was committed: the channel is closed.
            assert!(woken.recv().is_err(), "{path}");
            drop(hooks);
        }
    }

    #[test]
    fn a_stream_that_could_not_be_ended_does_not_begin() {
        let (_folder, config, mut stand) = streaming("/ends", within(60));
        let woken = wakes(&mut stand);
        // Now the keys are there.
        let first = Hooks::begin(&config, &stand);
        passes(&first, &stand, &woken);
        stand.wakes = None;
        stand.told.take();
        let hooks = Hooks::begin(&config, &stand);
        assert_eq!(hooks.request(&stand), STOP_ITERATION);
        let told = stand.told.borrow();
        assert!(told.iter().any(|it| it.starts_with("500")), "{told:?}");
        assert!(
            !told.iter().any(|it| it.starts_with("header 0") || it.starts_with("added 0")),
            "{told:?}"
        );
    }

    #[test]
    fn a_panic_does_not_leave_a_hook() {
        assert_eq!(caught(7, || panic!("as it should")), 7);
        let stand = asking("/", &[]);
        // SAFETY: no stream is one that could not be made.
        let next = unsafe {
            envoy_dynamic_module_on_http_filter_request_headers(stand.filter(), ptr::null(), true)
        };
        assert_eq!(next, STOP_ITERATION);
    }

    #[test]
    fn a_peer_is_named_as_an_authorizer_hears_of_it() {
        for (attributes, expected) in [
            (&[(URI_SAN, "spiffe://a"), (DNS_SAN, "a.test"), (SUBJECT, "CN=a")][..], "spiffe://a"),
            (&[(URI_SAN, ""), (DNS_SAN, "a.test"), (SUBJECT, "CN=a")], "a.test"),
            (&[(SUBJECT, "CN=a")], "CN=a"),
            (&[], ""),
        ] {
            let attributes = attributes.iter().map(|(id, it)| (*id, (*it).to_owned())).collect();
            let stand = Stand { attributes, ..Stand::default() };
            // SAFETY: it lives as long as the test.
            let filter = unsafe { Filter::of(stand.filter()) };
            assert_eq!(filter.principal(), expected.as_bytes());
        }
    }

    #[test]
    fn a_digest_that_is_empty_is_no_certificate() {
        for (attributes, expected) in [
            (vec![], None),
            (vec![(CERTIFICATE_DIGEST, String::new())], None),
            (vec![(CERTIFICATE_DIGEST, "00".to_owned())], Some(&b"00"[..])),
        ] {
            let stand = Stand { attributes, ..Stand::default() };
            // SAFETY: as above.
            let filter = unsafe { Filter::of(stand.filter()) };
            assert_eq!(filter.certificate_digest(), expected);
        }
    }
}
