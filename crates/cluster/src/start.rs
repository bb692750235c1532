//! Puts a node's part of the cluster together, and takes it down again.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use magpie_codec::TopicFilter;
use magpie_state::control::Settings;
use magpie_state::{PartitionId, StreamId};
use magpie_storage::{DataDir, KeyValue, Log, RealDisk, SledStore};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes as Services;

use crate::fatal::FatalSwitch;
use crate::groups::Groups;
use crate::handle::{Cluster, DirectFilters, Formed, Inner, TailSlot};
use crate::identity_file::IdentityFile;
use crate::inspect;
use crate::leaders::Leaders;
use crate::link::{LinkService, Links};
use crate::membership::{Membership, MembershipParts};
use crate::outbox::{self, OutboxParts};
use crate::proto;
use crate::raft::Registry;
use crate::read_index::{ReadIndexParts, ReadIndexes};
use crate::routes::Routes;
use crate::rpc::{self, Channels, Directory, Guard, Identity, MESSAGE_BYTES_MAX, NodeTls, Secret};
use crate::share::{self, ShareParts};
use crate::stream::{PartitionService, Stream, StreamParts};
use crate::tail::{Feeds, Interest, TailParts};
use crate::takeover::{Takeover, TakeoverParts};
use crate::{Config, Event, Events, Fatal, StartError};

/// Events that wait for the broker.
const EVENTS: usize = 256;
/// Memory for the store of applied state.
const STORE_CACHE_BYTES: u64 = 32 << 20;

/// Calls of other nodes may take so long to end when the node stops.
const SERVED_WITHIN: Duration = Duration::from_secs(1);

/// The parts that exist before the cluster is known.
struct Parts {
    config: Arc<Config>,
    stream: StreamId,
    groups: Groups,
    leaders: Leaders,
    channels: Channels,
    feeds: Feeds,
    interest: Interest,
    membership: Membership,
    events: mpsc::Sender<Event>,
    fatal: FatalSwitch,
    stop: CancellationToken,
}

pub(crate) async fn start(config: Config) -> Result<(Cluster, Events), StartError> {
    let problems = config.problems();
    if !problems.is_empty() {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        return Err(StartError::Config(problems.join("; ")));
    }
    let config = Arc::new(config);
    let stop = CancellationToken::new();
    let fatal = FatalSwitch::default();
    let disk = open_disk(&config).await?;
    let stream = StreamId {
        node: disk.identity.node,
        incarnation: disk.identity.incarnation,
    };
    let listener = TcpListener::bind(&config.cluster_listen)
        .await
        .map_err(|error| {
            StartError::Config(format!(
                "cannot listen for other nodes on {} (cluster_listen): {error}",
                config.cluster_listen
            ))
        })?;

    let (groups, leaders, feeds, interest) = <(Groups, Leaders, Feeds, Interest)>::default();
    let tls = match config.tls.clone().map(NodeTls::load).transpose() {
        Ok(tls) => tls,
        Err(error) => return Err(StartError::Config(error.to_string())),
    };
    let directory = Directory::default();
    let channels = Channels::with_tls(Arc::clone(&disk.identity), directory, tls.clone());
    let guard = Guard::new(Arc::clone(&disk.identity));
    let registry = Registry::default();
    let (events, taken_events) = mpsc::channel(EVENTS);
    let feed_of = {
        let feeds = feeds.clone();
        Arc::new(move |partition: PartitionId| {
            let feed = feeds.restart(partition);
            let hold = feed.hold();
            (
                feed as Arc<dyn crate::raft::Observer<magpie_state::partition::PartitionState>>,
                hold,
            )
        })
    };
    let membership = Membership::start(MembershipParts {
        config: Arc::clone(&config),
        identity_file: disk.identity_file.clone(),
        identity: Arc::clone(&disk.identity),
        channels: channels.clone(),
        guard: guard.clone(),
        registry: registry.clone(),
        log: disk.log.clone(),
        store: Arc::clone(&disk.store),
        groups: groups.clone(),
        leaders: leaders.clone(),
        feed_of,
        events: events.clone(),
        fatal: fatal.clone(),
        stop: stop.clone(),
    })
    .await?;
    let parts = Parts {
        config: Arc::clone(&config),
        stream,
        groups,
        leaders: leaders.clone(),
        channels: channels.clone(),
        feeds,
        interest: interest.clone(),
        membership: membership.clone(),
        events,
        fatal: fatal.clone(),
        stop: stop.clone(),
    };
    let links = Links::new(
        channels.clone(),
        config.queue_bytes,
        config.publish_deadline,
        stop.clone(),
    );
    let cluster = Cluster {
        inner: Arc::new(Inner {
            stream,
            tls,
            routes: Routes::start(
                stream,
                membership.clone(),
                channels,
                config.route_linger,
                stop.clone(),
            ),
            membership,
            links,
            identity: Arc::clone(&disk.identity),
            interest,
            feeds: parts.feeds.clone(),
            formed: OnceLock::new(),
            is_formed: watch::Sender::new(false),
            direct: Arc::default(),
            fatal,
            log: disk.log.clone(),
            leaders,
            groups: parts.groups.clone(),
            channels: parts.channels.clone(),
            publish_deadline: config.publish_deadline,
            quorum_lost_after: config.quorum_lost_after,
            stop: stop.clone(),
            stopped: CancellationToken::new(),
        }),
    };
    let services = parts.services(&cluster, &guard, &registry);
    tokio::spawn(run(cluster.clone(), parts, disk, listener, services));
    Ok((cluster, taken_events))
}

