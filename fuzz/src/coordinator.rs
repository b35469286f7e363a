//! The coordinator's private parsers, and what they lean on.

#[path = "../../coordinator/src/service/messages.rs"]
#[allow(dead_code)]
pub mod messages;
#[path = "../../coordinator/src/service/outputs.rs"]
#[allow(dead_code)]
pub mod outputs;
#[path = "../../coordinator/src/service/refusal.rs"]
#[allow(dead_code)]
pub mod refusal;
#[path = "../../coordinator/src/service/resource.rs"]
#[allow(dead_code)]
pub mod resource;
#[path = "../../coordinator/src/service/tree.rs"]
#[allow(dead_code)]
pub mod tree;
