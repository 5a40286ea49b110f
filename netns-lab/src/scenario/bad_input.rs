//! What the daemon says when it cannot do what it was told.
//!
//! Here live wrong configurations, wrong interfaces and missing preconditions. Each must be told
//! in one line, exactly as written here, and by the exit code: 2 for usage and configuration, 1
//! for everything else.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

use super::{
    Scenario, Skip,
    support::{Hub, NET4, is_own_machine, star},
};
use crate::lab::{Lab, Node};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "bad-configuration",
        "each wrong configuration is one line with file, line, key and remedy, and exit code 2",
        configuration,
    )
    .on_newest(),
    Scenario::new(
        "bad-circumstances",
        "wrong interface, second instance, missing daemon: one line each, and exit code 1",
        circumstances,
    ),
    Scenario::new(
        "no-wireguard",
        "a kernel without WireGuard is told so, with the remedy",
        no_wireguard,
    ),
];

const KEY: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
const OTHER_KEY: &str = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=";

/// Runs `wgrouted` and asserts how it fails.
fn fails(lab: &Lab, node: &Node, args: &[&str], code: i32, line: &str) -> Result<()> {
    let output = lab.wgrouted_once(node, args)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let args = args.join(" ");
    ensure!(stderr.trim_end() == line, "`wgrouted {args}` said:\n{stderr}instead of:\n{line}");
    ensure!(
        output.status.code() == Some(code),
        "`wgrouted {args}` ended with {} instead of {code}",
        output.status
    );
    Ok(())
}

fn configuration(lab: &mut Lab) -> Result<()> {
    let node = lab.node("node")?;
    let peer =
        |key: &str, more: &str| format!("[[interface.peer]]\npublic_key = \"{key}\"\n{more}");
    let wg0 = "[[interface]]\nname = \"wg0\"\n";
    let pinned = "pinned = [\"10.0.0.2/32\"]\n";
    let cases = [
        (
            "name = \"wg0\n".to_owned(),
            "1:12: not valid TOML: invalid basic string, expected `\"`".to_owned(),
        ),
        (
            format!("{wg0}colour = \"blue\"\n"),
            "3:1: interface.colour: unknown key; the keys here are name, link, tables, managed, \
             delete_hold, coalesce, message_size, adopt, on_exit, manage, private_key_file, \
             listen_port, fwmark, addresses, link_local, mtu, filter, reach, peer"
                .to_owned(),
        ),
        (
            format!("{wg0}{}{}", peer(KEY, ""), peer(KEY, "")),
            format!(
                "6:14: interface.peer.public_key: public key {KEY} is already given in line 4: a \
                 key names one peer of an interface, so merge the two or correct one"
            ),
        ),
        (
            format!("{wg0}{}", peer("abc", "")),
            "4:14: interface.peer.public_key: not a WireGuard public key: expected 44 characters \
             of base64, as `wg show` prints them"
                .to_owned(),
        ),
        (
            format!("{wg0}{}{}", peer(KEY, pinned), peer(OTHER_KEY, pinned)),
            "8:11: interface.peer.pinned: pinned prefix 10.0.0.2/32 is already given in line 5: \
             WireGuard gives a prefix to one peer, so pin it once (a more specific one inside it \
             may be another peer's)"
                .to_owned(),
        ),
        (
            format!("{wg0}managed = [\"10.0.0.1/8\"]\n"),
            "3:12: interface.managed: `10.0.0.1/8` has bits set outside its length: write \
             10.0.0.0/8"
                .to_owned(),
        ),
        (
            String::new(),
            "1:1: interface: no interface is configured: add [[interface]] with its name, or run \
             without a file: wgrouted run --interface wg0"
                .to_owned(),
        ),
    ];
    for (config, message) in cases {
        let path = node.write_file("bad.toml", &config)?;
        let path = path.display().to_string();
        for command in ["check", "run"] {
            fails(lab, &node, &[command, "--config", &path], 2, &format!("{path}:{message}"))?;
        }
    }
    fails(
        lab,
        &node,
        &["check", "--config", "/nowhere.toml"],
        2,
        "/nowhere.toml: cannot be read: No such file or directory (os error 2); name another file \
         with --config, or run without one: wgrouted run --interface wg0",
    )?;
    let usage = lab.wgrouted_once(&node, &["run", "--colour"])?;
    ensure!(usage.status.code() == Some(2), "wrong usage ended with {}", usage.status);
    Ok(())
}

