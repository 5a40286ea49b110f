//! What everybody else is told: HTTP over both kinds of sockets, events, metrics, hooks, and the
//! commands that show it.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::support::{config, wait_state};
use crate::{
    lab::{Lab, Node, PATIENCE, Star, Wgrouted, wait_until},
    scenario::Scenario,
};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "reach-api",
    "a peer falls and returns: events, metrics, hooks, `peers`, `watch` and `top` say so, over TCP too",
    api,
)
.on_newest()
.within(240)];

/// Where the daemon answers over TCP.
const LISTEN: &str = "127.0.0.1:9586";
/// Where a webhook is listened to.
const HOOK: &str = "127.0.0.1:8080";
const TOKEN: &str = "a-token-of-sufficient-length";

/// Lines that come from elsewhere.
type Lines = Arc<Mutex<Vec<String>>>;

fn api(lab: &mut Lab) -> Result<()> {
    let star = Star::new(lab, 2)?;
    let told = star.hub.dir().join("told");
    let script = format!(
        "#!/bin/sh\necho \"$WGROUTED_PEER $WGROUTED_PREVIOUS $WGROUTED_STATE\" >> {}\n",
        told.display()
    );
    let script = star.hub.write_file("changed.sh", &script)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let hooks = format!(
        "[[reach.hook]]\ncommand = [\"{}\"]\ninterval = \"0ms\"\n\
         [[reach.hook]]\nwebhook = \"http://{HOOK}/changed\"\ninterval = \"0ms\"\n",
        script.display()
    );
    let watched = config(&star, "interval = \"100ms\"\nhold_down = \"0ms\"")?;
    let text = |api: &str| format!("[api]\nlisten = \"{LISTEN}\"\n{api}{hooks}{watched}");
    let posts = receive_posts(&star.hub)?;
    let mut daemon = lab.wgrouted_with(&star.hub, &text(""))?;
    daemon.start()?;
    for spoke in ["s1", "s2"] {
        wait_state(&daemon, spoke, "up")?;
    }

    lab.say("s1 falls and returns");
    let events = follow_events(&daemon)?;
    let mut command = Command::new(daemon.program());
    command.args(["watch", "--runtime-dir"]).arg(daemon.runtime_dir());
    let watching = star.hub.spawn("watch", &mut command)?;
    let watch_log = watching.log().to_owned();
    let said = move || Ok(fs::read_to_string(&watch_log)?);
    let begun = |text: &String| ["s1 is up", "s2 is up"].iter().all(|line| text.contains(line));
    wait_until("`watch` to begin", PATIENCE, &said, begun)?;
    let link = &star.spoke(1)?.link;
    link.cut()?;
    wait_state(&daemon, "s1", "down")?;
    let shown = daemon.run(&["top", "--once", "--sort", "state"])?;
    let rows: Vec<&str> = shown.lines().collect();
    ensure!(rows[0].starts_with("2 peers: 1 up, 0 suspect, 1 down"), "{shown}");
    ensure!(rows.iter().all(|row| row.chars().count() <= 80), "wider than 80 columns:\n{shown}");
    let first = rows.iter().position(|row| row.starts_with("wg0")).map(|at| rows[at]);
    ensure!(first.is_some_and(|row| row.contains("s1") && row.contains("down")), "{shown}");
    let metrics = get(&star.hub, "/metrics", &[])?;
    ensure!(series(&metrics.1, "wgrouted_peer_state", &["peer=\"s1\"", "state=\"down\""])? == 1.0);
    ensure!(series(&metrics.1, "wgrouted_peer_falls_total", &["peer=\"s1\""])? == 1.0);
    ensure!(series(&metrics.1, "wgrouted_peer_rtt_seconds", &["peer=\"s2\""])? > 0.0);
    ensure!(series(&metrics.1, "wgrouted_sink_ok", &["sink=\"hooks\""])? == 1.0);
    link.mend()?;
    wait_state(&daemon, "s1", "up")?;

    let fell = |event: &Value, to: &str| {
        event["event"] == "state" && event["peer"] == "s1" && event["to"] == to
    };
    let both = |events: &Vec<Value>| {
        let down = events.iter().position(|event| fell(event, "down"));
        let up = events.iter().rposition(|event| fell(event, "up"));
        down.is_some() && down < up
    };
    let events = wait_until("both events", PATIENCE, || parsed(&events), both)?;
    ensure!(events[0]["event"] == "snapshot", "{}", events[0]);
    ensure!(events[0]["peers"].as_array().map_or(0, Vec::len) == 2, "{}", events[0]);
    lab.say(format_args!("{} events, such as {}", events.len(), events[1]));
    let lines = wait_until("`watch` to say both", PATIENCE, &said, |text: &String| {
        text.contains("-> down, by probe") && text.contains("-> up, by probe")
    })?;
    lab.say(lines.lines().last().unwrap_or_default());

    lab.say("hooks were told of each once");
    let of_s1 = || {
        let text = fs::read_to_string(&told)?;
        let lines = text.lines().filter_map(|line| line.strip_prefix("s1 "));
        Ok(lines.map(str::to_owned).collect::<Vec<_>>())
    };
    let want = ["unknown up", "up down", "down up"];
    wait_until("the command to be told", PATIENCE, of_s1, |lines| *lines == want)?;
    let posted = || {
        let posts = parsed(&posts)?;
        let of_s1 = posts.iter().filter(|post| post["peer"] == "s1");
        let pair = |post: &Value| {
            let word = |field: &str| post[field].as_str().unwrap_or_default().to_owned();
            format!("{} {}", word("previous"), word("state"))
        };
        Ok(of_s1.map(pair).collect::<Vec<_>>())
    };
    wait_until("the webhook to be told", PATIENCE, posted, |lines| *lines == want)?;

    let table = daemon.run(&["peers", "--interface", "wg0"])?;
    ensure!(table.contains("hooks: 2 hooks") && table.contains("probe"), "{table}");
    lab.say(format_args!("`wgrouted peers`:\n{table}"));
    with_a_token(lab, &star, &mut daemon, &text)?;
    lab.say("everything ends with the daemon");
    daemon.terminate()?;
    let mut watching = watching;
    let status = watching.wait_exit(PATIENCE)?;
    ensure!(status.success(), "`watch` ended with {status}");
    Ok(())
}

