//! Telling a client from outside to connect.

use anyport_driver::Address;

use crate::{
    dialing::ConnectError,
    handler::Handler,
    remote::{Job, Remote},
    service::resolve,
};

impl<H: Handler> Remote<H> {
    /// Opens a connection of a [manual](crate::Client::manual) client, on the shard whose turn it is. What becomes of it
    /// the handler is told: [`on_open`](Handler::on_open) or [`on_connect_failed`](Handler::on_connect_failed).
    ///
    /// # Errors
    /// If the service is no such client, has as many sessions as it may, or the engine has ended.
    pub fn connect(&self) -> Result<(), ConnectError> {
        self.connect_with(None, H::State::default())
    }

    /// As [`connect`](Self::connect), to another address than the client's own. A name is looked up here, which may
    /// take a while.
    ///
    /// # Errors
    /// As [`connect`](Self::connect); or if the text is no address.
    pub fn connect_to(&self, address: &str) -> Result<(), ConnectError> {
        let address = resolve(address).map_err(ConnectError::Address)?;
        self.connect_with(Some(address), H::State::default())
    }

    /// As [`connect`](Self::connect), to another address if one is given, and the session begins with `state`: so a
    /// connection knows from its first moment what it is for.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_with(&self, to: Option<Address>, state: H::State) -> Result<(), ConnectError> {
        self.connect_on(self.places.next_shard(self.shards()), to, state)
    }

    /// As [`connect_with`](Self::connect_with), on this shard: that of another session that it belongs to, so that what
    /// goes from one to the other does not change threads.
    ///
    /// # Errors
    /// As [`connect`](Self::connect); and if there is no such shard.
    pub fn connect_on(&self, shard: usize, to: Option<Address>, state: H::State) -> Result<(), ConnectError> {
        let mail = self.shards.get(shard).ok_or(ConnectError::Ended)?;
        self.places.take()?;
        let ask = Job::Shard(Box::new(move |_: &mut H, shard: &mut crate::Shard<'_, H>| {
            let now = shard.now();
            if let Some(dialing) = &mut shard.local.dialing {
                // Refused only by a shard that is ending, which gives the place back.
                let _ = dialing.ask(to, state, now);
            }
        }));
        if mail.send(ask) {
            return Ok(());
        }
        self.places.live.leave();
        Err(ConnectError::Ended)
    }

    /// Opens the connections of this client that wait to be opened again now, and not after their wait. False if the
    /// engine has ended.
    pub fn reconnect_now(&self) -> bool {
        let mut reached = true;
        for mail in self.shards.iter() {
            reached &= mail.send(Job::Shard(Box::new(|_: &mut H, shard: &mut crate::Shard<'_, H>| {
                shard.reconnect_now();
            })));
        }
        reached
    }
}
