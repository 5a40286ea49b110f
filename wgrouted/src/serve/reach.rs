//! What is known of peers' reachability, at once and as it changes.
//!
//! Here live `/v1/reachability`, `/v1/events` and `/v1/peers`, which joins what routes and
//! reachability know. The picture is read where it lies; only peers' AllowedIPs are the engine's.

use std::{collections::HashMap, convert::Infallible, time::Duration};

use axum::{
    extract::{Query, State},
    response::{
        IntoResponse, Json, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{future::BoxFuture, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::{self, error::RecvError};

use super::{
    Desk,
    http::{Failure, Selection, followed, rows},
};
use crate::{
    core::{engine::Engine, reach::status::Change, report::PeerRow},
    reach::{
        Feed,
        view::{EventView, PeerView, ReachView},
    },
};

/// A comment is sent after so much silence, so that whoever is between knows that both are there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A peer of an interface, as routes and reachability know it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JoinedPeer {
    /// As routes know it.
    #[serde(flatten)]
    pub row: PeerRow,
    /// As reachability knows it; none until it was looked at.
    pub reachability: Option<PeerView>,
}

fn view(feed: &Feed, only: Option<&str>) -> ReachView {
    // Not held while it is copied: the machine publishes without waiting.
    let picture = feed.picture.borrow().clone();
    ReachView::new(&picture, only, feed.now(), feed.board.read())
}

/// `GET /v1/peers`.
pub(super) async fn peers(
    State(desk): State<Desk>,
    Query(Selection { interface }): Query<Selection>,
) -> Result<Response, Failure> {
    let peers = followed(&desk, interface, Engine::peers).await?;
    let feed = desk.feed();
    let (picture, now) = (feed.picture.borrow().clone(), feed.now());
    let known: HashMap<_, _> =
        picture.peers.iter().map(|one| ((one.interface.as_str(), one.public_key), one)).collect();
    let joined: Vec<JoinedPeer> = peers
        .into_iter()
        .map(|row| JoinedPeer {
            reachability: known
                .get(&(&*row.interface, row.public_key))
                .map(|status| PeerView::new(status, now)),
            row,
        })
        .collect();
    Ok(rows(joined))
}

/// `GET /v1/reachability`.
pub(super) async fn reachability(
    State(desk): State<Desk>,
    Query(Selection { interface }): Query<Selection>,
) -> Result<Response, Failure> {
    let interface = selected(&desk, interface).await?;
    Ok(Json(view(desk.feed(), interface.as_deref())).into_response())
}

/// The interface, if it is followed.
async fn selected(desk: &Desk, interface: Option<String>) -> Result<Option<String>, Failure> {
    match interface {
        None => Ok(None),
        Some(name) => {
            followed(desk, Some(name.clone()), |_, _| ()).await?;
            Ok(Some(name))
        }
    }
}

/// Somebody who listens to changes.
struct Listener {
    feed: Feed,
    news: broadcast::Receiver<Change>,
    stopped: BoxFuture<'static, ()>,
    only: Option<String>,
    /// The next event is how everything is.
    snapshot: bool,
}

impl Listener {
    /// The next event; none when the daemon is stopping.
    async fn next(&mut self) -> Option<EventView> {
        if std::mem::take(&mut self.snapshot) {
            return Some(EventView::Snapshot(view(&self.feed, self.only.as_deref())));
        }
        loop {
            let news = tokio::select! {
                biased;
                news = self.news.recv() => news,
                () = &mut self.stopped => return None,
            };
            let event = match news {
                Ok(change) => EventView::of(change, self.feed.now()),
                Err(RecvError::Lagged(count)) => {
                    self.snapshot = true;
                    return Some(EventView::missed(count));
                }
                Err(RecvError::Closed) => return None,
            };
            let only = self.only.as_deref();
            if only.is_none_or(|name| event.interface() == Some(name)) {
                return Some(event);
            }
        }
    }
}

/// `GET /v1/events`: server-sent events, without end.
pub(super) async fn events(
    State(desk): State<Desk>,
    Query(Selection { interface }): Query<Selection>,
) -> Result<Response, Failure> {
    let only = selected(&desk, interface).await?;
    let feed = desk.feed().clone();
    // Listening begins before the look, so that nothing falls between; a change may be told twice.
    let (news, stopped) = (feed.news.subscribe(), Box::pin(feed.stopped()));
    let listener = Listener { feed, news, stopped, only, snapshot: true };
    let stream = stream::unfold(listener, |mut listener| async move {
        let event = listener.next().await?;
        let written = Event::default().event(event.kind()).json_data(&event);
        // Only what cannot be JSON cannot be written, and all of ours can.
        let written = written.unwrap_or_else(|error| Event::default().comment(error.to_string()));
        Some((Ok::<_, Infallible>(written), listener))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}