/// What is on disk.
struct OnDisk {
    identity_file: IdentityFile,
    log: Log,
    store: Arc<dyn KeyValue>,
    identity: Arc<Identity>,
}

async fn open_disk(config: &Arc<Config>) -> Result<OnDisk, StartError> {
    let config = Arc::clone(config);
    let opened = tokio::task::spawn_blocking(move || {
        let in_dir =
            |error: magpie_storage::Error| StartError::from_storage(&config.data_dir, &error);
        let dir = Arc::new(DataDir::open(&config.data_dir).map_err(in_dir)?);
        let secret = Secret::new(
            config
                .cluster_secret
                .as_deref()
                .unwrap_or_default()
                .as_bytes(),
        );
        let identity_file = IdentityFile::open(Arc::clone(&dir))?;
        let identity = Identity::new(identity_file.node(), identity_file.incarnation(), secret);
        let (log, recovered) =
            Log::open(dir.log_dir(), Default::default(), RealDisk).map_err(in_dir)?;
        tracing::info!(
            records = recovered.records,
            torn_tail = recovered.torn_tail.is_some(),
            "log recovered"
        );
        let store: Arc<dyn KeyValue> =
            Arc::new(SledStore::open(dir.db_dir(), STORE_CACHE_BYTES).map_err(in_dir)?);
        Ok(OnDisk {
            identity_file,
            log,
            store,
            identity,
        })
    });
    opened.await.map_err(|error| {
        StartError::DataDir(format!("opening the data directory failed: {error}"))
    })?
}

impl Parts {
    fn services(&self, cluster: &Cluster, guard: &Guard, registry: &Registry) -> Services {
        let partitions = PartitionService {
            groups: self.groups.clone(),
            feeds: self.feeds.clone(),
            membership: self.membership.clone(),
            stop: self.stop.clone(),
        };
        let links = LinkService::new(
            self.stream.node,
            self.membership.clone(),
            self.events.clone(),
            self.stop.clone(),
        );
        let sessions = Sessions {
            cluster: cluster.clone(),
        };
        let partitions = proto::partitions_server::PartitionsServer::new(partitions)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let links = proto::links_server::LinksServer::new(links)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let sessions = proto::sessions_server::SessionsServer::new(sessions);
        let guarded = Services::new(registry.service(guard))
            .add_service(tonic::service::interceptor::InterceptedService::new(
                partitions,
                guard.members(),
            ))
            .add_service(tonic::service::interceptor::InterceptedService::new(
                links,
                guard.members(),
            ))
            .add_service(tonic::service::interceptor::InterceptedService::new(
                sessions,
                guard.members(),
            ));
        let (formation, members) = self.membership.services();
        guarded.add_service(formation).add_service(members)
    }

