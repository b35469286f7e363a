//! `dbuild coordinator`: serves a pool until it is asked to stop.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use dbuild_coordinator::{CoordinatorConfig, Membership, serve};
use dbuild_registry::Registry;

use crate::args::{Coordinator, DigestFunction};
use crate::config::check_url;
use crate::error::{CliError, Context, Result};

pub fn run(args: Coordinator) -> Result<ExitCode> {
    super::log_to_stderr();
    fs_err::create_dir_all(&args.data).context("make the data directory")?;
    let default_digest_function = match args.default_digest_function {
        DigestFunction::Blake3 => dbuild_proto::DigestFunction::Blake3,
        DigestFunction::Sha256 => dbuild_proto::DigestFunction::Sha256,
    };
    let runtime = dbuild_coordinator::runtime().context("start the runtime")?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(args.listen).await.map_err(|error| {
            let message = format!("failed to listen on {}: {error}", args.listen);
            match error.kind() {
                std::io::ErrorKind::AddrInUse => CliError::new(message)
                    .hint("Another process has this port; choose another with --listen ADDR:PORT (port 0 takes a free one)."),
                _ => CliError::new(message),
            }
        })?;
        let address = listener.local_addr().context("read the address")?;
        let registry = match &args.state {
            Some(state) => Some(membership(state, args.announce, address)?),
            None => None,
        };
        super::print(&format!("dbuild coordinator listening on http://{address}\n"))?;
        let config = CoordinatorConfig {
            default_digest_function,
            registry,
            ..CoordinatorConfig::new(args.data, args.max_size)
        };
        serve(listener, config, super::asked_to_stop()).await.context("serve")?;
        Ok(ExitCode::SUCCESS)
    })
}

/// This coordinator's place among those that share a database.
fn membership(state: &str, announce: Option<String>, address: SocketAddr) -> Result<Membership> {
    let registry = Registry::open(state).context("share the pool's state")?;
    let url = match announce {
        Some(url) => check_url(url)?,
        None if address.ip().is_unspecified() => {
            return Err(CliError::new(format!("nobody can reach this coordinator at http://{address}"))
                .hint("Say how helpers and builds reach it: --announce http://HOST:PORT."));
        }
        None => format!("http://{address}"),
    };
    Ok(Membership { registry: Arc::new(registry), url })
}
