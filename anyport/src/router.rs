//! Frames to methods, by their kind.

use anyport_core::{CloseReason, Frame};

use crate::{
    handler::Handler,
    message::{Message, MessageError},
    session::Session,
};

type Route<H> = Box<dyn Fn(&mut H, &mut Session<'_, H>, Frame<'_>) -> Result<(), MessageError> + Send + Sync>;
type Unknown<H> = Box<dyn Fn(&mut H, &mut Session<'_, H>, Frame<'_>) + Send + Sync>;
type Undecodable<H> = Box<dyn Fn(&mut H, &mut Session<'_, H>, Frame<'_>, MessageError) + Send + Sync>;

/// One method for each kind of message. Made once, before the engine starts; finding a method costs the same however
/// many there are, and allocates nothing.
///
/// A handler that keeps the router as a `&'static` can lend it itself:
/// ```
/// use anyport::{Message, MessageError, Router, prelude::*};
///
/// struct Ping(u32);
/// # impl Message for Ping {
/// #     const KIND: u16 = 7;
/// #     type Of<'a> = Self;
/// #     fn decode(body: &[u8]) -> Result<Self, MessageError> { Ok(Self(u32::from_le_bytes(body.try_into()?))) }
/// #     fn encode(&self, out: &mut Vec<u8>) { out.extend_from_slice(&self.0.to_le_bytes()); }
/// # }
///
/// struct Game {
///     routes: &'static Router<Self>,
///     pings: u64,
/// }
///
/// impl Game {
///     fn ping(&mut self, session: &mut Session<Self>, ping: Ping) {
///         self.pings += 1;
///         session.send_message(&ping);
///     }
///     fn unknown(&mut self, session: &mut Session<Self>, _frame: Frame) {
///         session.kick(1);
///     }
/// }
///
/// impl Handler for Game {
///     type State = ();
///     type Codec = SizeKind;
///
///     fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
///         self.routes.dispatch(self, session, frame);
///     }
/// }
///
/// # fn main() -> anyport::Result<()> {
/// let routes = Router::new().on::<Ping>(Game::ping).unknown(Game::unknown).leak();
/// let server = Server::bind("127.0.0.1:0", SizeKind::default());
/// let engine = Engine::new()?.serve(server, move |_shard| Game { routes, pings: 0 })?;
/// # drop(engine);
/// # Ok(())
/// # }
/// ```
///
/// In a `static ROUTES: LazyLock<Router<Game>>` it does as well.
pub struct Router<H: Handler> {
    /// For each kind up to the largest: its place in `routes`, counted from 1; 0 for none.
    places: Vec<u16>,
    routes: Vec<Route<H>>,
    unknown: Unknown<H>,
    undecodable: Undecodable<H>,
}

impl<H: Handler> Router<H> {
    /// A router that knows no kind: every frame closes its session ([`MalformedFrame`](CloseReason::MalformedFrame)).
    pub fn new() -> Self {
        Self {
            places: Vec::new(),
            routes: Vec::new(),
            unknown: Box::new(|_, session, frame| {
                log::debug!("session {}: no message has kind {}", session.id(), frame.kind);
                session.close(CloseReason::MalformedFrame);
            }),
            undecodable: Box::new(|_, session, frame, error| {
                log::debug!("session {}: kind {}: {error}", session.id(), frame.kind);
                session.close(CloseReason::MalformedFrame);
            }),
        }
    }

    /// Frames of the kind of `M` go to `method`, decoded: `router.on::<Login>(Game::login)`.
    ///
    /// # Panics
    /// If that kind has a method already.
    #[track_caller]
    pub fn on<M: Message>(
        self,
        method: impl Fn(&mut H, &mut Session<'_, H>, M::Of<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.route(
            M::KIND,
            Box::new(move |handler, session, frame| {
                method(handler, session, M::decode(frame.body)?);
                Ok(())
            }),
        )
    }

    /// Frames of a kind go to `method` as they are.
    ///
    /// # Panics
    /// If that kind has a method already.
    #[track_caller]
    pub fn on_kind(
        self,
        kind: u16,
        method: impl Fn(&mut H, &mut Session<'_, H>, Frame<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.route(
            kind,
            Box::new(move |handler, session, frame| {
                method(handler, session, frame);
                Ok(())
            }),
        )
    }

    /// Frames of all other kinds go to `method`, instead of closing their session.
    pub fn unknown(
        mut self,
        method: impl Fn(&mut H, &mut Session<'_, H>, Frame<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.unknown = Box::new(method);
        self
    }

    /// Frames whose body is no message of their kind go to `method`, instead of closing their session.
    pub fn undecodable(
        mut self,
        method: impl Fn(&mut H, &mut Session<'_, H>, Frame<'_>, MessageError) + Send + Sync + 'static,
    ) -> Self {
        self.undecodable = Box::new(method);
        self
    }

    /// Gives the router away for the rest of the program, so that every handler can hold it and lend itself to it at the
    /// same time. A router is small and made once; it is never freed.
    pub fn leak(self) -> &'static Self {
        Box::leak(Box::new(self))
    }

    /// Calls the method for `frame`: the one line of [`on_frame`](Handler::on_frame).
    #[inline]
    pub fn dispatch(&self, handler: &mut H, session: &mut Session<'_, H>, frame: Frame<'_>) {
        let place = self.places.get(usize::from(frame.kind)).copied().unwrap_or(0);
        let Some(route) = usize::from(place).checked_sub(1).and_then(|place| self.routes.get(place)) else {
            return (self.unknown)(handler, session, frame);
        };
        if let Err(error) = route(handler, session, frame) {
            (self.undecodable)(handler, session, frame, error);
        }
    }

    #[track_caller]
    fn route(mut self, kind: u16, route: Route<H>) -> Self {
        let at = usize::from(kind);
        if self.places.len() <= at {
            self.places.resize(at + 1, 0);
        }
        assert!(
            self.places[at] == 0,
            "kind {kind} has a method already: give each message a kind of its own"
        );
        self.routes.push(route);
        self.places[at] = u16::try_from(self.routes.len()).expect("a router holds 65,535 methods");
        self
    }
}

impl<H: Handler> Default for Router<H> {
    fn default() -> Self {
        Self::new()
    }
}

impl<H: Handler> std::fmt::Debug for Router<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kinds = self.places.iter().enumerate().filter(|(_, place)| **place != 0).map(|(kind, _)| kind);
        f.debug_set().entries(kinds).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;
    impl Handler for Nothing {
        type State = ();
        type Codec = crate::SizeKind;
        fn on_frame(&mut self, _: &mut Session<'_, Self>, _: Frame<'_>) {}
    }

    #[test]
    fn kinds_from_the_first_to_the_last_have_their_places() {
        let mut router = Router::<Nothing>::new();
        for kind in [0, 65_535, 7] {
            router = router.on_kind(kind, |_, _, _| {});
        }
        assert_eq!(format!("{router:?}"), "{0, 7, 65535}");
        assert_eq!((router.places[0], router.places[65_535], router.places[7]), (1, 2, 3));
    }

    #[test]
    #[should_panic(expected = "kind 7 has a method already")]
    fn a_kind_has_one_method() {
        let _ = Router::<Nothing>::new().on_kind(7, |_, _, _| {}).on_kind(7, |_, _, _| {});
    }
}
