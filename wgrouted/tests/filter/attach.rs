//! Attaching and detaching, by every hook that the kernel has.

use std::{
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    process::Command,
};

use wgrouted::{
    core::filter::{
        rule::Hook,
        table::{HookKind, LinkPlan},
    },
    target::filter::{FilterTarget, KernelFilter},
};

use crate::{
    lab::{DIRECTORY, HOST, Lab, PORT, RIGHT, Tun, WRONG, apply, hook, pinned, plan, run, space},
    support::netns::{ip, try_ip},
};

#[test]
#[ignore = "needs root"]
fn programs_judge_what_comes_in() {
    for wanted in [Hook::Auto, Hook::Xdp, Hook::Tcx] {
        std::thread::spawn(move || {
            let lab = Lab::new();
            assert!(lab.arrives(RIGHT) && lab.arrives(WRONG), "nothing is attached yet");
            let mut filter = KernelFilter::new(DIRECTORY);
            filter
                .open(&wgrouted::core::filter::table::FilterPlan { hook: wanted, ..plan() })
                .unwrap();
            apply(&mut filter, &lab.usual());
            let states = filter.attach(&lab.links(true));
            println!("{wanted:?}: {states:?}");
            assert_eq!(hook(&states) == HookKind::Xdp, wanted == Hook::Xdp);
            assert!(lab.arrives(RIGHT));
            assert!(!lab.arrives(WRONG));
            // Nothing to do the second time.
            let before = pinned();
            assert_eq!(filter.attach(&lab.links(true)), states);
            assert_eq!(pinned(), before);
            filter.remove().unwrap();
            assert!(lab.arrives(WRONG), "detached");
            assert_nothing_is_left();
        })
        .join()
        .unwrap();
    }
}

fn assert_nothing_is_left() {
    assert!(!Path::new(DIRECTORY).exists(), "{:?}", pinned());
    let qdiscs = run("tc qdisc show dev tun0");
    assert!(!qdiscs.contains("clsact"), "{qdiscs}");
}

#[test]
#[ignore = "needs root"]
fn another_hook_takes_over() {
    let lab = Lab::new();
    let mut filter = lab.filter(&plan());
    for wanted in [Hook::Xdp, Hook::Auto, Hook::Xdp, Hook::Tcx] {
        let mut changed = plan();
        changed.hook = wanted;
        filter.open(&changed).unwrap();
        let states = filter.attach(&lab.links(false));
        assert_eq!(hook(&states) == HookKind::Xdp, wanted == Hook::Xdp);
        assert!(!states[0].reattached);
        let shown = run("ip link show tun0");
        assert_eq!(shown.contains("xdp"), wanted == Hook::Xdp, "{shown}");
        assert!(lab.arrives(RIGHT));
        assert!(!lab.arrives(WRONG));
    }
    filter.remove().unwrap();
    assert_nothing_is_left();
}

#[test]
#[ignore = "needs root"]
fn what_is_ours_elsewhere_is_detached() {
    let lab = Lab::new();
    let device = Tun::new("other0");
    let other = device.ifindex;
    let mut filter = lab.filter(&plan());
    let both = [
        LinkPlan { ifindex: lab.ifindex(), egress: true },
        LinkPlan { ifindex: other, egress: true },
    ];
    for states in [filter.attach(&both), filter.attach(&both)] {
        assert!(states.iter().all(|state| state.hook.is_ok() && !state.reattached), "{states:?}");
    }
    let with_both = pinned();
    assert!(with_both.iter().any(|name| name.starts_with(&format!("/links/{other}_"))));
    // Another daemon, which knows no more than what is pinned.
    drop(filter);
    let mut filter = KernelFilter::new(DIRECTORY);
    filter.open(&plan()).unwrap();
    let states = filter.attach(&both[1..]);
    assert!(states[0].hook.is_ok());
    assert!(lab.arrives(WRONG));
    assert!(!pinned().iter().any(|name| name.starts_with(&format!("/links/{}_", lab.ifindex()))));
    // The device goes.
    drop(device);
    let states = filter.attach(&both[1..]);
    let message = &states[0].hook.as_ref().unwrap_err().message;
    assert!(message.contains(&format!("no device {other}")), "{message}");
    assert!(!pinned().iter().any(|name| name.starts_with("/links/")), "{:?}", pinned());
    filter.remove().unwrap();
}

