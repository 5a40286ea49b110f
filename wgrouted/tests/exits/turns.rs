//! Links that fail and return.

use wgrouted::core::{
    exits::status::ExitState,
    reach::status::State::{Down, Unknown, Up},
};

use crate::{
    lab::{Lab, eventually, rule, way},
    support::netns::ip,
};

const PACKETS: [&str; 2] = ["192.0.2.1 mark 16", "2001:db8::1 mark 16"];

fn ordered(when_down: &str, back_after: &str) -> String {
    format!(
        "[[exit]]\nname = \"one\"\nvia = [\"d1\", \"d2\"]\nwhen_down = \"{when_down}\"\n\
         back_after = \"{back_after}\"\n[[flow]]\nmark = 16\nexit = \"one\"\n\
         [[flow]]\nmark = 16\nexit = \"main\"\n"
    )
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test exits -- --ignored"]
fn ordered_links_take_over_and_give_back() {
    let Some(lab) = Lab::new() else { return };
    let mut running = lab.start(&ordered("block", "300ms"));
    for packet in PACKETS {
        assert_eq!(way(packet), "d1");
    }
    running.tell(&[("d1", Down), ("d2", Up)]);
    for packet in PACKETS {
        running.wait_way(packet, "d2");
    }
    running.tell(&[("d1", Down), ("d2", Down)]);
    for packet in PACKETS {
        running.wait_way(packet, "unreachable");
    }
    assert_eq!(running.status().exits[0].state, ExitState::Blocked);
    // The first that comes back is taken at once, a better one only once it has proved itself.
    running.tell(&[("d1", Down), ("d2", Up)]);
    running.wait_way(PACKETS[0], "d2");
    running.tell(&[("d1", Up), ("d2", Up)]);
    assert_eq!(way(PACKETS[0]), "d2");
    for packet in PACKETS {
        running.wait_way(packet, "d1");
    }
    // What is not known any more changes nothing.
    running.tell(&[("d1", Unknown), ("d2", Up)]);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(way(PACKETS[0]), "d1");
    running.tell(&[("d1", Up), ("d2", Up)]);
    // A link that goes down is as bad as its peer; the kernel has taken its objects away.
    ip("link set d1 down");
    for packet in PACKETS {
        running.wait_way(packet, "d2");
    }
    ip("link set d1 up");
    for packet in PACKETS {
        running.wait_way(packet, "d1");
    }
    ip("link del d2");
    ip("link set d1 down");
    for packet in PACKETS {
        running.wait_way(packet, "unreachable");
    }
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test exits -- --ignored"]
fn what_flows_do_meanwhile_is_as_configured() {
    let Some(lab) = Lab::new() else { return };
    let mut running = lab.start(&ordered("next", "0ms"));
    for (when_down, way) in [("next", "eth"), ("block", "unreachable"), ("main", "eth")] {
        running.exits.configure(rule(&ordered(when_down, "0ms")));
        running.tell(&[("d1", Down), ("d2", Down)]);
        for packet in PACKETS {
            running.wait_way(packet, way);
        }
        running.tell(&[("d1", Up), ("d2", Down)]);
        for packet in PACKETS {
            running.wait_way(packet, "d1");
        }
    }
    // `next` is the next flow, `main` is not.
    let then = |when_down: &str| {
        format!("{}[[flow]]\nmark = 16\nexit = \"block\"\n", ordered(when_down, "0ms"))
            .replace("exit = \"main\"\n", "exit = \"block\"\n")
    };
    running.tell(&[("d1", Down), ("d2", Down)]);
    for (when_down, way) in [("next", "unreachable"), ("main", "eth")] {
        running.exits.configure(rule(&then(when_down)));
        for packet in PACKETS {
            running.wait_way(packet, way);
        }
    }
}

/// Which link each of many flows takes.
fn ways() -> Vec<String> {
    (1..100).map(|host| way(&format!("192.0.2.{host} mark 16"))).collect()
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test exits -- --ignored"]
fn flows_of_survivors_stay_where_they_are() {
    let Some(lab) = Lab::new() else { return };
    let text = "[[exit]]\nname = \"all\"\nback_after = \"0ms\"\n\
                via = [{ link = \"d1\", weight = 1 }, { link = \"d2\", weight = 1 }, { link = \"d3\", weight = 1 }]\n\
                [[flow]]\nmark = 16\nexit = \"all\"\n";
    let mut running = lab.start(text);
    let before = ways();
    let count = |ways: &[String], link: &str| ways.iter().filter(|way| *way == link).count();
    for link in ["d1", "d2", "d3"] {
        assert!(count(&before, link) > 10, "{before:?}");
    }
    running.tell(&[("d1", Up), ("d2", Down), ("d3", Up)]);
    eventually("none by d2", || count(&ways(), "d2") == 0);
    let during = ways();
    for (before, during) in before.iter().zip(&during).filter(|(before, _)| *before != "d2") {
        assert_eq!(before, during, "a survivor's flow moved");
    }
    // Flows that are looked up now and then are busy for two minutes: none is moved back.
    running.tell(&[("d1", Up), ("d2", Up), ("d3", Up)]);
    eventually("d2 in use", || running.status().exits[0].links[1].used);
    assert_eq!(ways(), during);
    assert!(ip("nexthop").contains("type resilient"));
}
