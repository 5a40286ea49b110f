//! Names of endpoints, resolved.
//!
//! Here lives a cache over the system's resolver, which blocks. A name is asked for when nobody
//! knows it, and again when its peer has fallen silent.

use std::{
    collections::HashMap,
    net::{SocketAddr, ToSocketAddrs},
};

use crate::core::links::rule::Endpoint;

/// What endpoints stand for.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<String, Vec<SocketAddr>>);

impl Names {
    /// The addresses of an endpoint, or why there are none. Without `ask` only what is known counts.
    pub(super) fn resolve(
        &mut self,
        endpoint: &Endpoint,
        ask: bool,
    ) -> Result<Vec<SocketAddr>, String> {
        if let Some(address) = endpoint.address() {
            return Ok(vec![address]);
        }
        let text = endpoint.to_string();
        if !ask {
            return Ok(self.0.get(&text).cloned().unwrap_or_default());
        }
        let asked = (endpoint.host.as_str(), endpoint.port).to_socket_addrs();
        match asked.map(Vec::from_iter) {
            Ok(addresses) if !addresses.is_empty() => {
                self.0.insert(text, addresses.clone());
                Ok(addresses)
            }
            // What was known stays, for a name service may be behind the link.
            Ok(_) => Err(format!("endpoint {endpoint}: the name has no address")),
            Err(error) => Err(format!("endpoint {endpoint}: cannot resolve the name: {error}")),
        }
    }

    /// Whether an endpoint is a name that nobody has asked for with success.
    pub(super) fn is_unknown(&self, endpoint: &Endpoint) -> bool {
        endpoint.address().is_none() && !self.0.contains_key(&endpoint.to_string())
    }
}
