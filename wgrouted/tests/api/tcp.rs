//! The same over TCP: who may ask, and what a reload changes.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::Duration,
};

use wgrouted::{config::Api, serve::tcp::Tcp};

use crate::world::{Answer, World, head};

const TOKEN: &str = "0123456789abcdef0123";
const OTHER: &str = "another-token-of-some-length";

/// An address of this machine that nobody listens on.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn ask(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let head = head(method, path, headers);
    tokio::task::spawn_blocking(move || Answer::read(TcpStream::connect(address).unwrap(), &head))
        .await
        .unwrap()
}

fn write_token(world: &World, text: &str, mode: u32) -> PathBuf {
    let path = world.directory.join("token");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[tokio::test]
async fn this_machine_reads_without_a_token() {
    let world = World::start();
    let (first, second) = (free(), free());
    let mut tcp = Tcp::new(world.desk.clone());
    tcp.configure(&Api { listen: vec![first, second], token_file: None }).unwrap();
    for address in [first, second] {
        let host = address.to_string();
        let answer = ask(address, "GET", "/v1/status", &[("Host", &host)]).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.json()["ipv4_routes"], 4);
    }
    let order = ask(first, "POST", "/v1/resync", &[("Host", "localhost")]).await;
    assert_eq!(order.status, 403);
    assert!(order.json()["error"].as_str().unwrap().contains("Unix socket"), "{}", order.body);
    let rebound = ask(first, "GET", "/v1/status", &[("Host", "evil.example")]).await;
    assert_eq!(rebound.status, 403);
}

#[tokio::test]
async fn with_a_token_everybody_bears_it() {
    let mut world = World::start();
    let address = free();
    let token = write_token(&world, &format!("{TOKEN}\n"), 0o640);
    let mut tcp = Tcp::new(world.desk.clone());
    tcp.configure(&Api { listen: vec![address], token_file: Some(token) }).unwrap();
    let good = format!("Bearer {TOKEN}");
    let good = [("Authorization", good.as_str()), ("Host", "metrics.example")];
    assert_eq!(ask(address, "GET", "/metrics", &good).await.status, 200);
    assert_eq!(ask(address, "POST", "/v1/resync", &good).await.status, 202);
    assert!(world.events.recv().await.is_some());
    for wrong in [vec![], vec![("Authorization", "Bearer 0123456789abcdef0124")]] {
        let answer = ask(address, "GET", "/v1/status", &wrong).await;
        assert_eq!(answer.status, 401);
        assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
        assert!(!answer.body.contains(TOKEN));
    }
    assert!(!format!("{tcp:?}").contains(TOKEN));
}

#[tokio::test]
async fn a_reload_opens_and_closes_and_ends_what_an_old_token_opened() {
    let world = World::start();
    let (kept, gone, fresh) = (free(), free(), free());
    let token = write_token(&world, TOKEN, 0o600);
    let mut tcp = Tcp::new(world.desk.clone());
    tcp.configure(&Api { listen: vec![kept, gone], token_file: Some(token.clone()) }).unwrap();
    let stream = |address| {
        let mut stream = TcpStream::connect(address).unwrap();
        let bearer = format!("Bearer {TOKEN}");
        let head = head("GET", "/v1/events", &[("Authorization", &bearer)]);
        stream.write_all(head.as_bytes()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    };
    let ends = |mut stream: TcpStream| {
        tokio::task::spawn_blocking(move || {
            let mut text = Vec::new();
            stream.read_to_end(&mut text).map(|_| String::from_utf8(text).unwrap())
        })
    };
    // On one thread, listeners accept only while the test waits.
    let (on_kept, on_gone) = (ends(stream(kept)), ends(stream(gone)));
    let listening = async {
        while world.feed.news.receiver_count() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), listening).await.unwrap();
    write_token(&world, OTHER, 0o600);
    tcp.configure(&Api { listen: vec![kept, fresh], token_file: Some(token) }).unwrap();
    for ended in [on_kept.await.unwrap().unwrap(), on_gone.await.unwrap().unwrap()] {
        assert!(ended.contains("event: snapshot"), "{ended}");
    }
    let bearer = format!("Bearer {OTHER}");
    for (address, header, status) in [
        (kept, bearer.as_str(), 200),
        (fresh, bearer.as_str(), 200),
        (kept, "Bearer 0123456789abcdef0123", 401),
    ] {
        let answer = ask(address, "GET", "/v1/status", &[("Authorization", header)]).await;
        assert_eq!(answer.status, status);
    }
    let refused = tokio::task::spawn_blocking(move || TcpStream::connect(gone)).await.unwrap();
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_reload_that_fails_changes_nothing() {
    let world = World::start();
    let address = free();
    let mut tcp = Tcp::new(world.desk.clone());
    tcp.configure(&Api { listen: vec![address], token_file: None }).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_address = taken.local_addr().unwrap();
    let error = tcp.configure(&Api { listen: vec![taken_address], token_file: None });
    let error = error.unwrap_err().to_string();
    assert!(error.contains(&taken_address.to_string()) && error.contains("stop who"), "{error}");
    let open = write_token(&world, TOKEN, 0o644);
    let error = tcp.configure(&Api { listen: vec![], token_file: Some(open.clone()) });
    let error = error.unwrap_err().to_string();
    assert!(error.contains(open.to_str().unwrap()) && error.contains("chmod"), "{error}");
    let answer = ask(address, "GET", "/v1/status", &[("Host", "127.0.0.1")]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}
