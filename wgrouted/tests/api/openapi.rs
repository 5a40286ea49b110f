//! `dist/openapi.json` says what the server does: every resource, and every field of its answers.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use wgrouted::{
    core::{
        event::Event,
        reach::hooks::{Kind, PeerKey, Telling},
        reach::status::{Proof, State},
    },
    filter::watch::SampleRow,
    reach::view::{EventView, HookView, ReachView},
    serve::http::{OPENAPI, paths},
};

use crate::world::{LEFT, World, changes, key, picture};

fn document() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

/// Objects hold nothing but what is documented.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.contains_key("properties") && !fields.contains_key("additionalProperties") {
                fields.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(values) => values.iter_mut().for_each(close),
        _ => {}
    }
}

#[track_caller]
fn fits(schema: &Value, value: &Value) {
    let mut whole = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "components": document()["components"],
        "allOf": [schema],
    });
    close(&mut whole);
    let validator = jsonschema::validator_for(&whole).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(value)
        .map(|error| format!("{} at {}", error, error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{}\nin {value:#}", errors.join("\n"));
}

fn schema(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// A question for each resource, and whether its answer must hold something.
const QUESTIONS: &[(&str, &str)] = &[
    ("/v1/exits", ""),
    ("/v1/explain", "address=10.1.2.3"),
    ("/v1/explain", "address=10.9.2.3&interface=wg0"),
    ("/v1/explain", "address=192.0.2.3&interface=wg1"),
    ("/v1/filter", ""),
    ("/v1/filter/test", "peer=exit&src=192.0.2.3&dst=10.0.0.1&protocol=6&dst_port=22"),
    ("/v1/openapi.json", ""),
    ("/v1/peers", ""),
    ("/v1/peers", "interface=wg1"),
    ("/v1/pending", ""),
    ("/v1/reachability", ""),
    ("/v1/reachability", "interface=wg0"),
    ("/v1/routes", ""),
    ("/v1/shadowed", ""),
    ("/v1/status", ""),
    ("/v1/unresolved", ""),
];

/// Answers without JSON or without end have tests of their own.
const OTHERS: [&str; 4] = ["/metrics", "/v1/events", "/v1/filter/samples", "/v1/resync"];

#[test]
fn every_resource_is_documented_and_tested_and_nothing_else_is() {
    let served: BTreeSet<(String, String)> = paths()
        .into_iter()
        .map(|(path, method)| (path.to_owned(), method.as_str().to_lowercase()))
        .collect();
    let document = document();
    let documented = document["paths"].as_object().unwrap().iter().flat_map(|(path, methods)| {
        methods.as_object().unwrap().keys().map(|method| (path.clone(), method.clone()))
    });
    assert_eq!(served, documented.collect());
    let tested: BTreeSet<&str> = QUESTIONS.iter().map(|(path, _)| *path).chain(OTHERS).collect();
    assert_eq!(tested, served.iter().map(|(path, _)| path.as_str()).collect());
}

#[tokio::test]
async fn every_answer_is_as_documented() {
    let world = World::start();
    let document = document();
    for (path, query) in QUESTIONS {
        let answer = world.get(&format!("{path}?{query}")).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert!(answer.head.contains("content-type: application/json"), "{path}: {}", answer.head);
        let value = answer.json();
        assert!(value.as_array().is_none_or(|rows| !rows.is_empty()), "{path} says nothing");
        let content = &document["paths"][path]["get"]["responses"]["200"]["content"];
        fits(&content["application/json"]["schema"], &value);
        // A parameter that is not documented is refused, and those that are, are asked with.
        let known = document["paths"][path]["get"]["parameters"].as_array().cloned();
        let known: Vec<Value> = known.unwrap_or_default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let name = pair.split('=').next().unwrap();
            assert!(known.iter().any(|one| one["name"] == name), "{path}: {name}");
        }
    }
}

#[tokio::test]
async fn refusals_are_as_documented() {
    let world = World::start();
    let document = document();
    for (path, query, status) in [
        ("/v1/routes", "interface=wg7", 404),
        ("/v1/reachability", "interface=wg7", 404),
        ("/v1/events", "interface=wg7", 404),
        ("/v1/peers", "interface=wg7", 404),
        ("/v1/filter", "interface=wg0", 404),
        ("/v1/filter/test", "peer=nobody&src=::1&dst=::1&protocol=6", 400),
    ] {
        let answer = world.get(&format!("{path}?{query}")).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        let refusal = &document["paths"][path]["get"]["responses"][status.to_string()];
        fits(&refusal["content"]["application/json"]["schema"], &answer.json());
    }
    assert_eq!(world.get("/v1/routes?interfaces=wg0").await.status, 400);
    assert_eq!(world.get("/v1/nothing").await.status, 404);
    assert_eq!(world.get("/v1/resync").await.status, 405);
}

#[tokio::test]
async fn an_order_is_carried_out() {
    let mut world = World::start();
    assert_eq!(world.ask("POST", "/v1/resync").await.status, 202);
    assert_eq!(world.events.recv().await, Some(Event::Resync));
}

#[test]
fn every_event_is_as_documented() {
    let board = wgrouted::reach::board::Board::default();
    let now = wgrouted::core::time::Time(std::time::Duration::from_secs(5));
    let snapshot = EventView::Snapshot(ReachView::new(&picture(), None, now, board.read()));
    let events = changes().into_iter().map(|change| EventView::of(change, now));
    let mut seen = BTreeSet::new();
    for event in events.chain([snapshot, EventView::missed(7)]) {
        let value = serde_json::to_value(&event).unwrap();
        fits(&schema("Event"), &value);
        assert_eq!(value["event"], event.kind());
        seen.insert(event.kind());
        assert_eq!(serde_json::from_value::<EventView>(value).unwrap(), event);
    }
    let document = document();
    let kinds = document["components"]["schemas"]["Event"]["discriminator"]["mapping"].clone();
    let kinds = kinds.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(seen, kinds);
}

#[test]
fn what_hooks_are_told_and_what_is_sampled_is_as_documented() {
    let telling = |endpoint: Option<&str>| Telling {
        key: PeerKey { interface: "wg0".to_owned(), public_key: key(LEFT) },
        peer: "left".to_owned(),
        kind: Kind::State,
        state: State::Down,
        previous: State::Up,
        proof: Proof::HeldDown,
        rtt: endpoint.map(|_| std::time::Duration::from_millis(7)),
        endpoint: endpoint.map(|text| text.parse().unwrap()),
        previous_endpoint: None,
    };
    for endpoint in [None, Some("192.0.2.1:7")] {
        let told = HookView::new(&telling(endpoint));
        fits(&schema("HookCall"), &serde_json::to_value(told).unwrap());
    }
    let sample = SampleRow::new(
        &Default::default(),
        std::time::SystemTime::UNIX_EPOCH,
        "wg0".to_owned(),
        None,
    );
    fits(&schema("Sample"), &serde_json::to_value(sample).unwrap());
}

#[test]
fn the_test_would_notice() {
    let mut value = serde_json::to_value(EventView::missed(7)).unwrap();
    value["extra"] = json!(1);
    let whole = std::panic::catch_unwind(|| fits(&schema("MissedEvent"), &value));
    assert!(whole.is_err(), "an undocumented field passed");
}
