//! Knows the services that gRPC tools expect beside the authorizer: health and reflection.

use super::pb;
use crate::health::Phase;
use http::{Request, Response};
use hyper::body::Incoming;
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};
use tonic_reflection::server::{Builder, Error};
use tower_service::Service;

/// Health and reflection, each ready to take calls.
pub struct Companions {
    health: Companion,
    reflection: Companion,
    reflection_alpha: Companion,
}

type Companion = Box<dyn Fn(Request<Incoming>) -> Answering + Send + Sync>;

/// An answer of a companion in the making.
pub type Answering = Pin<Box<dyn Future<Output = Response<tonic::body::Body>> + Send>>;

/// The service by its full name.
pub const AUTHORIZATION: &str = "envoy.service.auth.v3.Authorization";

/// What the health service is asked about; the empty name is the process as a whole.
const SERVICES: [&str; 2] = ["", AUTHORIZATION];

impl Companions {
    /// The companions, and what sets the health that they report.
    pub fn new() -> Result<(Self, HealthReporter), Error> {
        let (reporter, health) = health_reporter();
        let reflect = || {
            Builder::configure()
                .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let companions = Self {
            health: companion(health),
            reflection: companion(reflect().build_v1()?),
            reflection_alpha: companion(reflect().build_v1alpha()?),
        };
        Ok((companions, reporter))
    }

    /// Starts to answer `request`; `None` if it is for no companion.
    pub fn answer(&self, request: Request<Incoming>) -> Option<Answering> {
        let service = request.uri().path().strip_prefix('/')?.split_once('/')?.0;
        let companion = match service {
            "grpc.health.v1.Health" => &self.health,
            "grpc.reflection.v1.ServerReflection" => &self.reflection,
            "grpc.reflection.v1alpha.ServerReflection" => &self.reflection_alpha,
            _ => return None,
        };
        Some(companion(request))
    }
}

impl fmt::Debug for Companions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Companions").finish_non_exhaustive()
    }
}

fn companion<S>(service: S) -> Companion
where
    S: Service<Request<Incoming>, Response = Response<tonic::body::Body>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
{
    Box::new(move |request| {
        let mut service = service.clone();
        Box::pin(async move {
            match service.call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        })
    })
}

/// Reports every phase as health, until the process drains.
pub async fn report(mut reporter: HealthReporter, mut phases: watch::Receiver<Phase>) {
    loop {
        let phase = *phases.borrow_and_update();
        for service in SERVICES {
            match phase {
                Phase::Ready => reporter.set_service_status(service, ServingStatus::Serving).await,
                Phase::Starting | Phase::Leaving => {
                    reporter.set_service_status(service, ServingStatus::NotServing).await;
                }
                // Ends the calls of those who watch, which would hold up their connections.
                Phase::Draining => reporter.clear_service_status(service).await,
            }
        }
        if phase == Phase::Draining || phases.changed().await.is_err() {
            return;
        }
    }
}
