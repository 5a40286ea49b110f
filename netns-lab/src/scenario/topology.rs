//! Topologies to lab by hand.
//!
//! Here lives what `cargo lab shell` offers: layouts from [`crate::lab`] with a few lines on how
//! to use them. Daemons are left to the person at the shell.

use std::fmt::Write as _;

use anyhow::Result;

use crate::lab::{Lab, Mesh, Star};

/// A layout of nodes and links that `cargo lab shell` leaves up.
#[derive(Debug)]
pub struct Topology {
    /// Its name on the command line.
    pub name: &'static str,
    /// One line for `cargo lab list`.
    pub about: &'static str,
    /// Builds it and says in a few lines what can be done with it.
    pub build: fn(&mut Lab) -> Result<String>,
}

/// Every topology that can be left up.
pub fn topologies() -> &'static [Topology] {
    const TOPOLOGIES: &[Topology] = &[
        Topology {
            name: "pair",
            about: "hub and s1, joined by one tunnel",
            build: |lab| star(lab, 1),
        },
        Topology {
            name: "triangle",
            about: "r1, r2 and r3, each with one interface that the two others share",
            build: triangle,
        },
        Topology {
            name: "hub",
            about: "a hub whose interface is shared by four spokes, s1 to s4",
            build: |lab| star(lab, 4),
        },
        Topology {
            name: "star100",
            about: "a hub whose interface is shared by a hundred spokes, s1 to s100",
            build: |lab| star(lab, 100),
        },
    ];
    TOPOLOGIES
}

fn star(lab: &mut Lab, spokes: u16) -> Result<String> {
    let star = Star::new(lab, spokes)?;
    star.serve(&["198.51.100.1".parse()?, "2001:db8:1::1".parse()?])?;
    let last = star.spoke(star.spokes.len())?;
    Ok(format!(
        "Nodes are network namespaces: hub (10.99.0.254, fd99::fe) and s1{} (10.99.0.N, fd99::N).\n\
         Every spoke sends everything to the hub and answers for 198.51.100.1 and 2001:db8:1::1.\n\
         Try:\n  \
         ip netns exec hub wgrouted run --interface wg0 &\n  \
         ip -n hub route add 198.51.100.0/24 via {}\n  \
         ip netns exec hub wg show wg0 allowed-ips\n  \
         ip netns exec hub ping -c 3 198.51.100.1\n  \
         ip netns exec hub wgrouted explain 198.51.100.1\n",
        if spokes == 1 { String::new() } else { format!(" to {}", last.name()) },
        last.inner.v4()
    ))
}

fn triangle(lab: &mut Lab) -> Result<String> {
    let mesh = Mesh::new(lab, &["r1", "r2", "r3"])?;
    let mut text = "Nodes are network namespaces, joined pairwise by veth links:\n".to_owned();
    for (number, member) in (1..).zip(&mesh.members) {
        let address = format!("198.51.100.{number}");
        member.node.address("lo", &format!("{address}/32"))?;
        let (v4, v6) = (member.inner.v4(), member.inner.v6());
        writeln!(text, "  {}: wg0 has {v4} and {v6}, lo has {address}", member.node.name())?;
    }
    text += "Try:\n  \
             ip netns exec r1 wgrouted run --interface wg0 &\n  \
             ip -n r1 route add 198.51.100.2/32 via 10.99.0.2\n  \
             ip netns exec r1 wg show wg0 allowed-ips\n  \
             ip -n r1 link set to-r2 down    # cuts the link between r1 and r2\n";
    Ok(text)
}
