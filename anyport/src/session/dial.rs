//! What a client's handler may do about its connections.

use anyport_driver::Address;

use super::{Session, Shard};
use crate::{
    dialing::{ConnectError, SeatState},
    handler::{Handler, Reconnect},
    service::ServiceKind,
};

impl<H: Handler> Session<'_, H> {
    /// Which of its client's connections it is, from 0: the same each time that the connection is opened again. A
    /// handler knows by it whose news it has missed. A number of a [manual](crate::Client::manual) client's connection
    /// is used again when that has ended. `None` for sessions of servers.
    pub fn connection_index(&mut self) -> Option<usize> {
        let dialing = self.local.dialing.as_ref()?;
        Some(dialing.index(dialing.seat_of(self.key)?))
    }

    /// Decides what follows the end of this connection of a client, instead of what was configured: also in
    /// [`on_close`](Handler::on_close), the last chance. Nothing happens in a session of a server.
    pub fn set_reconnect(&mut self, reconnect: Reconnect) {
        if let Some(dialing) = &mut self.local.dialing
            && let Some(seat) = dialing.seat_of(self.key)
        {
            dialing.set_follows(seat, reconnect);
        }
    }
}

impl<H: Handler> Shard<'_, H> {
    /// Opens a connection of a [manual](crate::Client::manual) client, on this shard, at the end of the turn. Gives its
    /// [index](Session::connection_index).
    ///
    /// # Errors
    /// If the service is no such client, has as many sessions as it may, or is ending.
    pub fn connect(&mut self) -> Result<usize, ConnectError> {
        self.connect_with(None, H::State::default())
    }

    /// As [`connect`](Self::connect), to another address than the client's own if one is given, and its session begins
    /// with `state`. If it cannot be opened, [`connecting_state`](Self::connecting_state) has it.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_with(&mut self, to: Option<Address>, state: H::State) -> Result<usize, ConnectError> {
        let Some(dialing) = &mut self.local.dialing else {
            return Err(ConnectError::NotManual { kind: ServiceKind::Server });
        };
        dialing.places.take()?;
        dialing.ask(to, state, self.local.now)
    }

    /// What the session of a connection that is not open yet will begin with, by the connection's index: in
    /// [`on_connect_failed`](Handler::on_connect_failed) that of the one that failed.
    pub fn connecting_state(&mut self, connection: usize) -> Option<&mut H::State> {
        let dialing = self.local.dialing.as_mut()?;
        let seat = dialing.seat_at(connection)?;
        match dialing.state(seat) {
            SeatState::Connecting(key) | SeatState::Failed(key, _)
                if self.local.sessions.get(key).is_some() =>
            {
                self.local.sessions.get_mut(key).map(|slot| &mut slot.state)
            }
            SeatState::Connecting(_) | SeatState::Failed(..) | SeatState::Due | SeatState::Waiting => {
                dialing.user(seat).as_mut()
            }
            SeatState::Free | SeatState::Open(_) => None,
        }
    }

    /// Opens the connections of this client on this shard that wait to be opened again at the end of the turn, and not
    /// after their wait. Gives how many there are.
    pub fn reconnect_now(&mut self) -> usize {
        let timers = self.local.dialing.as_mut().map(|dialing| dialing.hurry()).unwrap_or_default();
        for timer in &timers {
            self.local.wheel.cancel(*timer);
        }
        timers.len()
    }
}
