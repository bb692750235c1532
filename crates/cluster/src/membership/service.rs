//! The server's side: what this node answers to strangers and to members.

use magpie_state::control::{ControlAnswer, ControlCommand, Member, MemberState};
use magpie_state::{ClusterId, Incarnation, StreamId};
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status};

use super::Membership;
use super::forward::reply_of;
use super::proto;
use super::proto::formation_server::{Formation, FormationServer};
use super::proto::membership_server::{Membership as Calls, MembershipServer};
use crate::identity_file::Founding;
use crate::rpc::{MESSAGE_BYTES_MAX, MemberGuard, Peer, StrangerGuard};

/// What forming and joining nodes call; only the secret is checked.
pub(crate) type FormationService = InterceptedService<FormationServer<Membership>, StrangerGuard>;
/// What members call.
pub(crate) type MembersService = InterceptedService<MembershipServer<Membership>, MemberGuard>;

impl Membership {
    /// The gRPC services.
    pub(crate) fn services(&self) -> (FormationService, MembersService) {
        let formation = FormationServer::new(self.clone());
        let members = MembershipServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        (
            InterceptedService::new(formation, self.inner.guard.strangers()),
            InterceptedService::new(members, self.inner.guard.members()),
        )
    }

    /// The caller's cluster has to be this one.
    fn same_cluster<T>(&self, request: &Request<T>) -> Result<Peer, Status> {
        let peer = Peer::of(request)?;
        if peer.cluster.is_none() || peer.cluster != self.inner.identity.cluster() {
            return Err(Status::failed_precondition("not the same cluster"));
        }
        Ok(peer)
    }

    /// The life that a call announces, and the one before.
    fn announced_by(
        &self,
        request: Request<proto::AnnounceRequest>,
    ) -> Result<(Member, Incarnation), Status> {
        let peer = self.same_cluster(&request)?;
        let request = request.into_inner();
        let member: Member = from_json(&request.member)?;
        if (peer.node, peer.incarnation) != (member.id, member.incarnation) {
            return Err(Status::invalid_argument("a node announces itself only"));
        }
        let previous = Incarnation {
            counter: request.previous_counter,
            nonce: request.previous_nonce,
        };
        Ok((member, previous))
    }

    /// Another member with this address.
    fn holder_of(&self, newcomer: &Member) -> Option<Member> {
        self.state(|state| {
            let mut members = state.members().values();
            members
                .find(|member| {
                    member.cluster_addr == newcomer.cluster_addr && member.id != newcomer.id
                })
                .cloned()
        })
    }
}

#[tonic::async_trait]
impl Formation for Membership {
    async fn hello(
        &self,
        _: Request<proto::HelloRequest>,
    ) -> Result<Response<proto::HelloReply>, Status> {
        let cluster = self.inner.file.cluster();
        let founding = self.inner.file.founding();
        Ok(Response::new(proto::HelloReply {
            member: to_json(&self.member()).into(),
            seeds: self.seeds(),
            cluster: cluster
                .map(|cluster| cluster.to_string())
                .unwrap_or_default(),
            founding: founding
                .map(|founding| to_json(&founding))
                .unwrap_or_default()
                .into(),
        }))
    }

    async fn found(
        &self,
        request: Request<proto::FoundRequest>,
    ) -> Result<Response<proto::FoundReply>, Status> {
        let request = request.into_inner();
        let founding: Founding = from_json(&request.founding)?;
        if request.seeds != self.seeds() {
            return Err(Status::failed_precondition("another list of seeds"));
        }
        self.take_on_founding(founding)
            .await
            .map_err(Status::failed_precondition)?;
        Ok(Response::new(proto::FoundReply {}))
    }

    async fn join(
        &self,
        request: Request<proto::JoinRequest>,
    ) -> Result<Response<proto::JoinReply>, Status> {
        let member: Member = from_json(&request.get_ref().member)?;
        let peer = request.extensions().get::<Peer>().copied();
        if peer.map(|peer| peer.node) != Some(member.id) {
            return Err(Status::invalid_argument("a node joins for itself only"));
        }
        let Some(cluster) = self.inner.identity.cluster() else {
            return Err(Status::failed_precondition(
                "this node belongs to no cluster yet",
            ));
        };
        let refused = |refused: String| {
            let reply = proto::JoinReply {
                refused,
                ..Default::default()
            };
            Ok(Response::new(reply))
        };
        let holder = self.holder_of(&member);
        if let Some(holder) = holder
            .as_ref()
            .filter(|other| other.state == MemberState::Up)
        {
            return refused(format!(
                "member {} has the same address, {}, and is not declared down yet",
                holder.id, holder.cluster_addr
            ));
        }
        let replaces = holder.map(|holder| holder.id);
        match Self::propose(self, ControlCommand::Join { member, replaces }).await {
            Ok((index, ControlAnswer::Done)) => {
                self.wait_applied(index).await;
                let addresses = self.addresses().into_iter();
                Ok(Response::new(proto::JoinReply {
                    cluster: cluster.to_string(),
                    refused: String::new(),
                    addresses: addresses
                        .map(|(node, address)| proto::Address {
                            node: node.0,
                            address,
                        })
                        .collect(),
                }))
            }
            Ok((_, ControlAnswer::Refused(why))) => refused(why),
            Ok((_, answer)) => refused(format!("{answer:?}")),
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }

    async fn announce(
        &self,
        request: Request<proto::AnnounceRequest>,
    ) -> Result<Response<proto::ProposeReply>, Status> {
        let (member, previous) = self.announced_by(request)?;
        let command = ControlCommand::Announce { member, previous };
        match Self::propose(self, command).await {
            Ok((index, answer)) => Ok(Response::new(reply_of(index, &answer))),
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }

    async fn judge(
        &self,
        request: Request<proto::AnnounceRequest>,
    ) -> Result<Response<proto::ProposeReply>, Status> {
        let (member, previous) = self.announced_by(request)?;
        let life = StreamId {
            node: member.id,
            incarnation: member.incarnation,
        };
        let answer = self.state(|state| match state.cluster() {
            Some(_) => state.judge(life, previous),
            // Nothing is known here against anybody.
            None => ControlAnswer::Done,
        });
        Ok(Response::new(reply_of(0, &answer)))
    }
}

#[tonic::async_trait]
impl Calls for Membership {
    async fn ping(
        &self,
        request: Request<proto::PingRequest>,
    ) -> Result<Response<proto::PingReply>, Status> {
        self.inner.channels.heard_from(Peer::of(&request)?.node);
        Ok(Response::new(self.answer_ping()))
    }

    async fn propose(
        &self,
        request: Request<proto::ProposeRequest>,
    ) -> Result<Response<proto::ProposeReply>, Status> {
        let command = request.into_inner().command;
        Ok(Response::new(self.propose_here(command).await))
    }
}

pub(super) fn to_json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data always has a JSON form")
}

pub(super) fn from_json<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(bytes).map_err(|error| Status::invalid_argument(error.to_string()))
}

/// The reverse of a cluster's `Display`.
pub(super) fn cluster_of(hex: &str) -> Option<ClusterId> {
    u128::from_str_radix(hex, 16).ok().map(ClusterId)
}
