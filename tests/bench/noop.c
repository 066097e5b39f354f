/* A module for Envoy that decides nothing, and calls Envoy as ours does for an allowed request: what is left of a
 * check inside Envoy if ours took no time at all. The declarations are those of src/envoy/abi.rs.
 */

#include <stdbool.h>
#include <stddef.h>

typedef struct { const char *data; size_t length; } Buffer;
typedef struct { Buffer name, value; } Header;

enum { REQUEST_HEADER = 0, CERTIFICATE_DIGEST = 38, MOST_HEADERS = 128 };

#define TEXT(it) {it, sizeof(it) - 1}
#define HOOK(it) envoy_dynamic_module_on_##it
#define CALL(it) envoy_dynamic_module_callback_##it

size_t CALL(http_get_headers_size)(void *, int);
bool CALL(http_get_headers)(void *, int, Header *);
bool CALL(http_add_header)(void *, int, Buffer, Buffer);
bool CALL(http_filter_get_attribute_string)(void *, int, Buffer *);
const void *CALL(get_most_specific_route_config)(void *);
void CALL(http_set_dynamic_metadata_string_batch)(void *, Buffer, const Header *, size_t);

static const char something;

const char *HOOK(program_init)(void) { return "v0.2.0"; }
const void *HOOK(http_filter_config_new)(void) { return &something; }
const void *HOOK(http_filter_per_route_config_new)(void) { return &something; }
const void *HOOK(http_filter_new)(void) { return &something; }

int HOOK(http_filter_request_headers)(void *filter) {
    /* As long as those of the corpus. */
    static const Buffer id = TEXT("00000000-0000-4000-8000-000000000000");
    static const Buffer name = TEXT("x-auth-subject"), space = TEXT("envoy.filters.http.ext_authz");
    const Header metadata[] = {
        {TEXT("policy"), TEXT("api")},
        {TEXT("decision"), TEXT("allow")},
        {TEXT("reason"), TEXT("allowed")},
        {TEXT("issuer"), TEXT("https://as.bank.example/oauth/v2")},
        {TEXT("subject"), id},
        {TEXT("client_id"), id},
        {TEXT("sender_constraint"), TEXT("certificate")},
    };
    Header headers[MOST_HEADERS];
    Buffer digest;
    if (CALL(http_get_headers_size)(filter, REQUEST_HEADER) <= MOST_HEADERS)
        CALL(http_get_headers)(filter, REQUEST_HEADER, headers);
    CALL(http_filter_get_attribute_string)(filter, CERTIFICATE_DIGEST, &digest);
    CALL(get_most_specific_route_config)(filter);
    CALL(http_add_header)(filter, REQUEST_HEADER, name, id);
    CALL(http_set_dynamic_metadata_string_batch)(filter, space, metadata, sizeof metadata / sizeof *metadata);
    return 0;
}

#define IDLE(it) int HOOK(http_filter_##it)(void) { return 0; }

IDLE(config_destroy)
IDLE(per_route_config_destroy)
IDLE(destroy)
IDLE(request_body)
IDLE(request_trailers)
IDLE(response_headers)
IDLE(response_body)
IDLE(response_trailers)
IDLE(stream_complete)
IDLE(scheduled)
IDLE(http_callout_done)
IDLE(http_stream_headers)
IDLE(http_stream_data)
IDLE(http_stream_trailers)
IDLE(http_stream_complete)
IDLE(http_stream_reset)
IDLE(downstream_above_write_buffer_high_watermark)
IDLE(downstream_below_write_buffer_low_watermark)
