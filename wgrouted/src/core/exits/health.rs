//! How a link of an exit fares.
//!
//! Here lives [`health`], a function of a picture of reachability and of which links are up.

use super::{choice::Health, rule::Via};
use crate::core::reach::status::{Reachability, State};

/// What is known of a link and the peer behind it. `up` says whether a link is there and up.
pub fn health(via: &Via, picture: &Reachability, up: impl Fn(&str) -> bool) -> Health {
    if !up(&via.link) || !up(&via.interface) {
        return Health::Bad;
    }
    let mut peers = picture.peers.iter().filter(|peer| peer.interface == via.interface);
    let peer: Option<_> = match &via.peer {
        Some(name) => peers.find(|peer| peer.peer == *name),
        None => peers.next().filter(|peer| peer.dedicated),
    };
    match peer.map(|peer| peer.state) {
        Some(State::Up | State::Suspect) => Health::Good,
        Some(State::Down) => Health::Bad,
        Some(State::Unknown) | None => Health::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_as_good_as_itself_what_carries_it_and_its_peer() {
        let via = Via {
            link: "gre-b".to_owned(),
            interface: "wg0".to_owned(),
            peer: Some("b".to_owned()),
            weight: 1,
            ipv6: true,
        };
        let unheard = Reachability::default();
        assert_eq!(health(&via, &unheard, |_| true), Health::Unknown);
        assert_eq!(health(&via, &unheard, |name| name == "gre-b"), Health::Bad);
        assert_eq!(health(&via, &unheard, |name| name == "wg0"), Health::Bad);
    }
}
