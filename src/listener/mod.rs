//! Listeners on TCP and Unix sockets, and the connections that they accept.

mod access;
pub mod descriptors;
pub mod places;

use crate::config::Address;
use crate::rate_limit::{Allowance, RateLimit};
use crate::telemetry::connections::{Connections, NotTaken};
use access::Access;
use places::{Place, Places};
use prometheus::IntCounter;
use socket2::{Domain, SockAddr, SockRef, Socket as RawSocket, TcpKeepalive, Type};
use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::{Instant, sleep};

/// A bound address.
#[derive(Debug)]
pub struct Listener {
    inner: Inner,
    bound: Address,
    places: Arc<Places>,
    failures: RateLimit,
    counters: Option<Counters>,
}

/// The connections that were not taken, by cause.
#[derive(Debug)]
struct Counters(Vec<(NotTaken, IntCounter)>);

#[derive(Debug)]
enum Inner {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        #[expect(dead_code, reason = "its file goes when it is dropped")]
        file: SocketFile,
        /// Only our own user can reach it.
        closed: bool,
    },
}

/// An accepted connection.
#[derive(Debug)]
pub struct Arrival {
    /// The connection itself.
    pub socket: Socket,
    /// The address of the peer; `None` over a Unix socket.
    pub from: Option<IpAddr>,
    /// Its place.
    pub place: Place,
}

/// A connection that is not registered with a runtime yet, so that any can take it.
#[derive(Debug)]
pub enum Socket {
    /// Over TCP.
    Tcp(std::net::TcpStream),
    /// Over a Unix socket.
    Unix(std::os::unix::net::UnixStream),
}

/// A connection that is registered with the runtime that created it.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

/// The address cannot be bound.
#[derive(Debug)]
pub struct Unavailable {
    address: Address,
    reason: io::Error,
}

/// TCP keepalive: the idle time before the first probe.
const IDLE: Duration = Duration::from_secs(30);

/// TCP keepalive: the time between probes.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// How long sent data may stay unacknowledged before the peer counts as gone (`TCP_USER_TIMEOUT`).
#[cfg(target_os = "linux")]
const GONE: Duration = Duration::from_secs(50);

/// The accept backlog. Proxies open many connections at once when they start, and a refused one is
/// retried only a second later.
const BACKLOG: i32 = 1024;

/// How long to wait after accept failed, for example because too many files are open.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The owner's group may connect, since the proxy runs as another user.
const SOCKET_MODE: u32 = 0o660;

impl Listener {
    /// Listens on `address` with the connection limit `places`. Must be called on a tokio runtime.
    pub fn bind(address: &Address, places: Arc<Places>) -> Result<Self, Unavailable> {
        let found = match address {
            Address::Tcp(address) => tcp(*address),
            Address::Unix(path) => unix(path),
        };
        let (inner, bound) =
            found.map_err(|reason| Unavailable { address: address.clone(), reason })?;
        Ok(Self { inner, bound, places, failures: RateLimit::of(1), counters: None })
    }

    /// The same listener, which counts connections that it does not take in these metrics.
    #[must_use]
    pub fn counting(self, metrics: &Connections) -> Self {
        let listener = self.places.listener();
        let of = |cause| (cause, metrics.not_taken(listener, cause));
        let counted = Self { counters: Some(Counters(NotTaken::ALL.map(of).into())), ..self };
        if matches!(counted.inner, Inner::Unix { closed: true, .. }) {
            counted.count(NotTaken::SocketClosed);
        }
        counted
    }

    /// The bound address, with the port that the system chose if 0 was requested.
    pub fn bound(&self) -> &Address {
        &self.bound
    }

    /// Its connection limit.
    pub fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// Accepts the next connection for which there is a place.
    pub async fn arrival(&self) -> Arrival {
        loop {
            match self.accept().await {
                Ok((socket, from)) => {
                    if let Some(place) = self.places.take(Instant::now()) {
                        return Arrival { socket, from, place };
                    }
                    self.count(NotTaken::LimitReached);
                }
                Err(error) => self.failed(&error).await,
            }
        }
    }

