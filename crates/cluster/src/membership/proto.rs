//! Code generated from `/proto/membership.proto`.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::use_self,
    clippy::or_fun_call,
    clippy::large_types_passed_by_value,
    reason = "generated"
)]

tonic::include_proto!("magpie.membership.v1");
