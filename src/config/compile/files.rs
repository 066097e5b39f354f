//! The files that a configuration names, and what must be in them.

use super::exposure;
use crate::config::problem::{self, Findings};
use crate::config::{Address, SourceFile};
use crate::file_stamp::Stamp;
use keybound_core::jose::Thumbprint;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;

/// The longest file that is read, in bytes: a system's whole bundle of authorities is a quarter.
const LONGEST: u64 = 1024 * 1024;

/// The files that a configuration names, relative to a folder.
#[derive(Debug)]
pub(in crate::config) struct Files {
    folder: PathBuf,
    /// The configuration itself, where it is a file.
    own: Option<PathBuf>,
    read: RefCell<Vec<SourceFile>>,
    written: RefCell<Vec<(problem::Path, PathBuf)>>,
    secret: RefCell<Vec<PathBuf>>,
}

impl Files {
    pub(in crate::config) fn below(folder: &Path) -> Self {
        let (read, written, secret) = <_>::default();
        Self { folder: folder.to_owned(), own: None, read, written, secret }
    }

    /// The files beside the configuration in the file at `path`.
    pub(in crate::config) fn beside(path: &Path) -> Self {
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        Self { own: Some(path.to_owned()), ..Self::below(folder) }
    }

    /// Every file that was read so far, as it was then.
    pub(in crate::config) fn into_source_files(self) -> Vec<SourceFile> {
        self.read.into_inner()
    }

    /// Where the file of this name is.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where the file of this name is, which the service will write. `at` names it.
    pub(super) fn writes(
        &self,
        name: &str,
        at: &problem::Path,
        findings: &mut Findings,
    ) -> PathBuf {
        let path = self.path(name);
        if name.is_empty() || path.is_dir() {
            findings.problem(at, "must be the name of a file");
        }
        self.written.borrow_mut().push((at.clone(), path.clone()));
        path
    }

    /// Finds the files that are written although something else reads or writes them: they would
    /// be lost. `sockets` are made and removed as well.
    pub(super) fn keep_apart(&self, sockets: &[&Address], findings: &mut Findings) {
        let written = self.written.borrow();
        for (place, (at, path)) in written.iter().enumerate() {
            let real = real(path);
            let is_it = |other: &Path| self::real(other) == real;
            let taken = |it: &Address| matches!(it, Address::Unix(path) if is_it(path));
            let shown = path.display();
            if self.own.as_deref().is_some_and(is_it) {
                findings.problem(at, format!("{shown} is this configuration: name another file"));
            } else if let Some((other, _)) = written.iter().take(place).find(|it| is_it(&it.1)) {
                findings.problem(at, format!("{shown} is that of {other} as well: name another"));
            } else if self.read.borrow().iter().any(|it| is_it(&it.path)) {
                let message = format!("{shown} is read for something else: name another file");
                findings.problem(at, message);
            } else if sockets.iter().any(|it| taken(it)) {
                findings.problem(at, format!("{shown} is a socket: name another file"));
            }
        }
    }

    /// What is in the file of this name, which nobody else is to know.
    pub(super) fn read_secret(&self, name: &str) -> Result<Vec<u8>, String> {
        self.secret.borrow_mut().push(self.path(name));
        self.read(name)
    }

    /// Warns of files that others on this machine may change, and of secrets that they may read.
    pub(super) fn warn_of_others(&self, findings: &mut Findings) {
        let (read, secret) = (self.read.borrow(), self.secret.borrow());
        let paths = self.own.iter().chain(read.iter().map(|it| &it.path));
        let remarks = paths.filter_map(|it| exposure::remark(it, secret.contains(it)));
        for remark in remarks.collect::<BTreeSet<_>>() {
            findings.warning(&problem::Path::default(), remark);
        }
    }

    /// Where the file of this name is, which is read elsewhere and may be long.
    pub(super) fn follows(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let content = content_of(&path);
        self.read.borrow_mut().push(SourceFile { path: path.clone(), content });
        path
    }

    /// What is in the file of this name.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, String> {
        if name.is_empty() {
            return Err("must be the name of a file".to_owned());
        }
        let path = self.path(name);
        let found = read_file(&path);
        let content = found.as_deref().ok().map(Thumbprint::of);
        self.read.borrow_mut().push(SourceFile { path, content });
        found
    }
}

/// Where `path` leads once all links are followed, whether or not there is something yet: what is
/// missing of it may be made later, and a `..` behind that leads back.
fn real(path: &Path) -> PathBuf {
    let mut real = PathBuf::from(".").canonicalize().unwrap_or_default();
    for part in path.components() {
        match part {
            Component::CurDir => (),
            Component::ParentDir => drop(real.pop()),
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => real.push(part),
        }
        real = real.canonicalize().unwrap_or(real);
    }
    real
}

/// What stands for the content of the file at `path`; none if it cannot be read. A long one is known by its
/// metadata.
fn content_of(path: &Path) -> Option<Thumbprint> {
    let found = read_file(path).ok();
    found.as_deref().map(Thumbprint::of).or_else(|| of_long(Stamp::of(path).as_ref()))
}

/// What stands for the content of a file that is longer than what is read here, and has this stamp: with it, a
/// later one is told from it.
pub(in crate::config) fn of_long(stamp: Option<&Stamp>) -> Option<Thumbprint> {
    let long = stamp.filter(|it| LONGEST < it.size());
    long.map(|it| Thumbprint::of(format!("{it:?}").as_bytes()))
}

/// What is in the file at `path`. The error is a sentence that names it.
pub(in crate::config) fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let unreadable = |error| format!("cannot read {shown}: {error}");
    // Opening a pipe would block until it has a writer.
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err(format!("cannot read {shown}: it is not a regular file"));
    }
    let mut bytes = vec![];
    let mut file = File::open(path).map_err(unreadable)?.take(LONGEST.saturating_add(1));
    let length = file.read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(length).is_ok_and(|it| it <= LONGEST) {
        Ok(bytes)
    } else {
        Err(format!("{shown} is longer than {LONGEST} bytes"))
    }
}

/// Checks that `pem` holds certificates of authorities, and no broken ones.
pub(super) fn authorities(pem: &[u8]) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem)? {
        store.add(certificate).map_err(|error| format!("an authority cannot be used: {error}"))?;
    }
    Ok(())
}

/// Checks that the certificate in `certificate` goes with the private key in `key`.
pub(super) fn identity(certificate: &[u8], key: &[u8]) -> Result<(), String> {
    let chain = certificates(certificate)?;
    let key = private_key(key)?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .map(drop)
        .map_err(|error| format!("the certificate and the key cannot be used: {error}"))
}

/// The certificates in `pem`, at least one.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err("holds no certificate in PEM".to_owned()),
        Ok(found) => Ok(found),
        Err(_) => Err("holds broken PEM".to_owned()),
    }
}

/// The first private key in `pem`.
pub(super) fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    // The error is dropped, since it might quote a line of the key.
    PrivateKeyDer::from_pem_slice(pem).or(Err("holds no private key in PEM")).map_err(str::to_owned)
}