    async fn accept(&self) -> io::Result<(Socket, Option<IpAddr>)> {
        match &self.inner {
            Inner::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                // Setting options fails on a connection that is already closed, which its reader
                // will notice.
                drop(stream.set_nodelay(true).and_then(|()| end_with_its_host(&stream)));
                Ok((Socket::Tcp(stream.into_std()?), Some(from.ip())))
            }
            Inner::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok((Socket::Unix(stream.into_std()?), None))
            }
        }
    }

    fn count(&self, cause: NotTaken) {
        let counters = self.counters.iter().flat_map(|it| &it.0);
        counters.filter(|it| it.0 == cause).for_each(|it| it.1.inc());
    }

    async fn failed(&self, error: &io::Error) {
        let now = Instant::now();
        self.count(why(error));
        if let Allowance::Within { untold } = self.failures.take(now) {
            let listener = self.places.listener();
            tracing::warn!(%error, listener, untold, "connection not accepted");
        }
        if !concerns_one_connection(error) {
            self.places.shrink(now);
            sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// Why a connection was not taken.
fn why(error: &io::Error) -> NotTaken {
    /// EMFILE and ENFILE: of this process, or of the system.
    const FILES_EXHAUSTED: [i32; 2] = [24, 23];
    match error.raw_os_error() {
        Some(code) if FILES_EXHAUSTED.contains(&code) => NotTaken::FilesExhausted,
        Some(_) | None => NotTaken::Other,
    }
}

/// Whether the error concerns a single connection, so that the next may well be accepted
/// (accept(2)).
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NotConnected
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::TimedOut
    )
}

fn tcp(address: SocketAddr) -> io::Result<(Inner, Address)> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, None)?;
    // The port of a process that has just ended can be reused at once.
    socket.set_reuse_address(true)?;
    listen(&socket, &address.into())?;
    let listener = TcpListener::from_std(socket.into())?;
    let bound = Address::Tcp(listener.local_addr()?);
    Ok((Inner::Tcp(listener), bound))
}

fn listen(socket: &RawSocket, address: &SockAddr) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Has the system close connections to hosts that vanish. HTTP/2 pings would do so too, but they
/// cost a timestamp per frame and a timer per check.
fn end_with_its_host(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(IDLE).with_interval(ASK_AGAIN);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(GONE))?;
    Ok(())
}

fn unix(path: &Path) -> io::Result<(Inner, Address)> {
    remove_if_stale(path)?;
    let socket = RawSocket::new(Domain::UNIX, Type::STREAM, None)?;
    listen(&socket, &SockAddr::unix(path)?)?;
    let listener = UnixListener::from_std(socket.into())?;
    let file = SocketFile::of(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    let access = Access::of(path).inspect(|it| it.tell(path));
    let closed = access.is_ok_and(|it| it.is_closed());
    Ok((Inner::Unix { listener, file, closed }, Address::Unix(path.to_owned())))
}

/// Removes the socket file of a process that was killed, on which nobody listens.
fn remove_if_stale(path: &Path) -> io::Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file is not a socket"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(other) => Err(other),
    }
}

/// The file of a Unix socket, removed when the listener is dropped.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have put its own socket there meanwhile.
        let ours = identity(&self.path).is_ok_and(|it| it == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "socket file not removed");
        }
    }
}

impl Socket {
    /// Registers the connection with the present runtime.
    pub fn into_stream(self) -> io::Result<Stream> {
        match self {
            Self::Tcp(stream) => TcpStream::from_std(stream).map(Stream::Tcp),
            Self::Unix(stream) => UnixStream::from_std(stream).map(Stream::Unix),
        }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: {}", self.address, self.reason)
    }
}

impl std::error::Error for Unavailable {}

