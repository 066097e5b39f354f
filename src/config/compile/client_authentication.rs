//! The part of the configuration about how this service authenticates at an introspection endpoint.

use super::files::{self, Files};
use crate::config::file::{self, Authentication};
use crate::config::problem::{Findings, Path};
use crate::state::introspection::{AssertionKey, ClientAuthentication, Identity};

/// The client, its credentials, and the certificate that it shows.
pub(super) type Client = (Option<String>, ClientAuthentication, Option<Identity>);

pub(super) fn compile(
    given: &file::Introspection,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<Client> {
    let method = method(given, at, findings);
    if method.is_some_and(|it| contradicts(it, given, at, findings)) {
        return None;
    }
    let anonymous = method == Some(Authentication::None);
    let client_id = match &given.client_id {
        None if anonymous => Some(None),
        id => findings.required(id.clone(), &at.key("client_id"), CLIENT_ID).map(Some),
    };
    let identity = match (&given.certificate_file, &given.key_file) {
        (Some(certificate), Some(key)) => {
            identity_in(certificate, key, &at.key("certificate_file"), files, findings).map(Some)
        }
        (None, _) | (_, None) => Some(None),
    };
    let secret = given.client_secret_file.as_deref();
    let secret = secret.map(|it| secret_in(it, &at.key("client_secret_file"), files, findings));
    let key = given.private_key_file.as_deref();
    let kid = given.private_key_id.clone();
    let key = key.map(|it| key_in(it, kid, &at.key("private_key_file"), files, findings));
    let authentication = match method? {
        Authentication::ClientSecretBasic => ClientAuthentication::SecretBasic(secret??),
        Authentication::ClientSecretPost => ClientAuthentication::SecretPost(secret??),
        Authentication::PrivateKeyJwt => ClientAuthentication::PrivateKeyJwt(key??),
        Authentication::TlsClientAuth => ClientAuthentication::TlsClientAuth,
        Authentication::None => ClientAuthentication::None,
    };
    Some((client_id?, authentication, identity?))
}

/// The method that is named, or the one that the files are for.
fn method(
    given: &file::Introspection,
    at: &Path,
    findings: &mut Findings,
) -> Option<Authentication> {
    if let Some(named) = given.authentication {
        return Some(named.0);
    }
    let certificate = given.certificate_file.is_some() || given.key_file.is_some();
    let (secret, key) = (given.client_secret_file.is_some(), given.private_key_file.is_some());
    match (secret, certificate, key) {
        (true, false, false) => return Some(Authentication::ClientSecretBasic),
        (false, true, false) => return Some(Authentication::TlsClientAuth),
        (false, false, true) => return Some(Authentication::PrivateKeyJwt),
        // A key that could not be read may be the one that is missing.
        (false, false, false) if findings.is_incomplete(at) => (),
        (false, false, false) => findings.problem(at, NO_CREDENTIALS),
        (true, _, _) | (_, true, true) => findings.problem(at, SEVERAL),
    }
    None
}

/// Whether the keys do not go with the method. Each that does not is a problem.
fn contradicts(
    method: Authentication,
    given: &file::Introspection,
    at: &Path,
    findings: &mut Findings,
) -> bool {
    use Authentication as A;
    let secret = matches!(method, A::ClientSecretBasic | A::ClientSecretPost);
    let both = given.certificate_file.is_some() || given.key_file.is_some();
    let certificate = match method {
        A::TlsClientAuth => Some(true),
        A::None => Some(false),
        // It may be shown besides, where the server asks each client for one.
        A::ClientSecretBasic | A::ClientSecretPost | A::PrivateKeyJwt => both.then_some(true),
    };
    let key = method == A::PrivateKeyJwt;
    let table = [
        ("client_secret_file", given.client_secret_file.is_some(), Some(secret)),
        ("certificate_file", given.certificate_file.is_some(), certificate),
        ("key_file", given.key_file.is_some(), certificate),
        ("private_key_file", given.private_key_file.is_some(), Some(key)),
        ("private_key_id", given.private_key_id.is_some(), (!key).then_some(false)),
    ];
    let mut found = false;
    for (name, is_given, wanted) in table {
        match wanted {
            Some(true) if !is_given => {
                found = true;
                if !findings.is_incomplete(at) {
                    let message = format!("must hold {name}, which {method} needs");
                    findings.problem(at, message);
                }
            }
            Some(false) if is_given => {
                found = true;
                let message = format!(
                    "does not go with {method}: leave it out, or write `authentication: {}`",
                    meant_by(name)
                );
                findings.problem(&at.key(name), message);
            }
            Some(_) | None => (),
        }
    }
    found
}

/// What to write where this key is meant to count.
fn meant_by(key: &str) -> &'static str {
    match key {
        "client_secret_file" => "client_secret_basic` or `client_secret_post",
        "certificate_file" | "key_file" => "tls_client_auth",
        _ => "private_key_jwt",
    }
}

fn secret_in(name: &str, at: &Path, files: &Files, findings: &mut Findings) -> Option<String> {
    let read = files.read_secret(name).and_then(|bytes| {
        let shown = files.path(name);
        let text = String::from_utf8(bytes);
        match text.as_deref().map(|it| it.trim_end_matches(['\r', '\n'])) {
            Ok("") => Err(format!("{} is empty", shown.display())),
            Ok(secret) if secret.contains(char::is_control) => {
                Err(format!("{} must hold the secret in one line", shown.display()))
            }
            Ok(secret) => Ok(secret.to_owned()),
            Err(_) => Err(format!("{} is not UTF-8", shown.display())),
        }
    });
    read.map_err(|message| findings.problem(at, message)).ok()
}

fn key_in(
    name: &str,
    kid: Option<String>,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<AssertionKey> {
    let read = files.read_secret(name).and_then(|pem| {
        let key = AssertionKey::from_pem(&pem, kid);
        key.map_err(|why| format!("{} {why}", files.path(name).display()))
    });
    read.map_err(|message| findings.problem(at, message)).ok()
}

fn identity_in(
    certificate: &str,
    key: &str,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<Identity> {
    let read = files.read(certificate).and_then(|mut pem| {
        let key = files.read_secret(key)?;
        files::identity(&pem, &key)?;
        pem.push(b'\n');
        pem.extend(key);
        Ok(Identity(pem))
    });
    read.map_err(|message| findings.problem(at, message)).ok()
}

const CLIENT_ID: &str = "give the client id of this service at the issuer";

const NO_CREDENTIALS: &str = "must hold client_secret_file, or else certificate_file and key_file, \
                              or else private_key_file; or write `authentication: none` where the \
                              endpoint asks for no credentials";

const SEVERAL: &str = "holds files for several ways to authenticate: write `authentication: …` for \
                       the one that counts (client_secret_basic, client_secret_post, \
                       private_key_jwt or tls_client_auth). Beside each of them, certificate_file \
                       and key_file may stay, and the certificate is shown";
