//! The whole service in memory: no thread, no disk, no clock. A new one for each input, so that an input repeats.
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, http};
use bytes::Bytes;
use coracle::{
    clock::ManualClock,
    metrics::Metrics,
    nacos::{self, http::Site},
    replication::{Applier, BoxFuture, ProposeError, Replicator, Status},
    service::Services,
    state_machine::StateReader,
    storage::{
        LogEntry, Payload, StateStore,
        codec::{decode_proposal, decode_record, encode_proposal, encode_record},
        memory::MemoryState,
    },
    types::{ConfigKey, Consistency, LogId, Millis, Proposal, Reply, Revision, Variant, limits},
    watch::Hub,
};
use http_body_util::BodyExt;

/// Small, so that inputs reach it.
pub const CONTENT_BYTES_MAX: usize = 2_000;
/// When everything happens.
const NOW: Millis = Millis(1_764_000_000_000);
/// Longer than any long poll; the clock is paused, so nobody waits.
const PATIENCE: Duration = Duration::from_secs(600);

thread_local! {
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    static METRICS: Metrics = Metrics::new();
}

/// Runs a future; time goes on as soon as all wait for it.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    RUNTIME
        .with(|runtime| runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await }))
        .expect("an answer must come")
}

pub struct App {
    pub state: Arc<MemoryState>,
    pub replicator: Arc<Direct>,
    pub services: Arc<Services>,
    pub metrics: Metrics,
    pub site: Site,
    _stopping: tokio::sync::watch::Sender<bool>,
}

impl App {
    pub fn new() -> Self {
        let metrics = METRICS.with(Metrics::clone);
        let (state, hub) = (Arc::new(MemoryState::new()), Arc::<Hub>::default());
        let applier = Applier::new(state.clone(), hub.clone(), metrics.clone());
        let replicator = Arc::new(Direct { state: state.clone(), applier, proposals: AtomicU64::new(0) });
        let clock = ManualClock::default();
        clock.set(NOW);
        let reader: Arc<dyn StateReader> = state.clone();
        let services = Arc::new(Services::new(Arc::new(clock), replicator.clone(), None, reader, hub, metrics.clone()));
        let (stop, stopping) = tokio::sync::watch::channel(false);
        let clients = Arc::new(nacos::grpc::Api {
            services: services.clone(),
            metrics: metrics.clone(),
            reads: Consistency::Local,
            content_bytes_max: CONTENT_BYTES_MAX,
            connections: Arc::default(),
            next_request: 1.into(),
        });
        let api = nacos::http::Api {
            services: services.clone(),
            clients,
            metrics: metrics.clone(),
            content_bytes_max: CONTENT_BYTES_MAX,
            port: 8848,
            stopping,
        };
        let site = Site::new(Arc::new(api), Router::new());
        Self { state, replicator, services, metrics, site, _stopping: stop }
    }

    pub fn revision(&self) -> u64 {
        self.state.applied().revision().0
    }

    /// One request, answered to its end.
    pub async fn call(&mut self, request: http::Request<Body>) -> (http::StatusCode, http::HeaderMap, Bytes) {
        let answer = self.site.clone().answer(request).await;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.expect("a body in memory").to_bytes();
        (parts.status, parts.headers, body)
    }

    /// What can be read by a GET of this target.
    pub async fn get(&mut self, target: &str) -> (http::StatusCode, Bytes) {
        let (status, _, body) = self.call(http::Request::get(target).body(Body::empty()).unwrap()).await;
        (status, body)
    }

    /// Nothing illegal is stored, whatever came in.
    pub fn check(&self) {
        for (key, head) in self.state.list(&|_| true) {
            assert_eq!(ConfigKey::parse(key.as_str()).as_ref(), Ok(&key));
            let versions = self.state.versions(&key).expect("what is listed has versions");
            assert!(
                versions.gray_count() <= limits::GRAY_VERSIONS_MAX,
                "{key} has {} gray versions",
                versions.gray_count()
            );
            let record = self.state.record(&key, &Variant::Formal).unwrap().expect("what is listed is there");
            assert_eq!(record.content.digest(), head.digest);
            let text = record.content.text();
            assert!(!text.trim().is_empty() && text.len() <= CONTENT_BYTES_MAX, "a content of {} bytes", text.len());
            let attributes = &record.attributes;
            let bounds = [(&attributes.app_name, 128), (&attributes.description, 128), (&attributes.usage, 32)];
            for (text, max) in bounds.into_iter().chain([(&attributes.effect, 32), (&attributes.schema, 32_768)]) {
                assert!(text.as_ref().is_none_or(|it| it.chars().count() <= max), "{text:?} is over {max}");
            }
            assert_eq!(decode_record(encode_record(&record)).as_ref(), Ok(&*record));
        }
    }
}

/// Applies at once what is proposed.
pub struct Direct {
    state: Arc<MemoryState>,
    applier: Applier,
    proposals: AtomicU64,
}

impl Direct {
    /// Applies a proposal as the log stores it.
    pub fn apply(&self, proposal: Bytes) -> Reply {
        self.proposals.fetch_add(1, Ordering::Relaxed);
        let id = LogId { term: 1, node: 0, index: self.state.applied().revision().0 + 1 };
        let entry = LogEntry { id, payload: Payload::Proposal(proposal) };
        self.applier.apply(vec![entry]).expect("what was decoded can be applied").remove(0)
    }

    /// How many were proposed.
    pub fn proposals(&self) -> u64 {
        self.proposals.load(Ordering::Relaxed)
    }
}

impl Replicator for Direct {
    fn propose(&self, proposal: Proposal) -> BoxFuture<'_, Result<Reply, ProposeError>> {
        Box::pin(async move {
            let bytes = encode_proposal(&proposal);
            assert_eq!(decode_proposal(bytes.clone()).as_ref(), Ok(&proposal), "the log stores what was asked");
            Ok(self.apply(bytes))
        })
    }

    fn read_barrier(&self, consistency: Consistency) -> BoxFuture<'_, Result<Revision, ProposeError>> {
        let applied = self.state.applied().revision();
        Box::pin(async move {
            match consistency {
                Consistency::AtLeast(revision) if revision > applied => {
                    Err(ProposeError::Unavailable("not yet".into()))
                }
                Consistency::AtLeast(_) | Consistency::Local | Consistency::Linearizable => Ok(applied),
            }
        })
    }

    fn caught_up(&self) -> bool {
        true
    }

    fn status(&self) -> Status {
        Status {
            standalone: true,
            node: 0,
            leader: Some(0),
            term: 1,
            last_log: self.state.applied().last,
            applied: self.state.applied().last,
            witness: self.state.witness(),
            members: Vec::new(),
            not_ready: None,
        }
    }
}
