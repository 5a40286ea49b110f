//! The engine without a daemon: read everything once, decide, change nothing.
//!
//! Here lives what `plan` and `explain` do when no daemon runs. The same engine gets the same
//! answers as in the daemon; its wishes to change something are left unfulfilled.

use std::{ops::ControlFlow, path::Path, time::Duration};

use crate::{
    config::Config,
    core::{
        engine::Engine,
        event::{Event, Output, Request},
        time::Time,
    },
    daemon::{
        RunError,
        memory::Memory,
        workers::{Wireguard, dump_network},
    },
    source::rtnetlink::Dumper,
    target::wireguard::KernelWireguard,
};

/// Turns that suffice by far: links, then routes, then devices.
const TURNS: usize = 64;

/// An engine that has read the network and the devices of this configuration.
pub fn read(config: Config, runtime_dir: &Path) -> Result<Engine, RunError> {
    KernelWireguard::open()?;
    let mut dumper = Dumper::open()?;
    let mut wireguard = Wireguard::read_only(Memory::new(runtime_dir));
    let mut engine = Engine::new(config.interfaces, config.daemon.resync_interval);
    let now = Time(Duration::ZERO);
    for _ in 0..TURNS {
        let requests: Vec<Request> = engine
            .poll(now)
            .filter_map(|output| match output {
                Output::Request(request) => Some(request),
                Output::Notice(_) => None,
            })
            .collect();
        if requests.is_empty() {
            break;
        }
        for request in requests {
            match request {
                Request::Sync { epoch, objects, scopes } => {
                    let mut take = |part| {
                        engine.handle(Event::SyncPart { epoch, part }, now);
                        ControlFlow::Continue(())
                    };
                    dump_network(&mut dumper, objects, &scopes, &mut take)?;
                    engine.handle(Event::SyncDone { epoch, error: None }, now);
                }
                Request::Dump { .. } => {
                    if let Some(event) = wireguard.answer(request) {
                        if let Event::Device { result: Err(error), .. } = &event {
                            return Err(RunError::Device(error.clone()));
                        }
                        engine.handle(event, now);
                    }
                }
                // What would be done is read from the engine; nothing is done.
                Request::Apply { .. } | Request::Remember { .. } | Request::Filter(_) => {}
            }
        }
    }
    Ok(engine)
}
