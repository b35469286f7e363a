//! How "no" is said: gRPC statuses for bad requests and store faults, and the error details that the
//! Remote Execution API defines. One clear sentence each.

use dbuild_cache::CacheError;
use dbuild_proto::reapi::google::protobuf::Any;
use dbuild_proto::reapi::google::rpc;
use dbuild_proto::{Digest, DigestError, DigestFunction};
use prost::Message;
use tonic::{Code, Status};

use super::resource;

/// google.rpc.PreconditionFailure, which `bazel-remote-apis` does not carry.
#[derive(Clone, PartialEq, Message)]
pub struct PreconditionFailure {
    #[prost(message, repeated, tag = "1")]
    pub violations: Vec<Violation>,
}

/// google.rpc.PreconditionFailure.Violation
#[derive(Clone, PartialEq, Message)]
pub struct Violation {
    #[prost(string, tag = "1")]
    pub r#type: String,
    #[prost(string, tag = "2")]
    pub subject: String,
    #[prost(string, tag = "3")]
    pub description: String,
}

const PRECONDITION_FAILURE: &str = "type.googleapis.com/google.rpc.PreconditionFailure";

/// Blobs named in one failure at most; a client that uploads them asks again and hears of the rest.
pub const MAX_VIOLATIONS: usize = 1024;

pub fn digest(error: DigestError) -> Status {
    Status::invalid_argument(error.to_string())
}

pub fn cache(error: CacheError) -> Status {
    match &error {
        CacheError::NotFound(digest) => Status::not_found(format!("blob {digest} is not in the store")),
        CacheError::DigestMismatch { .. } | CacheError::TooLong { .. } | CacheError::BadCompression(_) => {
            Status::invalid_argument(format!("failed to {error}"))
        }
        CacheError::TooLarge { .. } => Status::resource_exhausted(format!("failed to {error}")),
        _ if error.is_full() => Status::resource_exhausted("the coordinator's disk is full"),
        _ => {
            tracing::error!(%error, "the store failed");
            Status::internal(format!("the coordinator's store failed to {error}"))
        }
    }
}

/// google.rpc.Status, as responses carry it.
pub fn rpc_status(code: Code, message: impl Into<String>) -> rpc::Status {
    rpc::Status { code: code as i32, message: message.into(), details: Vec::new() }
}

/// The gRPC status in the form that responses carry.
pub fn embed(status: &Status) -> rpc::Status {
    rpc_status(status.code(), status.message())
}

/// `FAILED_PRECONDITION` that names blobs which the client has to upload. The subject of a violation is
/// `blobs/{digest_function/}{hash}/{size}` (REAPI, Execution.Execute).
pub fn missing(function: DigestFunction, digests: &[Digest]) -> rpc::Status {
    let named = digests.iter().take(MAX_VIOLATIONS);
    let violations = named
        .map(|digest| Violation {
            r#type: "MISSING".into(),
            subject: resource::blob_name(function, digest),
            description: String::new(),
        })
        .collect();
    let failure = PreconditionFailure { violations };
    rpc::Status {
        code: Code::FailedPrecondition as i32,
        message: match digests {
            [only] => format!("blob {only} is missing from the store"),
            _ => format!("{} blobs are missing from the store", digests.len()),
        },
        details: vec![Any { type_url: PRECONDITION_FAILURE.into(), value: failure.encode_to_vec() }],
    }
}

/// Refuses instance names that could not stand in a resource name.
pub fn check_instance(name: &str) -> Result<(), Status> {
    resource::check_instance(name).map_err(|error| Status::invalid_argument(error.to_string()))
}