    /// Streams, tails and read indexes, once the number of partitions is known.
    fn form(&self, settings: &Settings) -> Formed {
        let ended: Arc<dyn Fn() + Send + Sync> = {
            let fatal = self.fatal.clone();
            Arc::new(move || {
                fatal.trip(Fatal::Down(
                    "a partition declared this node's life over".to_owned(),
                ))
            })
        };
        let streams = StreamParts {
            stream: self.stream,
            groups: self.groups.clone(),
            leaders: self.leaders.clone(),
            channels: self.channels.clone(),
            queue_bytes: self.config.queue_bytes,
            deadline: self.config.publish_deadline,
            ended,
            stop: self.stop.clone(),
        };
        let reads = ReadIndexParts {
            node: self.stream.node,
            groups: self.groups.clone(),
            leaders: self.leaders.clone(),
            channels: self.channels.clone(),
            deadline: self.config.publish_deadline,
            stop: self.stop.clone(),
        };
        let partitions = || (0..settings.partitions).map(PartitionId);
        let streams: Vec<Stream> = partitions()
            .map(|partition| Stream::start(partition, streams.clone()))
            .collect();
        self.membership.lead_through(streams.clone());
        Formed {
            read_indexes: partitions()
                .map(|partition| ReadIndexes::start(partition, reads.clone()))
                .collect(),
            tails: partitions().map(|partition| self.tail(partition)).collect(),
            takeover: Takeover::new(TakeoverParts {
                stream: self.stream,
                streams: streams.clone(),
                membership: self.membership.clone(),
                groups: self.groups.clone(),
                leaders: self.leaders.clone(),
                channels: self.channels.clone(),
                events: self.events.clone(),
                deadline: self.config.publish_deadline,
                user_sessions_max: self.config.user_sessions_max,
                stop: self.stop.clone(),
            }),
            streams,
        }
    }

    fn shares(&self, partitions: u16) -> ShareParts {
        ShareParts {
            node: self.stream.node,
            groups: self.groups.clone(),
            leaders: self.leaders.clone(),
            channels: self.channels.clone(),
            feeds: self.feeds.clone(),
            membership: self.membership.clone(),
            window: self.config.share_window,
            partitions,
            stop: self.stop.clone(),
        }
    }

    fn outbox(&self) -> OutboxParts {
        OutboxParts {
            node: self.stream.node,
            groups: self.groups.clone(),
            leaders: self.leaders.clone(),
            channels: self.channels.clone(),
            stop: self.stop.clone(),
        }
    }

    fn tail(&self, partition: PartitionId) -> TailSlot {
        let (sender, passed) = watch::channel(0);
        let parts = TailParts {
            partition,
            stream: self.stream,
            groups: self.groups.clone(),
            leaders: self.leaders.clone(),
            channels: self.channels.clone(),
            feeds: self.feeds.clone(),
            interest: self.interest.clone(),
            stop: self.stop.clone(),
        };
        TailSlot {
            parts: Mutex::new(Some((parts, sender))),
            passed,
        }
    }
}