/// A reload puts a token before the same address, and refuses what is not sound.
fn with_a_token(
    lab: &Lab,
    star: &Star,
    daemon: &mut Wgrouted,
    text: &dyn Fn(&str) -> String,
) -> Result<()> {
    lab.say("with a token, which a reload brings");
    let rebound = get(&star.hub, "/v1/peers", &[("Host", "evil.example")])?;
    ensure!(rebound.0 == 403, "{rebound:?}");
    let token = star.hub.write_file("token", TOKEN)?;
    let api = format!("token_file = \"{}\"\n", token.display());
    let mode = |mode| fs::set_permissions(&token, fs::Permissions::from_mode(mode));
    mode(0o644)?;
    daemon.reload(&text(&api))?;
    daemon.wait_log("chmod 0640")?;
    ensure!(get(&star.hub, "/v1/peers", &[])?.0 == 200, "a reload that failed changed something");
    mode(0o600)?;
    daemon.reload(&text(&api))?;
    ensure!(get(&star.hub, "/v1/peers", &[])?.0 == 401, "no token was needed");
    let bearer = format!("Bearer {TOKEN}");
    let (status, body) = get(&star.hub, "/v1/peers", &[("Authorization", &bearer)])?;
    let peers: Value = serde_json::from_str(&body).context(body.clone())?;
    ensure!(status == 200 && peers[0]["reachability"]["state"] == "up", "{body}");
    ensure!(!daemon.log()?.contains(TOKEN), "the token is in the log");
    Ok(())
}

/// Asks over TCP; the status and the body.
fn get(node: &Node, path: &str, headers: &[(&str, &str)]) -> Result<(u16, String)> {
    let stream = node.enter(|| Ok(TcpStream::connect(LISTEN)?))?;
    ask(stream, path, headers)
}

fn ask(
    mut stream: impl Read + Write,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<(u16, String)> {
    // HTTP/1.0: the answer ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\n")?;
    for (name, value) in headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    write!(stream, "\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}

/// The value of the only sample of a metric with these labels.
fn series(text: &str, name: &str, labels: &[&str]) -> Result<f64> {
    let mut found = text.lines().filter(|line| {
        line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| line.contains(label))
    });
    let line = found.next().with_context(|| format!("no {name} with {labels:?}"))?;
    ensure!(found.next().is_none(), "several {name} with {labels:?}");
    let (_, value) = line.rsplit_once(' ').context("no value")?;
    Ok(value.parse()?)
}

/// The data of events, as they come over the Unix socket.
fn follow_events(daemon: &Wgrouted) -> Result<Lines> {
    let socket: &Path = &daemon.runtime_dir().join("wgrouted.sock");
    let mut stream = UnixStream::connect(socket)?;
    write!(stream, "GET /v1/events HTTP/1.0\r\n\r\n")?;
    let lines = Lines::default();
    let to = lines.clone();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if let Some(data) = line.strip_prefix("data: ") {
                push(&to, data);
            }
        }
    });
    Ok(lines)
}

/// The bodies of requests to the webhook.
fn receive_posts(node: &Node) -> Result<Lines> {
    let listener = node.enter(|| Ok(TcpListener::bind(HOOK)?))?;
    let lines = Lines::default();
    let to = lines.clone();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            // A client that says nothing must not stop the others.
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
            while !text.ends_with(b"}") {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => text.extend_from_slice(&buffer[..count]),
                }
            }
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
            let text = String::from_utf8_lossy(&text).into_owned();
            if let Some((_, body)) = text.split_once("\r\n\r\n") {
                push(&to, body);
            }
        }
    });
    Ok(lines)
}

fn push(lines: &Lines, line: &str) {
    if let Ok(mut lines) = lines.lock() {
        lines.push(line.to_owned());
    }
}

fn parsed(lines: &Lines) -> Result<Vec<Value>> {
    let lines = lines.lock().map_err(|_| anyhow::anyhow!("a reader panicked"))?.clone();
    lines.iter().map(|line| serde_json::from_str(line).context(line.clone())).collect()
}