fn circumstances(lab: &mut Lab) -> Result<()> {
    let mut hub = Hub::new(lab, 1)?;
    let node = hub.star.hub.clone();
    let aside = node.dir().join("aside");
    let aside = aside.display().to_string();
    let run = |interface: &'static str| {
        ["run", "--interface", interface, "--runtime-dir"].map(str::to_owned).to_vec()
    };
    let fails_in = |args: Vec<String>, directory: &str, line: &str| {
        let args: Vec<&str> = args.iter().map(String::as_str).chain([directory]).collect();
        fails(lab, &node, &args, 1, line)
    };

    lab.say("an interface of another kind");
    fails_in(
        run("to-s1"),
        &aside,
        "wgrouted: interface to-s1 is not a WireGuard device: name one of wg0",
    )?;

    lab.say("a second instance");
    let pid = hub.daemon.process()?.pid();
    fails_in(
        run("wg0"),
        &aside,
        &format!(
            "wgrouted: interface wg0 is already followed by another wgrouted (process {pid}): \
             stop that one, or leave wg0 out of this one"
        ),
    )?;
    let taken = hub.daemon.runtime_dir().display().to_string();
    fails_in(
        run("wg7"),
        &taken,
        &format!(
            "wgrouted: another wgrouted listens on {taken}/wgrouted.sock: stop it, or choose \
             another directory with --runtime-dir"
        ),
    )?;

    lab.say("a missing namespace, a missing daemon");
    fails(
        lab,
        &node,
        &["plan", "--netns", "nowhere", "--interface", "wg0"],
        1,
        "wgrouted: there is no network namespace `nowhere` (there are: hub, s1): create it with \
         `ip netns add`, or give the path of one",
    )?;
    fails(
        lab,
        &node,
        &["show", "--runtime-dir", &aside],
        1,
        &format!(
            "wgrouted: no wgrouted listens on {aside}/wgrouted.sock: start `wgrouted run`, or \
             name the directory of a running one with --runtime-dir"
        ),
    )?;

    lab.say("none of them left a trace");
    hub.ip(&format!("route add {NET4} via 10.99.0.1"))?;
    hub.expect(&[(NET4, "s1")])
}

/// Takes the module out of the kernel, and puts it back. Devices would go with it, so it is done
/// in the lab's own machines only.
fn no_wireguard(lab: &mut Lab) -> Result<()> {
    if !is_own_machine() {
        return Err(Skip("it takes WireGuard away from the whole machine".to_owned()).into());
    }
    let module = Path::new("/sys/module/wireguard");
    // Of a module that is built in nobody knows when it was initialised.
    if module.exists() && !module.join("initstate").exists() {
        return Err(Skip("WireGuard is built into this kernel".to_owned()).into());
    }
    let node = lab.node("node")?;
    let runtime_dir = node.dir().join("run").display().to_string();
    let loader = fs::read_to_string(MODPROBE).context(MODPROBE)?;
    fs::write(MODPROBE, "/bin/false").context(MODPROBE)?;
    let attempt = unload().and_then(|()| {
        fails(
            lab,
            &node,
            &["run", "--interface", "wg0", "--runtime-dir", &runtime_dir],
            1,
            "wgrouted: the kernel has no WireGuard: load it with `modprobe wireguard`, or boot a \
             kernel built with CONFIG_WIREGUARD",
        )
    });
    fs::write(MODPROBE, loader.trim_end()).context(MODPROBE)?;
    attempt?;

    lab.say("with the module back it starts");
    let star = star(lab, 1)?;
    let mut daemon = lab.wgrouted(&star.hub, &["wg0"])?;
    daemon.start()
}

/// The program that the kernel calls to load modules.
const MODPROBE: &str = "/proc/sys/kernel/modprobe";

fn unload() -> Result<()> {
    // SAFETY: the name is a C string; the flag makes the call fail rather than wait.
    let failed = unsafe {
        libc::syscall(libc::SYS_delete_module, c"wireguard".as_ptr(), libc::O_NONBLOCK) != 0
    };
    match std::io::Error::last_os_error() {
        // It was not loaded in the first place.
        error if failed && error.raw_os_error() != Some(libc::ENOENT) => {
            Err(error).context("unload the wireguard module")
        }
        _ => Ok(()),
    }
}