/// Serves other nodes, forms the data path when the cluster is known, follows the control state, and stops everything in order.
async fn run(
    cluster: Cluster,
    parts: Parts,
    disk: OnDisk,
    listener: TcpListener,
    services: Services,
) {
    let stop = parts.stop.clone();
    let served = tokio::spawn(rpc::serve(
        listener,
        cluster.inner.tls.clone(),
        services,
        stop.clone().cancelled_owned(),
    ));
    let follow = async {
        let mut settings = parts.membership.settings();
        if let Ok(known) = settings.wait_for(Option::is_some).await
            && let Some(known) = &*known
        {
            tokio::spawn(outbox::run(parts.outbox()));
            tokio::spawn(share::run(parts.shares(known.partitions)));
            // Set once, here.
            let _ = cluster.inner.formed.set(parts.form(known));
            cluster.inner.is_formed.send_replace(true);
        }
        follow_control(&cluster, &parts).await;
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = follow => {}
    }
    for (_, group) in parts.groups.partitions() {
        group.stop().await;
    }
    if let Some(control) = parts.groups.control() {
        control.stop().await;
    }
    // Calls of others that wait here for something are cut off: they ask again elsewhere.
    let abort = served.abort_handle();
    match tokio::time::timeout(SERVED_WITHIN, served).await {
        Ok(Ok(Ok(()))) => {}
        Err(_) => abort.abort(),
        Ok(failed) => parts.fatal.trip(Fatal::Disk(format!(
            "the listener for other nodes failed: {failed:?}"
        ))),
    }
    drop(parts);
    drop(disk);
    cluster.inner.stopped.cancel();
}

/// Keeps what is derived from the control state: the list of direct filters, and links to nodes whose life is over.
async fn follow_control(cluster: &Cluster, parts: &Parts) {
    let mut applied = parts.membership.applied();
    loop {
        applied.mark_unchanged();
        let (direct, linked) = parts.membership.state(|state| {
            let linked: Vec<_> = cluster
                .inner
                .links
                .depths()
                .into_iter()
                .map(|(node, _)| node)
                .collect();
            let gone = linked.into_iter().filter(|node| {
                state
                    .members()
                    .get(node)
                    .is_none_or(|member| member.state == magpie_state::control::MemberState::Down)
            });
            (
                state.settings().direct_filters.clone(),
                gone.collect::<Vec<_>>(),
            )
        });
        cluster
            .inner
            .direct
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .follow(direct);
        linked
            .into_iter()
            .for_each(|node| cluster.inner.links.forget(node));
        if applied.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl DirectFilters {
    fn follow(&mut self, texts: Vec<String>) {
        if texts == self.texts {
            return;
        }
        let mut filters = magpie_router::FilterMap::new();
        for filter in texts
            .iter()
            .filter_map(|text| TopicFilter::try_from(text.as_str()).ok())
        {
            // The list is short; it was checked when it was set.
            let _ = filters.insert(&filter, ());
        }
        *self = Self { texts, filters };
    }
}

/// Answers takeovers once the data path exists.
struct Sessions {
    cluster: Cluster,
}

impl Sessions {
    fn takeover(&self) -> Result<&Takeover, tonic::Status> {
        let formed = self.cluster.inner.formed.get();
        formed
            .map(|formed| &formed.takeover)
            .ok_or_else(|| tonic::Status::unavailable("the node is starting"))
    }
}

#[tonic::async_trait]
impl proto::sessions_server::Sessions for Sessions {
    async fn supersede(
        &self,
        request: tonic::Request<proto::SupersedeRequest>,
    ) -> Result<tonic::Response<proto::SupersedeReply>, tonic::Status> {
        let reply = self.takeover()?.supersede(request.into_inner()).await?;
        Ok(tonic::Response::new(reply))
    }

    async fn load(
        &self,
        request: tonic::Request<proto::LoadRequest>,
    ) -> Result<tonic::Response<proto::LoadReply>, tonic::Status> {
        let reply = self.takeover()?.serve_load(request.into_inner()).await?;
        Ok(tonic::Response::new(reply))
    }

    async fn list(
        &self,
        request: tonic::Request<proto::ListRequest>,
    ) -> Result<tonic::Response<proto::ListReply>, tonic::Status> {
        let reply = inspect::serve_list(&self.cluster.inner.groups, request.into_inner())?;
        Ok(tonic::Response::new(reply))
    }

    async fn owned(
        &self,
        request: tonic::Request<proto::OwnedRequest>,
    ) -> Result<tonic::Response<proto::OwnedReply>, tonic::Status> {
        let reply = self.takeover()?.serve_owned(request.get_ref());
        Ok(tonic::Response::new(reply))
    }
}