/// A connection of either kind.
trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl Stream {
    fn inner(self: Pin<&mut Self>) -> Pin<&mut dyn Duplex> {
        match self.get_mut() {
            Self::Tcp(inner) => Pin::new(inner),
            Self::Unix(inner) => Pin::new(inner),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner().poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(inner) => inner.is_write_vectored(),
            Self::Unix(inner) => inner.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::places::PlaceRules;
    use super::*;
    use crate::telemetry::metrics::Metrics;

    fn bind(address: &Address) -> Result<Listener, Unavailable> {
        let rules = PlaceRules { most: 2, idle: Duration::ZERO, anybody: false };
        Listener::bind(address, Places::new("ext_authz", rules, Arc::default()))
    }

    #[track_caller]
    fn assert_refused(path: &Path, kind: io::ErrorKind) {
        let refused = bind(&Address::Unix(path.to_owned())).unwrap_err();
        assert_eq!(refused.reason.kind(), kind);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_connection_does_not_outlive_its_host() {
        let listener = bind(&Address::Tcp(([127, 0, 0, 1], 0).into())).unwrap();
        let Address::Tcp(address) = *listener.bound() else { unreachable!() };
        let _client = TcpStream::connect(address).await.unwrap();
        let Socket::Tcp(stream) = listener.arrival().await.socket else { unreachable!() };
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), ASK_AGAIN);
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(GONE));
    }

    #[tokio::test]
    async fn a_burst_of_connections_waits_to_be_taken() {
        let listener = bind(&Address::Tcp(([127, 0, 0, 1], 0).into())).unwrap();
        let Address::Tcp(address) = *listener.bound() else { unreachable!() };
        let burst = async {
            let mut held = vec![];
            // std's own backlog is 128.
            for _ in 0..500 {
                held.push(TcpStream::connect(address).await.unwrap());
            }
            held
        };
        // What the system has no room for it tries again without end, for nobody takes any.
        let held = tokio::time::timeout(Duration::from_secs(20), burst).await.unwrap();
        assert_eq!(held.len(), 500);
    }

    // The clock stands still unless the listener pauses.
    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_gone_holds_up_no_other() {
        let listener = bind(&Address::Tcp(([127, 0, 0, 1], 0).into())).unwrap();
        let Address::Tcp(address) = *listener.bound() else { unreachable!() };
        let reset = TcpStream::connect(address).await.unwrap();
        SockRef::from(&reset).set_linger(Some(Duration::ZERO)).unwrap();
        drop(reset);
        let begun = Instant::now();
        let client = TcpStream::connect(address).await.unwrap();
        let (first, second) = (listener.arrival().await, listener.arrival().await);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        drop((first, second, client));
    }

    #[test]
    fn what_concerns_one_connection_is_no_reason_to_wait() {
        let of = io::Error::from_raw_os_error;
        for (code, one) in [(103, true), (104, true), (113, true), (1, true), (24, false)] {
            assert_eq!(concerns_one_connection(&of(code)), one, "{}", of(code));
        }
        assert!(!concerns_one_connection(&of(12)) && !concerns_one_connection(&of(23)));
    }

    /// The counts of one listener that are not zero.
    fn counted(metrics: &Metrics) -> Vec<(&'static str, u64)> {
        let count = |cause| {
            let counter = metrics.connections().not_taken("ext_authz", cause);
            (cause.label(), counter.get())
        };
        NotTaken::ALL.into_iter().map(count).filter(|it| it.1 != 0).collect()
    }

    #[tokio::test]
    async fn what_is_not_taken_is_counted_by_its_cause() {
        let metrics = Metrics::new().unwrap();
        let listener = bind(&Address::Tcp(([127, 0, 0, 1], 0).into())).unwrap();
        let listener = listener.counting(metrics.connections());
        assert_eq!(counted(&metrics), []);
        for code in [24, 23, 103] {
            listener.count(why(&io::Error::from_raw_os_error(code)));
        }
        assert_eq!(counted(&metrics), [("files_exhausted", 2), ("other", 1)]);
    }

    #[tokio::test]
    async fn a_socket_that_only_its_user_can_reach_is_counted_once() {
        for (mode, expected) in [(0o700, &[("socket_closed", 1)][..]), (0o755, &[])] {
            let folder = tempfile::tempdir().unwrap();
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            let metrics = Metrics::new().unwrap();
            let listener = bind(&Address::Unix(folder.path().join("socket"))).unwrap();
            let _listener = listener.counting(metrics.connections());
            assert_eq!(counted(&metrics), expected, "{mode:o}");
        }
    }

    #[tokio::test]
    async fn a_socket_on_which_somebody_listens_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _listener = bind(&Address::Unix(path.clone())).unwrap();
        assert_refused(&path, io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert_refused(&path, io::ErrorKind::AlreadyExists);
    }

    #[tokio::test]
    async fn a_socket_goes_with_its_listener_unless_a_successor_has_put_its_own_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = bind(&Address::Unix(path.clone())).unwrap();
        let another = folder.path().join("another");
        drop(UnixListener::bind(&another).unwrap());
        fs::rename(&another, &path).unwrap();
        drop(listener);
        assert!(path.exists());
        let listener = bind(&Address::Unix(path.clone())).unwrap();
        drop(listener);
        assert!(!path.exists());
    }
}
