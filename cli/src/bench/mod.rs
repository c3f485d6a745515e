//! `anyport bench`.

use crate::{
    args::BenchEcho,
    exit::{Failure, Outcome},
};

pub(crate) fn echo(_options: &BenchEcho, _verbose: u8) -> Outcome {
    Err(Failure::Run("not built yet".to_owned()))
}
