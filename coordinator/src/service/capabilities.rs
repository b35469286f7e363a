//! Capabilities: what this server can do, for clients that ask before they start.

use dbuild_proto::reapi::build::bazel::{remote::execution::v2 as re, semver::SemVer};
use dbuild_proto::{DigestFunction, MAX_BATCH};
use tonic::{Request, Response, Status};

use super::{Site, refusal};

pub struct Service(pub Site);

#[tonic::async_trait]
impl re::capabilities_server::Capabilities for Service {
    async fn get_capabilities(
        &self,
        request: Request<re::GetCapabilitiesRequest>,
    ) -> Result<Response<re::ServerCapabilities>, Status> {
        refusal::check_instance(&request.get_ref().instance_name)?;
        let config = &self.0.config;
        let default = config.default_digest_function;
        // The default first: a client that takes the first it knows agrees with requests that name none.
        let mut functions = vec![default.to_wire()];
        for other in [DigestFunction::Blake3, DigestFunction::Sha256] {
            if other != default {
                functions.push(other.to_wire());
            }
        }
        let zstd = vec![re::compressor::Value::Zstd as i32];
        let all_priorities =
            re::priority_capabilities::PriorityRange { min_priority: i32::MIN, max_priority: i32::MAX };
        let absolute = re::symlink_absolute_path_strategy::Value::Allowed as i32;
        Ok(Response::new(re::ServerCapabilities {
            cache_capabilities: Some(re::CacheCapabilities {
                digest_functions: functions.clone(),
                action_cache_update_capabilities: Some(re::ActionCacheUpdateCapabilities {
                    update_enabled: config.client_updates,
                }),
                max_batch_total_size_bytes: MAX_BATCH as i64,
                symlink_absolute_path_strategy: absolute,
                supported_compressors: zstd.clone(),
                supported_batch_update_compressors: zstd,
                max_cas_blob_size_bytes: i64::try_from(config.max_bytes).unwrap_or(i64::MAX),
                ..Default::default()
            }),
            execution_capabilities: Some(re::ExecutionCapabilities {
                digest_function: default.to_wire(),
                exec_enabled: true,
                execution_priority_capabilities: Some(re::PriorityCapabilities {
                    priorities: vec![all_priorities],
                }),
                supported_node_properties: Vec::new(),
                digest_functions: functions,
            }),
            deprecated_api_version: None,
            // Low is 2.0 because Bazel 4 asks for exactly that.
            low_api_version: Some(version(2, 0)),
            high_api_version: Some(version(2, 11)),
        }))
    }
}

fn version(major: i32, minor: i32) -> SemVer {
    SemVer { major, minor, ..Default::default() }
}
