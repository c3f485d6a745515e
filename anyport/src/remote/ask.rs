//! Asking a session or a shard, and getting an answer back.

use std::sync::Arc;

use anyport_core::SessionId;

use super::{
    Answer, Answers, AskError, PostError, Remote,
    answer::{Teller, answer},
};
use crate::{
    handler::Handler,
    session::{Session, Shard},
};

/// # Asking
/// As [posting](Self#posting), with an answer. A question never waits for room; the answer says if there was none.
impl<H: Handler> Remote<H> {
    /// Puts a question to a session, on its own shard.
    pub fn ask<T: Send + 'static>(
        &self,
        id: SessionId,
        question: impl FnOnce(&mut H, &mut Session<'_, H>) -> T + Send + 'static,
    ) -> Answer<T> {
        if id.shard() as usize >= self.shards() {
            // Dropped without an answer: there is no such session.
            return put(AskError::Gone, |_| Ok(()));
        }
        put(AskError::Gone, |teller| {
            self.try_post(id, move |handler, session| teller.tell(question(handler, session)))
        })
    }

    /// Puts a question to a shard.
    pub fn ask_shard<T: Send + 'static>(
        &self,
        shard: usize,
        question: impl FnOnce(&mut H, &mut Shard<'_, H>) -> T + Send + 'static,
    ) -> Answer<T> {
        put(AskError::Ended, |teller| {
            self.try_post_to_shard(shard, move |handler, shard| teller.tell(question(handler, shard)))
        })
    }

    /// Puts a question to every shard. The answers are in the order of the shards.
    pub fn ask_all<T: Send + 'static>(
        &self,
        question: impl Fn(&mut H, &mut Shard<'_, H>) -> T + Send + Sync + 'static,
    ) -> Answers<T> {
        self.gather(move |handler, shard| vec![question(handler, shard)])
    }

    /// Puts a question to every shard, each of which may have any number of answers.
    pub(super) fn gather<T: Send + 'static>(
        &self,
        question: impl Fn(&mut H, &mut Shard<'_, H>) -> Vec<T> + Send + Sync + 'static,
    ) -> Answers<T> {
        let question = Arc::new(question);
        Answers::of((0..self.shards()).map(|shard| {
            let question = Arc::clone(&question);
            self.ask_shard(shard, move |handler, shard| question(handler, shard))
        }))
    }
}

/// Posts a question; if that fails, the answer says so.
fn put<T>(dropped: AskError, post: impl FnOnce(Teller<T>) -> Result<(), PostError>) -> Answer<T> {
    let (teller, answer) = answer(dropped);
    match post(teller) {
        Ok(()) => {}
        Err(PostError::Full) => answer.refuse(AskError::Full),
        Err(PostError::Ended) => answer.refuse(AskError::Ended),
    }
    answer
}