#[test]
#[ignore = "needs root"]
fn what_somebody_detached_is_attached_again() {
    for wanted in [Hook::Auto, Hook::Xdp] {
        std::thread::spawn(move || {
            let lab = Lab::new();
            let mut changed = plan();
            changed.hook = wanted;
            let mut filter = lab.filter(&changed);
            let kind = hook(&filter.attach(&lab.links(false)));
            match kind {
                HookKind::Clsact => drop(run("tc qdisc del dev tun0 clsact")),
                HookKind::Xdp | HookKind::Tcx => detach_pinned(),
            }
            assert!(lab.arrives(WRONG), "somebody detached it");
            let states = filter.attach(&lab.links(false));
            assert_eq!((hook(&states), states[0].reattached), (kind, true));
            assert!(!lab.arrives(WRONG));
            let states = filter.attach(&lab.links(false));
            assert_eq!((hook(&states), states[0].reattached), (kind, false));
            filter.remove().unwrap();
            assert_nothing_is_left();
        })
        .join()
        .unwrap();
    }
}

/// `bpftool link detach` of every pinned link.
fn detach_pinned() {
    for entry in std::fs::read_dir(space().unwrap().join("links")).unwrap() {
        let path = entry.unwrap().path();
        let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        let mut get = [path.as_ptr().addr() as u64, 0];
        // SAFETY: BPF_OBJ_GET reads a path that ends with a zero.
        let link = unsafe { libc::syscall(libc::SYS_bpf, 7, get.as_mut_ptr(), 16) };
        assert!(link >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: a new descriptor.
        let link = unsafe { OwnedFd::from_raw_fd(link as i32) };
        let mut detach = [link.as_raw_fd()];
        // SAFETY: BPF_LINK_DETACH reads a number.
        let done = unsafe { libc::syscall(libc::SYS_bpf, 34, detach.as_mut_ptr(), 4) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }
}

#[test]
#[ignore = "needs root"]
fn others_on_the_device_are_left_alone() {
    let lab = Lab::new();
    run("tc qdisc add dev tun0 clsact");
    // Not every kernel has this classifier; the qdisc is a stranger's in any case.
    let add = "filter add dev tun0 ingress prio 7 protocol ip matchall action ok";
    let added = Command::new("tc").args(add.split_whitespace()).status().unwrap().success();
    println!("a stranger's classifier: {added}");
    let mut filter = lab.filter(&plan());
    filter.attach(&lab.links(true));
    assert!(!lab.arrives(WRONG));
    filter.remove().unwrap();
    let filters = run("tc filter show dev tun0 ingress");
    assert!(filters.contains("matchall") == added && !filters.contains("wgrouted"), "{filters}");
    assert!(run("tc qdisc show dev tun0").contains("clsact"));
    assert!(!Path::new(DIRECTORY).exists());
}

#[test]
#[ignore = "needs root"]
fn a_device_that_another_xdp_program_holds_is_refused() {
    let lab = Lab::new();
    let mut changed = plan();
    changed.hook = Hook::Xdp;
    // A stranger's program: this very one, under other pins.
    let mut stranger = KernelFilter::new("/sys/fs/bpf/stranger");
    stranger.open(&changed).unwrap();
    hook(&stranger.attach(&lab.links(false)));
    let mut filter = KernelFilter::new(DIRECTORY);
    filter.open(&changed).unwrap();
    apply(&mut filter, &lab.usual());
    let states = filter.attach(&lab.links(false));
    let message = &states[0].hook.as_ref().unwrap_err().message;
    println!("{message}");
    assert!(message.contains("another XDP program holds the device"), "{message}");
    stranger.remove().unwrap();
    assert_eq!(hook(&filter.attach(&lab.links(false))), HookKind::Xdp);
    assert!(lab.arrives(RIGHT) && !lab.arrives(WRONG));
    filter.remove().unwrap();
}

#[test]
#[ignore = "needs root"]
fn what_this_side_sends_opens_flows() {
    use crate::lab::{identity, peer, policy, strict};
    for wanted in [Hook::Auto, Hook::Xdp] {
        std::thread::spawn(move || {
            let lab = Lab::new();
            let mut changed = plan();
            changed.hook = wanted;
            let mut filter = lab.filter(&changed);
            apply(
                &mut filter,
                &[
                    policy(1, false, true, vec![]),
                    peer(1, Some(identity(lab.ifindex(), 1)), strict(1)),
                ],
            );
            assert!(!lab.arrives(RIGHT), "the policy drops by default");
            ip(&format!("route add 10.1.0.0/16 dev tun0 src {HOST}"));
            lab.socket.send_to(b"hello", (RIGHT, 40000)).unwrap();
            assert!(!lab.arrives(RIGHT), "without the egress program nobody has seen it");
            hook(&filter.attach(&lab.links(true)));
            lab.socket.send_to(b"hello", (RIGHT, 40000)).unwrap();
            assert!(lab.arrives(RIGHT), "a reply from port {PORT}'s flow");
            hook(&filter.attach(&lab.links(false)));
            filter.remove().unwrap();
            assert!(try_ip("link show tun0").is_ok());
            assert_nothing_is_left();
        })
        .join()
        .unwrap();
    }
}
