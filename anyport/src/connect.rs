//! Telling a client from outside to connect.

use anyport_driver::Address;

use crate::{
    dialing::ConnectError,
    handler::Handler,
    remote::{PostError, Remote},
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
        if shard >= self.shards() {
            return Err(ConnectError::Ended);
        }
        self.places.take()?;
        let asked = self.post_to_shard(shard, move |_, shard| {
            let now = shard.now();
            if let Some(dialing) = &mut shard.local.dialing {
                // Refused only by a shard that is ending, which gives the place back.
                let _ = dialing.ask(to, state, now);
            }
        });
        asked.map_err(|error| {
            self.places.live.leave();
            match error {
                PostError::Full => ConnectError::Full,
                PostError::Ended => ConnectError::Ended,
            }
        })
    }

    /// Opens the connections of this client that wait to be opened again now, and not after their wait.
    ///
    /// # Errors
    /// If a shard could not be told: its mailbox is full, or it has ended. The others were told all the same.
    pub fn reconnect_now(&self) -> Result<(), PostError> {
        let mut result = Ok(());
        for shard in 0..self.shards() {
            let told = self.post_to_shard(shard, |_, shard| {
                shard.reconnect_now();
            });
            result = result.and(told);
        }
        result
    }
}
