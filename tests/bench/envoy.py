"""Envoy, with a listener for each row of a benchmark, which differ in their filters only."""

import json

from proxy import Proxy
from servers import free_port, provisioned

TYPE = "type.googleapis.com/envoy.extensions."


class Envoy(Proxy):
    """Envoy with a listener for each of `filters`, some of which ask servers."""

    def __init__(self, workshop, filters, asked=(), workers=1):
        ports = {name: free_port() for name in filters}
        self.workers = workers
        listeners = [listener(workshop.corpus, port, filters[name]) for name, port in ports.items()]
        clusters = [cluster(it.port) for it in asked]
        resources = {"static_resources": {"listeners": listeners, "clusters": clusters}}
        super().__init__(provisioned("envoy"), json.dumps(resources), ports)

    def command(self, binary, file):
        return [binary, "--config-yaml", file.read_text(), "--concurrency", self.workers,
                "--disable-hot-restart", "--log-level", "error"]


def a_filter(name, kind, **settings):
    return {"name": name, "typed_config": {"@type": TYPE + "filters.http." + kind, **settings}}


def ext_authz(port, timeout="1s"):
    """A question for each request to the server on this port."""
    return a_filter(
        "ext_authz", "ext_authz.v3.ExtAuthz", transport_api_version="V3",
        include_peer_certificate=True, encode_raw_headers=True,
        grpc_service={"envoy_grpc": {"cluster_name": str(port)}, "timeout": timeout})


def dynamic_module(file, configuration):
    """Our own checks, in Envoy's process."""
    return a_filter(
        "keybound", "dynamic_modules.v3.DynamicModuleFilter", filter_name="keybound",
        dynamic_module_config={"module": {"local": {"filename": str(file)}}, "do_not_close": True},
        filter_config={"@type": "type.googleapis.com/google.protobuf.StringValue",
                       "value": str(configuration)})


def jwt_authn(corpus):
    """Envoy's own check of a token, with a cache that has room for all of ours."""
    provider = {
        "issuer": "https://as.bank.example/oauth/v2",
        "audiences": ["https://api.bank.example"],
        "local_jwks": {"inline_string": (corpus / "jwks.json").read_text()},
        "jwt_cache_config": {"jwt_cache_size": 4000},
        "payload_in_metadata": "token",
        "forward": True,
    }
    rule = {"match": {"prefix": "/"}, "requires": {"provider_name": "bank"}}
    return a_filter("envoy.filters.http.jwt_authn", "jwt_authn.v3.JwtAuthentication",
                    providers={"bank": provider}, rules=[rule])


def lua():
    """The comparison of what the token is bound to with the client's certificate: what an operator of
    Envoy can do by hand."""
    return a_filter("lua", "lua.v3.Lua", default_source_code={"inline_string": COMPARISON})


COMPARISON = """
local DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

-- Three hexadecimal digits are two of base64url.
local function base64url(hex)
  local found = {}
  for place = 1, #hex, 3 do
    local bits = tonumber((hex:sub(place, place + 2) .. "00"):sub(1, 3), 16)
    local first, second = math.floor(bits / 64) + 1, bits % 64 + 1
    found[#found + 1] = DIGITS:sub(first, first) .. DIGITS:sub(second, second)
  end
  return table.concat(found):sub(1, math.ceil(#hex * 4 / 6))
end

local known, count = {}, 0

local function thumbprint(hex)
  if not known[hex] then
    if count == 10000 then known, count = {}, 0 end
    known[hex], count = base64url(hex), count + 1
  end
  return known[hex]
end

function envoy_on_request(handle)
  local info = handle:streamInfo()
  local verified = info:dynamicMetadata():get("envoy.filters.http.jwt_authn")
  local token = verified and verified["token"]
  local bound = token and token["cnf"] and token["cnf"]["x5t#S256"]
  local tls = info:downstreamSslConnection()
  local shown = tls and tls:sha256PeerCertificateDigest()
  if not bound or not shown or shown == "" or thumbprint(shown) ~= bound then
    handle:respond({[":status"] = "401"}, "")
  end
end
"""


def listener(corpus, port, filters, server="server", body="ok"):
    router = a_filter("router", "router.v3.Router")
    answer = {"status": 200, "body": {"inline_string": body}}
    manager = {
        "@type": TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "edge",
        "use_remote_address": True,
        "normalize_path": True,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "direct_response": answer}]}]},
        "http_filters": [*filters, router],
    }
    own = {"certificate_chain": {"filename": f"{corpus}/{server}.pem"},
           "private_key": {"filename": f"{corpus}/{server}.key"}}
    tls = {
        "@type": TYPE + "transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_certificates": [own],
            "validation_context": {"trusted_ca": {"filename": f"{corpus}/ca.pem"}}},
    }
    return {
        "name": str(port),
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{
            "transport_socket": {"name": "tls", "typed_config": tls},
            "filters": [{"name": "http", "typed_config": manager}]}],
    }


def cluster(port):
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}
    name = str(port)
    return {
        "name": name, "type": "STATIC", "connect_timeout": "1s",
        "typed_extension_protocol_options": {options: {
            "@type": "type.googleapis.com/" + options,
            "explicit_http_config": {"http2_protocol_options": {}}}},
        "load_assignment": {
            "cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
    }
