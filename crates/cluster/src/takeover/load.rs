//! Reading a stored session, as of an attachment.

use std::time::Duration;

use magpie_codec::Text;
use magpie_state::partition::{PartitionState, StoredSession};
use magpie_state::{ClientId, Epoch};
use tonic::{Request, Status};

use super::{Takeover, taken_over};
use crate::groups::group_of;
use crate::rpc::MESSAGE_BYTES_MAX;
use crate::{Error, proto};

/// A replica of this node that has not applied the attach by then lags: its leader is asked.
const LOCAL_WITHIN: Duration = Duration::from_millis(200);
/// A node that has not applied it by then is asked no longer.
const APPLIED_WITHIN: Duration = Duration::from_secs(2);
/// Pause before somebody is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(30);

impl Takeover {
    /// The session of `client` as it was when it was attached under `epoch`. What other connections record after that is refused, so a
    /// later read sees the same.
    pub(super) async fn load(
        &self,
        client: &ClientId,
        epoch: Epoch,
    ) -> Result<Box<StoredSession>, Error> {
        let session = self.read(client, epoch).await?;
        session
            .filter(|session| session.attached.is_some_and(|(now, _)| now == epoch))
            .map(Box::new)
            .ok_or_else(taken_over)
    }

    /// The session of `client`, as some replica knows it.
    pub(crate) async fn look_up(
        &self,
        client: &ClientId,
    ) -> Result<Option<Box<StoredSession>>, Error> {
        let session = self.read(client, Epoch::default()).await?;
        Ok(session.map(Box::new))
    }

    /// From a replica that has applied the attach of `epoch`.
    async fn read(&self, client: &ClientId, epoch: Epoch) -> Result<Option<StoredSession>, Error> {
        let parts = &self.inner.parts;
        let mut leaders = parts.leaders.changes();
        let loading = async {
            loop {
                if let Some(session) = self.load_here(client, epoch, LOCAL_WITHIN).await {
                    return session;
                }
                if let Some(session) = self.load_from_leader(client, epoch).await {
                    return session;
                }
                tokio::select! {
                    () = leaders.next() => {}
                    () = tokio::time::sleep(RETRY_AFTER) => {}
                }
            }
        };
        let session = tokio::select! {
            () = parts.stop.cancelled() => return Err(Error::Stopping),
            loaded = tokio::time::timeout(parts.deadline, loading) => loaded,
        };
        session.map_err(|_| Error::Unknown("the client's partition does not tell its session"))
    }

    /// From a replica of this node; `None` if there is none, or if it lags.
    async fn load_here(
        &self,
        client: &ClientId,
        epoch: Epoch,
        within: Duration,
    ) -> Option<Option<StoredSession>> {
        let group = self
            .inner
            .parts
            .groups
            .partition(self.partition_of(client))?;
        let applied = group.wait_applied(epoch.index());
        tokio::time::timeout(within, applied).await.ok()?.ok()?;
        Some(group.with_state(|state: &PartitionState| state.session(client)))
    }

    async fn load_from_leader(
        &self,
        client: &ClientId,
        epoch: Epoch,
    ) -> Option<Option<StoredSession>> {
        let parts = &self.inner.parts;
        let leader = parts.leaders.leader(group_of(self.partition_of(client)))?;
        if leader == parts.stream.node {
            return None;
        }
        let channel = parts.channels.forwarding(leader);
        let mut sessions = proto::sessions_client::SessionsClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut request = Request::new(proto::LoadRequest {
            client: client.to_string(),
            epoch: epoch.0,
        });
        request.set_timeout(APPLIED_WITHIN);
        let reply = sessions.load(request).await.ok()?.into_inner();
        if reply.session.is_empty() {
            return Some(None);
        }
        StoredSession::decode(reply.session).ok().map(Some)
    }

    /// Another node has attached a client.
    pub(crate) async fn serve_load(
        &self,
        request: proto::LoadRequest,
    ) -> Result<proto::LoadReply, Status> {
        let client = Text::try_from(request.client)
            .map_err(|_| Status::invalid_argument("not a client id"))?;
        let (client, epoch) = (ClientId(client), Epoch(request.epoch));
        let session = self
            .load_here(&client, epoch, APPLIED_WITHIN)
            .await
            .ok_or_else(|| Status::unavailable("no replica here, or not yet that far"))?;
        Ok(proto::LoadReply {
            session: session.map(|session| session.encode()).unwrap_or_default(),
        })
    }
}
